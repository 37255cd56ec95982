"""Rollouts: the fast engines against the clear twin, what they share, and that nothing else is random."""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from helpers.sequences import Case, cases, generators, gradients, network
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tpo_torch.reversal.clear import clear_candidate_logp, clear_generate, clear_logp, clear_policy
from tpo_torch.reversal.engine import Draws, Rollout, dense, draw, merged, sample
from tpo_torch.shared.transformer import CausalTransformer
from tpo_torch.standardize import standardize
from tpo_torch.tpo import tpo_loss, tpo_target

ENGINES = (dense, merged)
engines = pytest.mark.parametrize("engine", ENGINES, ids=("dense", "merged"))


def case(vocab: int = 2, horizon: int = 1, batch: int = 1, answers: int = 1, others: int = 0) -> Case:
    net = network(0, vocab=vocab, horizon=horizon)
    return Case(net, draw(generators(0), vocab, horizon, batch, answers, others))


def weights(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(1), dtype=like.dtype)


def close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Equal up to rounding: each gradient is a sum over nodes, so an entry may cancel to less than its terms."""
    for name, value in theirs.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-9 * scale + 1e-14, msg=lambda m, n=name: n + m)


@engines
@given(case=cases())
@example(case=case())
@example(case=case(answers=6))
@example(case=case(horizon=6))
@example(case=case(batch=8, others=3))
@settings(max_examples=30)
def test_answers_are_the_clear_twins(engine: ModuleType, case: Case) -> None:
    rollout = engine.generate(case.net, case.draws)
    answers, others = clear_generate(case.net, case.draws)
    assert torch.equal(rollout.answers[0], answers)
    assert torch.equal(rollout.others[0], others)
    assert torch.equal(rollout.candidates()[0], torch.cat([answers[:, 0].unsqueeze(-1), others], -1))


@engines
@given(case=cases())
@example(case=case())
@example(case=case(answers=6))
@example(case=case(horizon=6))
@example(case=case(batch=8, others=3))
@settings(max_examples=30)
def test_log_probabilities_and_their_gradients_are_the_clear_twins(engine: ModuleType, case: Case) -> None:
    net, prompts = case.net, case.draws.prompts[0]
    rollout = engine.generate(net, case.draws)
    answers, others = rollout.answers[0], rollout.others[0]
    policy = net(rollout.layout)
    ours = (rollout.logp(policy)[0], rollout.candidate_logp(policy)[0])
    theirs = (clear_logp(net, prompts, answers), clear_candidate_logp(net, prompts, answers[:, 0], others))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    # Any loss is a cotangent on these numbers.
    totals = [sum((x * weights(x)).sum() for x in each) for each in (ours, theirs)]
    close(*(gradients(net, total) for total in totals))


@given(
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=4, unique=True),
    answers=st.integers(1, 4),
    sharpness=st.sampled_from([1.0, 6.0]),
)
@settings(max_examples=12)
def test_stacked_seeds_answer_as_each_alone(seeds: list[int], answers: int, sharpness: float) -> None:
    others = 2 if answers == 1 else 0
    net = network(*seeds, sharpness=sharpness)
    rollout = dense.generate(net, draw(generators(*seeds), 3, 3, 4, answers, others))
    policy = net(rollout.layout)
    logp, more = rollout.logp(policy), rollout.candidate_logp(policy)
    total = (logp * weights(logp[:1])).sum() + (more * weights(more[:1])).sum()
    together = gradients(net, total)
    for s, seed in enumerate(seeds):
        alone = network(seed, sharpness=sharpness)
        own = dense.generate(alone, draw(generators(seed), 3, 3, 4, answers, others))
        assert torch.equal(rollout.answers[s], own.answers[0])
        assert torch.equal(rollout.others[s], own.others[0])
        policy = alone(own.layout)
        own_logp, own_more = own.logp(policy), own.candidate_logp(policy)
        torch.testing.assert_close(logp[s], own_logp[0], rtol=1e-10, atol=1e-12)
        total = (own_logp * weights(own_logp)).sum() + (own_more * weights(own_more)).sum()
        close({n: g[s : s + 1] for n, g in together.items()}, gradients(alone, total))


@given(case=cases())
@settings(max_examples=40)
def test_merging_leaves_one_node_per_distinct_prefix(case: Case) -> None:
    rollout = merged.generate(case.net, case.draws)
    prefixes = set()
    for prompt, answers in zip(case.draws.prompts[0].tolist(), rollout.answers[0].tolist(), strict=True):
        for answer in answers:
            # Nothing follows the last token, so no node is needed for it.
            sequence = prompt + answer[:-1]
            prefixes |= {tuple(sequence[: n + 1]) for n in range(len(sequence))}
    assert rollout.layout.tokens.shape == (1, len(prefixes))


def test_a_policy_that_repeats_itself_has_fewer_nodes() -> None:
    horizon, batch, answers = 5, 8, 6
    sizes = []
    for sharpness in (0.0, 60.0):
        net = network(0, vocab=4, horizon=horizon, sharpness=sharpness)
        rollout = merged.generate(net, draw(generators(0), 4, horizon, batch, answers))
        sizes.append(rollout.layout.tokens.shape[1])
    # Uniform answers are nearly all distinct, 8 prompts of 6; deterministic ones are one per prompt.
    assert sizes[0] > 150
    assert sizes[1] < 80


def group_loss(logp: Tensor, scores: Tensor) -> Tensor:
    return tpo_loss(logp, tpo_target(logp.detach(), standardize(scores)))


@given(case=cases(answers=6, others=0))
@settings(max_examples=25)
def test_merged_duplicates_with_added_masses_have_the_groups_gradient(case: Case) -> None:
    net, prompts = case.net, case.draws.prompts[0]
    rollout = merged.generate(net, case.draws)
    answers = rollout.answers[0]
    # Any score that equal answers share, since they earn the same.
    scores = (answers * torch.arange(1, answers.shape[-1] + 1)).sum(-1).double()
    logp = rollout.logp(net(rollout.layout))[0].sum(-1)
    ours = gradients(net, group_loss(logp, scores).sum())
    total = torch.zeros((), dtype=torch.float64)
    for prompt, group, own in zip(prompts, answers, scores, strict=True):
        distinct, index, count = group.unique(dim=0, return_inverse=True, return_counts=True)
        each = clear_logp(net, prompt.unsqueeze(0), distinct.unsqueeze(0))[0].sum(-1)
        # P(y) ∝ n_y π(y), and the target is the sum of its copies' targets; u still counts multiplicity.
        q = tpo_target(each.detach()[index], standardize(own))
        masses = torch.zeros(len(distinct), dtype=q.dtype).index_add(0, index, q)
        total = total + tpo_loss(each + count.double().log(), masses)
    close(ours, gradients(net, total))


@engines
def test_answers_come_as_often_as_the_policy_says(engine: ModuleType) -> None:
    # A grid of 50 × 50 uniforms for two tokens: a pair's share errs by less than two grid steps, one for each token.
    n, vocab = 50, 3
    axis = (torch.arange(n) + 0.5) / n
    uniforms = torch.cartesian_prod(axis, axis).view(1, 1, n * n, 2)
    prompts = torch.tensor([[[2, 0]]])
    net = network(4, vocab=vocab, horizon=2)
    rollout = engine.generate(net, Draws(prompts, uniforms, torch.zeros(1, 1, 2, 0)))
    counts = torch.bincount((rollout.answers[0, 0] * torch.tensor([vocab, 1])).sum(-1), minlength=vocab**2)
    first = torch.arange(vocab)
    policy = clear_policy(net, torch.cat([prompts[0].expand(vocab, -1), first.unsqueeze(1)], 1)).exp()
    joint = policy[0, 1].unsqueeze(1) * policy[:, 2]
    torch.testing.assert_close(counts / n**2, joint.flatten().float().detach(), atol=2 / n, rtol=0)
    # Not flat by accident.
    assert joint.max() > 3 * joint.min()


@engines
def test_each_token_is_drawn_by_its_own_uniform(engine: ModuleType) -> None:
    # A uniform policy over two tokens: the token is the uniform's first binary digit.
    net = network(0, vocab=2, horizon=5, sharpness=0.0)
    with torch.no_grad():
        net.head_bias.zero_()
    draws = draw(generators(3), vocab=2, horizon=5, batch=4, answers=3, others=2)
    rollout = engine.generate(net, draws)
    assert torch.equal(rollout.answers, (draws.uniforms >= 0.5).long())
    assert torch.equal(rollout.others, (draws.more >= 0.5).long())


def test_the_ends_of_the_unit_interval_are_tokens_and_impossible_ones_are_not_drawn() -> None:
    policy = torch.tensor([0.0, 0.5, 0.0, 0.5], dtype=torch.float64).log()
    uniforms = torch.tensor([0.0, math.nextafter(0.5, 0), 0.5, math.nextafter(1, 0)], dtype=torch.float64)
    assert sample(policy, uniforms).tolist() == [1, 1, 3, 3]
    # Thirds, whose sums round to below 1.
    thirds = torch.full((3,), 1 / 3).log()
    assert sample(thirds, torch.tensor([0.0, 1 - 2**-24])).tolist() == [0, 2]


@given(seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4, unique=True), data=st.data())
@settings(max_examples=20)
def test_a_seeds_draws_are_its_own(seeds: list[int], data: st.DataObject) -> None:
    i = data.draw(st.integers(0, len(seeds) - 1))
    before = torch.get_rng_state()
    together, alone = (draw(generators(*each), 3, 4, 5, 2, 3) for each in (seeds, [seeds[i]]))
    assert torch.equal(before, torch.get_rng_state())
    for name, shape in (("prompts", (5, 4)), ("uniforms", (5, 2, 4)), ("more", (5, 4, 3))):
        both, own = getattr(together, name), getattr(alone, name)
        assert both.shape == (len(seeds), *shape)
        assert torch.equal(both[i], own[0])
    assert together.prompts.min() >= 0
    assert together.prompts.max() < 3


@engines
def test_sampling_repeats_itself_and_leaves_the_global_generator_alone(engine: ModuleType) -> None:
    before = torch.get_rng_state()
    net, draws = case(vocab=3, horizon=4, batch=5, answers=4)
    first, second = (engine.generate(net, draws) for _ in range(2))
    assert torch.equal(first.answers, second.answers)
    assert not first.logp(net(first.layout)).isnan().any()
    assert torch.equal(net(first.layout), net(second.layout))
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None for p in net.parameters())


@engines
def test_a_layout_serves_every_later_policy(engine: ModuleType) -> None:
    net, draws = case(vocab=3, horizon=3, batch=4, answers=3)
    rollout = engine.generate(net, draws)
    for step in range(2):
        with torch.no_grad():
            for p in net.parameters():
                p += 0.1 * (step + 1)
        clear = clear_logp(net, draws.prompts[0], rollout.answers[0])
        torch.testing.assert_close(rollout.logp(net(rollout.layout))[0], clear, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("others", [0, 2])
def test_the_dense_engine_reads_no_value(others: int) -> None:
    # A meta tensor has no values to read: whatever would synchronise a GPU fails here.
    net = network(0, 1).to("meta")
    answers = 1 if others else 4
    draws = draw(generators(0, 1), 3, 3, 5, answers, others).to(torch.device("meta"))
    rollout = dense.generate(net, draws)
    assert rollout.answers.shape == (2, 5, answers, 3)
    policy = net(rollout.layout)
    assert policy.is_meta
    (rollout.logp(policy).sum() + rollout.candidate_logp(policy).sum()).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_the_merged_engine_refuses_a_stack() -> None:
    with pytest.raises(ValueError, match=r"draws: got 2 seeds, expected 1; use dense\.generate"):
        merged.generate(network(0, 1), draw(generators(0, 1), 3, 3, 2, 2))


@engines
def test_single_precision_differs_by_its_rounding(engine: ModuleType) -> None:
    net, draws = case(vocab=3, horizon=5, batch=8, answers=4)
    exact: Rollout = engine.generate(net, draws)
    logp = exact.logp(net(exact.layout))
    single = CausalTransformer(generators(0), 3, 10)
    single.load_state_dict(net.state_dict())
    rough = exact.logp(single(exact.layout)) if engine is dense else _single(single, draws, exact)
    # Two layers of 64: some dozens of roundings of 6e-8 of numbers up to 10.
    torch.testing.assert_close(rough.double(), logp, rtol=0, atol=2e-5)


def _single(net: CausalTransformer, draws: Draws, exact: Rollout) -> Tensor:
    rollout = merged.generate(net, replace(draws))
    assert torch.equal(rollout.answers, exact.answers)
    return rollout.logp(net(rollout.layout))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("others", [0, 2])
def test_a_gpu_answers_as_the_clear_twin_without_waiting(others: int) -> None:
    answers, device = (1 if others else 4), torch.device("cuda")
    net, draws = network(5), draw(generators(5), 3, 3, 6, answers, others)
    expected = clear_generate(net, draws)
    clear = clear_logp(net, draws.prompts[0], expected[0])
    theirs = gradients(net, (clear * weights(clear)).sum())
    net, draws, cotangent = net.to(device), draws.to(device), weights(clear).to(device)
    # What is made once per shape is made before the alarm is set.
    dense.generate(net, draws)
    torch.cuda.set_sync_debug_mode("error")
    try:
        rollout = dense.generate(net, draws)
        logp = rollout.logp(net(rollout.layout))[0]
        ours = gradients(net, (logp * cotangent).sum())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(rollout.answers[0].cpu(), expected[0])
    assert torch.equal(rollout.others[0].cpu(), expected[1])
    torch.testing.assert_close(logp.cpu(), clear, rtol=1e-9, atol=1e-11)
    close({n: g.cpu() for n, g in ours.items()}, theirs)
