"""The settings of a run: their sections, and how they are read from YAML and key=value before anything heavy loads."""
