"""All-pairs selection: few rows in which every two values of two axes meet."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def pairwise(axes: Mapping[str, Sequence[Any]], allowed: Callable[[Row], bool], *, seed: int = 0) -> list[Row]:
    """Rows over ``axes`` so that each pair of values that ``allowed`` admits in some row occurs in one.

    Args:
        axes: axis name -> its values, the cheapest value first.
        allowed: whether a whole row may be used.
        seed: of the choice among equally good rows.

    Returns:
        Rows, each with one value per axis.
    """
    rng = random.Random(seed)
    indices = {name: range(len(values)) for name, values in axes.items()}
    open_pairs = {(a, i, b, j) for a, b in itertools.combinations(axes, 2) for i in indices[a] for j in indices[b]}
    order = sorted(open_pairs)
    rng.shuffle(order)
    rows: list[Row] = []
    for pair in order:
        if pair not in open_pairs:
            continue
        a, i, b, j = pair
        best, gain = None, -1
        cheapest = dict.fromkeys(axes, 0)
        for candidate in itertools.chain(
            ({name: rng.choice(indices[name]) for name in axes} for _ in range(60)), [cheapest]
        ):
            candidate |= {a: i, b: j}
            if not allowed(_values(axes, candidate)):
                continue
            covered = len(open_pairs & _pairs(candidate))
            if covered > gain:
                best, gain = candidate, covered
        open_pairs.discard(pair)
        if best is not None:
            open_pairs -= _pairs(best)
            rows.append(_values(axes, best))
    return rows


def _pairs(row: Mapping[str, int]) -> set[tuple[str, int, str, int]]:
    return {(a, row[a], b, row[b]) for a, b in itertools.combinations(row, 2)}


def _values(axes: Mapping[str, Sequence[Any]], row: Mapping[str, int]) -> Row:
    return {name: axes[name][i] for name, i in row.items()}
