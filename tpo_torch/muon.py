"""Muon and Adam with Nesterov momentum: the two rules of the optimiser that trains the transformer."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from tpo_torch import checks

Tensors = tuple[Tensor, ...] | list[Tensor]

# The sequence tasks train with learning rate 1e-3; all else is what the authors' optimiser library does by default.
LEARNING_RATE = 1e-3
# Muon: decay of the momentum, iterations of the polynomial and its coefficients, of X, XXᵀX and (XXᵀ)²X.
MOMENTUM = 0.95
ITERATIONS = 5
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315
# Adam: decays of its two moments.
BETA1, BETA2 = 0.9, 0.999
# Added to Muon's Frobenius norm and to Adam's root, so that no gradient at all is no step at all.
EPSILON = 1e-8
# What a parameter keeps under each rule, besides the count of steps.
MOMENTS = {"muon": ("momentum",), "adam": ("first", "second")}
# What must be the same on both sides when a state is loaded.
IDENTITY = ("param_names", "rules")


def newton_schulz(matrix: Tensor) -> Tensor:
    """A matrix with its singular vectors kept and its singular values brought near 1.

    Paper: Sec. 5 (its optimiser)

    X₀ = M/(‖M‖_F + ε), X ← aX + (bG + cG²)X with G = XXᵀ: each singular value s becomes as + bs³ + cs⁵, five times.
    A tall matrix is transposed before and after, so that G is the smaller of the two possible.

    Args: matrix (…, in, out), each one of the batch normalised and iterated alone.
    Returns: (…, in, out). 0 stays exactly 0; values below about 1e-3 of the norm are still on their way to 1.
    Raises: TypeError, ValueError for a bad dtype, fewer than two axes, NaN or infinity.

    >>> newton_schulz(torch.tensor([[3.0, 0.0], [0.0, 0.0]])).round(decimals=2)
    tensor([[0.7000, 0.0000],
            [0.0000, 0.0000]])
    """
    m = _matrix("matrix", matrix)
    return _back(_orthogonal(_wide(m)), m)


def muon_step(gradient: Tensor, momentum: Tensor, step: int, lr: float = LEARNING_RATE) -> tuple[Tensor, Tensor]:
    """The change of a matrix under Muon, and its new momentum.

    Paper: Sec. 5 (its optimiser)

    m ← βm + (1−β)g, μ̂ = βm/(1−β^{t+1}) + (1−β)g/(1−β^t), Δ = −lr √max(1, out/in) NewtonSchulz(μ̂).

    Args: gradient, momentum (…, in, out), momentum 0 before the first step; step, t = 1, 2, …; lr > 0.
    Returns: (Δ, m), both (…, in, out).
    Raises: TypeError, ValueError for a bad dtype, shape, step or lr, NaN or infinity.

    >>> change, momentum = muon_step(torch.eye(2), torch.zeros(2, 2), step=1)
    >>> change.diagonal()
    tensor([-0.0011, -0.0011])
    """
    g = _matrix("gradient", gradient)
    old = checks.finite("momentum", momentum, like=g).to(g.dtype)
    step, lr = checks.whole("step", step, 1), checks.positive("lr", lr)
    m = MOMENTUM * old + (1 - MOMENTUM) * g
    return -lr * _scale(g) * newton_schulz(_look_ahead(g, m, step, MOMENTUM)), m


def nesterov_adam_step(
    gradient: Tensor, first: Tensor, second: Tensor, step: int, lr: float = LEARNING_RATE
) -> tuple[Tensor, Tensor, Tensor]:
    """The change of a parameter under Adam with Nesterov momentum, and its two new moments; each entry alone.

    Paper: Sec. 5 (its optimiser)

    m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², μ̂ = β₁m/(1−β₁^{t+1}) + (1−β₁)g/(1−β₁^t), Δ = −lr μ̂/(√(v/(1−β₂^t)) + ε).

    Args: gradient, first, second of one shape (…), both moments 0 before the first step, second ≥ 0; step, t = 1, 2, …;
        lr > 0.
    Returns: (Δ, m, v), each (…).
    Raises: TypeError, ValueError for a bad dtype, shape, step or lr, NaN or infinity, a negative second moment.

    >>> change, first, second = nesterov_adam_step(torch.tensor([5.0, -0.1]), torch.zeros(2), torch.zeros(2), step=1)
    >>> change
    tensor([-0.0015,  0.0015])
    """
    g = checks.finite("gradient", gradient)
    m = checks.finite("first", first, like=g).to(g.dtype)
    v = checks.finite("second", second, like=g).to(g.dtype)
    if not checks.all_hold(v >= 0):
        raise ValueError(
            f"second: got the negative entry {float(v.min()):g}, expected means of squares; were moments swapped?"
        )
    step, lr = checks.whole("step", step, 1), checks.positive("lr", lr)
    m = BETA1 * m + (1 - BETA1) * g
    v = BETA2 * v + (1 - BETA2) * g**2
    root = (v / (1 - BETA2**step)).sqrt()
    return -lr * _look_ahead(g, m, step, BETA1) / (root + EPSILON), m, v


class Muon(torch.optim.Optimizer):
    """Muon for the parameters that a table says, Adam with Nesterov momentum for the others, many networks at once.

    Paper: Sec. 5 (its optimiser)

    `muon_step` and `nesterov_adam_step` on all parameters together: elementwise work in one call per operation for all
    of them, and one batched product for all matrices of a shape, wide or tall. One count of steps serves them all. No
    step reads a value from the device or allocates anew what it keeps, so a step can be captured in a CUDA graph. Rules
    go by name, not by number of axes (deviation D50), and the bias of keys is no exception (deviation D51).

    Args: named_parameters, (name, parameter), floating, all of one dtype (float32 or wider) and device; rules, for each
        name "muon" or "adam"; lr > 0; batch_axes, how many leading axes (seeds) are surely no part of a matrix: under
        "muon" the last two axes are the matrix, (in, out), and all before them its batch.
    Raises: TypeError, ValueError for a parameter without a rule, a rule without a parameter, an unknown rule, a "muon"
        parameter with too few axes, a mixture of dtypes or devices, or a bad lr or batch_axes.

    >>> weight, bias = torch.nn.Parameter(torch.zeros(1, 2, 2)), torch.nn.Parameter(torch.zeros(1, 2))
    >>> optimizer = Muon({"w": weight, "b": bias}.items(), {"w": "muon", "b": "adam"})
    >>> (weight.sum() + bias.sum()).backward()
    >>> optimizer.step()
    >>> bias.detach()
    tensor([[-0.0015, -0.0015]])
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        rules: Mapping[str, str],
        lr: float = LEARNING_RATE,
        batch_axes: int = 1,
    ) -> None:
        pairs = list(named_parameters)
        _check_rules([name for name, _ in pairs], rules)
        _check_parameters(pairs, rules, checks.whole("batch_axes", batch_axes, 0))
        super().__init__(pairs, {"lr": checks.positive("lr", lr), "rules": [rules[name] for name, _ in pairs]})
        # From the start, so that a state can be loaded into a new optimiser; one count, the same tensor for all.
        count = torch.zeros((), dtype=pairs[0][1].dtype, device=pairs[0][1].device)
        for (_, p), rule in zip(pairs, self.param_groups[0]["rules"], strict=True):
            self.state[p] = {"step": count} | {moment: torch.zeros_like(p) for moment in MOMENTS[rule]}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused after construction: a parameter needs a rule and a place in the table."""
        if self.param_groups:
            raise ValueError("param_group: got another group, expected none; name every parameter in `rules` at once")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step from the gradients; a parameter whose gradient is None stays, with its moments, as it is."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        (group,) = self.param_groups
        count = self.state[group["params"][0]]["step"].add_(1)
        for rule in MOMENTS:
            update: Callable[..., None] = _muon if rule == "muon" else _adam
            pairs = zip(group["params"], group["rules"], strict=True)
            parameters = [p for p, r in pairs if r == rule and p.grad is not None]
            if parameters:
                moments = [[self.state[p][moment] for p in parameters] for moment in MOMENTS[rule]]
                update(parameters, [p.grad for p in parameters], *moments, count, group["lr"])
        return loss

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy a `state_dict()` into this optimiser's own tensors; ValueError if it belongs to other parameters."""
        (ours,), (theirs,) = self.param_groups, state_dict["param_groups"]
        for key in IDENTITY:
            if theirs.get(key) != ours[key]:
                raise ValueError(f"state_dict: got {key} {theirs.get(key)!r}, expected {ours[key]!r}; whose is it?")
        saved = [state_dict["state"].get(i, {}) for i in range(len(ours["params"]))]
        for name, p, new in zip(ours["param_names"], ours["params"], saved, strict=True):
            shapes = {key: tuple(x.shape) for key, x in new.items()}
            expected = {key: tuple(x.shape) for key, x in self.state[p].items()}
            if shapes != expected:
                raise ValueError(f"state_dict: got {shapes} for {name}, expected {expected}; whose is it?")
        if len({float(new["step"]) for new in saved}) != 1:
            raise ValueError("state_dict: got different steps for its parameters, expected one count for all")
        for p, new in zip(ours["params"], saved, strict=True):
            for key, x in self.state[p].items():
                x.copy_(new[key])
        ours["lr"] = theirs["lr"]


