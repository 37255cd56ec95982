"""Scores to advantages: the estimators that the baselines name themselves after. Last axis = group.

A group is constant in the sense of `standardize`: its spread is below rounding. Every estimator that centres on the
group gives such a group exactly 0 (deviation D32); `batch_standardised` centres on the batch, and does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tpo_ref import checks, standardize
from tpo_ref.checks import Bools, Floats


def centred(scores: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Scores minus the mean of their group.

    Paper: Dr. GRPO

    A = s − s̄. A zero-variance group gives 0.

    Args: scores (…, K), any unit; mask (…, K) bool, False = no candidate here: it leaves the mean and gets 0.
    Returns: (…, K), in the unit of the scores; Σ A = 0.
    Raises: TypeError, ValueError for NaN or infinite scores, a bad dtype, shape or mask.

    >>> centred([1.0, 0.0]).tolist()
    [0.5, -0.5]
    """
    s, keep = checks.group("scores", scores, mask, checks.scores)
    return _centred(s, keep)


def rloo(scores: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Scores minus the mean of the other candidates.

    Paper: RLOO

    A_i = s_i − mean_{j≠i} s_j = K/(K−1)·(s_i − s̄), K counting the unmasked. A zero-variance group gives 0, and so does
    a group of one, which has no others.

    Args, Raises: as `centred`. Returns: (…, K), in the unit of the scores; Σ A = 0.

    >>> rloo([1.0, 0.0, 0.5]).tolist()
    [0.75, -0.75, 0.0]
    """
    s, keep = checks.group("scores", scores, mask, checks.scores)
    return _rloo(s, keep)


def group_standardised(scores: ArrayLike, epsilon_std: float = 1e-4, mask: ArrayLike | None = None) -> Floats:
    """Centred scores in standard deviations of their group, with the usual guard in the denominator.

    Paper: GRPO

    A = (s − s̄)/(σ + ε_std), σ the population standard deviation (deviation D31). A zero-variance group gives 0; unlike
    u of `standardize`, a group whose spread is far below ε_std is shrunk towards 0 as well.

    Args: scores (…, K); epsilon_std ≥ 0, in the unit of the scores; mask (…, K) bool.
    Returns: (…, K), without unit; Σ A = 0.
    Raises: TypeError, ValueError as `centred`, and for a negative epsilon_std.

    >>> group_standardised([1.0, 0.0]).round(4).tolist()
    [0.9998, -0.9998]
    """
    epsilon_std = checks.non_negative("epsilon_std", epsilon_std)
    s, keep = checks.group("scores", scores, mask, checks.scores)
    return _group_standardised(s, epsilon_std, keep)


def maxrl(scores: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Centred scores in units of their mean: rare successes count most.

    Paper: MaxRL

    A = (s − s̄)/s̄; 0 if s̄ = 0. Meant for binary scores, where 1/s̄ turns the gradient of the success rate into that of
    its logarithm. A zero-variance group, all failed or all solved, gives 0.

    Args: scores (…, K), not negative (deviation D35); mask (…, K) bool. Returns: (…, K), without unit; Σ A = 0.
    Raises: TypeError, ValueError as `centred`, and for a negative score.

    >>> maxrl([1.0, 0.0, 0.0, 0.0]).tolist()
    [3.0, -1.0, -1.0, -1.0]
    """
    s, keep = checks.group("scores", scores, mask, checks.successes)
    return _maxrl(s, keep)


def batch_standardised(scores: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Scores standardised over the whole batch, every axis.

    Paper: REINFORCE++

    A = (s − mean_batch)/sd_batch, population sd; 0 when the whole batch is constant (deviation D32). A zero-variance
    group inside a varied batch does NOT give 0: it is pushed up or down as a block.

    Args, Raises: as `centred`. Returns: (…, K), without unit; Σ A = 0 over the batch, not over a group.

    >>> batch_standardised([[1.0, 1.0], [0.0, 0.0]]).tolist()
    [[1.0, 1.0], [-1.0, -1.0]]
    """
    s, keep = checks.group("scores", scores, mask, checks.scores)
    return _batch_standardised(s, keep)


def group_centred_batch_standardised(scores: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Scores centred in their group, in standard deviations of all such differences in the batch.

    Paper: REINFORCE++ (its variant with a group baseline)

    A = (s − s̄)/sd_batch(s − s̄), population sd, no guard added (deviation D32). A zero-variance group gives 0.

    Args, Raises: as `centred`. Returns: (…, K), without unit; Σ A = 0 in every group.

    >>> group_centred_batch_standardised([[2.0, 0.0], [1.0, 1.0]]).round(4).tolist()
    [[1.4142, -1.4142], [0.0, 0.0]]
    """
    s, keep = checks.group("scores", scores, mask, checks.scores)
    return _group_centred_batch_standardised(s, keep)


# -- what is computed, of arrays that were checked -----------------------------------------------------------------
# Scores come in a dtype of their own, which says what is rounding; the masked ones are 0.


def _centred(scores: NDArray[Any], mask: Bools) -> Floats:
    s = np.asarray(scores, dtype=np.float64)
    constant = (standardize._standardize(scores, mask) == 0).all(-1, keepdims=True)
    mean = s.sum(-1, keepdims=True) / np.maximum(mask.sum(-1, keepdims=True), 1)
    return np.where(mask & ~constant, s - mean, 0.0)


def _rloo(scores: NDArray[Any], mask: Bools) -> Floats:
    count = mask.sum(-1, keepdims=True)
    return np.asarray(_centred(scores, mask) * count / np.maximum(count - 1, 1))


def _group_standardised(scores: NDArray[Any], epsilon_std: float, mask: Bools) -> Floats:
    a = _centred(scores, mask)
    count = np.maximum(mask.sum(-1, keepdims=True), 1)
    largest = np.abs(a).max(-1, keepdims=True)
    # Squares are taken of numbers up to 1, so that they neither overflow nor vanish.
    scale = np.where(largest > 0, largest, 1.0)
    sigma = scale * np.sqrt(((a / scale) ** 2).sum(-1, keepdims=True) / count)
    return np.asarray(a / np.where(sigma > 0, sigma + epsilon_std, 1.0))


def _maxrl(scores: NDArray[Any], mask: Bools) -> Floats:
    s = np.asarray(scores, dtype=np.float64)
    mean = s.sum(-1, keepdims=True) / np.maximum(mask.sum(-1, keepdims=True), 1)
    return _centred(scores, mask) / np.where(mean > 0, mean, 1.0)


def _batch_standardised(scores: NDArray[Any], mask: Bools) -> Floats:
    return standardize._standardize(scores.reshape(-1), mask.reshape(-1)).reshape(scores.shape)


def _group_centred_batch_standardised(scores: NDArray[Any], mask: Bools) -> Floats:
    a = _centred(scores, mask)
    # The differences have mean 0 within each group, so their squares alone give the standard deviation.
    largest = np.abs(a).max()
    scale = np.where(largest > 0, largest, 1.0)
    sigma = np.sqrt(((a / scale) ** 2).sum() / np.maximum(mask.sum(), 1))
    return np.asarray(a / scale / np.where(sigma > 0, sigma, 1.0))
