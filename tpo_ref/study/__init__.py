"""Experiments: protocols, results, figures, tables, and the command line."""
