"""The means of the other tests: would they notice an error, and do they look everywhere?"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from ops.accuracy import SANE, assert_near, assert_same_bits
from ops.cases import BATCHES, CHANNELS, DTYPES, MERGE_REP_BRANCHES, OPERATORS, SIZES, Operator, cases
from ops.inputs import GRADIENT_LAYOUTS, IMAGE_LAYOUTS, VECTOR_LAYOUTS, WEIGHT_LAYOUTS, Draw
from ops.on_backends import BACKENDS, obstacle, parameters
from ops.pairwise import pairwise

LOW = (torch.float32, torch.float16, torch.bfloat16)


def test_pairwise_covers_every_pair() -> None:
    axes = {"a": range(5), "b": "xyz", "c": range(4), "d": (True, False)}
    rows = pairwise(axes, lambda row: True)
    for one, other in itertools.combinations(axes, 2):
        assert {(row[one], row[other]) for row in rows} == set(itertools.product(axes[one], axes[other]))
    assert len(rows) < 2 * 5 * 4


def test_pairwise_keeps_to_what_is_allowed() -> None:
    axes = {"a": range(6), "b": range(6), "c": range(3)}
    rows = pairwise(axes, lambda row: row["a"] + row["b"] + row["c"] < 8)
    assert all(row["a"] + row["b"] + row["c"] < 8 for row in rows)
    assert {(row["a"], row["b"]) for row in rows} == {(a, b) for a in range(6) for b in range(6) if a + b < 8}


@pytest.mark.parametrize("operator", [op for op in OPERATORS if op is not MERGE_REP_BRANCHES], ids=lambda op: op.name)
def test_each_value_meets_each_dtype_and_activation(operator: Operator) -> None:
    """Every height, width, channel count and layout occurs in every dtype and with every activation."""
    chosen = [case.row for case in cases(operator)]
    wanted = {"n": BATCHES, "h": SIZES, "w": SIZES, "layout": IMAGE_LAYOUTS, "gradient": GRADIENT_LAYOUTS}
    for name in ("c", "c_in", "c_out", "c_mid", "c_res"):
        if name in operator.axes:
            wanted[name] = CHANNELS
    if "weight" in operator.axes:
        wanted |= {"weight": WEIGHT_LAYOUTS, "vector": (None, *VECTOR_LAYOUTS)}
    partners = {"dtype": DTYPES} | (
        {"activation": operator.axes["activation"]} if "activation" in operator.axes else {}
    )
    for name, values in wanted.items():
        for partner, others in partners.items():
            met = {(row[name], row[partner]) for row in chosen}
            assert met >= set(itertools.product(values, others)), (name, partner)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda op: op.name)
def test_each_cell_of_the_table_has_tests(operator: Operator) -> None:
    """Operator x backend x dtype: tested, or skipped for a reason that is said."""
    cells: dict[tuple[str, str], list[bool]] = {}
    for parameter in parameters([operator]):
        (cell,) = (mark for mark in parameter.marks if mark.name == "cell")
        skips = [mark for mark in parameter.marks if mark.name == "skip"]
        assert all(mark.kwargs["reason"] for mark in skips)
        cells.setdefault(cell.args[1:], []).append(not skips)
    assert set(cells) == set(itertools.product(BACKENDS, [str(d).removeprefix("torch.") for d in DTYPES]))
    for (backend, dtype), run in cells.items():
        assert all(run) == (obstacle(operator.name, backend, getattr(torch, dtype)) is None)
        assert len(run) >= 2 or not run[0]


def numbers(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """True values and their rounding."""
    true = Draw(51, torch.float64, "cpu", exact=False).image((2, 8, 9, 10))
    return true, true.to(dtype)


@pytest.mark.parametrize("dtype", LOW)
def test_rounding_passes(dtype: torch.dtype) -> None:
    true, rounded = numbers(dtype)
    assert_near(rounded, true, [rounded], "rounded", dtype)
    assert_near(rounded, true, [], "rounded", dtype)


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("baseline", [True, False])
def test_errors_are_noticed(dtype: torch.dtype, baseline: bool) -> None:
    """One wrong value, noise of three roundings, a small bias everywhere, a wrong sign, NaN, another shape."""
    true, rounded = numbers(dtype)
    low = [rounded] if baseline else []
    factor = 2 if baseline else SANE[dtype] / torch.finfo(dtype).eps
    unit = factor * torch.finfo(dtype).eps
    one = rounded.clone()
    one[1, 3, 5, 7] += max(8 * unit, unit) * 3
    noisy = (true + 3 * unit * torch.randn_like(true)).to(dtype)
    missing = rounded.clone()
    missing[0, 0, 0, 0] = torch.nan
    biased = (true * (1 + 2 * unit)).to(dtype)
    wrong = [
        ("largest error", one),
        ("error", noisy),
        ("error" if baseline else "L2", biased),
        ("error", -rounded),
        ("not finite", missing),
        ("shape", rounded[:1]),
    ]
    for text, values in wrong:
        with pytest.raises(AssertionError, match=text):
            assert_near(values, true, low, "wrong", dtype)


def test_a_bad_baseline_is_noticed() -> None:
    true, rounded = numbers(torch.float32)
    with pytest.raises(AssertionError, match="PyTorch itself is off"):
        assert_near(rounded, true, [rounded * 1.001], "output", torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_are_compared(dtype: torch.dtype) -> None:
    x = torch.tensor([1.0, 0.0, torch.nan], dtype=dtype)
    assert_same_bits(x, x.clone(), "x")
    for other in (torch.tensor([1.0, -0.0, torch.nan], dtype=dtype), x.nextafter(x + 1) if dtype in LOW[:1] else x * 2):
        with pytest.raises(AssertionError, match="of 3 values differ"):
            assert_same_bits(x, other, "x")
    with pytest.raises(AssertionError, match="float"):
        assert_same_bits(x, x.to(torch.float32 if dtype != torch.float32 else torch.float64), "x")


@pytest.mark.parametrize("dtype", LOW)
def test_exact_numbers_are_exact(dtype: torch.dtype) -> None:
    """They survive every dtype under test, and their products add up in float32 without rounding."""
    draw, wide = Draw(52, dtype, "cpu", exact=True), Draw(52, torch.float64, "cpu", exact=True)
    assert torch.equal(draw.image((3, 4, 5, 6)).double(), wide.image((3, 4, 5, 6)))
    assert torch.equal(draw.weight((8, 100, 3, 3)).double(), wide.weight((8, 100, 3, 3)))
    assert torch.equal(draw.bias(50).double(), wide.bias(50))
    assert torch.equal(draw.slope(50).double(), wide.slope(50))
    assert torch.equal(draw.gradient((3, 4, 5, 6)).double(), wide.gradient((3, 4, 5, 6)))
    x, weight = wide.image((1, 100, 6, 6)), wide.weight((4, 100, 3, 3))
    product = torch.nn.functional.conv2d(x, weight)
    assert torch.equal(torch.nn.functional.conv2d(x.float(), weight.float()).double(), product)


@pytest.mark.parametrize("dtype", LOW)
def test_exact_flows_avoid_wholes_and_halves(dtype: torch.dtype) -> None:
    for reach in (0.5, 30.0, 3e4):
        flow = Draw(53, dtype, "cpu", exact=True).flow((2, 2, 9, 10), reach, dtype).double()
        fraction = (flow - flow.floor()) * 16
        assert set(fraction.unique().tolist()) <= {1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0}
