"""Target Policy Optimization in torch: mirrors `tpo_ref` stem for stem; gradients by autograd, on CPU or GPU."""

__version__ = "0.1.0"
