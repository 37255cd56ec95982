"""The runs, under the names of the first version: `tpo_torch.mnist.runs` and `tpo_torch.reversal.runs`."""

from tpo_torch.mnist import runs as mnist
from tpo_torch.reversal import runs as reversal

__all__ = ["mnist", "reversal"]