def _muon(parameters: Tensors, gradients: Tensors, momenta: Tensors, count: Tensor, lr: float) -> None:
    """`muon_step` on all of them; matrices of one shape, wide or tall, share their products."""
    torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
    ahead = _look_ahead_each(gradients, momenta, count, MOMENTUM)
    together: dict[tuple[int, ...], list[int]] = {}
    for i, p in enumerate(parameters):
        together.setdefault(tuple(sorted(p.shape[-2:])), []).append(i)
    for members in together.values():
        wide = [_wide(ahead[i]) for i in members]
        parts = torch.split(_orthogonal(torch.cat(wide)), [len(x) for x in wide])
        for p, part in zip([parameters[i] for i in members], parts, strict=True):
            p.add_(_back(part, p), alpha=-lr * _scale(p))


def _adam(parameters: Tensors, gradients: Tensors, firsts: Tensors, seconds: Tensors, count: Tensor, lr: float) -> None:
    """`nesterov_adam_step` on all of them."""
    torch._foreach_lerp_(firsts, gradients, 1 - BETA1)
    torch._foreach_mul_(seconds, BETA2)
    torch._foreach_addcmul_(seconds, gradients, gradients, 1 - BETA2)
    roots = torch._foreach_sqrt(seconds)
    torch._foreach_mul_(roots, _unbiased(count, BETA2).sqrt())
    torch._foreach_add_(roots, EPSILON)
    torch._foreach_addcdiv_(parameters, _look_ahead_each(gradients, firsts, count, BETA1), roots, -lr)


