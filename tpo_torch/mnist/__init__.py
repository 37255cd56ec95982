"""The MNIST contextual bandit: the textbook run in `clear`, its settings and methods, the fast run, the experiments."""
