"""The token-reversal task: what the right answer to a prompt is, and how an answer is paid."""

from __future__ import annotations

import torch
from torch import Tensor


def targets(prompts: Tensor, target: str, vocab: int) -> Tensor:
    """The right answers.

    Paper: Sec. 5 (its targets)

    copy y = x; flip y = (V − 1) − x; reverse copy and reverse flip, the same from the last token to the first.

    Args: prompts (…, H), tokens; target, one of `tpo_ref.study.settings.TARGETS`; vocab V.
    Returns: (…, H).

    >>> targets(torch.tensor([0, 0, 1]), "reverse_flip", vocab=2)
    tensor([0, 1, 1])
    """
    answer = vocab - 1 - prompts if target.endswith("flip") else prompts
    return answer.flip(-1) if target.startswith("reverse") else answer


def rewards(correct: Tensor, reward: str) -> Tensor:
    """What each token of an answer earns.

    Paper: Sec. 5 (its rewards)

    bag: 1 per correct token; sequential: 1 as long as all tokens so far are correct; terminal: 1 if all are, given to
    each of the H tokens.

    Args: correct (…, H) bool; reward, one of `tpo_ref.study.settings.REWARDS`. Returns: (…, H), float.

    >>> right = torch.tensor([True, False, True])
    >>> [rewards(right, name).tolist() for name in ("bag", "sequential", "terminal")]
    [[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    earned = correct.to(torch.get_default_dtype())
    if reward == "sequential":
        return earned.cumprod(-1)
    if reward == "terminal":
        return earned.prod(-1, keepdim=True).expand_as(earned)
    return earned


def candidate_rewards(answers: Tensor, candidates: Tensor, right: Tensor, reward: str) -> Tensor:
    """What each candidate for the next token would earn at once, after each prefix of an answer.

    Paper: Sec. 5 (its token-level groups)

    bag: 1 if it is correct; sequential: 1 if it is, and all tokens of the answer before it are.

    Args: answers (…, H), tokens; candidates (…, H, C), tokens; right (…, H), the right answers; reward, not terminal.
    Returns: (…, H, C), float.
    Raises: ValueError for the terminal reward, which says nothing of a single token.

    >>> answers, right = torch.tensor([1, 0]), torch.tensor([0, 1])
    >>> candidate_rewards(answers, torch.tensor([[1, 0], [0, 1]]), right, "sequential").tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    if reward == "terminal":
        raise ValueError(
            "reward: got 'terminal', expected 'bag' or 'sequential'; a single token earns no terminal reward"
        )
    earned = (candidates == right.unsqueeze(-1)).to(torch.get_default_dtype())
    if reward == "bag":
        return earned
    so_far = rewards(answers == right, "sequential")
    return earned * torch.cat([torch.ones_like(so_far[..., :1]), so_far[..., :-1]], -1).unsqueeze(-1)
