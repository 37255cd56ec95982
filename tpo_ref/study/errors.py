"""Errors that say what this machine lacks, as opposed to what the user got wrong."""

# What pip calls this package.
DISTRIBUTION = "target-policy-optimization"


class Unavailable(RuntimeError):
    """Something an experiment needs is not here: an install extra, a data set, a network."""


class MissingExtra(Unavailable):
    """An experiment needs an install extra that is not there."""


class InUse(Unavailable):
    """Another process works on the same files."""
