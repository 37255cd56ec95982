"""The figures in the log: each by its definition on a table written by hand, and the same however a batch is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from helpers import tiny_llm
from helpers.tiny_llm import cut
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOTrainer

from tpo_torch.llm import TargetSettings, metrics
from tpo_torch.llm.groups import ANCHORS
from tpo_torch.llm.metrics import (
    NOT_OURS,
    CompletionRows,
    TokenSums,
    Window,
    fit_of,
    token_sums,
)
from tpo_torch.llm.rollouts import Round, digest, ended, permuted, shuffled_in_blocks, without_rounding

pytestmark = tiny_llm.FILTERS


def figures(rows: CompletionRows, settings: TargetSettings, beta: float = 0.0) -> dict[str, float]:
    return metrics.figures(rows, fit_of(rows, settings), settings, beta)


def table(**columns: Any) -> CompletionRows:
    """Two groups of three, then one of two without an answer, then one of equal scores; what is not given is dull."""
    n = 10
    given_ = {
        "group": [4, 4, 4, 7, 7, 7, 8, 8, 9, 9],
        "row": list(range(n)),
        "score": [1, 0, 0, 0, 0.5, 0, 0, 0, 0, 0],
        "valid": [1, 1, 1, 1, 1, 0, 0, 0, 1, 1],
        "deviation": [0.4] * n,
        "round": [1] * n,
        "length": [2, 5, 3, 4, 1, 6, 0, 2, 3, 3],
        "digest": [5, 6, 5, 1, 2, 1, 3, 3, 9, 9],
        "finished": [1, 1, 0, 1, 1, 0, 0, 1, 1, 1],
        "logp": [-2.0, -4.5, -3.0, -5.0, -0.5, -9.0, 0.0, -1.0, -2.0, -2.5],
        "logp_old": [-2.5, -4.0, -3.0, -4.0, -1.0, -9.0, 0.0, -1.0, -2.0, -2.5],
        "entropy": [1.0, 4.0, 2.0, 3.0, 0.5, 6.0, 0.0, 1.0, 2.0, 2.0],
        "kl": [0.1, 0.2, 0.3, 0.0, 0.0, 0.5, 0.0, 0.1, 0.2, 0.3],
        "sampler_gap": [0.0] * n,
    } | columns
    return CompletionRows(**{name: torch.tensor(values, dtype=torch.double) for name, values in given_.items()})


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


# The valid rows of the groups that have any, and their standardised scores, by hand.
U = {4: np.array([2, -1, -1]) / np.sqrt(2), 7: np.array([-1.0, 1.0]), 9: np.zeros(2)}
KEPT = {4: [0, 1, 2], 7: [3, 4], 9: [8, 9]}
MIXED = [4, 7]


@pytest.mark.parametrize("anchor", ANCHORS)
def test_each_figure_has_its_definition(anchor: str) -> None:
    rows, settings = table(), TargetSettings(anchor, eta=0.5, anchor_temperature=2.0)
    found = figures(rows, settings)
    p, q, old, c = {}, {}, {}, []
    for g, at in KEPT.items():
        n = {"length": rows.length[at].numpy(), "tempered": 2.0}.get(anchor, 1.0)
        now, before = rows.logp[at].numpy() / n, rows.logp_old[at].numpy() / n
        if anchor == "ratio":
            now, before = now - before, 0 * before
        p[g], old[g], q[g] = softmax(now), softmax(before), softmax(before + U[g] / 0.5)
        c.append(np.abs((q[g] - p[g]) / n).max())
    tv = {g: np.abs(q[g] - old[g]).sum() / 2 for g in KEPT}

    def over(groups: Any, value: Any) -> float:
        return float(np.mean([value(g) for g in groups]))

    logits = {g: np.log(old[g]) for g in KEPT}
    reach = {4: 3 / np.sqrt(2), 7: 2.0}
    wanted = {
        "tpo/cross_entropy": over(KEPT, lambda g: -(q[g] * np.log(p[g])).sum()),
        "tpo/kl_target": over(KEPT, lambda g: (q[g] * np.log(q[g] / p[g])).sum()),
        "tpo/target_entropy": over(KEPT, lambda g: -(q[g] * np.log(q[g])).sum()),
        "tpo/max_coefficient": max(c),
        "anchor/entropy": over(KEPT, lambda g: -(old[g] * logits[g]).sum() / np.log(len(old[g]))),
        "anchor/ess_old": over(KEPT, lambda g: 1 / (old[g] ** 2).sum()),
        "anchor/ess_target": over(KEPT, lambda g: 1 / (q[g] ** 2).sum()),
        "anchor/dominance": over(MIXED, lambda g: logits[g].std() * 0.5 / reach[g]),
        "anchor/dominated": over(MIXED, lambda g: logits[g].std() * 0.5 > reach[g]),
        "anchor/tv": over(KEPT, lambda g: tv[g]),
        "anchor/tv_median": (tv[4] + tv[7]) / 2,
        "anchor/unmoved": over(KEPT, lambda g: tv[g] < 0.01),
        "anchor/kl": over(KEPT, lambda g: (q[g] * np.log(q[g] / old[g])).sum()),
        "anchor/kl_ceiling": over(KEPT, lambda g: {4: -logits[4][0], 7: -logits[7][1], 9: 0.0}[g]),
        "group/zero_variance": 1 / 3,
        "group/all_fail": 1 / 3,
        "group/duplicates": (1 / 3 + 0 + 1 / 2) / 3,
        "group/invalid": 3 / 10,
        "group/truncated": 3 / 10,
        "entropy": 21.5 / 29,
    }
    for name, value in wanted.items():
        # Shares of tokens are counted in single precision.
        near = 1e-6 if name == "group/duplicates" else 1e-12
        assert found[name] == pytest.approx(value, rel=near, abs=near), name
    lengths = {4: [2, 5, 3], 7: [4, 1]}
    if anchor == "policy":
        by_length = [np.corrcoef(rows.logp_old[KEPT[g]].numpy(), lengths[g])[0, 1] for g in MIXED]
        by_score = [np.corrcoef(rows.logp_old[KEPT[g]].numpy(), rows.score[KEPT[g]].numpy())[0, 1] for g in MIXED]
        assert found["anchor/length_correlation"] == pytest.approx(np.mean(by_length))
        assert found["anchor/score_correlation"] == pytest.approx(np.mean(by_score))
        assert not any(name.startswith("policy_anchor/") for name in found)
    else:
        raw = {g: rows.logp_old[KEPT[g]].numpy() for g in KEPT}
        away = over(KEPT, lambda g: np.abs(softmax(raw[g] + U[g] / 0.5) - softmax(raw[g])).sum() / 2)
        assert found["policy_anchor/tv"] == pytest.approx(away)
        spread = over(MIXED, lambda g: raw[g].std() * 0.5 / reach[g])
        assert found["policy_anchor/dominance"] == pytest.approx(spread)


def test_some_figures_appear_with_what_they_measure() -> None:
    plain = figures(table(), TargetSettings("policy"))
    assert not {"kl", "sampling/logp_gap"} & plain.keys()
    assert figures(table(), TargetSettings("policy"), beta=0.1)["kl"] == pytest.approx(1.7 / 29)
    assert figures(table(sampler_gap=[0.5] * 10), TargetSettings("policy"))["sampling/logp_gap"] == pytest.approx(
        5 / 29
    )


def test_without_an_answer_figures_are_unknown_and_nothing_fails() -> None:
    found = figures(table(valid=[0] * 10, score=[0] * 10), TargetSettings("policy"))
    assert found["group/invalid"] == 1
    assert found["tpo/max_coefficient"] == 0
    assert all(np.isnan(x) for name, x in found.items() if name.startswith(("tpo/c", "tpo/k", "tpo/t", "anchor/")))


def test_weights_of_idle_groups_count_in_the_loss_alone() -> None:
    idle = figures(table(), TargetSettings("policy"))
    masked = figures(table(), TargetSettings("policy", zero_variance="mask"))
    at = KEPT[9]
    own = -(softmax(table().logp_old[at].numpy()) * np.log(softmax(table().logp[at].numpy()))).sum()
    assert masked["tpo/cross_entropy"] == pytest.approx(idle["tpo/cross_entropy"] - own / 3)
    same = set(idle) - {"tpo/cross_entropy"}
    assert {name: idle[name] for name in same} == {name: masked[name] for name in same}


def test_a_probability_that_underflows_does_not_make_a_distance_infinite() -> None:
    found = figures(table(logp=[0, -745.5, -1, *[0] * 7], logp_old=[0, -741.0, -1, *[0] * 7]), TargetSettings("policy"))
    assert np.isfinite(found["tpo/kl_target"])
    assert np.isfinite(found["tpo/cross_entropy"])


# -- tables of an optimizer step --------------------------------------------------------------------------------------


def a_round(number: int = 1) -> Round:
    columns = [[3.0, 10.0, 1.0], [2.0, 11.0, 0.0], [0.0, 12.0, 1.0], [1.0, 13.0, 1.0]]
    scores = torch.tensor([1.0, 0.0, 2.0, torch.nan])
    return Round.start(scores, torch.tensor(columns), 2, number, born=5)


def test_a_round_knows_its_rows() -> None:
    round_ = a_round(3)
    assert round_.groups.tolist() == [6, 6, 7, 7]
    assert round_.valid.tolist() == [True, True, False, False]
    assert round_.scores.tolist() == [1, 0, 0, 0]
    assert (round_.moved(5), round_.moved(6)) == (False, True)
    assert all(a.equal(b) or a.isnan().all() for a, b in zip(
        round_.state()[0].values(), Round.restore(*round_.state()).state()[0].values(), strict=True
    ))  # fmt: skip


def test_a_window_puts_rows_in_order_and_counts_each_once() -> None:
    window, sums = Window(), TokenSums(*torch.zeros(3, 2))
    for number, rows in ((2, [3, 1]), (1, [0, 1]), (2, [0, 2]), (2, [1, 3]), (1, [2, 3])):
        at = torch.tensor(rows)
        window.add(a_round(number), at, at + number / 10, at - 1.0, sums)
    seen = window.close(lambda x: x)
    assert seen.group.tolist() == [2, 2, 3, 3, 4, 4, 5, 5]
    assert seen.row.tolist() == [0, 1, 2, 3] * 2
    assert seen.logp.tolist() == pytest.approx([0.1, 1.1, 2.1, 3.1, 0.2, 1.2, 2.2, 3.2])
    window.add(a_round(), torch.tensor([0, 1]), torch.zeros(2), torch.zeros(2), sums)
    assert len(window.close(lambda x: x).group) == 2


def test_sums_over_tokens_leave_out_what_is_not_trained() -> None:
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    logps, entropies = torch.tensor([[-1.0, -2.0, torch.nan]] * 2), torch.tensor([[0.5, 0.25, 9.0]] * 2)
    given_ = {"ref_per_token_logps": logps - torch.log(torch.tensor(2.0))}
    given_["sampling_per_token_logps"] = torch.tensor([[-1.5, torch.nan, 0.0]] * 2)
    sums = token_sums(given_, logps, entropies, mask)
    assert sums.entropy.tolist() == [0.75, 0]
    assert sums.kl.tolist() == pytest.approx([2 * (0.5 + np.log(2) - 1), 0])
    assert sums.sampler_gap.tolist() == [0.5, 0]
    assert token_sums({}, logps, entropies, mask).kl.tolist() == [0, 0]


@given(st.lists(st.lists(st.integers(0, 3), max_size=5), min_size=2, max_size=8), st.integers(0, 40))
def test_a_digest_tells_completions_apart_whatever_the_padding(texts: list[list[int]], more: int) -> None:
    def of(width: int, pad: int) -> list[float]:
        tokens = torch.tensor([[*text, *[pad] * (width - len(text))] for text in texts])
        mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
        return digest(tokens, mask).tolist()

    found = of(6, 0)
    assert found == of(6 + more, 3)
    for a, x in zip(texts, found, strict=True):
        assert [a == b for b in texts] == [x == y for y in found]
    assert all(x == int(x) and 0 <= x < 2**52 for x in found)


def test_a_completion_has_ended_where_its_last_token_says_so() -> None:
    # 9 ends and pads; an earlier turn may have ended too; the last row was cut off and masked for that.
    tokens = torch.tensor([[5, 9, 9], [5, 6, 7], [9, 5, 9], [5, 8, 9], [5, 6, 7]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 1, 0], [0, 0, 0]])
    assert ended(tokens, mask, [8, 9]).tolist() == [1, 0, 0, 1, 0]


def test_only_rounding_is_taken_out_of_scores() -> None:
    near = torch.tensor([0.3]) + torch.tensor([0.6])
    scores = torch.cat([near, torch.tensor([0.9, 0.9, 0.9001]), near, torch.tensor([5.0])])
    valid = torch.tensor([True] * 5 + [False])
    found = without_rounding(scores, valid, 2)
    assert found.dtype == torch.double
    assert found[0] == found[1]
    assert found[2] != found[3]
    assert found[2:].tolist() == scores.double()[2:].tolist()


def test_rows_are_shuffled_together_and_within_their_blocks() -> None:
    torch.manual_seed(0)
    order = shuffled_in_blocks(12, 4)
    assert sorted(order.tolist()) == list(range(12))
    assert [i // 4 for i in order.tolist()] == [0] * 4 + [1] * 4 + [2] * 4
    assert order.tolist() != list(range(12))
    given_ = {"x": torch.arange(12), "names": [str(i) for i in range(12)], "count": torch.tensor(3), "none": None}
    found = permuted(given_, order)
    assert found["x"].tolist() == order.tolist() == [int(name) for name in found["names"]]
    assert (found["count"], found["none"]) == (3, None)


# -- in training ------------------------------------------------------------------------------------------------------

CUTS = [cut(8), cut(1, 8), cut(2, 4, shuffle_rows=True)]
# What depends on the clock.
TIMES = ("step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")
OTHERS: dict[str, dict[str, Any]] = {
    "policy, penalised": {"beta": 0.1},
    "ratio": {"anchor": "ratio"},
    "length, truncated rows masked": {"anchor": "length", "mask_truncated_completions": True},
}


@pytest.mark.parametrize("options", OTHERS)
def test_the_log_does_not_depend_on_the_cut(options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", tiny_llm.double_head)
    tiny_llm.model(1).save_pretrained(tmp_path / "model")
    tiny_llm.tokenizer().save_pretrained(tmp_path / "model")
    logs = []
    for i, layout in enumerate(CUTS):
        # One round, since shuffling draws from the same random numbers as the next; the policy moves in between.
        given_ = {
            **layout,
            **OTHERS[options],
            "num_iterations": 2,
            "model_init_kwargs": {"dtype": "auto"},
            "max_completion_length": 9,
        }
        trainer, _ = tiny_llm.train(tmp_path / str(i), str(tmp_path / "model"), **given_)
        logs.append(trainer.state.log_history)
    for other in logs[1:]:
        for a, b in zip(logs[0], other, strict=True):
            assert a.keys() == b.keys()
            for name in a.keys() - set(TIMES):
                # Transformers adds up losses in single precision.
                near = 1e-6 if name.endswith("loss") else 1e-9
                assert a[name] == b[name] or a[name] == pytest.approx(b[name], rel=near, abs=near), name
    first = logs[0][0]
    beta = OTHERS[options].get("beta", 0.0)
    assert {"loss", "grad_norm", "entropy", "group/truncated", "anchor/tv", "tpo/cross_entropy"} <= first.keys()
    assert ("kl" in first) == bool(beta)
    assert not [name for name in first if name.startswith("clip_ratio")]
    # What is minimised is what is logged. Of the penalty there is none at the reference itself.
    assert first["loss"] == pytest.approx(first["tpo/cross_entropy"])


def test_the_loss_of_a_step_is_that_of_its_own_groups(tmp_path: Path) -> None:
    # Idle groups are masked, so that steps of a round differ, and the ratio has coefficients before any forward pass.
    def first_group_differs(completions: list[str], **_: Any) -> list[float]:
        return [float(i == 0) for i in range(len(completions))]

    options = {"anchor": "ratio", "zero_variance": "mask", "reward_funcs": first_group_differs}
    for layout in (cut(4, 1, 2), cut(2, 2, 4), cut(2, 2, 4, shuffle_rows=True)):
        trainer, _ = tiny_llm.train(tmp_path, **layout, **options)
        lines = trainer.state.log_history[:2]
        assert [line["loss"] for line in lines] == pytest.approx([line["tpo/cross_entropy"] for line in lines])
        assert lines[0]["loss"] == pytest.approx(np.log(4))
        assert lines[1]["loss"] == 0


def test_figures_of_several_steps_are_averaged_and_trls_own_left_out(tmp_path: Path) -> None:
    each = tiny_llm.train(tmp_path, **cut(2, 4, max_steps=3))[0].state.log_history
    together = tiny_llm.train(tmp_path, **cut(2, 4, max_steps=3, logging_steps=3))[0].state.log_history[0]
    for name in ("entropy", "tpo/cross_entropy", "anchor/tv", "group/duplicates", "reward"):
        assert together[name] == pytest.approx(np.mean([line[name] for line in each[:3]])), name
    assert not set(together) & NOT_OURS


def test_the_distance_to_the_sampler_is_logged_where_it_is_known(tmp_path: Path) -> None:
    trainer, watch = tiny_llm.train(tmp_path, rollout_func=tiny_llm.mixed, **cut(2, 4))
    with torch.no_grad():
        logps, mask = tiny_llm.by_token(tiny_llm.model(), watch.rounds[0].batch)
    gap = float(((logps + 1).abs() * mask).sum() / mask.sum())
    assert trainer.state.log_history[0]["sampling/logp_gap"] == pytest.approx(gap, rel=1e-5)


# -- the table of completions -----------------------------------------------------------------------------------------


def tables(folder: Path) -> dict[int, pandas.DataFrame]:
    found = sorted((folder / "completions").glob("*.parquet"))
    return {int(path.stem.rsplit("_", 1)[1]): pandas.read_parquet(path) for path in found}


@pytest.mark.parametrize(
    ("layout", "anchor"),
    [(cut(8), "policy"), (cut(2, 4, shuffle_rows=True), "length"), (cut(4, 1, 2), "policy"),
     (cut(2, 2, 4, shuffle_rows=True), "policy")],
)  # fmt: skip
def test_the_table_of_completions_has_the_target_of_each(
    anchor: str, layout: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trl.trainer.grpo_trainer.print_prompt_completions_sample", lambda *_, **__: None)
    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", tiny_llm.double_head)
    options = layout | {"anchor": anchor, "log_completions": True, "max_steps": 2}
    trainer, watch = tiny_llm.train(tmp_path, **options)
    config = trainer.args
    for step, found in tables(tmp_path).items():
        ((number, _),) = tiny_llm.rows_of(config, step - 1).items()
        known = [row for s in range(step) for row in tiny_llm.rows_of(config, s).get(number, [])]
        kept = watch.rounds[number]
        policy = tiny_llm.model()
        policy.load_state_dict(watch.parameters[kept.born], strict=False)
        with torch.no_grad():
            logps, mask = tiny_llm.by_token(policy, kept.batch)
        x = logps.sum(-1) / (mask.sum(-1) if anchor == "length" else 1)
        s = kept.rewards.view(-1, 4)
        u = (s - s.mean(-1, keepdim=True)) / s.std(-1, correction=0, keepdim=True)
        u = torch.where(s.std(-1, keepdim=True) > 0, u, 0.0)
        wanted = {
            "tpo/score": kept.rewards,
            "tpo/u": u.view(-1),
            "tpo/p_old": torch.softmax(x.view(-1, 4), -1).view(-1),
            "tpo/q": torch.softmax(x.view(-1, 4) + u, -1).view(-1),
        }
        assert len(found) == len(kept.rewards)
        for name, values in wanted.items():
            np.testing.assert_allclose(found[name].to_numpy()[sorted(known)], values[sorted(known)], atol=1e-9)
            assert found[name].isna().sum() == len(found) - len(known)
        assert found["reward"].tolist() == pytest.approx(kept.rewards.tolist())


@pytest.mark.parametrize("rows", [2, 12])
def test_an_evaluation_in_between_does_not_mix_up_the_table(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trl.trainer.grpo_trainer.print_prompt_completions_sample", lambda *_, **__: None)
    options = cut(2, 2, 8, max_steps=4) | {"log_completions": True, "num_generations_eval": 2}
    plain = tiny_llm.train(tmp_path / "plain", **options)[0]
    evaluated = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 2}
    data = tiny_llm.prompts(rows // 2)
    other = tiny_llm.train(tmp_path / "other", eval_dataset=data, **options | evaluated)[0]
    mine, theirs = list(plain._logs["extra"]["tpo/q"]), list(other._logs["extra"]["tpo/q"])
    assert len(mine) == len(theirs) == 16
    assert all(np.isfinite(mine))
    # Four evaluations have pushed out the first rows of the round, or all; they have no target themselves.
    left = max(0, 16 - 4 * rows)
    np.testing.assert_allclose(theirs[:left], mine[16 - left :], rtol=1e-6)
    assert all(np.isnan(theirs[left:]))
    assert list(other._logs["completion"])[:left] == list(plain._logs["completion"])[16 - left :]
    # Each table is of one length, before its evaluation and after.
    assert {len(found) for found in tables(tmp_path / "other").values()} == {16}


@pytest.mark.parametrize(("limit", "share"), [(1e-9, 1.0), (1e9, 0.0), (0.0, None)])
def test_the_log_says_how_often_the_gradient_was_cut(limit: float, share: float | None, tmp_path: Path) -> None:
    trainer, _ = tiny_llm.train(tmp_path, max_grad_norm=limit, **cut(8))
    assert [entry.get("clipped") for entry in trainer.state.log_history if "reward" in entry] == [share, share]


def test_the_logged_loss_is_not_divided_by_the_length_and_the_gradient_is(tmp_path: Path) -> None:
    lengths, losses, norms = [], [], []
    for divide in (False, True):
        trainer, _ = tiny_llm.train(tmp_path / str(divide), divide_by_length=divide, **cut(8, max_steps=1))
        entry = next(entry for entry in trainer.state.log_history if "reward" in entry)
        lengths.append(entry["completions/mean_length"])
        losses.append(entry["loss"])
        norms.append(entry["grad_norm"])
    assert losses[0] == pytest.approx(losses[1])
    assert norms[0] == pytest.approx(norms[1] * lengths[1])
