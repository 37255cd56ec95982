"""Wrong versions of the code, each a single change of text, and the property that must notice it."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from helpers.backends import BACKENDS


@dataclass(frozen=True)
class Mutant:
    """`old` becomes `new` in one function of one backend; `caught_by` is "folder.test module.property" of tests/."""

    what: str
    package: str
    function: str
    old: str
    new: str
    caught_by: str

    @property
    def backend(self) -> str:
        return {"tpo_ref": "numpy", "tpo_torch": "torch"}[self.package]

    def __str__(self) -> str:
        return f"{self.package}.{self.function}: {self.what}"


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """The mutant in place of the function, or method of a class, for as long as the context lasts."""
    home, name = mutant.function.rsplit(".", 1)
    module, owner = located(f"{mutant.package}.{home}")
    original = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(original))
    assert source.count(mutant.old) == 1, f"{mutant}: {mutant.old!r} stands {source.count(mutant.old)} times"
    before = vars(module).get(name, module)
    exec(compile(source.replace(mutant.old, mutant.new), f"<{mutant}>", "exec"), vars(module))
    if owner is not module:
        # A method was compiled beside its class: moved into it, and what bore its name in the module put back.
        setattr(owner, name, vars(module).pop(name))
        if before is not module:
            setattr(module, name, before)
    try:
        yield
    finally:
        setattr(owner, name, original)


def located(path: str) -> tuple[ModuleType, Any]:
    """The module of a path, and what the path names: the module itself, or a class in it."""
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError:
        home, name = path.rsplit(".", 1)
        module = importlib.import_module(home)
        return module, getattr(module, name)
    return module, module


def holds(mutant: Mutant) -> None:
    """Run the property named for a mutant on the mutant's backend; AssertionError when it fails.

    A property over the list of rules is named with one of them, as in "test_rules.a_property[grpo]".
    """
    module, name = mutant.caught_by.rsplit(".", 1)
    name, _, rule = name.rstrip("]").partition("[")
    check = getattr(importlib.import_module(module), name)
    takes_backend = "backend" in inspect.signature(check).parameters
    check(**({"backend": BACKENDS[mutant.backend]} if takes_backend else {}), **({"name": rule} if rule else {}))


RULE = "test_rules.test_gradient_is_autograd_is_central_difference_in_both_backends"
GRADIENT = "test_tpo.test_the_gradient_is_p_minus_q"
TARGET = "test_tpo.test_the_target_is_the_old_distribution_tilted"
MASKED = "test_standardize.test_a_masked_candidate_changes_nothing"
MASKED_GRADIENT = "test_tpo.test_the_gradient_with_a_mask"
VARIANCE = "test_standardize.test_mean_zero_and_unit_population_variance"
ROUNDING = "test_standardize.test_rounding_is_not_a_spread"
GRAPH = "test_tpo_numerics.test_the_graph_reaches_the_current_policy_only"
SCORES_GRAPH = "test_standardize.test_no_gradient_reaches_the_scores"

CLIP = "inside = inside_clip(x, advantages, epsilon_low, epsilon_high)"
UNCLIPPED = "inside = np.isfinite(x)"
PPO = "test_ppo.test_gradient_is_the_ratio_times_the_advantage_inside_the_clip"
GRPO = "test_grpo.test_a_zero_variance_group_keeps_only_the_pull"
MUON = "test_muon.test_golden_values"
WEIGHTS = "test_diagnostics.test_weights_of_winners_and_losers_are_means_over_them"
FIGURES = "test_diagnostics.test_every_figure_is_its_definition"
SINGLE = "test_single.test_the_target_moves_the_log_odds_by_the_advantage"
SINGLE_GRADIENT = "test_single.test_loss_and_gradient_are_those_of_two_outcomes"
SINGLE_MASKED = "test_single_numerics.test_a_masked_sample_may_hold_anything_and_is_zero"
SINGLE_GRAPH = "test_single_numerics.test_the_graph_reaches_the_current_policy_only"
DG = "test_dg.test_gradient_is_the_gated_advantage"
ONE_SIDE = "study.test_judging.test_a_claim_to_one_side_needs_more_than_its_noise"
TWO_SIDES = "study.test_judging.test_a_claim_to_two_sides_needs_a_small_error"
TIE = "study.test_judging.test_a_tie_is_not_better"
ONE_SEED = "study.test_judging.test_one_seed_decides_nothing_however_clear"
STUDENT = "study.test_judging.test_an_interval_is_students_or_clopper_and_pearsons"
SHARE = "study.test_judging.test_a_share_is_judged_by_its_count"
HOLM = "study.test_judging.test_many_claims_are_decided_as_holm_says"
STEP_DOWN = "study.test_judging.test_the_clearest_claim_is_decided_first_and_makes_room_for_the_next"
NEVER = "study.test_estimates.test_a_level_never_reached_has_an_error_only_when_no_resample_reaches_it"
OWN_CENTRE = "study.test_estimates.test_a_medians_crossing_is_resampled_by_the_median"
LOWEST = "study.test_estimates.test_the_lowest_point_has_the_error_of_resampled_lowest_points"
STEPS = "study.test_estimates.test_a_crossing_is_known_no_better_than_the_steps_it_is_read_at"
LEAST = "study.test_tables.test_who_is_not_behind_is_named_with_the_smallest"
FLOOR = "study.test_claims.test_a_point_below_its_floor_is_judged_at_the_floor"
SEQUENCES = "reversal.test_own_rules.test_the_gradient_of_a_grouping_is_the_rules_written_out"
PUBLISHED = "study.test_published.test_every_published_number_is_claimed_as_it_was_published"
TOLERANCES = "study.test_published.test_the_region_of_a_claim_is_the_tolerance_of_its_number"
DIRECTION = "bandits.test_groupings.test_a_direction_is_the_descent_of_the_rules_loss"
EXPECTED = "bandits.test_groupings.test_an_expected_direction_is_the_mean_over_every_draw"
SHARES = "bandits.test_groupings.test_the_scores_of_the_arms_are_shares_of_draws_less_a_baseline"
DIGITS = "mnist.test_groupings.test_the_step_of_a_grouping_is_the_rules_gradient_written_out"

MUTANTS = (
    # The method, in the reference.
    Mutant("sign flip", "tpo_ref", "tpo._tpo_grad", ") - q", ") + q", GRADIENT),
    Mutant("sign flip of the loss", "tpo_ref", "tpo._tpo_loss", "-np.where", "+np.where", GRADIENT),
    Mutant("ddof 1", "tpo_ref", "standardize._standardize", "True) / count)", "True) / (count - 1 + 1e-9))", VARIANCE),
    Mutant("dropped anchor", "tpo_ref", "tpo._tilted", "_from_top(logp_old) + tilt", "tilt", TARGET),
    Mutant("tilt downwards", "tpo_ref", "tpo._tilted", "+ tilt", "- tilt", TARGET),
    Mutant("temperature upside down", "tpo_ref", "tpo._tilted", " / eta", " * eta", TARGET),
    Mutant("dropped mask", "tpo_ref", "tpo.tpo_grad", "logp, mask)", "logp, None)", MASKED_GRADIENT),
    Mutant("dropped mask", "tpo_ref", "standardize._standardize", "mask.sum(", "(mask | True).sum(", MASKED),
    Mutant(
        "literal σ = 0",
        "tpo_ref",
        "standardize._standardize",
        "spread <= CONSTANT_ULPS * _resolution(scores)",
        "sigma <= 0.0",
        ROUNDING,
    ),
    # The method, in the mirror.
    Mutant("sign flip", "tpo_torch", "tpo._tpo_loss", "-torch.where", "+torch.where", GRADIENT),
    Mutant(
        "ddof 1", "tpo_torch", "standardize._standardize", "True) / count)", "True) / (count - 1 + 1e-9))", VARIANCE
    ),
    Mutant("dropped anchor", "tpo_torch", "tpo._tilted", "_from_top(logp_old) + tilt", "tilt", TARGET),
    Mutant("tilt downwards", "tpo_torch", "tpo._tilted", "+ tilt", "- tilt", TARGET),
    Mutant("lost stop-gradient", "tpo_torch", "tpo._tpo_target", "logp_old.detach()", "logp_old", GRAPH),
    Mutant("lost stop-gradient", "tpo_torch", "tpo._tpo_coefficients", "logp.detach()", "logp", GRAPH),
    Mutant("lost stop-gradient", "tpo_torch", "standardize._standardize", "scores.detach()", "scores", SCORES_GRAPH),
    Mutant("dropped mask", "tpo_torch", "tpo.tpo_loss", "logp, mask,", "logp, None,", MASKED_GRADIENT),
    Mutant("dropped mask", "tpo_torch", "standardize._standardize", "mask.sum(", "(mask | True).sum(", MASKED),
    # Baselines: the clip, the pull towards the reference, the gate.
    Mutant("lost clip", "tpo_ref", "ppo.clipped_objective_grad", CLIP, UNCLIPPED, PPO),
    Mutant("lost clip", "tpo_torch", "ppo.clipped_objective", CLIP, UNCLIPPED.replace("np", "torch"), PPO),
    Mutant("penalty pushes away", "tpo_ref", "grpo._each_grad", "- beta", "+ beta", GRPO),
    Mutant("gate upside down", "tpo_ref", "dg._gate", "-advantages * logp", "advantages * logp", DG),
    Mutant("lost stop-gradient", "tpo_torch", "dg._dg_loss", "logp.detach()", "logp", DG),
    # One sampled action.
    Mutant("tilt downwards", "tpo_ref", "single._tpo_single_target", "(x) + tilt", "(x) - tilt", SINGLE),
    Mutant("tilt downwards", "tpo_torch", "single._tpo_single_target", "(x) + adv", "(x) - adv", SINGLE),
    Mutant("odds taken for probability", "tpo_ref", "single._tpo_single_target", "x - _log1mexp(x)", "x", SINGLE),
    Mutant("sign flip", "tpo_ref", "single._tpo_single_grad", "size * -np", "size * np", SINGLE_GRADIENT),
    Mutant("the others left out", "tpo_torch", "single._tpo_single_loss", "(-t) *", "(-t) * 0 *", SINGLE_GRADIENT),
    Mutant("dropped mask", "tpo_torch", "single._tpo_single_loss", "where(mask,", "where(mask | True,", SINGLE_MASKED),
    Mutant(
        "lost stop-gradient", "tpo_torch", "single._tpo_single_target", "logp_old.detach()", "logp_old", SINGLE_GRAPH
    ),
    # The optimiser and the figures of the sequence tasks.
    Mutant("no look-ahead", "tpo_ref", "muon._look_ahead", "(step + 1)", "step", MUON),
    Mutant("no look-ahead", "tpo_torch", "muon._look_ahead", "(step + 1)", "step", MUON),
    Mutant(
        "winners swapped with losers",
        "tpo_ref",
        "diagnostics.signal._winners_losers_weight",
        "above > slack",
        "above < slack",
        WEIGHTS,
    ),
    Mutant(
        "temperature upside down", "tpo_torch", "diagnostics.anchor._anchor_dominance", "sd * eta", "sd / eta", FIGURES
    ),
    # The rules of judgement, one mutant in each.
    Mutant(
        "noise ignored to one side",
        "tpo_ref",
        "study.judging.word",
        "a > low, b <= low",
        "(a + b) / 2 > low, b <= low",
        ONE_SIDE,
    ),
    Mutant(
        "noise ignored to two sides",
        "tpo_ref",
        "study.judging.word",
        "low <= a and b <= high",
        "low <= (a + b) / 2 <= high",
        TWO_SIDES,
    ),
    Mutant(
        "noise ignored in a failure",
        "tpo_ref",
        "study.judging.word",
        "b < low or a > high",
        "a < low or b > high",
        TWO_SIDES,
    ),
    Mutant("a tie is better", "tpo_ref", "study.judging.word", "a > low, b <= low", "a >= low, b < low", TIE),
    Mutant(
        "one seed decides",
        "tpo_ref",
        "study.judging._decides",
        "estimate.n >= FEWEST_SEEDS",
        "estimate.n >= 1",
        ONE_SEED,
    ),
    Mutant(
        "two standard errors for every n", "tpo_ref", "study.judging.interval", "estimate.n - 1)", "10**6)", STUDENT
    ),
    Mutant(
        "a share taken for a mean", "tpo_ref", "study.judging.interval", "isinstance(estimate, Share)", "False", SHARE
    ),
    Mutant(
        "no correction for many claims", "tpo_ref", "study.judging.judge", "(1 - level) / left", "(1 - level) / 1", HOLM
    ),
    Mutant("corrected for all claims alike", "tpo_ref", "study.judging.judge", "left -= 1", "left -= 0", STEP_DOWN),
    Mutant(
        "taken as they come", "tpo_ref", "study.judging.judge", "key=doubts.__getitem__", "key=lambda i: i", STEP_DOWN
    ),
    Mutant(
        "never reached, never failed",
        "tpo_ref",
        "study.estimates.first_below",
        "0.0 if never.all()",
        "math.nan if never.all()",
        NEVER,
    ),
    Mutant(
        "a median resampled by the mean",
        "tpo_ref",
        "study.estimates.first_below",
        "_resampled(curves, centre)",
        "_resampled(curves, np.mean)",
        OWN_CENTRE,
    ),
    Mutant("few seeds resampled too narrowly", "tpo_ref", "study.estimates.widened", "n / (n - 1)", "1.0", LOWEST),
    Mutant("a crossing known to no step", "tpo_ref", "study.estimates._rounding", "* ROUNDING", "* 0", STEPS),
    Mutant(
        "a small difference counts", "tpo_ref", "study.tables.ranking", "LEAST_SHARE * best.auc.value", "0.0", LEAST
    ),
    Mutant(
        "a tie is behind",
        "tpo_ref",
        "study.tables.ranking",
        "(judging.FAILS, judging.UNCLEAR)",
        "(judging.FAILS, judging.HOLDS)",
        LEAST,
    ),
    Mutant(
        "a floor left out",
        "tpo_ref",
        "study.claims.at_step",
        "curves if floor is None else",
        "curves if True else",
        FLOOR,
    ),
    # A number of the paper that is another in the experiments.
    Mutant(
        "a published number changed",
        "tpo_ref",
        "bandits.experiments._plateau_claim",
        "published=published,",
        "published=published and published + 0.001,",
        PUBLISHED,
    ),
    Mutant(
        "a published number changed",
        "tpo_torch",
        "reversal.experiments.terminal._area",
        "published=published,",
        "published=published + 0.001,",
        PUBLISHED,
    ),
    Mutant(
        "a tolerance widened",
        "tpo_torch",
        "reversal.experiments.terminal._area",
        "absolute=tolerance",
        "absolute=1.5 * tolerance",
        TOLERANCES,
    ),
    # What makes a group in the bandits.
    Mutant(
        "a sum over candidates",
        "tpo_ref",
        "bandits.methods.Method.gradient",
        "g / logp",
        "g * logp",
        f"{DIRECTION}[pg]",
    ),
    Mutant(
        "one batch of all seeds",
        "tpo_ref",
        "bandits.methods.Method.gradient",
        "if self.rule.whole_batch:",
        "if False:",
        f"{DIRECTION}[reinforce_pp]",
    ),
    Mutant(
        "a sum over groups",
        "tpo_ref",
        "bandits.readable._group_direction",
        ".mean(-2)",
        ".sum(-2)",
        f"{DIRECTION}[tpo]",
    ),
    Mutant("dropped baseline", "tpo_ref", "bandits.readable._single_direction", " - settings.baseline", "", SHARES),
    Mutant(
        "arms all alike", "tpo_ref", "bandits.readable._exact_direction", "pi * descent", "descent", f"{EXPECTED}[pg]"
    ),
    Mutant("lost normaliser", "tpo_ref", "bandits.readable._through_softmax", "- pi *", "- 0 *", f"{EXPECTED}[dg]"),
    # What makes a group on the sequence tasks.
    Mutant(
        "one batch of all seeds",
        "tpo_torch",
        "reversal.methods.Method.freeze",
        "by_seed = rule.whole_batch",
        "by_seed = False",
        f"{SEQUENCES}[reinforce_pp]",
    ),
    Mutant(
        "a sum over prompts",
        "tpo_torch",
        "reversal.methods.Method.freeze",
        "if rule.reduction == CANDIDATES",
        "if rule.reduction != CANDIDATES",
        f"{SEQUENCES}[pg]",
    ),
    Mutant(
        "a loss of the batch as one of a prompt",
        "tpo_torch",
        "reversal.methods.Method.freeze",
        "(len(old[0]) if rule.reduction == CANDIDATES else 1)",
        "len(old[0])",
        f"{SEQUENCES}[mpo]",
    ),
    Mutant(
        "an answer's tokens for its prompts",
        "tpo_torch",
        "reversal.methods.Method.freeze",
        "len(old[0])",
        "len(old[0].T)",
        f"{SEQUENCES}[rloo]",
    ),
    # What makes a group on MNIST.
    Mutant(
        "dropped baseline", "tpo_torch", "mnist.methods._scores_of_action", "advantages", "rewards", f"{DIGITS}[tpo]"
    ),
    Mutant(
        "a sum over candidates",
        "tpo_torch",
        "mnist.methods.Method._of_classes",
        "terms / logp",
        "terms * logp",
        f"{DIGITS}[rloo]",
    ),
    Mutant(
        "one batch of all seeds",
        "tpo_torch",
        "mnist.methods.Method._gradient",
        "if not self.rule.whole_batch:",
        "if True:",
        f"{DIGITS}[reinforce_pp]",
    ),
    Mutant(
        "a loss of the batch as one of an image",
        "tpo_torch",
        "mnist.methods.Method.losses",
        "else g.shape[-1]",
        "else 1",
        f"{DIGITS}[tpo]",
    ),
    # The rules as objects.
    Mutant(
        "mean over all groups",
        "tpo_ref",
        "families.clipped.Informed._weight",
        "told.size / max(int(told.sum()), 1)",
        "1.0",
        f"{RULE}[grpo_masked]",
    ),
    Mutant("baseline added", "tpo_ref", "families.weighted.Baselined._advantages", "- self", "+ self", f"{RULE}[ppo]"),
    Mutant("baseline added", "tpo_torch", "families.weighted.Baselined._advantages", "- self", "+ self", f"{RULE}[dg]"),
    Mutant(
        "temperature left out",
        "tpo_torch",
        "families.tilted.TpoTempered._coefficients",
        "group.mask) / self.temperature",
        "group.mask)",
        f"{RULE}[tpo_tempered]",
    ),
    Mutant(
        "anchor of the other form",
        "tpo_ref",
        "families.tilted.TpoRatio._tilted",
        "group.logp_old",
        "0 * group.logp_old",
        f"{RULE}[tpo_ratio]",
    ),
)
