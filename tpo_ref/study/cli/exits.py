"""Exit codes of the `tpo` command, as a shell knows them."""

CLAIM_FAILED, USAGE_ERROR, INTERRUPTED = 1, 2, 130
