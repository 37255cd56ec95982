"""Every property for each backend, one seeded Hypothesis profile."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

from helpers.backends import BACKENDS

# The tests' tensors are small: a second thread would only wait for the first.
torch.set_num_threads(1)

# derandomize: the same examples every run; deadline off: machines are shared and noisy.
settings.register_profile(
    "seeded",
    derandomize=True,
    deadline=None,
    max_examples=60,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# pytest --hypothesis-profile=explore: other and more examples, to find what the seeded ones miss.
settings.register_profile("explore", settings.get_profile("seeded"), derandomize=False, max_examples=400)
settings.load_profile("seeded")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every backend for every property; on an accelerator no value is read, and none refused (deviation D6)."""
    if "backend" in metafunc.fixturenames:
        refuses = metafunc.definition.get_closest_marker("reads_values") is not None
        names = [name for name in sorted(BACKENDS) if not (refuses and name == "cuda")]
        metafunc.parametrize("backend", [BACKENDS[name] for name in names], ids=names)
