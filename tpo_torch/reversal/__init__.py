"""Token reversal: the textbook run in `clear`, its settings and methods, the fast engine, the experiments."""
