"""Which units stay: scores, and a budget in units, multiplications or milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from vsr.errors import UserError
from vsr.models.units import Kept, Units
from vsr.pruning.cost import Cost, GigaMacs, Milliseconds, UnitCount, counts_of
from vsr.pruning.cut import Factors, scaled_weights
from vsr.pruning.latency import TimeTable


class SelectionConfig(BaseModel):
    """How units are chosen.

    Attributes:
        ratio: Share of the units to prune.
        gmacs: Instead: billions of multiplications per frame of 320x180 to be left, without the optical flow's.
        milliseconds: Instead: measured time of the convolutions per frame of 320x180 to be left, likewise.
        score: ``scale``, the size of trained scales, as in SSL; ``scale-norm``, that times the norm of the unit's
            weights (their root mean square, so that layers of other fan-in compare), which needs no trained scales;
            ``l1``, the mean size of the unit's weights.
        scope: ``global``: all units compete; ``layer``: every group loses the same share.
        align: Groups keep multiples of this many units where they can. 16 are one vector of AVX-512 and one tile of
            AMX and of tensor cores; less leaves more choice in narrow networks.

    Raises:
        pydantic.ValidationError: Not exactly one budget, or a value out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    gmacs: Annotated[float, Field(gt=0)] | None = None
    milliseconds: Annotated[float, Field(gt=0)] | None = None
    score: Literal["scale", "scale-norm", "l1"] = "scale-norm"
    scope: Literal["global", "layer"] = "global"
    align: Annotated[int, Field(gt=0)] = 16

    @model_validator(mode="after")
    def _check(self) -> SelectionConfig:
        given = [name for name in ("ratio", "gmacs", "milliseconds") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of ratio, gmacs and milliseconds, got {', '.join(given) or 'none'}")
        return self


@torch.no_grad()
def scores(units: Units, state: Mapping[str, Tensor], factors: Factors, kind: str) -> dict[str, Tensor]:
    """How much every unit matters.

    Args:
        units: The network's.
        state: Its state_dict, without scales.
        factors: Its scales; ones for a network without.
        kind: As in :class:`SelectionConfig`.

    Returns:
        (size,) float64 on the CPU for each group.

    Raises:
        UserError: Scales are asked for, and all are the same: nothing was learned about the units.
    """
    if kind == "scale":
        found = {group: factors[group].abs().double().cpu() for group in units.sizes}
        together = torch.cat(list(found.values()))
        if bool((together == together[0]).all()):
            raise UserError("all scales are the same, so they rank nothing: train them first, or score by scale-norm")
        return found
    scaled = scaled_weights(units, state, factors)
    found = {}
    for group, conv in units.owners.items():
        weight = scaled[f"{conv.path}.weight"].double().cpu()
        if conv.outputs == group:
            rows = weight.reshape(conv.width_out, -1)  # consecutive filters are one unit
        else:
            rows = weight.transpose(0, 1).reshape(conv.width_in, -1)
        found[group] = rows.abs().mean(1) if kind == "l1" else rows.square().mean(1).sqrt()
    return found


def choose(
    units: Units,
    state: Mapping[str, Tensor],
    factors: Factors,
    config: SelectionConfig,
    present: Kept | None = None,
) -> dict[str, list[int]]:
    """Kept units of each group, by score and budget.

    Args:
        units, state, factors: As for :func:`scores`.
        config: What is wanted.
        present: Units that are there; None for all. A ratio is of these.

    Raises:
        UserError: The budget cannot be met, or the scores say nothing.
    """
    present = units.everything if present is None else present
    cost: Cost
    if config.milliseconds is not None:
        table = TimeTable()
        cost, budget = Milliseconds(units, table), config.milliseconds
        kept = select(units, scores(units, state, factors, config.score), cost, budget, config, present)
        table.save()
        return kept
    if config.gmacs is not None:
        cost, budget = GigaMacs(units), config.gmacs
    else:
        assert config.ratio is not None
        cost = UnitCount(units)
        budget = (1 - config.ratio) * cost.total(counts_of(present)) + 1e-6  # a share of whole numbers, rounded
    return select(units, scores(units, state, factors, config.score), cost, budget, config, present)


def select(
    units: Units, worth: Mapping[str, Tensor], cost: Cost, budget: float, config: SelectionConfig, present: Kept
) -> dict[str, list[int]]:
    """Drop the least units until the rest fits the budget, round to good widths, and spend what that leaves.

    Equal scores fall in turns of all groups. A layer keeps its best unit, whatever it scores; a residual block may fall
    whole, and does where one of its groups has nothing left: its output would be a constant.

    Args:
        units: The network's.
        worth: Score of every unit.
        cost: What is limited.
        budget: Its limit.
        config: Scope and alignment.
        present: Units that are there.

    Raises:
        UserError: The budget cannot be met.
    """
    ranked = {group: _best_first(present[group], worth[group]) for group in units.sizes}
    value = {g: _values(ranked[g], worth[g], config.scope) for g in units.sizes}
    order = _order(units, ranked, value)

    def after(dropped: int) -> dict[str, int]:
        counts = {group: len(numbers) for group, numbers in ranked.items()}
        for group in order[:dropped]:
            counts[group] -= 1
        return _closed(units, counts)

    low, high = 0, len(order)  # the least number of dropped units that fits
    if cost.total(after(high)) > budget:
        least = cost.total(after(high))
        raise UserError(f"the budget of {budget:.4g} cannot be met: what cannot be pruned takes {least:.4g}")
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if cost.total(after(middle)) <= budget else (middle + 1, high)
    counts = after(low)
    widths = {g: _widths(len(ranked[g]), config.align) for g in units.sizes}
    for group, count in counts.items():
        if count:
            counts[group] = max([w for w in widths[group] if w <= count], default=widths[group][0])
    _lower(counts, widths, value, cost, budget)
    _raise(counts, widths, value, cost, budget)
    return {group: sorted(ranked[group][:count]) for group, count in counts.items()}


def _best_first(present: Sequence[int], worth: Tensor) -> list[int]:
    listed = worth.tolist()
    return sorted(present, key=lambda unit: (-listed[unit], unit))


def _values(ranked: list[int], worth: Tensor, scope: str) -> list[float]:
    """What units of a group count, best first: their score, or their rank within the group."""
    if scope == "layer":
        return [1 - place / len(ranked) for place in range(len(ranked))]
    return [float(worth[i]) for i in ranked]


def _order(units: Units, ranked: Mapping[str, list[int]], value: Mapping[str, list[float]]) -> list[str]:
    """The groups that lose a unit, one after the other; each loses its worst that is left."""
    of_blocks = units.of_blocks
    entries = []
    for number, (group, numbers) in enumerate(ranked.items()):
        first = 0 if group in of_blocks else 1
        places = range(first, len(numbers))
        entries += [(value[group][place], -place / len(numbers), number, group) for place in places]
    return [group for *_, group in sorted(entries)]


def _closed(units: Units, counts: dict[str, int]) -> dict[str, int]:
    """Blocks that lack one of their groups are gone."""
    for block in units.blocks:
        groups = units.of_block(block)
        if not all(counts[group] for group in groups):
            counts |= dict.fromkeys(groups, 0)
    return counts


def _widths(present: int, align: int) -> list[int]:
    """Numbers of units that a group may keep, ascending."""
    return sorted({*range(align, present, align), present} - {0})


def _lower(
    counts: dict[str, int], widths: Mapping[str, list[int]], value: Mapping[str, list[float]], cost: Cost, budget: float
) -> None:
    """Narrow what is worth least for what it costs until the budget is met; rounding up may have broken it."""
    total = cost.total(counts)
    while total > budget:
        steps = []
        for group, count in counts.items():
            below = [w for w in widths[group] if w < count]
            if below:
                saved = -cost.change(counts, group, below[-1])
                if saved > 0:
                    steps.append((sum(value[group][below[-1] : count]) / saved, group, below[-1]))
        if not steps:
            raise UserError(
                f"the budget of {budget:.4g} cannot be met with widths in these multiples: at least {total:.4g} are "
                "left; a smaller align goes further"
            )
        _, group, width = min(steps)
        total += cost.change(counts, group, width)
        counts[group] = width


def _raise(
    counts: dict[str, int], widths: Mapping[str, list[int]], value: Mapping[str, list[float]], cost: Cost, budget: float
) -> None:
    """Widen what is worth most for what it costs while the budget allows; what costs nothing comes first."""
    total = cost.total(counts)
    while True:
        steps = []
        for group, count in counts.items():
            above = [w for w in widths[group] if w > count]
            if not count or not above:
                continue
            more = cost.change(counts, group, above[0])
            if total + more <= budget:
                gain = sum(value[group][count : above[0]])
                steps.append((gain / more if more > 0 else float("inf"), group, above[0], more))
        if not steps:
            return
        _, group, width, more = max(steps)
        total += more
        counts[group] = width
