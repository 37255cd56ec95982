"""Every public function answers every bad value in our words, under the parameter's own name.

Run as a program it counts: python tests/meta/test_api_errors.py
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

import tpo_ref
import tpo_torch

# What is no rule: the checks themselves, and the programs that stand beside the rules.
LEFT_OUT = {"checks", "runs", "bandit", "kernels"}
# Parts of a rule that get what has been checked.
INNER = {"inside_clip", "clipped_objective", "clipped_objective_grad"}
# Stems of more than one file.
SPLIT = {"diagnostics"}
HUGE = 10**400


@dataclass(frozen=True)
class Bad:
    """A bad value.

    Args: name; value; must_raise, whether no function can do anything with it; about_shape, whether the message may
        name the parameter that it does not fit to.
    """

    name: str
    value: Any
    must_raise: bool = True
    about_shape: bool = False


# -- valid arguments ------------------------------------------------------------------------------------------------

LOGP = np.log(np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]))
OTHER = np.log(np.array([[0.3, 0.3, 0.4], [0.5, 0.2, 0.3]]))
SCORES = np.array([[1.0, 0.0, 0.0], [0.5, 0.0, 1.0]])
TOKENS = np.array([[[1, 2], [1, 2], [3, 4]], [[1, 2], [3, 4], [5, 6]]])
SHARES = np.array([0.2, 0.7])
MATRIX = np.array([[1.0, 2.0, 0.5], [0.5, -1.0, 2.0]])
EXAMPLES: dict[str, Any] = {
    **dict.fromkeys(("logp", "logits", "x"), LOGP),
    **dict.fromkeys(("logp_old", "logp_ref", "y"), OTHER),
    **dict.fromkeys(("scores", "u", "advantages", "values", "coefficients"), SCORES),
    **dict.fromkeys(("p", "pi", "q", "w", "target", "r", "error"), np.exp(OTHER)),
    **dict.fromkeys(("g", "h", "matrix", "gradient", "momentum", "first"), MATRIX),
    "second": MATRIX**2,
    "mask": np.ones((2, 3), dtype=bool),
    "token_mask": np.ones((2, 3), dtype=bool),
    "accepted": SCORES > 0,
    "label": np.array([0, 2]),
    "lengths": np.array([[3.0, 4.0, 5.0], [1.0, 2.0, 3.0]]),
    "tokens": TOKENS,
    "deviation": np.array([[0.5], [0.6]]),
    **dict.fromkeys(("eta", "dg_eta", "eta_r", "temperature", "alpha", "sigma"), 0.5),
    **dict.fromkeys(("tau", "beta", "epsilon", "epsilon_low", "epsilon_high", "epsilon_std", "lr"), 0.1),
    "w_max": 20.0,
    **dict.fromkeys(("arms", "horizon", "step"), 3),
    **dict.fromkeys(("vocab", "group_size"), 2),
    "keep_axes": 0,
    "compat": "author",
    "divergence": "forward",
    "scale": "group_std",
    "mean_over_tokens": False,
    "rule": "tpo",
}
# Where a function means something else by a name.
OWN: dict[str, dict[str, Any]] = {
    **{f"beta_{rule}": {"p": SHARES} for rule in ("ce", "pg", "dg", "grpo", "tpo")},
    "scale_scores": {"scale": "batch_std"},
    "mpo_weights": {"temperature": np.array([0.5, 0.5])},
    **{name: {"advantages": np.array([0.5, -0.5])} for name in ("grpo_token_loss", "grpo_token_grad")},
}


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function of the rules, by its whole name."""
    for package in (tpo_ref, tpo_torch):
        for info in pkgutil.iter_modules(package.__path__):
            if (info.ispkg and info.name not in SPLIT) or info.name in LEFT_OUT:
                continue
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            for name, function in vars(module).items():
                own = inspect.isfunction(function) and f"{function.__module__}.".startswith(f"{module.__name__}.")
                if own and not name.startswith("_") and name not in INNER:
                    yield f"{module.__name__}.{name}", function


FUNCTIONS = dict(functions())


