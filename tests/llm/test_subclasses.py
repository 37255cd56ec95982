"""A subclass that changes rewards or coefficients is trained on what it says; one that changes advantages is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny_llm
from helpers.tiny_llm import TargetPOTrainer, cut
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOTrainer

from tpo_torch.llm import TargetSettings, group_coefficients
from tpo_torch.llm.advantages import check_advantages, grpo_advantages

pytestmark = tiny_llm.FILTERS

LAYOUTS = {"whole": cut(8), "split": cut(2, 4), "two epochs": cut(4, 2, num_iterations=2)}


def first_step(folder: Path, kind: Any, layout: str = "whole", **options: Any) -> dict[str, torch.Tensor]:
    _, watch = tiny_llm.train(folder, kind=kind, rollout_func=tiny_llm.mixed, **LAYOUTS[layout] | options)
    return watch.gradients[0]


class Scales:
    """Changes advantages where they are made; alone it works with GRPO."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        return batch | {"advantages": batch["advantages"] * 1.01}


class PerToken(Scales):
    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = GRPOTrainer._generate_and_score_completions(self, inputs)
        return batch | {"advantages": batch["advantages"].unsqueeze(1) * batch["completion_mask"]}


class LogsToo(Scales):
    """Also in the table of completions, so that nothing of TRL's tells the advantages apart."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        self._logs["advantages"].clear()  # type: ignore[attr-defined]
        self._logs["advantages"].extend(batch["advantages"].tolist())  # type: ignore[attr-defined]
        return batch


class BeforeTheLoss:
    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        return super()._compute_loss(model, inputs | {"advantages": inputs["advantages"] * 2})  # type: ignore[misc]


class InPlace:
    def _prepare_inputs(self, inputs: Any) -> Any:
        prepared = super()._prepare_inputs(inputs)  # type: ignore[misc]
        prepared["advantages"].clamp_(min=0)
        return prepared


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("change", [Scales, PerToken, LogsToo, BeforeTheLoss, InPlace])
def test_changed_advantages_are_refused_with_a_remedy(change: type, layout: str, tmp_path: Path) -> None:
    kind = type("Above", (change, TargetPOTrainer), {})
    with pytest.raises(ValueError, match=r"(?s)^advantages: got .*override of `_calculate_rewards`.*`_coefficients`"):
        first_step(tmp_path, kind, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_changed_advantages_are_refused_below_the_trainer_too(layout: str, tmp_path: Path) -> None:
    below = type("Changed", (Scales, GRPOTrainer), {})
    kind = type("Below", (TargetPOTrainer, below), {})
    with pytest.raises(ValueError, match=r"advantages: got .* in row \d, expected GRPO's .*a subclass changed them"):
        first_step(tmp_path, kind, layout)


def test_a_batch_without_rewards_is_refused(tmp_path: Path) -> None:
    class Own(TargetPOTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            return {}

    settings, data = tiny_llm.arguments(tmp_path), tiny_llm.prompts()
    trainer = tiny_llm.build(Own, tiny_llm.model(), tiny_llm.reward, settings, data, tiny_llm.tokenizer())
    with pytest.raises(ValueError, match=r"rewards: got none, since .* did not call `_calculate_rewards`"):
        trainer.train()


def test_advantages_of_fewer_rows_are_refused() -> None:
    rewards = torch.rand(8, 1)
    with pytest.raises(ValueError, match=r"got shape \(4,\), expected \(8,\), one for each reward"):
        check_advantages(grpo_advantages(rewards, torch.ones(1), 4)[:4], rewards, torch.ones(1), 4)


def test_a_copy_of_the_batch_below_is_trained_on_our_coefficients(tmp_path: Path) -> None:
    class Copies(GRPOTrainer):  # type: ignore[misc]
        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            return super()._compute_loss(model, dict(inputs))

    kind = type("Below", (TargetPOTrainer, Copies), {})
    trainer, _ = tiny_llm.train(tmp_path / "below", kind=kind, **cut(8, max_steps=1))
    plain, _ = tiny_llm.train(tmp_path / "plain", **cut(8, max_steps=1))
    for ours, expected in zip(trainer.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, expected)


def shaped(completions: list[str], **_: Any) -> list[float]:
    return [2.0 * x - (i == 3) for i, x in enumerate(tiny_llm.reward(completions))]


class Shapes:
    def _calculate_rewards(self, *args: Any) -> Any:
        rewards = super()._calculate_rewards(*args)  # type: ignore[misc]
        return 2 * rewards - (torch.arange(len(rewards)) == 3).unsqueeze(1).to(rewards)


@pytest.mark.parametrize("place", ["above", "below"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rewards_that_a_subclass_changes_are_trained_on(place: str, layout: str, tmp_path: Path) -> None:
    bases = {"above": (Shapes, TargetPOTrainer), "below": (TargetPOTrainer, type("Shaped", (Shapes, GRPOTrainer), {}))}
    found = first_step(tmp_path / "subclass", type("Shaping", bases[place], {}), layout)
    wanted = first_step(tmp_path / "function", TargetPOTrainer, layout, reward_funcs=shaped)
    plain = first_step(tmp_path / "plain", TargetPOTrainer, layout)
    assert all(torch.allclose(found[name], x, rtol=1e-9) for name, x in wanted.items())
    assert not all(torch.allclose(plain[name], x, rtol=1e-3) for name, x in wanted.items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_coefficients_that_a_subclass_changes_are_trained_on(layout: str, tmp_path: Path) -> None:
    class Doubles(TargetPOTrainer):
        def _coefficients(self, *args: Any) -> Any:
            made = super()._coefficients(*args)
            return made._replace(c=2 * made.c)

    found, plain = (first_step(tmp_path / kind.__name__, kind, layout) for kind in (Doubles, TargetPOTrainer))
    # Norms in single precision round the two otherwise.
    assert all(torch.allclose(found[name], 2 * x, rtol=1e-4, atol=1e-7) for name, x in plain.items())


REWARDS = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, -2.0, float("nan")]), min_size=2, max_size=2), min_size=8,
                   max_size=8)  # fmt: skip


@given(REWARDS)
def test_the_advantages_compared_with_are_grpos(rewards: list[list[float]]) -> None:
    # By the definition, with the sample deviation; a group with one reward has none.
    raw = torch.tensor(rewards)
    weights = torch.tensor([1.0, 0.25])
    found = grpo_advantages(raw, weights, 4).view(2, 4)
    for group, advantages in zip(raw.view(2, 4, 2), found, strict=True):
        kept = ~group.isnan().all(1)
        scores = (group.nan_to_num() * weights).sum(1)[kept]
        assert torch.equal(advantages[~kept], torch.zeros(int((~kept).sum())))
        if len(scores) > 1:
            torch.testing.assert_close(advantages[kept], (scores - scores.mean()) / (scores.std() + 1e-4))
        else:
            assert advantages[kept].abs().sum() == 0


def test_coefficients_may_be_replaced_by_name() -> None:
    ids = torch.zeros(2, dtype=torch.long)
    made = group_coefficients(torch.zeros(2), torch.zeros(2), torch.tensor([1.0, 0.0]), ids, TargetSettings())
    assert made._replace(c=2 * made.c).c.tolist() == pytest.approx([2 * x for x in made.c.tolist()])
