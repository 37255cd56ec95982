"""The `tpo` command: parsing, printing, and the commands on experiments."""
