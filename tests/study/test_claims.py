"""Claims on results: what each kind reads, and names that do not exist."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from helpers.toy import TOY

from tpo_ref.study import claims
from tpo_ref.study.protocol import Claim

CURVES = np.exp(-0.2 * np.random.default_rng(0).uniform(0.9, 1.1, (5, 1)) * np.arange(40))


def toy_with(claim: Claim) -> object:
    return dataclasses.replace(TOY, claims=lambda: (claim,))


def words(tpo: np.ndarray, pg: np.ndarray) -> list[str]:
    return [v.word for v in claims.judge(TOY, "paper", {"tpo": {"error": tpo}, "pg": {"error": pg}})]


def test_an_order_is_judged_seed_by_seed() -> None:
    assert words(CURVES, CURVES + 0.1)[1] == claims.HOLDS
    assert words(CURVES + 0.1, CURVES)[1] == claims.FAILS
    # The same curves exactly: a tie.
    assert words(CURVES, CURVES)[1] == claims.FAILS
    # Seeds that agree on which is harder, but not on the order.
    noise = np.array([[0.3], [-0.3], [0.2], [-0.1], [0.1]])
    assert words(CURVES, CURVES + noise)[1] == claims.UNCLEAR
    assert words(CURVES[:1], CURVES[:1] + 0.1) == [claims.UNCLEAR] * 2


def test_a_level_that_is_never_reached_fails_and_a_lost_seed_decides_nothing() -> None:
    assert words(np.ones((3, 40)), np.ones((3, 40))) == [claims.FAILS, claims.FAILS]
    lost = CURVES.copy()
    lost[2, 20] = np.nan
    assert words(CURVES, lost)[1] == claims.UNCLEAR


def test_a_claim_whose_methods_are_not_there_is_counted_not_judged() -> None:
    only = {"tpo": {"error": CURVES}}
    assert len(claims.judge(TOY, "paper", only)) == 1
    assert claims.count_unjudged(TOY, "paper", only) == 1
    assert claims.judge(TOY, "smoke", {}) == []


@pytest.mark.parametrize(
    ("claim", "says"),
    [
        (claims.better("tpo", "gp", "error", "toy", ("paper",)), "method: got 'gp', did you mean 'pg'"),
        (claims.better("tpo", "pg", "error", "toy", ("papers",)), "scale: got 'papers', did you mean 'paper'"),
        (claims.better("tpo", "pg", "eror", "toy", ("paper",)), "array of pg: got 'eror', did you mean 'error'"),
        (
            claims.per_seed("x", ("tpo",), lambda r: r["pg"]["error"][:, 0], {"paper": (0.0, math.inf)}, "toy"),
            "method it reads: got 'pg'",
        ),
    ],
)
def test_a_claim_on_what_does_not_exist_names_the_nearest(claim: Claim, says: str) -> None:
    results = {"tpo": {"error": CURVES}, "pg": {"error": CURVES}}
    with pytest.raises(ValueError, match=f"claim .* of toy: {says}"):
        claims.judge(toy_with(claim), "paper", results)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scale: got 'papr', did you mean 'paper'"):
        claims.judge(TOY, "papr", results)


def test_a_point_below_its_floor_is_judged_at_the_floor() -> None:
    claim = claims.at_step("tpo", "error", 30, 0.1, (0.0, 0.2), "toy", floor=lambda r: 0 * r["error"] + 0.3)
    judged = claims.judge(toy_with(claim), "paper", {"tpo": {"error": CURVES}})[0]  # type: ignore[arg-type]
    assert (judged.ours.value, judged.word) == (pytest.approx(0.3), claims.FAILS)
    # Before, the curve is above it.
    claim = claims.at_step("tpo", "error", 0, 1.0, (0.9, 1.1), "toy", floor=lambda r: 0 * r["error"] + 0.3)
    assert claims.judge(toy_with(claim), "paper", {"tpo": {"error": CURVES}})[0].word == claims.HOLDS  # type: ignore[arg-type]
