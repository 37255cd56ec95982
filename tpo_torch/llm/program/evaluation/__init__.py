"""Evaluation of a model, or of the newest weights of a run, on held-out prompts."""
