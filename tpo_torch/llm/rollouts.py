"""One round of generation, row by row: the same on every process, and enough to rebuild every group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tpo_torch.llm.groups import scorable
from tpo_torch.scale import batch_deviation
from tpo_torch.standardize import standardize

# A double holds integers below 2^53 exactly, and so a digest of this many bits.
DIGEST_BITS = 52
DIGEST_SEED = 2604_06159


@dataclass(frozen=True)
class Round:
    """One round of generation: N completions, of which each consecutive `size` answer one prompt; kept on the host.

    Args, all (N,): scores, weighted rewards, 0 where there is none; valid, takes part; lengths, trained tokens; digest
        of the tokens; finished, ended by itself; logp_old, ℓ_old, NaN where not yet known (on this process).
        number, counts rounds from 1; born, the optimizer step before which the policy generated.
    """

    scores: Tensor
    valid: Tensor
    lengths: Tensor
    digest: Tensor
    finished: Tensor
    logp_old: Tensor
    size: int
    number: int
    born: int

    @classmethod
    def start(cls, scores: Tensor, gathered: Tensor, size: int, number: int, born: int) -> Round:
        """Make the round of these completions, over all processes.

        Args: scores (N,), rewards in their own precision, NaN where there is none; gathered (N, 3), lengths, digests
            and endings; size, number, born as above.
        """
        lengths, digests, finished = gathered.double().unbind(-1)
        valid = scorable(scores, lengths)
        scores = without_rounding(torch.where(valid, scores, 0.0), valid, size)
        unknown = torch.full_like(scores, torch.nan)
        return cls(scores, valid, lengths, digests, finished, unknown, size, number, born)

    @property
    def groups(self) -> Tensor:
        """The id of each row's group, (N,); no two groups of a run have the same."""
        rows = torch.arange(len(self.scores), device=self.scores.device)
        return rows // self.size + self.number * (len(self.scores) // self.size)

    @cached_property
    def deviation(self) -> Tensor:
        """The standard deviation of the scores of the round, for each row, (N,)."""
        return batch_deviation(self.scores, self.valid).expand(len(self.scores))

    def moved(self, step: int) -> bool:
        """Whether an optimizer step lies between the generation and now."""
        return step > self.born

    def state(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Return the tensors and numbers that `restore` takes."""
        tensors = {name: getattr(self, name) for name in TENSORS}
        return tensors, {"size": self.size, "number": self.number, "born": self.born}

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], numbers: dict[str, int]) -> Round:
        """Make the round whose `state` these are."""
        size, number, born = numbers["size"], numbers["number"], numbers["born"]
        scores, valid, lengths, digests, finished, logp_old = (tensors[name].cpu() for name in TENSORS)
        return cls(scores, valid, lengths, digests, finished, logp_old, size, number, born)


def without_rounding(scores: Tensor, valid: Tensor, size: int) -> Tensor:
    """Return scores in double precision, equal throughout each group in which they differ by rounding alone.

    TRL holds rewards in single precision, where .3 + .6 is not .9: in double that would pass for a difference, and
    standardising would give it the full tilt.

    Args: scores, valid (N,), each consecutive `size` a group.
    """
    grouped, keep = scores.view(-1, size), valid.view(-1, size)
    constant = (standardize(grouped, keep) == 0).all(-1, keepdim=True)
    top = torch.where(keep, grouped, -torch.inf).amax(-1, keepdim=True)
    return torch.where(constant & keep, top, grouped).double().view(-1)


TENSORS = ("scores", "valid", "lengths", "digest", "finished", "logp_old")


def digest(tokens: Tensor, mask: Tensor) -> Tensor:
    """Hash completions to (B,) doubles; two different ones agree with probability 2^-52. Linear, without a sync.

    Args: tokens (B, T) ids, padded on the right; mask (B, T), 0 = padding or another's token.
    """
    generator = torch.Generator().manual_seed(DIGEST_SEED)
    # The factors of the first places do not depend on the padding; odd factors lose no bit of a token.
    words = torch.randint(-(2**62), 2**62, (tokens.shape[1],), generator=generator, dtype=torch.int64) * 2 + 1
    mixed = ((tokens.long() + 1) * mask.long() * words.to(tokens.device)).sum(-1)
    # The low bits of a product of odd numbers are the weakest; the high ones are kept.
    return ((mixed >> (64 - DIGEST_BITS)) & ((1 << DIGEST_BITS) - 1)).double()


def ended(tokens: Tensor, mask: Tensor, eos: Sequence[int]) -> Tensor:
    """Return (B,) 1 where the last token of a completion ends a sequence, 0 where it was cut off, or masked for that.

    Args: tokens, mask (B, T); what pads, or ends an earlier turn, may be the same token and says nothing.
    """
    last = tokens.gather(1, (mask.sum(-1, keepdim=True) - 1).clamp(min=0))[:, 0]
    return (torch.isin(last, torch.tensor(list(eos), device=tokens.device)) & mask.any(-1)).double()


def trained_tokens(inputs: dict[str, Any]) -> Tensor:
    """Return the mask (B, T), 1 where the policy chose the token and is trained on it."""
    mask: Tensor = inputs["completion_mask"]
    return mask * inputs["tool_mask"] if "tool_mask" in inputs else mask


def summed(per_token: Tensor, mask: Tensor) -> Tensor:
    """Sum over the trained tokens, (B,), in double precision: in half, thousands of tokens err by tenths of a nat."""
    return torch.where(mask.bool(), per_token.detach(), 0.0).sum(-1, dtype=torch.double)


def permuted(batch: dict[str, Any], order: Tensor) -> dict[str, Any]:
    """Put the rows of tensors and lists in another order; leave scalars and None as they are."""
    listed = order.tolist()
    return {
        name: value[order.to(value.device)]
        if isinstance(value, Tensor) and value.ndim > 0
        else ([value[i] for i in listed] if isinstance(value, (list, tuple)) else value)
        for name, value in batch.items()
    }


def shuffled_in_blocks(rows: int, block: int) -> Tensor:
    """Return a random order of rows that leaves each in its block: groups stay in their optimizer step."""
    return torch.cat([start + torch.randperm(min(block, rows - start)) for start in range(0, rows, block)])
