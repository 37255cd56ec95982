"""Target Policy Optimization in NumPy: the executable specification. Float64, exact, readable; never imports torch."""

__version__ = "0.1.0"
