"""Bandits: environments, readable runs, their compiled twins, and the experiments of Figs 2 and 3."""
