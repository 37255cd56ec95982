"""The MNIST contextual bandit: settings, methods, run, and the experiments of Fig. 4."""
