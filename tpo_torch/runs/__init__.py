"""Runs of the paper's neural experiments: a protocol in, arrays of results out; seeds batched on a leading axis."""
