"""The experiments on token reversal: dense rewards, terminal rewards, ablations; and the suites that join them."""

from __future__ import annotations

from tpo_ref.study.protocol import Catalogue
from tpo_torch.reversal.experiments import ablations, dense, terminal

CATALOGUE = Catalogue(
    (*dense.EXPERIMENTS, *terminal.EXPERIMENTS, *ablations.EXPERIMENTS),
    (*dense.SUITES, *terminal.SUITES, *ablations.SUITES),
)
