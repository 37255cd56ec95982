"""What trains, evaluates, records and draws whole runs of language models, and the commands that start it."""