def arguments(name: str) -> dict[str, Any]:
    """Valid arguments of a function; KeyError with a hint where an example is missing."""
    short = name.rpartition(".")[2]
    given = {}
    for parameter, about in inspect.signature(FUNCTIONS[name]).parameters.items():
        if about.kind is about.KEYWORD_ONLY and parameter == "name":
            # Of the argument, in errors.
            continue
        if about.kind is about.VAR_KEYWORD:
            continue
        example = OWN.get(short, {}).get(parameter, EXAMPLES.get(parameter, KeyError))
        if example is KeyError:
            raise KeyError(f"{name}: say in EXAMPLES, or in OWN, what {parameter} may be")
        given[parameter] = torch.as_tensor(example) if isinstance(example, np.ndarray) and is_torch(name) else example
    return given


def is_torch(name: str) -> bool:
    return name.startswith("tpo_torch.")


# -- bad arguments --------------------------------------------------------------------------------------------------


def bad_arrays(good: Any, torch_side: bool) -> Iterator[Bad]:
    """What stands in the place of an array."""
    shape = tuple(good.shape)
    yield Bad("a word", "abc")
    yield Bad("a dict", {"a": 1})
    yield Bad("an object", object())
    yield Bad("a ragged list", [[1.0, 2.0], [3.0]])
    yield Bad("a function", len)
    if torch_side:
        plain = torch.rand(shape, dtype=torch.float64)
        yield Bad("an array", np.asarray(good))
        yield Bad("a list", good.tolist())
        yield Bad("complex", good.to(torch.complex128))
        yield Bad("sparse", plain.to_sparse())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield Bad("nested", torch.nested.nested_tensor([torch.rand(2), torch.rand(3)]))
            yield Bad("quantised", torch.quantize_per_tensor(plain.float(), 0.1, 0, torch.quint8))
            yield Bad("compressed rows", torch.rand(2, 3).to_sparse_csr())
        yield Bad("float8", plain.to(torch.float8_e4m3fn))
        yield Bad("on another device", plain.to("meta"), must_raise=False, about_shape=True)
        yield Bad("empty", torch.zeros((*shape[:-1], 0), dtype=good.dtype), about_shape=True)
        yield Bad("a number", torch.tensor(0.5, dtype=torch.float64), must_raise=False, about_shape=True)
        yield Bad("larger", torch.zeros((7, *shape), dtype=good.dtype), must_raise=False, about_shape=True)
        yield Bad("NaN", torch.full(shape, math.nan), must_raise=False)
        yield Bad("infinite", torch.full(shape, math.inf), must_raise=False)
        return
    yield Bad("a tensor", torch.rand(shape))
    yield Bad("a sparse tensor", torch.rand(shape).to_sparse())
    yield Bad("a tensor with a gradient", torch.rand(shape, requires_grad=True))
    yield Bad("on no device", torch.rand(shape, device="meta"))
    yield Bad("complex", np.asarray(good) + 1j)
    yield Bad("objects", np.full(shape, None))
    yield Bad("words", np.full(shape, "a"))
    yield Bad("dates", np.full(shape, np.datetime64("2020-01-01")))
    yield Bad("records", np.zeros(shape, dtype=[("a", float)]))
    yield Bad("400 digits", np.full(shape, HUGE, dtype=object).tolist())
    yield Bad("sparse", scipy.sparse.csr_array(np.ones((2, 3))))
    yield Bad("masked", np.ma.masked_array(np.asarray(good), mask=True))
    yield Bad("empty", np.zeros((*shape[:-1], 0), dtype=good.dtype), about_shape=True)
    yield Bad("a number", np.float64(0.5), must_raise=False, about_shape=True)
    yield Bad("larger", np.zeros((7, *shape), dtype=good.dtype), must_raise=False, about_shape=True)
    yield Bad("NaN", np.full(shape, math.nan), must_raise=False)
    yield Bad("infinite", np.full(shape, math.inf), must_raise=False)
    if np.finfo(np.longdouble).max > np.finfo(np.float64).max:
        yield Bad("beyond float64", np.full(shape, np.longdouble(10) ** 4000), must_raise=False)


