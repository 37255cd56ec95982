"""Two passes over the same rows must agree: tried on the first batch, since no list of names finds all noise.

A pass that makes coefficients and the pass that is differentiated must see one policy. The healthy case costs two
passes. Where they differ, more are made, with equal random generators, which tell noise from kernels that do not
repeat themselves to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tpo_torch.llm.culprit import culprit
from tpo_torch.llm.dropout import Rate, refuse_dropout, silence_dropout
from tpo_torch.llm.unchanged import generators_moved, same_generators, unchanged

# How many roundings of a number of the size of a log-probability, at least 1, two passes of one policy may be apart.
# Sums taken in another order differ by one in each layer; as signs are random, 64 layers of two such sums make √128.
ROUNDINGS = 16
# With equal generators, to be sure that a pass repeats itself; and to find the module that does not.
REPLAYS, TRACES = 4, 4
# A weight that starts at 0, as an adapter's, hides the noise before it: how often to try again.
TRIES = 4
# What a pass under autocast computes in; what it multiplies in fp8 it adds and keeps in bfloat16.
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}


class NoiseProbe:
    """Sees that a model in train mode is one policy: rates of noise by their names, then by two passes.

    Args: model; disable, set the rates to 0 instead of refusing them.
    Raises: ValueError where a module holds a rate of noise.
    """

    def __init__(self, model: nn.Module, disable: bool) -> None:
        self.silenced: list[Rate] | None = silence_dropout(model) if disable else None
        if not disable:
            refuse_dropout(model)
        self.renew()

    def renew(self) -> None:
        """Begin again, as every call of `train` does."""
        self._tries, self._tried_at = TRIES, -1

    def check(self, step: int, model: nn.Module, logps: Callable[[], Tensor], mask: Tensor, accelerator: Any) -> None:
        """Compare two passes unless that was done; called by all processes at once, which raise together.

        Args: step, the optimizer step that begins; logps, a pass without gradient that gives the (B, T)
            log-probabilities of the same rows each time; mask (B, T), the trained tokens; accelerator, of the trainer.
        Raises: ValueError where the passes differ, with the size of the difference and the module it begins in.
        """
        if self._tries == 0 or step == self._tried_at:
            return
        self._tried_at = step
        self._tries = self._tries - 1 if _some_weight_is_zero(model, accelerator) else 0
        with unchanged(model):
            self._compare(model, logps, mask, accelerator)
            if self.silenced:
                self._compare_evaluation(model, logps, mask, accelerator)

    def _compare(self, model: nn.Module, logps: Callable[[], Tensor], mask: Tensor, accelerator: Any) -> None:
        found: list[Tensor] = []
        drawn = generators_moved(model, lambda: found.append(logps()))
        apart = differences(found[0], logps(), mask)
        if not bool(accelerator.gather(apart).any()):
            return
        limit = tolerance(model, found[0], mask, accelerator)
        repeats = _repeats(model, logps, mask)
        # Below the limit it is noise if equal generators make equal passes: kernels know of no generator.
        noisy = bool(apart[0] > limit) or bool(apart[0] > 0 and drawn and repeats)
        verdicts = accelerator.gather(torch.stack([apart.new_tensor(noisy), *apart, apart.new_tensor(repeats)])[None])
        if not bool(verdicts[:, 0].any()):
            return
        names = gather_object([culprit(model, logps, TRACES)])
        worst = int((verdicts[:, 0] * verdicts[:, 1]).argmax())
        _, token, completion, repeated = verdicts[worst].tolist()
        raise ValueError(
            f"noise: two passes over the same {len(mask)} rows in train mode differ by up to {token:.2g} in the "
            f"log-probability of a token and {completion:.2g} in that of a completion, expected the same policy "
            f"twice; the first module that differs on equal inputs: {names[worst] or 'not found'}. "
            f"{self._remedy(bool(repeated))}"
        )

    def _compare_evaluation(self, model: nn.Module, logps: Callable[[], Tensor], mask: Tensor, acc: Any) -> None:
        """A rate by name alone may be none: set to 0, it must change nothing outside of training."""
        assert self.silenced is not None
        training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            silent = logps()
            for rate in self.silenced:
                rate.set(rate.value)
            plain, again = logps(), logps()
        finally:
            for rate in self.silenced:
                rate.set(0.0)
            for module in training:
                module.training = True
        apart, own = differences(silent, plain, mask), differences(plain, again, mask)
        changed = apart[0] > max(tolerance(model, plain, mask, acc), float(own[0]))
        if bool(acc.gather(changed[None]).any()):
            names = sorted({rate.name for rate in self.silenced})
            raise ValueError(
                f"disable_dropout: set {', '.join(names)} to 0, which changes the model in evaluation too, by up to "
                f"{float(apart[0]):.2g} in the log-probability of a token: one of them is more than a rate of noise. "
                "Set to 0 by hand those that are, and leave out disable_dropout"
            )

    def _remedy(self, repeats: bool) -> str:
        if not repeats:
            return (
                "Equal random generators do not make equal passes either: it keeps a state from pass to pass, or its "
                "kernels do not repeat themselves; try full_determinism=True"
            )
        if self.silenced is None:
            return "It draws random numbers: set its rate to 0, or disable_dropout=True"
        return "disable_dropout=True could not silence it: take the noise out of its forward pass"


def differences(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """The largest |Δ| of a trained token's log-probability, and of a completion's sum, (2,), in double precision.

    >>> differences(torch.tensor([[0.0, -1.0, -9.0]]), torch.tensor([[-1.0, -2.0, 0.0]]), torch.tensor([[1, 1, 0]]))
    tensor([1., 2.], dtype=torch.float64)
    """
    a, b = a.detach().double(), b.detach().double()
    same = (a == b) | (a.isnan() & b.isnan()) | (mask == 0)
    apart = torch.where(same, 0.0, a - b).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    sums = apart.sum(-1).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return torch.stack([apart.abs().amax(), sums.abs().amax()])


def tolerance(model: nn.Module, logps: Tensor, mask: Tensor, accelerator: Any) -> float:
    """How far apart the log-probabilities of a token may be by rounding, in the coarsest precision of the pass."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point() and p.element_size() > 1}
    kinds |= {logps.dtype} | (
        {AUTOCAST[accelerator.mixed_precision]} if accelerator.mixed_precision in AUTOCAST else set()
    )
    if logps.is_cuda and torch.get_float32_matmul_precision() != "highest":
        # TF32 has as many digits.
        kinds.add(torch.float16)
    eps = max(torch.finfo(kind).eps for kind in kinds)
    largest = torch.where(mask.bool(), logps.detach().double().nan_to_num(), 0.0).abs().amax()
    return ROUNDINGS * eps * max(1.0, float(largest))


def _repeats(model: nn.Module, logps: Callable[[], Tensor], mask: Tensor) -> bool:
    """Whether passes from one state of the generators agree to the bit."""

    def replay() -> Tensor:
        with same_generators(model):
            return logps()

    first, *others = [replay() for _ in range(REPLAYS)]
    return not any(bool(differences(first, other, mask).any()) for other in others)


def _some_weight_is_zero(model: nn.Module, accelerator: Any) -> bool:
    """Whether a trained tensor is 0 throughout, on all processes."""
    trained = (getattr(p, "ds_tensor", p).detach() for p in model.parameters() if p.requires_grad)
    parts = [p.to_local() if isinstance(p, DTensor) else p for p in trained]
    if not parts:
        return False
    filled = torch.stack([part.any().to(accelerator.device) for part in parts])
    return not bool(accelerator.gather(filled[None]).any(0).all())
