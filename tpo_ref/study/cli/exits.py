"""Exit codes of the `tpo` command, as a shell knows them; where no claim holds or fails, nothing was decided."""

CLAIM_FAILED, UNDECIDED, USAGE_ERROR, INTERRUPTED = 1, 2, 2, 130