def bad_numbers() -> Iterator[Bad]:
    """What stands in the place of a number."""
    yield Bad("a word", "abc")
    yield Bad("nothing", None)
    yield Bad("a list", [1.0])
    yield Bad("an object", object())
    yield Bad("a complex number", 1j)
    yield Bad("a truth value", True)
    yield Bad("NaN", math.nan)
    yield Bad("infinite", math.inf)
    yield Bad("negative infinite", -math.inf)
    yield Bad("several", np.array([1.0, 2.0]))
    yield Bad("a tensor", torch.tensor([1.0, 2.0]))
    yield Bad("400 digits", HUGE)
    yield Bad("minus 400 digits", -HUGE)
    yield Bad("negative", -1, must_raise=False)
    yield Bad("zero", 0, must_raise=False)
    yield Bad("large", 1e300, must_raise=False)
    yield Bad("small", 1e-300, must_raise=False)


def bad_values(name: str, parameter: str, good: Any) -> Iterator[Bad]:
    if isinstance(good, (np.ndarray, torch.Tensor)):
        yield from bad_arrays(good, is_torch(name))
        if inspect.signature(FUNCTIONS[name]).parameters[parameter].default is not None:
            yield Bad("nothing", None)
    elif isinstance(good, str):
        yield from (Bad("another word", "nonsense"), Bad("a number", 3), Bad("a list", ["forward"]), Bad("a set", {1}))
    elif isinstance(good, bool):
        yield from (Bad("a word", "false"), Bad("nothing", None), Bad("an array", np.array([True, False])))
    else:
        yield from bad_numbers()


# -- the answers ----------------------------------------------------------------------------------------------------

FINE, RAW, WRONG_NAME, SILENT, WARNS = "fine", "a raw error", "another name", "taken in silence", "a raw warning"


def answer(name: str, parameter: str, bad: Bad, given: dict[str, Any]) -> tuple[str, str]:
    """How a function answers a bad value, and its words."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = FUNCTIONS[name](**given | {parameter: bad.value})
        except (ValueError, TypeError) as error:
            said = str(error)
        except Exception as error:
            return RAW, f"{type(error).__name__}: {error}"
        else:
            if bad.must_raise:
                return SILENT, repr(result)
            return (WARNS, str(caught[0].message)) if caught else (FINE, "")
    named = said.split(":")[0].split(" and ")
    if any(part in given for part in named) and ":" in said:
        return (FINE if parameter in named or bad.about_shape else WRONG_NAME), said
    return RAW, said


def cases() -> list[tuple[str, str]]:
    return [(name, parameter) for name in FUNCTIONS for parameter in arguments(name)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_examples_are_valid(name: str) -> None:
    FUNCTIONS[name](**arguments(name))


@pytest.mark.parametrize(("name", "parameter"), cases())
def test_bad_values_are_answered_in_our_words(name: str, parameter: str) -> None:
    given = arguments(name)
    answers = {bad.name: answer(name, parameter, bad, given) for bad in bad_values(name, parameter, given[parameter])}
    assert {bad: said for bad, said in answers.items() if said[0] != FINE} == {}


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if is_torch(name) and name.endswith("loss")])
def test_what_was_made_where_completions_are_sampled_carries_no_gradient_and_harms_none(name: str) -> None:
    given = arguments(name)
    with torch.inference_mode():
        made = {key: x.clone() if isinstance(x, torch.Tensor) else x for key, x in arguments(name).items()}
    policy = next(iter(given))
    gradients = []
    for others in (given, made):
        policy_now = given[policy].clone().requires_grad_()
        FUNCTIONS[name](**others | {policy: policy_now}).sum().backward()
        gradients.append(policy_now.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def main() -> None:
    """Print how often each kind of answer is given."""
    counts: Counter[str] = Counter()
    for name, parameter in cases():
        given = arguments(name)
        counts.update(answer(name, parameter, bad, given)[0] for bad in bad_values(name, parameter, given[parameter]))
    print(f"{len(FUNCTIONS)} functions, {len(cases())} parameters, {counts.total()} calls")
    for kind, count in counts.most_common():
        print(f"{count:6}  {kind}")


if __name__ == "__main__":
    main()
