"""Names of files in the folder of a run, for all who read one."""

# Settings as used, versions, commit, layout, and whether the run is finished.
RECORD = "run.json"
