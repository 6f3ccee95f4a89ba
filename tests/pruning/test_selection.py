"""Scores and budgets: which units stay, checked against counting by hand and direct sums."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pruning.small import network
from vsr.errors import UserError
from vsr.models.base import Upscaler
from vsr.models.pruned import check_kept
from vsr.models.units import units_of
from vsr.pruning.cost import GigaMacs, Milliseconds, Parameters, UnitCount, counts_of
from vsr.pruning.cut import cut, dense_form, unscaled
from vsr.pruning.latency import TimeTable
from vsr.pruning.scales import ScaledNetwork
from vsr.pruning.selection import SelectionConfig, choose, scores, select


def chosen(model: Upscaler, **settings: Any) -> dict[str, list[int]]:
    units = units_of(model)
    return choose(units, model.state_dict(), unscaled(units), SelectionConfig(**settings))


# Scores ---------------------------------------------------------------------------------------------------------------


def test_scores_are_what_they_are_called() -> None:
    model = network("bidirectional")
    units = units_of(model)
    factors = {group: torch.rand(size) - 0.5 for group, size in units.sizes.items()}
    state = model.state_dict()
    block = units.blocks[0]
    conv1, conv2, up = (state[f"{name}.weight"] for name in (f"{block}.conv1", f"{block}.conv2", "upconv1"))
    by_scale = scores(units, state, factors, "scale")
    assert by_scale[f"{block}.in"].tolist() == factors[f"{block}.in"].abs().double().tolist()
    by_norm, by_l1 = scores(units, state, factors, "scale-norm"), scores(units, state, factors, "l1")
    # conv1 has scales on both sides
    scaled = conv1 * factors[f"{block}.hidden"][:, None, None, None] * factors[f"{block}.in"][:, None, None]
    out = conv2[3] * factors[f"{block}.out"][3]
    group = up[8:12] * factors["upconv1.out"][2]  # unit 2 is the filters 8 to 11
    for found, wanted in (
        (by_norm[f"{block}.in"][1], scaled[:, 1].square().mean().sqrt()),
        (by_norm[f"{block}.hidden"][1], scaled[1].square().mean().sqrt()),
        (by_norm[f"{block}.out"][3], out.square().mean().sqrt()),
        (by_norm["upconv1.out"][2], group.square().mean().sqrt()),
        (by_l1[f"{block}.in"][1], scaled[:, 1].abs().mean()),
        (by_l1["upconv1.out"][2], group.abs().mean()),
    ):
        assert float(found) == pytest.approx(float(wanted), rel=1e-5)


def test_scales_that_are_all_the_same_are_an_error() -> None:
    with pytest.raises(UserError, match="all scales are the same, so they rank nothing: train them first"):
        chosen(network("prelu"), ratio=0.5, score="scale")


def test_folding_scales_changes_no_score() -> None:
    scaled = ScaledNetwork(network("unidirectional"))
    with torch.no_grad():
        for scale in scaled.scales:
            scale.uniform_(0.2, 2)
    config = SelectionConfig(ratio=0.5, align=1)
    units = scaled.units
    before = choose(units, scaled.dense.state_dict(), scaled.factors, config)
    assert choose(units, scaled.folded().state_dict(), unscaled(units), config) == before


# Budgets --------------------------------------------------------------------------------------------------------------


def test_a_global_ratio_drops_the_least_scores() -> None:
    model = network("prelu")
    units = units_of(model)
    kept = chosen(model, ratio=0.5, align=1)
    worth = scores(units, model.state_dict(), unscaled(units), "scale-norm")
    assert sum(map(len, kept.values())) == 16
    left = [float(worth[group][i]) for group in kept for i in kept[group]]
    gone = [float(worth[group][i]) for group in kept for i in range(8) if i not in kept[group]]
    assert min(left) > max(gone)


@pytest.mark.parametrize("kind", ["bidirectional", "prelu"])
@pytest.mark.parametrize("score", ["scale-norm", "l1"])
def test_a_ratio_per_layer_is_the_same_everywhere(kind: str, score: str) -> None:
    kept = chosen(network(kind), ratio=0.5, align=1, scope="layer", score=score)
    sizes = units_of(network(kind)).sizes
    assert {group: len(numbers) for group, numbers in kept.items()} == {g: n // 2 for g, n in sizes.items()}


def test_ties_fall_in_turns_of_all_groups() -> None:
    units = units_of(network("bidirectional"))
    config = SelectionConfig(ratio=0.5, align=1)
    kept = select(units, unscaled(units), UnitCount(units), sum(units.sizes.values()) / 2, config, units.everything)
    assert all(len(kept[group]) == size // 2 for group, size in units.sizes.items())


def test_aligned_widths_keep_the_budget() -> None:
    model = network("bidirectional", width=16)
    sizes = units_of(model).sizes
    kept = chosen(model, ratio=0.5, align=4)
    assert all(len(numbers) % 4 == 0 or len(numbers) == sizes[g] for g, numbers in kept.items())
    left = sum(map(len, kept.values()))
    assert 0.5 * sum(sizes.values()) - 4 < left <= 0.5 * sum(sizes.values())


def test_units_multiplications_and_parameters_are_counted() -> None:
    model = network("bidirectional")
    units = units_of(model)
    kept = chosen(model, ratio=0.4, align=1)
    counts = counts_of(kept)
    pruned = cut(model, kept)
    weights = {name: p for name, p in pruned.named_parameters() if not name.startswith("spynet")}
    assert Parameters(units).total(counts) == sum(p.numel() for p in weights.values())
    macs = 0.0
    for name, p in weights.items():
        area = 4 if name.startswith("upconv2") else 16 if name.startswith(("conv_hr", "conv_last")) else 1
        macs += p.numel() * area if name.endswith("weight") else 0
    assert GigaMacs(units).total(counts) == pytest.approx(macs * 320 * 180 / 1e9)
    assert UnitCount(units).total(counts) == sum(map(len, kept.values()))
    group = f"{units.blocks[1]}.hidden"
    wider = counts | {group: counts[group] + 1}
    for cost in (Parameters(units), GigaMacs(units), UnitCount(units)):
        assert cost.change(counts, group, counts[group] + 1) == pytest.approx(cost.total(wider) - cost.total(counts))


def test_multiplications_of_the_public_network() -> None:
    from vsr.models import BasicVSR

    units = units_of(BasicVSR())
    full = counts_of(units.everything)
    assert GigaMacs(units).total(full) == pytest.approx(337.8, abs=0.05)
    assert Parameters(units).total(full) == 4_851_011


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_budget_of_multiplications_is_used_up_and_kept(scope: str) -> None:
    model = network("bidirectional", width=16)
    units = units_of(model)
    cost = GigaMacs(units)
    full = cost.total(counts_of(units.everything))
    for align in (1, 4):
        kept = chosen(model, gmacs=full / 2, align=align, scope=scope)
        assert 0.45 * full < cost.total(counts_of(kept)) <= 0.5 * full
        check_kept(units, kept)


def test_what_cannot_be_had() -> None:
    model = network("bidirectional")
    with pytest.raises(UserError, match=r"the budget of 1e-06 cannot be met: what cannot be pruned takes 0\.\d+"):
        chosen(model, gmacs=1e-6)
    units = units_of(network("prelu"))
    least = GigaMacs(units).total(dict.fromkeys(units.sizes, 1))
    with pytest.raises(UserError, match=r"cannot be met with widths in these multiples.*a smaller align goes further"):
        chosen(network("prelu"), gmacs=least * 1.5, align=4)


@pytest.mark.parametrize("settings", [{}, {"ratio": 0.5, "gmacs": 1.0}])
def test_exactly_one_budget(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="expected one of ratio, gmacs and milliseconds, got"):
        SelectionConfig(**settings)  # type: ignore[arg-type]


# Corner cases ---------------------------------------------------------------------------------------------------------


def test_worthless_blocks_fall_whole_and_layers_never_do() -> None:
    model = network("bidirectional")
    units = units_of(model)
    block = units.blocks[1]
    worth = {group: torch.rand(size) + 1 for group, size in units.sizes.items()}
    worth[f"{block}.hidden"].zero_()  # without hidden units, nothing of the block matters
    worth["upconv1.out"].zero_()
    total = sum(units.sizes.values())
    config = SelectionConfig(ratio=0.2, align=1)
    kept = select(units, worth, UnitCount(units), 0.8 * total, config, units.everything)
    assert [kept[f"{block}.{part}"] for part in ("in", "hidden", "out")] == [[], [], []]
    assert len(kept["upconv1.out"]) >= 1
    assert int(0.8 * total) - 1 <= sum(map(len, kept.values())) <= 0.8 * total  # what the block left is spent
    check_kept(units, kept)


def test_a_pruned_network_is_pruned_further() -> None:
    model = network("bidirectional")
    once = cut(model, chosen(model, ratio=0.3, align=1))
    dense, present = dense_form(once)
    units = units_of(dense)
    config = SelectionConfig(ratio=0.5, align=1)
    twice = choose(units, dense.state_dict(), unscaled(units), config, present)
    assert all(set(twice[group]) <= set(present[group]) for group in units.sizes)
    left, before = (sum(map(len, kept.values())) for kept in (twice, present))
    assert left == before // 2
    assert sum(len(numbers) for numbers in cut(dense, twice).kept.values()) == left


def test_what_is_no_network_for_pruning() -> None:
    model = network("unidirectional")
    model.forward_trunk.main[2][0].res_scale = 0.5  # type: ignore[union-attr,index]
    with pytest.raises(UserError, match=r"cannot be pruned: forward_trunk.main.2.0: expected a residual block"):
        dense_form(model)


# Times ----------------------------------------------------------------------------------------------------------------


class Steps(TimeTable):
    """Kernels that compute 16 outputs at a time, whatever is asked for."""

    def __init__(self) -> None:
        pass

    def seconds_per_pixel(self, kind: str, full: int, inputs: int, outputs: int, repeat: int = 1) -> float:
        return inputs * repeat * -(-outputs // 16) * 1e-12


def test_widths_that_cost_nothing_more_are_taken() -> None:
    model = network("prelu", width=32)
    units = units_of(model)
    cost = Milliseconds(units, Steps())
    worth = scores(units, model.state_dict(), unscaled(units), "scale-norm")
    full = cost.total(counts_of(units.everything))
    kept = select(units, worth, cost, full / 2, SelectionConfig(milliseconds=1, align=8), units.everything)
    assert cost.total(counts_of(kept)) <= full / 2
    for group, numbers in kept.items():
        wider = len(numbers) + 8
        # nothing is left on the table: a wider layer costs more than there is
        if wider <= 32:
            assert cost.total(counts_of(kept) | {group: wider}) > full / 2


def test_measured_times_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = TimeTable(tmp_path)
    first = table.seconds_per_pixel("gather", 16, 5, 7)
    assert first > 0
    assert table.seconds_per_pixel("gather", 16, 8, 8) == first  # widths are rounded up to vectors
    for kind, repeat in (("conv", 1), ("shuffle", 4), ("point", 1), ("scatter", 1)):
        assert table.seconds_per_pixel(kind, 16, 8, 8, repeat) > 0
    table.save()
    (saved,) = tmp_path.iterdir()
    assert len(json.loads(saved.read_text())) == 5
    monkeypatch.setattr("vsr.pruning.latency._measure", None)
    assert TimeTable(tmp_path).seconds_per_pixel("gather", 16, 8, 8) == first
