"""Atomic read-modify-write, in lane order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from .aliases import Array, Elementwise, ScalarType


def apply_atomic(
    table: Array, index: Array, dtype: ScalarType, function: Elementwise | None, values: Sequence[Array], needed: bool
) -> Array:
    """Update rows ``index`` of ``table`` (rows, n) in lane order; returns the old values if needed.

    A few special cases are done in bulk; otherwise lanes are taken in rounds in which
    no two lanes share an address.
    """
    old = np.zeros((len(index), table.shape[1]), dtype)
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    exact = np.issubdtype(dtype, np.integer) or not needed
    if len(starts) < len(index) and exact and isinstance(function, np.ufunc) and function in BULK:
        if not needed:
            for column in range(table.shape[1]):
                function.at(table[:, column], index, values[0][:, column])
            return old
        if function is np.add:
            return bulk_integer_add(table, ordered, order, starts, values[0], old)
    lengths = np.diff(np.concatenate((starts, [len(index)])))
    rank = np.arange(len(index)) - np.repeat(starts, lengths)
    by_rank = np.argsort(rank, kind="stable")
    bounds = np.concatenate(([0], np.cumsum(np.bincount(rank))))
    for start, end in itertools.pairwise(bounds):
        lanes = order[by_rank[start:end]]
        rows = index[lanes]
        current = table[rows]
        old[lanes] = current
        if function is None:
            table[rows] = np.where(current == values[0][lanes], values[1][lanes], current)
        else:
            new = [
                function(np.ascontiguousarray(current[:, c]), np.ascontiguousarray(values[0][lanes, c]))
                for c in range(table.shape[1])
            ]
            table[rows] = np.stack(new, 1)
    return old


BULK: tuple[np.ufunc, ...] = (np.add, np.fmin, np.fmax, np.bitwise_and, np.bitwise_or, np.bitwise_xor)


def bulk_integer_add(table: Array, ordered: Array, order: Array, starts: Array, values: Array, old: Array) -> Array:
    """Prefix sums give what each lane sees when several add to one address."""
    added = values[order]
    total = np.cumsum(added, axis=0, dtype=added.dtype)
    before = total - added
    lengths = np.diff(np.concatenate((starts, [len(order)])))
    rows = ordered[starts]
    seen = table[ordered] + before - np.repeat(before[starts], lengths, axis=0)
    old[order] = seen
    last = np.concatenate((starts[1:], [len(order)])) - 1
    table[rows] = seen[last] + added[last]
    return old
