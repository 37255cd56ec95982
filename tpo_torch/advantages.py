"""Scores to advantages: the estimators that the baselines name themselves after. Last axis = group.

A group is constant in the sense of `standardize`: its spread is below rounding. Every estimator that centres on the
group gives such a group exactly 0 (deviation D32); `batch_standardised` centres on the batch, and does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tpo_torch import checks, standardize


def centred(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scores minus the mean of their group.

    Paper: Dr. GRPO

    A = s − s̄. A zero-variance group gives 0.

    Args: scores (…, K), any unit; mask (…, K) bool, False = no candidate here: it leaves the mean and gets 0.
    Returns: (…, K), detached, in the unit of the scores; Σ A = 0.
    Raises: TypeError, ValueError for NaN or infinite scores, a bad dtype, shape or mask.

    >>> centred(torch.tensor([1.0, 0.0]))
    tensor([ 0.5000, -0.5000])
    """
    s, keep = checks.group("scores", scores, mask, checks.scores)
    return _centred(s, keep)


def rloo(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scores minus the mean of the other candidates.

    Paper: RLOO

    A_i = s_i − mean_{j≠i} s_j = K/(K−1)·(s_i − s̄), K counting the unmasked. A zero-variance group gives 0, and so does
    a group of one, which has no others.

    Args, Raises: as `centred`. Returns: (…, K), detached, in the unit of the scores; Σ A = 0.

    >>> rloo(torch.tensor([1.0, 0.0, 0.5]))
    tensor([ 0.7500, -0.7500,  0.0000])
    """
    s, keep = checks.group("scores", scores, mask, checks.scores)
    return _rloo(s, keep)


def group_standardised(scores: Tensor, epsilon_std: float = 1e-4, mask: Tensor | None = None) -> Tensor:
    """Centred scores in standard deviations of their group, with the usual guard in the denominator.

    Paper: GRPO

    A = (s − s̄)/(σ + ε_std), σ the population standard deviation (deviation D31). A zero-variance group gives 0; unlike
    u of `standardize`, a group whose spread is far below ε_std is shrunk towards 0 as well.

    Args: scores (…, K); epsilon_std ≥ 0, in the unit of the scores; mask (…, K) bool.
    Returns: (…, K), detached, without unit; Σ A = 0.
    Raises: TypeError, ValueError as `centred`, and for a negative epsilon_std.

    >>> group_standardised(torch.tensor([1.0, 0.0]))
    tensor([ 0.9998, -0.9998])
    """
    epsilon_std = checks.non_negative("epsilon_std", epsilon_std)
    s, keep = checks.group("scores", scores, mask, checks.scores)
    return _group_standardised(s, epsilon_std, keep)


def maxrl(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Centred scores in units of their mean: rare successes count most.

    Paper: MaxRL

    A = (s − s̄)/s̄; 0 if s̄ = 0. Meant for binary scores, where 1/s̄ turns the gradient of the success rate into that of
    its logarithm. A zero-variance group, all failed or all solved, gives 0.

    Args: scores (…, K), not negative (deviation D35); mask (…, K) bool.
    Returns: (…, K), detached, without unit; Σ A = 0.
    Raises: TypeError, ValueError as `centred`, and for a negative score.

    >>> maxrl(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    tensor([ 3., -1., -1., -1.])
    """
    s, keep = checks.group("scores", scores, mask, checks.successes)
    return _maxrl(s, keep)


def batch_standardised(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scores standardised over the whole batch, every axis.

    Paper: REINFORCE++

    A = (s − mean_batch)/sd_batch, population sd; 0 when the whole batch is constant (deviation D32). A zero-variance
    group inside a varied batch does NOT give 0: it is pushed up or down as a block.

    Args, Raises: as `centred`. Returns: (…, K), detached, without unit; Σ A = 0 over the batch, not over a group.

    >>> batch_standardised(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    tensor([[ 1.,  1.],
            [-1., -1.]])
    """
    s, keep = checks.group("scores", scores, mask, checks.scores)
    return _batch_standardised(s, keep)


def group_centred_batch_standardised(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scores centred in their group, in standard deviations of all such differences in the batch.

    Paper: REINFORCE++ (its variant with a group baseline)

    A = (s − s̄)/sd_batch(s − s̄), population sd, no guard added (deviation D32). A zero-variance group gives 0.

    Args, Raises: as `centred`. Returns: (…, K), detached, without unit; Σ A = 0 in every group.

    >>> group_centred_batch_standardised(torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
    tensor([[ 1.4142, -1.4142],
            [ 0.0000,  0.0000]])
    """
    s, keep = checks.group("scores", scores, mask, checks.scores)
    return _group_centred_batch_standardised(s, keep)


# -- what is computed, of tensors that were checked ----------------------------------------------------------------
# Scores come in a dtype of their own, which says what is rounding; the masked ones are 0.


def _centred(scores: Tensor, mask: Tensor) -> Tensor:
    s = standardize._floats(scores.detach())
    constant = (standardize._standardize(scores, mask) == 0).all(-1, keepdim=True)
    mean = s.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(mask & ~constant, s - mean, 0.0)


def _rloo(scores: Tensor, mask: Tensor) -> Tensor:
    count = mask.sum(-1, keepdim=True)
    return _centred(scores, mask) * count / (count - 1).clamp(min=1)


def _group_standardised(scores: Tensor, epsilon_std: float, mask: Tensor) -> Tensor:
    a = _centred(scores, mask)
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    largest = a.abs().amax(-1, keepdim=True)
    # Squares are taken of numbers up to 1, so that they neither overflow nor vanish.
    scale = largest.clamp(min=torch.finfo(a.dtype).tiny)
    sigma = scale * ((a / scale).square().sum(-1, keepdim=True) / count).sqrt()
    return a / torch.where(sigma > 0, sigma + epsilon_std, 1.0)


def _maxrl(scores: Tensor, mask: Tensor) -> Tensor:
    s = standardize._floats(scores.detach())
    mean = s.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return _centred(scores, mask) / torch.where(mean > 0, mean, 1.0)


def _batch_standardised(scores: Tensor, mask: Tensor) -> Tensor:
    return standardize._standardize(scores.reshape(-1), mask.reshape(-1)).reshape(scores.shape)


def _group_centred_batch_standardised(scores: Tensor, mask: Tensor) -> Tensor:
    a = _centred(scores, mask)
    # The differences have mean 0 within each group, so their squares alone give the standard deviation.
    largest = a.abs().amax()
    scale = largest.clamp(min=torch.finfo(a.dtype).tiny)
    sigma = ((a / scale).square().sum() / mask.sum().clamp(min=1)).sqrt()
    return a / scale / torch.where(sigma > 0, sigma, 1.0)
