"""The MNIST bandit: rules against App. C, stacked seeds against one plain loop, resumption, mechanism, bad input."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.digits import DATA, SMALL, digits
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tpo_ref.study.context import Context
from tpo_ref.study.protocol import Arrays
from tpo_torch import closed_form
from tpo_torch.mnist import clear, mechanism, runs
from tpo_torch.mnist.methods import Feedback, act, resolve, standardized_scores
from tpo_torch.mnist.settings import MnistSettings
from tpo_torch.mnist.table import METHODS, own_name
from tpo_torch.shared.data import Mnist
from tpo_torch.standardize import standardize
from tpo_torch.tpo import tpo_loss, tpo_target

CLASSES = 10
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "golden.json").read_text(encoding="utf-8"))


def policies(seed: int, n: int, spread: float) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(1, n, CLASSES, generator=rng, dtype=torch.float64)
    return logits, torch.randint(CLASSES, (1, n), generator=rng)


def feedback_of(logits: Tensor, labels: Tensor, actions: Tensor) -> Feedback:
    """What `act` returns when given uniforms in the middle of the step of the wanted actions."""
    policy = torch.softmax(logits.detach(), -1)
    upper = policy.cumsum(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    middle = upper - policy.gather(-1, actions.unsqueeze(-1)).squeeze(-1) / 2
    feedback = act(logits, labels, middle)
    assert torch.equal(feedback.actions.squeeze(-1), actions)
    return feedback


def gradient(method: str, logits: Tensor, labels: Tensor, actions: Tensor, settings: MnistSettings) -> Tensor:
    leaf = logits.clone().requires_grad_()
    loss = resolve(method, settings).losses(feedback_of(leaf, labels, actions))
    assert loss.shape == labels.shape
    (g,) = torch.autograd.grad(loss.sum(), leaf)
    return g


@pytest.mark.paper("App. C")
@pytest.mark.parametrize("method", ["tpo", "dg", "pg", "group_pg", "ce"])
@given(seed=st.integers(0, 2**32 - 1), eta=st.sampled_from([0.5, 1.0, 3.0]))
def test_expected_step_over_the_ten_actions_is_the_closed_form(method: str, seed: int, eta: float) -> None:
    settings = MnistSettings(eta=eta, dg_eta=eta)
    logits, labels = policies(seed, n=3, spread=1.5)
    policy = torch.softmax(logits, -1)
    expected = torch.zeros_like(logits)
    for a in range(CLASSES):
        step = -gradient(method, logits, labels, torch.full_like(labels, a), settings)
        expected += policy[..., a : a + 1] * step
    closed = mechanism.DIRECTIONS[method](policy, labels, settings)
    torch.testing.assert_close(expected, closed, rtol=1e-8, atol=1e-10)


@pytest.mark.paper("App. C")
@given(seed=st.integers(0, 2**32 - 1))
def test_the_table_of_scores_equals_standardising_each_image(seed: int) -> None:
    logits, labels = policies(seed, n=20, spread=2.0)
    actions = torch.randint(CLASSES, labels.shape, generator=torch.Generator().manual_seed(seed))
    feedback = feedback_of(logits, labels, actions)
    scores = torch.zeros_like(logits).scatter(-1, feedback.actions, feedback.advantages)
    torch.testing.assert_close(standardized_scores(feedback), standardize(scores))


@pytest.mark.paper("App. C")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.1, 1.0, 3.0]), eta=st.sampled_from([0.5, 1.0, 3.0]))
def test_tpo_of_the_sampled_action_has_the_gradient_of_the_ten(
    dtype: torch.dtype, tolerance: float, seed: int, spread: float, eta: float
) -> None:
    # As the paper states it: a target over the ten classes from standardised scores.
    logits, labels = policies(seed, n=20, spread=spread)
    logits = logits.to(dtype)
    actions = torch.randint(CLASSES, labels.shape, generator=torch.Generator().manual_seed(seed))
    leaf = logits.clone().requires_grad_()
    q = tpo_target(logits, standardized_scores(feedback_of(logits, labels, actions)), eta)
    (whole,) = torch.autograd.grad(tpo_loss(leaf, q).sum(), leaf)
    g = gradient("tpo", logits, labels, actions, MnistSettings(eta=eta))
    torch.testing.assert_close(g, whole, rtol=0, atol=tolerance)


@given(seed=st.integers(0, 2**32 - 1))
def test_batchnorm_divides_by_the_deviation_of_the_batch(seed: int) -> None:
    logits, labels = policies(seed, n=8, spread=1.0)
    actions = torch.randint(CLASSES, labels.shape, generator=torch.Generator().manual_seed(seed))
    policy = torch.softmax(logits, -1)
    advantages = (actions == labels).double() - (policy**2).sum(-1)
    u = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
    one_hot = torch.nn.functional.one_hot(actions, CLASSES)
    g = gradient("pg_batchnorm", logits, labels, actions, MnistSettings())
    torch.testing.assert_close(g, -u.unsqueeze(-1) * (one_hot - policy))


def test_pg_golden_value() -> None:
    # Two images, actions 0 and 1, rewards 1 and 0: the mean of −(r − Σπ²) log π_a over both, and its gradient.
    golden = GOLDEN["mnist_pg"]
    logits = torch.tensor(golden["logits"], dtype=torch.float64).unsqueeze(0).requires_grad_()
    actions = torch.tensor([golden["actions"]])
    labels = torch.where(torch.tensor([golden["rewards"]]) == 1, actions, actions + 1)
    loss = resolve("pg", MnistSettings()).losses(feedback_of(logits, labels, actions)).mean()
    loss.backward()
    assert loss.item() == pytest.approx(golden["loss"], rel=1e-12)
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad[0].numpy(), golden["grad"], rtol=1e-9)


@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.1, 1.0, 5.0, 50.0]))
def test_actions_are_drawn_by_inverse_cdf(seed: int, spread: float) -> None:
    logits, _ = policies(seed, n=1, spread=spread)
    uniforms = (torch.arange(2_000) + 0.5).double().unsqueeze(0) / 2_000
    feedback = act(logits.expand(1, 2_000, CLASSES), torch.zeros(1, 2_000, dtype=torch.int64), uniforms)
    counts = torch.bincount(feedback.actions.flatten(), minlength=CLASSES)
    # An even grid of uniforms: each action's share errs by less than one grid step at both of its ends.
    torch.testing.assert_close(counts / 2_000, torch.softmax(logits, -1).flatten().float(), atol=1 / 2_000, rtol=0)


def test_the_ends_of_the_unit_interval_are_actions_too() -> None:
    below_one = math.nextafter(1, 0)
    logits = torch.full((1, 2, CLASSES), 1 / 3, dtype=torch.float64)
    uniforms = torch.tensor([[0.0, below_one]], dtype=torch.float64)
    feedback = act(logits, torch.zeros(1, 2, dtype=torch.int64), uniforms)
    assert feedback.actions.flatten().tolist() == [0, CLASSES - 1]


@pytest.mark.parametrize("method", METHODS)
def test_rules_read_nothing_back_from_the_device(method: str) -> None:
    # A meta tensor has no values to read: whatever would synchronise a GPU fails here.
    logits = torch.randn(2, 3, CLASSES, device="meta", requires_grad=True)
    labels = torch.zeros(2, 3, dtype=torch.int64, device="meta")
    feedback = act(logits, labels, torch.rand(2, 3, device="meta"))
    resolve(method, SMALL).losses(feedback).mean(-1).sum().backward()
    assert logits.grad is not None


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_trains_as_it_would_alone(method: str) -> None:
    together = runs.MnistTraining(method, SMALL, (3, 5, 11), DATA, "cpu")
    alone = runs.MnistTraining(method, SMALL, (5,), DATA, "cpu")
    for training in (together, alone):
        training.train(1)
    # Adam forgives a scaled gradient, so the gradient itself is looked at too.
    for both, own in zip(together.net.parameters(), alone.net.parameters(), strict=True):
        assert both.grad is not None
        assert own.grad is not None
        torch.testing.assert_close(both.grad[1], own.grad[0], rtol=1e-4, atol=1e-6)
    for training in (together, alone):
        training.train(19)
    torch.testing.assert_close(together.test_logits()[1], alone.test_logits()[0], rtol=0, atol=2e-4)


@pytest.mark.paper("Fig. 4")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", [{}, {"eta": 2.0, "dg_eta": 0.5, "train_images": 100}], ids=["plain", "options"])
def test_stacked_training_equals_the_clear_form(method: str, options: dict[str, Any]) -> None:
    settings = dataclasses.replace(SMALL, **options)
    textbook = clear.train(method, settings, 7, DATA)
    arrays = runs.run(method, settings, (3, 7), DATA)
    assert arrays["update"].tolist() == textbook.update
    # The two sum in another order: an image may lie on the edge between two classes, and an action between two.
    one_image, one_action = 1 / len(DATA.test_images), 1 / (settings.batch * settings.eval_every)
    np.testing.assert_allclose(arrays["test_error"][1], textbook.test_error, atol=1.01 * one_image)
    np.testing.assert_allclose(arrays["train_reward"][1], textbook.train_reward, atol=1.01 * one_action)
    training = runs.MnistTraining(method, settings, (7,), DATA, "cpu")
    for _ in range(settings.updates // settings.eval_every):
        training.train(settings.eval_every)
    torch.testing.assert_close(training.test_logits()[0], textbook.test_logits, rtol=0, atol=2e-4)


@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_losses_of_the_clear_form_have_the_gradients_of_the_rules(method: str, seed: int) -> None:
    # Adam forgives a scaled gradient, so that whole runs do not show a wrong factor.
    settings = MnistSettings(eta=2.0, dg_eta=0.5)
    logits, labels = policies(seed, n=6, spread=1.0)
    uniforms = torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed)).double()
    textbook, fast = logits[0].clone().requires_grad_(), logits.clone().requires_grad_()
    loss, reward = clear.losses(method, textbook, labels[0], uniforms[0], settings)
    feedback = act(fast, labels, uniforms)
    torch.testing.assert_close(reward, feedback.rewards[0, :, 0])
    (ours,) = torch.autograd.grad(loss.sum(), textbook)
    (theirs,) = torch.autograd.grad(resolve(method, settings).losses(feedback).sum(), fast)
    torch.testing.assert_close(ours, theirs[0])


def test_the_clear_form_shares_no_formula_with_the_fast_run() -> None:
    with pytest.raises(ValueError, match=r"tpp.*did you mean.*'tpo'"):
        clear.train("tpp", SMALL, 0, DATA)
    nodes = list(ast.walk(ast.parse(Path(clear.__file__).read_text(encoding="utf-8"))))
    modules = {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    ours = {name for name in modules if name.startswith("tpo_torch")}
    mine = {"tpo_torch.mnist.settings", "tpo_torch.mnist.table"}
    assert ours == mine | {"tpo_torch.shared.data", "tpo_torch.shared.nets"}


def test_curves_have_the_promised_shapes_and_true_update_counts() -> None:
    calls: list[tuple[int, int]] = []
    arrays = runs.run("grpo", SMALL, (0, 1), DATA, Context(progress=lambda done, total: calls.append((done, total))))
    assert calls == [(0, 60), (20, 60), (40, 60), (60, 60)]
    assert arrays["update"].tolist() == [0, 20, 40, 60]
    assert arrays["test_error"].shape == arrays["train_reward"].shape == (2, 4)
    assert arrays["mechanism_gain"].shape == arrays["mechanism_count"].shape == (2, 4)
    assert np.isnan(arrays["train_reward"][:, 0]).all()
    assert np.isfinite(arrays["train_reward"][:, 1:]).all()
    # The bins hold exactly the images that are misclassified at update 40.
    np.testing.assert_array_equal(arrays["mechanism_count"].sum(1), (arrays["test_error"][:, 2] * 200).round())


def test_a_run_is_reproducible_and_does_not_touch_the_global_generator() -> None:
    before = torch.get_rng_state()
    first, second = (runs.run("tpo", SMALL, (0, 1), DATA) for _ in range(2))
    assert_equal_bits(first, second)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("method", ["tpo", "ce"])
def test_learns(method: str) -> None:
    settings = MnistSettings(updates=400, eval_every=200, hidden=32, mechanism_update=None)
    arrays = runs.run(method, settings, (0, 1), DATA)
    # Chance is 0.9. A bandit's seed may still have a class to find, which is a tenth of the images.
    assert arrays["test_error"][:, 0].min() > 0.6
    assert arrays["test_error"][:, -1].max() < 0.15
    assert arrays["train_reward"][:, -1].min() > 0.6
    assert np.isnan(arrays["mechanism_gain"]).all()
    assert (arrays["mechanism_count"] == 0).all()


def test_fewer_training_images_are_the_first_ones() -> None:
    few = dataclasses.replace(SMALL, train_images=50)
    cut = Mnist(DATA.train_images[:50], DATA.train_labels[:50], DATA.test_images, DATA.test_labels)
    assert_equal_bits(runs.run("pg", few, (0,), DATA), runs.run("pg", SMALL, (0,), cut))


class Killed(Exception):
    """Stands for kill -9: raised where nothing in the run can catch it."""


@pytest.mark.parametrize("method", ["tpo", "pg_batchnorm"])
def test_a_killed_run_continues_bit_for_bit(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "CHECKPOINT_EVERY", 20)
    path = tmp_path / "partial.npz"
    whole = runs.run(method, SMALL, (0, 1), DATA)

    def kill(done: int, total: int) -> None:
        if done == 40:
            raise Killed

    with pytest.raises(Killed):
        runs.run(method, SMALL, (0, 1), DATA, Context(checkpoint=path, progress=kill))
    calls: list[int] = []
    resumed = runs.run(
        method, SMALL, (0, 1), DATA, Context(checkpoint=path, progress=lambda done, _: calls.append(done))
    )
    assert calls == [40, 60]
    assert_equal_bits(whole, resumed)
    # The finished state is kept too: asking again computes nothing.
    assert_equal_bits(whole, runs.run(method, SMALL, (0, 1), DATA, Context(checkpoint=path)))


def test_a_process_that_was_killed_continues_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "partial.npz"
    program = (
        "import os, signal, sys, torch; from pathlib import Path; import test_mnist as t\n"
        "torch.set_num_threads(1); t.runs.CHECKPOINT_EVERY = 20\n"
        "die = lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done == 40 else None\n"
        "t.runs.run('tpo', t.SMALL, (0, 1), t.DATA, t.Context(checkpoint=Path(sys.argv[1]), progress=die))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    killed = subprocess.run([sys.executable, "-c", program, str(path)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    resumed = runs.run("tpo", SMALL, (0, 1), DATA, Context(checkpoint=path))
    assert_equal_bits(runs.run("tpo", SMALL, (0, 1), DATA), resumed)


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "partial.npz"
    runs.run("tpo", SMALL, (0, 1), DATA, Context(checkpoint=path))
    others: list[tuple[tuple[Any, ...], str]] = [
        (("dg", SMALL, (0, 1), DATA), "method = 'tpo' there, 'dg' here"),
        (("tpo", dataclasses.replace(SMALL, eta=2.0), (0, 1), DATA), "eta = 1.0 there, 2.0 here"),
        (("tpo", SMALL, (0, 2), DATA), "seeds"),
        (("tpo", SMALL, (0, 1), digits(seed=1)), "data"),
    ]
    for arguments, message in others:
        with pytest.raises(ValueError, match=message):
            runs.run(*arguments, Context(checkpoint=path))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        runs.run("tpo", SMALL, (0, 1), DATA, Context(checkpoint=path))
    np.savez(path, x=np.zeros(1))
    with pytest.raises(ValueError, match="no checkpoint"):
        runs.run("tpo", SMALL, (0, 1), DATA, Context(checkpoint=path))


@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.3, 1.0, 3.0]))
def test_first_order_gain_is_a_derivative(seed: int, spread: float) -> None:
    logits, labels = policies(seed, n=4, spread=spread)
    direction, _ = policies(seed + 1, n=4, spread=1.0)
    h = 1e-5
    up, down = (torch.softmax(logits + t * direction, -1).gather(-1, labels.unsqueeze(-1)) for t in (h, -h))
    gain = mechanism.first_order_gain(torch.softmax(logits, -1), labels, direction)
    torch.testing.assert_close(gain, ((up - down) / (2 * h)).squeeze(-1), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.3, 1.0, 3.0]))
def test_excess_gain_is_zero_where_the_wrong_classes_are_equal(method: str, seed: int, spread: float) -> None:
    logits, labels = policies(seed, n=4, spread=spread)
    pi = torch.softmax(logits, -1)
    even = mechanism.symmetric(pi, labels)
    zero = torch.zeros(labels.shape, dtype=torch.float64)
    torch.testing.assert_close(even.sum(-1), zero + 1)
    torch.testing.assert_close(mechanism.excess_gain(method, even, labels, SMALL), zero, rtol=0, atol=1e-12)
    if method not in ("tpo", "dg"):
        # A direction that is a function of p times v sees nothing of the wrong classes, however they stand.
        torch.testing.assert_close(mechanism.excess_gain(method, pi, labels, SMALL), zero, rtol=0, atol=1e-12)


@pytest.mark.paper("Fig. 4b")
def test_a_confident_error_pays_tpo_and_costs_dg() -> None:
    # The picture of Fig. 4b: p = 0.2, the rest on one wrong class, or spread over nine.
    pi = torch.full((1, 10), 0.001, dtype=torch.float64)
    pi[0, 0], pi[0, 1] = 0.2, 0.792
    label = torch.tensor([0])
    assert mechanism.excess_gain("tpo", pi, label, SMALL).item() > 0.05
    assert -0.02 < mechanism.excess_gain("dg", pi, label, SMALL).item() < 0


def test_measure_bins_by_the_share_of_the_strongest_wrong_class() -> None:
    # Wrong, wrong mass all on class 1; wrong, spread over classes 1–3 equally; right, and so in no bin.
    logits = torch.tensor([[[0.0, 1, -40, -40], [0.0, 1, 1, 1], [60.0, 0, 0, 0]]])
    gain, count = mechanism.measure("tpo", logits, torch.zeros(3, dtype=torch.int64), SMALL)
    assert count.tolist() == [[0, 1, 0, 1]]
    assert torch.isnan(gain).tolist() == [[True, False, True, False]]
    # Equal wrong classes are their own surrogate.
    assert gain[0, 1].item() == pytest.approx(0, abs=1e-12)


def test_the_closed_form_of_batchnorm_is_that_of_pg_over_a_number() -> None:
    logits, labels = policies(0, n=3, spread=1.0)
    pi = torch.softmax(logits, -1)
    ours = mechanism.DIRECTIONS["pg_batchnorm"](pi, labels, SMALL)
    torch.testing.assert_close(ours, 0.5 * closed_form.app_c_pg_batchnorm(pi, labels, 0.5))


@pytest.mark.parametrize(
    ("given_name", "hint"), [("tpp", "'tpo'"), ("grppo", "'grpo'"), ("pg_batch", "'pg_batchnorm'")]
)
def test_an_unknown_method_names_the_nearest(given_name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"{given_name}.*did you mean.*{hint}"):
        runs.run(given_name, SMALL, (0,), DATA)
    assert own_name("grpo") == "pg_batchnorm"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"updates": 0}, ValueError, "updates: got 0"),
        ({"updates": 1.5}, TypeError, "updates: got 1.5"),
        ({"batch": True}, TypeError, "batch: got True"),
        ({"updates": 500}, ValueError, "eval_every: got 200"),
        ({"hidden": -1}, ValueError, "hidden"),
        ({"eta": 0.0}, ValueError, "eta: got 0.0"),
        ({"dg_eta": math.nan}, ValueError, "dg_eta: got nan"),
        ({"learning_rate": math.inf}, ValueError, "learning_rate"),
        ({"mechanism_update": 2_100}, ValueError, "mechanism_update: got 2100"),
        ({"updates": 400}, ValueError, "mechanism_update: got 2200.*None"),
        ({"train_images": 0}, ValueError, "train_images: got 0"),
        ({"learning_rat": 1e-3}, TypeError, "learning_rat"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MnistSettings(**options)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"seeds": ()}, ValueError, "at least one"),
        ({"seeds": (1, 1)}, ValueError, "each once"),
        ({"seeds": (-1,)}, ValueError, "got -1"),
        ({"seeds": (0.5,)}, ValueError, "got 0.5"),
        ({"data": {}}, TypeError, "data: got dict"),
        ({"settings": {"updates": 20}}, TypeError, "settings: got dict"),
        ({"settings": dataclasses.replace(SMALL, train_images=301)}, ValueError, "at most 300"),
        ({"context": Context("cpuu")}, ValueError, "device: got 'cpuu'"),
        ({"context": Context("meta")}, ValueError, "device: got 'meta'"),
        ({"context": Context("cuda:99")}, ValueError, "device: got 'cuda:99'"),
    ],
)
def test_bad_arguments_are_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"method": "tpo", "settings": SMALL, "seeds": (0,), "data": DATA} | changes
    with pytest.raises(error, match=message):
        runs.run(**arguments)


def assert_equal_bits(a: Arrays, b: Arrays) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].tobytes() == b[name].tobytes(), name
