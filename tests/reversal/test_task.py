"""The token-reversal task: right answers and what is paid for them, as properties and as worked examples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tpo_torch.reversal.clear import clear_rewards
from tpo_torch.reversal.settings import REWARDS, TARGETS
from tpo_torch.reversal.task import candidate_rewards, rewards, targets

vocabs, horizons, seeds = st.integers(2, 6), st.integers(1, 7), st.integers(0, 2**32 - 1)


def tokens(seed: int, vocab: int, *shape: int) -> Tensor:
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("copy", [0, 3, 1]),
        # (V − 1) − x with V = 4.
        ("flip", [3, 0, 2]),
        ("reverse_copy", [1, 3, 0]),
        ("reverse_flip", [2, 0, 3]),
    ],
)
def test_right_answers(target: str, expected: list[int]) -> None:
    assert targets(torch.tensor([0, 3, 1]), target, vocab=4).tolist() == expected


@pytest.mark.parametrize("target", TARGETS)
@given(seed=seeds, vocab=vocabs, horizon=horizons)
def test_every_target_is_its_own_inverse(target: str, seed: int, vocab: int, horizon: int) -> None:
    prompts = tokens(seed, vocab, 2, 5, horizon)
    once = targets(prompts, target, vocab)
    assert once.min() >= 0
    assert once.max() < vocab
    assert torch.equal(targets(once, target, vocab), prompts)


@given(seed=seeds, vocab=vocabs, horizon=horizons)
def test_the_four_targets_are_made_of_two(seed: int, vocab: int, horizon: int) -> None:
    prompts = tokens(seed, vocab, 5, horizon)
    flipped = targets(prompts, "flip", vocab)
    assert torch.equal(targets(prompts, "reverse_flip", vocab), targets(flipped, "reverse_copy", vocab))
    # Each prompt by itself.
    assert torch.equal(targets(prompts, "reverse_copy", vocab)[0], prompts[0].flip(0))


@pytest.mark.parametrize(
    ("correct", "bag", "sequential", "terminal"),
    [
        ([1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]),
        ([1, 0, 1], [1, 0, 1], [1, 0, 0], [0, 0, 0]),
        ([0, 1, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0]),
        ([1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0]),
    ],
)
def test_worked_rewards(correct: list[int], bag: list[int], sequential: list[int], terminal: list[int]) -> None:
    right = torch.tensor(correct, dtype=torch.bool)
    assert rewards(right, "bag").tolist() == bag
    assert rewards(right, "sequential").tolist() == sequential
    assert rewards(right, "terminal").tolist() == terminal


@given(seed=seeds, horizon=horizons)
def test_rewards_are_what_they_are_called(seed: int, horizon: int) -> None:
    correct = tokens(seed, 4, 2, 6, 3, horizon) > 0
    bag, sequential, terminal = (rewards(correct, name) for name in REWARDS)
    assert torch.equal(bag, correct.float())
    for right, paid in zip(correct.flatten(0, -2).tolist(), sequential.flatten(0, -2).tolist(), strict=True):
        until = right.index(False) if False in right else len(right)
        assert paid == [1.0] * until + [0.0] * (len(right) - until)
    assert torch.equal(terminal, bag.amin(-1, keepdim=True).expand_as(bag))
    # Terminal pays no more than sequential, and sequential no more than bag.
    assert (terminal <= sequential).all()
    assert (sequential <= bag).all()


@pytest.mark.parametrize("reward", REWARDS)
@given(seed=seeds, horizon=horizons)
def test_rewards_are_the_clear_twins(reward: str, seed: int, horizon: int) -> None:
    correct = tokens(seed, 3, 6, 3, horizon) > 0
    assert torch.equal(rewards(correct, reward), clear_rewards(correct, reward).float())


@pytest.mark.parametrize("reward", ["bag", "sequential"])
@given(seed=seeds, vocab=vocabs, horizon=horizons)
def test_a_candidate_earns_what_its_token_would_in_the_answers_place(
    reward: str, seed: int, vocab: int, horizon: int
) -> None:
    answers, right = tokens(seed, vocab, 2, 4, horizon), tokens(seed + 1, vocab, 2, 4, horizon)
    # Half of the answer right, so that sequences of right tokens are not rare.
    answers = torch.where(tokens(seed + 2, 2, 2, 4, horizon) > 0, right, answers)
    candidates = torch.cat([answers.unsqueeze(-1), tokens(seed + 3, vocab, 2, 4, horizon, 3)], -1)
    paid = candidate_rewards(answers, candidates, right, reward)
    # The answer's own token earns what the answer earns there.
    assert torch.equal(paid[..., 0], rewards(answers == right, reward))
    for t in range(horizon):
        for c in range(candidates.shape[-1]):
            tried = answers.clone()
            tried[..., t] = candidates[..., t, c]
            assert torch.equal(paid[..., t, c], rewards(tried == right, reward)[..., t])


def test_worked_candidates() -> None:
    # The right answer is 0 1 1, the answer 0 0 1: its second token is wrong.
    answers, right = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    candidates = torch.tensor([[0, 1], [0, 1], [1, 0]])
    assert candidate_rewards(answers, candidates, right, "bag").tolist() == [[1, 0], [0, 1], [1, 0]]
    # Behind the error nothing is paid any more; at the error itself the right token still is.
    assert candidate_rewards(answers, candidates, right, "sequential").tolist() == [[1, 0], [0, 1], [0, 0]]


def test_a_single_token_earns_no_terminal_reward() -> None:
    one: Any = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="got 'terminal', expected 'bag' or 'sequential'"):
        candidate_rewards(one, one.unsqueeze(-1), one, "terminal")
