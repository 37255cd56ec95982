"""The alarm over the anchor: raised in time, once, and for no other anchor than a degenerate one."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from helpers import tiny_llm
from helpers.tiny_llm import cut

from tpo_torch.llm import TargetSettings
from tpo_torch.llm.groups import group_coefficients
from tpo_torch.llm.metrics import CompletionRows, fit_of
from tpo_torch.llm.watch import ENOUGH_GROUPS, LATEST_GROUPS, AnchorWatch

pytestmark = tiny_llm.FILTERS


def spread(by: float, groups: int = 1, first: int = 0) -> CompletionRows:
    """Groups of two whose old log-probabilities differ by so many nats, the worse one more likely."""
    n = 2 * groups
    columns = {name: torch.ones(n, dtype=torch.double) for name in CompletionRows._fields}
    columns["group"] = torch.arange(n).double() // 2 + first
    columns["row"] = torch.arange(n).double()
    columns["score"] = torch.tensor([0.0, 1.0] * groups).double()
    columns["logp_old"] = torch.tensor([0.0, -by] * groups).double()
    return CompletionRows(**columns)


HALF, SINGLE = torch.float16, torch.float32
POLICY = TargetSettings("policy")


def due(watch: AnchorWatch, rows: CompletionRows, settings: TargetSettings = POLICY) -> list[str]:
    return watch.warnings(rows, fit_of(rows, settings), settings, SINGLE)


def test_a_degenerate_anchor_is_said_once_as_soon_as_enough_groups_show_it() -> None:
    watch = AnchorWatch()
    said = [due(watch, spread(50.0, first=i)) for i in range(3 * ENOUGH_GROUPS)]
    assert [bool(texts) for texts in said].index(True) == ENOUGH_GROUPS - 1
    (text,) = [text for texts in said for text in texts]
    assert "anchor 'policy' is degenerate" in text
    assert "Use anchor='ratio'" in text


def test_one_step_of_enough_groups_is_enough() -> None:
    assert len(due(AnchorWatch(), spread(50.0, ENOUGH_GROUPS))) == 1


def test_coefficients_that_vanish_in_the_loss_are_said_at_the_first_group() -> None:
    # exp(-200) is a number in double precision alone, and exp(-12) one in single precision.
    for by, dtype, vanishes in ((200.0, SINGLE, True), (12.0, SINGLE, False), (12.0, HALF, True)):
        rows = spread(by)
        texts = AnchorWatch().warnings(rows, fit_of(rows, POLICY), POLICY, dtype)
        assert [("vanish in" in text, "Use anchor='ratio'" in text) for text in texts] == [(True, True)] * vanishes


def test_a_policy_at_its_target_has_coefficients_that_vanish_without_alarm() -> None:
    rows = spread(1.0, ENOUGH_GROUPS)
    q = group_coefficients(rows.logp_old, rows.logp_old, rows.score, rows.group.long(), TargetSettings("policy")).q
    assert due(AnchorWatch(), rows._replace(logp=q.log())) == []


@pytest.mark.parametrize("settings", [TargetSettings("ratio"), TargetSettings("tempered", anchor_temperature=50.0)])
def test_a_healthy_anchor_is_not_complained_of(settings: TargetSettings) -> None:
    watch = AnchorWatch()
    assert due(watch, spread(50.0, LATEST_GROUPS), settings) == []
    assert watch.summary(settings) is None
    assert due(AnchorWatch(), spread(1.0, LATEST_GROUPS)) == []


def test_a_step_of_many_groups_is_judged_as_a_whole() -> None:
    # Two thirds of the groups have a healthy anchor, and they come first: the last 64 alone would raise the alarm.
    count = LATEST_GROUPS
    healthy, degenerate = spread(0.5, 2 * count), spread(50.0, count, first=2 * count)
    rows = CompletionRows(*(torch.cat(pair) for pair in zip(healthy, degenerate, strict=True)))
    assert due(AnchorWatch(), rows) == []


def test_groups_that_ask_for_nothing_say_nothing_about_the_anchor() -> None:
    watch = AnchorWatch()
    n = 2 * ENOUGH_GROUPS
    assert due(watch, spread(50.0, ENOUGH_GROUPS)._replace(score=torch.zeros(n).double())) == []
    assert due(watch, spread(50.0, ENOUGH_GROUPS)._replace(valid=torch.zeros(n).double())) == []
    assert watch == AnchorWatch()


def test_the_remedy_for_a_ratio_is_not_the_ratio() -> None:
    (text,) = due(AnchorWatch(), spread(1.0, ENOUGH_GROUPS), TargetSettings("ratio", eta=1000.0))
    assert "lower eta=1000" in text
    assert "Use anchor='ratio'" not in text


def test_the_summary_counts_the_whole_run_and_survives_a_checkpoint() -> None:
    watch = AnchorWatch()
    for by in (50.0, 200.0, 1.0):
        due(watch, spread(by, 2))
    again = AnchorWatch.restore(json.loads(json.dumps(watch.state())))
    assert again == watch
    text = again.summary(TargetSettings("policy"))
    assert text is not None
    assert "in 4 of 6 groups" in text
    assert "in 1 of 3 steps all coefficients vanished" in text


@pytest.mark.parametrize("anchor", ["policy", "ratio"])
def test_training_warns_at_once_and_in_its_summary_of_a_degenerate_anchor_and_of_no_other(
    anchor: str, tmp_path: Path
) -> None:
    policy = tiny_llm.model(dtype=torch.float32)
    # Nearly deterministic: probabilities of completions are then hundreds of nats apart.
    policy.lm_head.weight.data *= 300
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny_llm.train(
            tmp_path, policy, anchor=anchor, **cut(8, max_steps=6) | {"temperature": 1.0}, rollout_func=tiny_llm.mixed
        )
    said = [str(w.message) for w in caught if str(w.message).startswith("anchor ")]
    assert ["whole run" in message for message in said] == ([False, True] if anchor == "policy" else [])
    assert all("Use anchor='ratio'" in message for message in said)
