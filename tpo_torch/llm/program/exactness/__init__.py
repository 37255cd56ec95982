"""The exactness check: a dense reference that shares no line with the trainer, and the comparison of the two."""