def _look_ahead(g: Tensor, m: Tensor, step: int, beta: float) -> Tensor:
    """Nesterov's estimate: the momentum as it would stand after one more step with the same gradient, unbiased."""
    return beta * m / (1 - beta ** (step + 1)) + (1 - beta) * g / (1 - beta**step)


def _look_ahead_each(gradients: Tensors, momenta: Tensors, count: Tensor, beta: float) -> Tensors:
    ahead = torch._foreach_mul(momenta, beta * _unbiased(count + 1, beta))
    torch._foreach_add_(ahead, torch._foreach_mul(gradients, (1 - beta) * _unbiased(count, beta)))
    return ahead


def _unbiased(count: Tensor, beta: float) -> Tensor:
    # 1/(1 − βᵗ) by expm1: in float32, 1 − 0.999 is off by 5e-5 of itself.
    return -1 / torch.expm1(count * math.log(beta))


def _orthogonal(x: Tensor) -> Tensor:
    """Newton-Schulz on a batch (N, m, n), m ≤ n."""
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + EPSILON)
    for _ in range(ITERATIONS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=CUBIC, alpha=QUINTIC), x, beta=LINEAR)
    return x


def _wide(x: Tensor) -> Tensor:
    """The batch (…, in, out) as (N, m, n), m ≤ n."""
    flat = x.reshape(-1, *x.shape[-2:])
    return flat.mT if _tall(x) else flat


def _back(x: Tensor, like: Tensor) -> Tensor:
    """What `_wide` made of `like`, in its shape again."""
    return (x.mT if _tall(like) else x).reshape(like.shape)


def _tall(x: Tensor) -> bool:
    return x.shape[-2] > x.shape[-1]


def _scale(x: Tensor) -> float:
    return math.sqrt(max(1, x.shape[-1] / x.shape[-2]))


def _matrix(name: str, x: Tensor) -> Tensor:
    m = checks.finite(name, x)
    if m.ndim < 2:
        raise ValueError(f"{name}: got shape {tuple(m.shape)}, expected matrices (..., in, out); vectors take Adam")
    return m


def _check_rules(names: list[str], rules: Mapping[str, str]) -> None:
    """ValueError unless each name has a rule, each rule a name, and the rule is known."""
    if not names:
        raise ValueError("named_parameters: got none, expected a parameter for each rule")
    for what, keys, others in (
        ("parameter without rule", names, list(rules)),
        ("rule without parameter", rules, names),
    ):
        free = [name for name in others if name not in keys]
        lost = {name: difflib.get_close_matches(name, free, n=1) for name in keys if name not in others}
        if lost:
            listed = ", ".join(f"{name!r}" + "".join(f" (is it {n!r}?)" for n in near) for name, near in lost.items())
            raise ValueError(f"rules: got {what}: {listed}; expected one rule for each parameter")
    for name, rule in rules.items():
        checks.choice(f"rules[{name!r}]", rule, tuple(MOMENTS))


def _check_parameters(pairs: list[tuple[str, Tensor]], rules: Mapping[str, str], batch_axes: int) -> None:
    """Of one dtype, float32 or wider, on one device; a matrix has two axes beside those of the batch."""
    for name, p in pairs:
        if not p.is_floating_point() or torch.promote_types(p.dtype, torch.float32) != p.dtype:
            raise TypeError(f"{name}: got dtype {p.dtype}, expected float32 or float64; keep parameters in float32")
        if (p.dtype, p.device) != (pairs[0][1].dtype, pairs[0][1].device):
            raise ValueError(f"{name}: got {p.dtype} on {p.device}, expected those of {pairs[0][0]}; move it there")
        if rules[name] == "muon" and p.ndim < batch_axes + 2:
            problem = f"{name}: got shape {tuple(p.shape)} and rule 'muon', expected two axes"
            raise ValueError(f"{problem} after batch_axes = {batch_axes}; vectors take 'adam'")
