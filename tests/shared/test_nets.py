"""Stacked policies: every seed is its own network, initialised from its own generator, touched by its own loss."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tpo_torch.shared.nets import PolicyMLP, lecun_normal

SIZES = (6, 5, 4, 3)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@given(seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4, unique=True), data=st.data())
def test_a_seed_is_the_same_whichever_others_are_beside_it(seeds: list[int], data: st.DataObject) -> None:
    i = data.draw(st.integers(0, len(seeds) - 1))
    together, alone = PolicyMLP(generators(*seeds), SIZES), PolicyMLP(generators(seeds[i]), SIZES)
    x = torch.randn(1, 7, SIZES[0], generator=torch.Generator().manual_seed(0))
    for a, b in zip(together.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a[i], b[0])
    torch.testing.assert_close(together(x.expand(len(seeds), -1, -1))[i], alone(x)[0])


def test_each_seed_is_a_plain_network() -> None:
    net = PolicyMLP(generators(0, 1), SIZES)
    with torch.no_grad():
        for bias in net.biases:
            bias.normal_(generator=torch.Generator().manual_seed(2))
    x = torch.randn(2, 7, SIZES[0], generator=torch.Generator().manual_seed(0))
    for s in range(2):
        layers: list[torch.nn.Module] = []
        for weight, bias in zip(net.weights, net.biases, strict=True):
            layer = torch.nn.Linear(*weight.shape[1:])
            layer.weight.data, layer.bias.data = weight[s].T.detach(), bias[s, 0].detach()
            layers += [layer, torch.nn.ReLU()]
        torch.testing.assert_close(net(x)[s], torch.nn.Sequential(*layers[:-1])(x[s]))


def test_the_loss_of_one_seed_reaches_no_other() -> None:
    net = PolicyMLP(generators(0, 1, 2), SIZES)
    net(torch.ones(3, 2, SIZES[0]))[1].square().sum().backward()
    for parameter in net.parameters():
        assert parameter.grad is not None
        assert (parameter.grad[[0, 2]] == 0).all()
    assert (net.weights[-1].grad[1] != 0).any()  # type: ignore[index]


def test_weights_are_lecun_normal_and_biases_zero() -> None:
    weight = lecun_normal(784, 50, torch.Generator().manual_seed(0)) * math.sqrt(784)
    # 39,200 draws: the standard error of the deviation is 1/√(2·39,200) = 0.0036.
    assert weight.std().item() == pytest.approx(1, abs=0.015)
    assert weight.mean().item() == pytest.approx(0, abs=0.02)
    # Cut at two deviations of the normal before widening, which is 2/0.8796 = 2.27 after it.
    edge = 2 / stats.truncnorm(-2, 2).std()
    assert 0.99 * edge < weight.abs().max().item() <= edge * (1 + 1e-6)
    assert all((bias == 0).all() for bias in PolicyMLP(generators(0), SIZES).biases)


def test_bad_sizes_and_no_seed_are_refused() -> None:
    with pytest.raises(ValueError, match="generators: got none"):
        PolicyMLP([], SIZES)
    for sizes in ((), (3,), (3, 0)):
        with pytest.raises(ValueError, match="sizes"):
            PolicyMLP(generators(0), sizes)
