"""What the loops are told and pass to each other: methods as numbers, options, a policy, an ascent. No formula.

The compiler's cache of `loops` sees changes of that file alone, so every formula stays there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tpo_ref.checks import Floats

Counts = NDArray[np.int64]

# Method names as numbers, since comparing those costs compiled code nothing.
CE, PG, DG, GRPO, TPO, RATIO, NO_ANCHOR = range(7)
CODES = {"ce": CE, "pg": PG, "dg": DG, "grpo": GRPO, "tpo": TPO}
CODES |= {"tpo_sampled": TPO, "tpo_ratio": RATIO, "tpo_no_anchor": NO_ANCHOR}


class SingleOptions(NamedTuple):
    """Numbers of `SingleContext`: the length of a step, the baseline, and the temperatures of TPO and of DG's gate."""

    alpha: float
    baseline: float
    eta: float
    dg_eta: float


class ManyOptions(NamedTuple):
    """The length of a step; 1/λ, where λ is how much more TPO's tilt weighs the correct arm; 1/η of DG's gate."""

    alpha: float
    inverse_tilt: float
    inverse_dg_eta: float


class GroupOptions(NamedTuple):
    """The length of a step, whether the direction is normalised first, and 1/λ_m of TPO (K + 1,).

    λ_m is how much more the tilt weighs a success than a failure in a group with m successes.
    """

    step: float
    normalised: bool
    inverse_tilts: Floats


class Policy(NamedTuple):
    """The policy of one step: π_a = weights_a / total, log π_a = logits_a − log_total; logits, weights (A,)."""

    logits: Floats
    weights: Floats
    total: float
    log_total: float


class Ascent(NamedTuple):
    """The ascent q − p of one group: slope · weight + constant for a failure, `successes` for all m together."""

    slope: float
    constant: float
    successes: float
