"""Flat rows and their groups: where the rows of each group are, and what each row gets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tpo_torch import checks


class Packing(NamedTuple):
    """Rows put back into groups: `rows` (G, K) row numbers, `mask` (G, K) False = padding, `ids` (G,) ascending."""

    rows: Tensor
    mask: Tensor
    ids: Tensor

    def to_groups(self, by_row: Tensor) -> Tensor:
        """(N,) or (N, …) by row to (G, K, …); padding repeats some row and is masked."""
        return by_row[self.rows]

    def to_rows(self, grouped: Tensor) -> Tensor:
        """(G, K) back to (N,)."""
        by_row = grouped.new_zeros(int(self.mask.sum()))
        by_row[self.rows[self.mask]] = grouped[self.mask]
        return by_row


class Coefficients(NamedTuple):
    """By row, (N,): u, p_old, p, q and c; 0 in rows that take no part. By group, (G,): loss in nats, and ids.

    The loss is the cross-entropy −Σ q log p, or KL(p‖q) under the reverse divergence. `p_old` and `p` are the
    distributions that the anchor compares: softmax(ℓ) of the group for "policy", 1/K and softmax(ℓ − ℓ_old) for
    "ratio", and those of ℓ/n and ℓ/T for "length" and "tempered".
    """

    u: Tensor
    p_old: Tensor
    p: Tensor
    q: Tensor
    c: Tensor
    loss: Tensor
    valid: Tensor
    ids: Tensor


def pack(groups: Tensor) -> Packing:
    """Where the rows of each group are, whatever their order and however many there are of each.

    Args: groups (N,) integer ids.
    Returns: `Packing` with K the size of the largest group; within a group, rows keep their order.
    Raises: TypeError, ValueError unless one integer id per row.

    >>> pack(torch.tensor([7, 3, 7])).rows.tolist(), pack(torch.tensor([7, 3, 7])).mask.tolist()
    ([[1, 0], [0, 2]], [[True, False], [True, True]])
    """
    checks.array("groups", groups)
    if groups.ndim != 1 or groups.is_floating_point() or groups.dtype == torch.bool:
        raise TypeError(f"groups: got {groups.dtype} of shape {tuple(groups.shape)}, expected one integer id per row")
    ids, which, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    order = torch.argsort(which, stable=True)
    place = torch.arange(len(groups), device=groups.device) - (sizes.cumsum(0) - sizes)[which[order]]
    index = order.new_zeros(len(ids), int(sizes.max()))
    mask = torch.zeros_like(index, dtype=torch.bool)
    index[which[order], place] = order
    mask[which[order], place] = True
    return Packing(index, mask, ids)
