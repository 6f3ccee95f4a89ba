"""The AMX convolutions of bfloat16, whatever the CPU: their source on tile registers in software (python/amxvm). The
instructions themselves, and those of the object that is shipped: here for the convolutions of bytes, too."""

from __future__ import annotations

import itertools
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import amxvm
from ops import truth
from ops.accuracy import assert_near, assert_same_bits
from ops.inputs import Draw, lay_out
from vsr_kernels import build

BF16 = torch.bfloat16
SIDES = (1, 2, 3, 5, 16, 17, 33)
C_IN = (1, 3, 4, 8, 17, 32, 37, 64, 100)
C_OUT = (1, 3, 12, 16, 37, 48, 64)

#: What follows the sums, by name: the keywords of conv3x3, tensors still to be drawn.
TAILS: dict[str, dict[str, Any]] = {
    "plain": {},
    "relu": {"activation": "relu"},
    "leaky": {"activation": "leaky_relu", "slope": 0.125},
    "prelu": {"activation": "prelu", "slope": "all"},
    "prelus": {"activation": "prelu", "slope": "each", "residual": "same"},
    "residual": {"residual": "same", "scale": 0.5},
    "kept": {"activation": "prelu", "slope": "each", "residual": "same", "keep": True},
    "scatter": {"activation": "relu", "residual": "wider"},
    "shuffle2": {"pixel_shuffle": 2, "activation": "prelu", "slope": "each", "residual": "same", "keep": True},
    "shuffled": {"pixel_shuffle": 2, "activation": "prelu", "slope": "each"},
    "shuffle4": {"pixel_shuffle": 4, "activation": "leaky_relu", "slope": 0.25, "residual": "same"},
}


class Drawn:
    """Operands of one convolution.

    Args:
        seed: of the random numbers.
        shape: (N, C_in, H, W).
        c_out: channels of the weight.
        tail: a name in :data:`TAILS`.
        exact: draw numbers of few bits.
    """

    def __init__(self, seed: int, shape: tuple[int, ...], c_out: int, tail: str = "plain", *, exact: bool = False):
        draw = Draw(seed, BF16, "cpu", exact=exact)
        n, c_in, h, w = shape
        self.x, self.weight, self.bias = draw.image(shape), draw.weight((c_out, c_in, 3, 3)), draw.bias(c_out)
        self.keywords = dict(TAILS[tail])
        r = self.keywords.get("pixel_shuffle", 1)
        if isinstance(self.keywords.get("slope"), str):
            self.keywords["slope"] = draw.slope(c_out if self.keywords["slope"] == "each" else 1)
        if self.keywords.get("residual") == "same":
            self.keywords["residual"] = draw.image((n, c_out // (r * r), h * r, w * r))
        elif self.keywords.get("residual") == "wider":
            self.keywords["residual"] = draw.image((n, c_out + 9, h, w))
            self.keywords["out_channels"] = torch.randperm(c_out + 9, generator=draw.generator)[:c_out]

    def run(self, library: amxvm.Library, **how: Any) -> tuple[Tensor, Tensor | None]:
        """By the kernels."""
        return library.conv3x3(self.x, self.weight, self.bias, **self.keywords, **how)

    def expected(self) -> tuple[Tensor, Tensor]:
        """The output and what may be kept, in float64."""
        return self._follow(truth.convolve(self.x.double(), self.weight.double(), self.bias.double()), torch.float64)

    def plain(self) -> tuple[list[Tensor], list[Tensor]]:
        """The same by PyTorch in bfloat16, in both memory formats."""
        outs, kepts = [], []
        for memory in (torch.contiguous_format, torch.channels_last):
            x, weight = self.x.contiguous(memory_format=memory), self.weight.contiguous(memory_format=memory)
            out, kept = self._follow(F.conv2d(x, weight, self.bias, padding=1), BF16)
            outs.append(out)
            kepts.append(kept)
        return outs, kepts

    def _follow(self, z: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        words = self.keywords
        slope = words.get("slope")
        slope = slope.to(dtype) if isinstance(slope, Tensor) else slope
        kept = truth.shuffle(z, words.get("pixel_shuffle", 1))
        y = truth.activate(z, words.get("activation", "none"), slope) * words.get("scale", 1.0)
        y = truth.shuffle(y, words.get("pixel_shuffle", 1))
        if "out_channels" in words:
            return words["residual"].to(dtype).index_add(1, words["out_channels"], y), kept
        return (y + words["residual"].to(dtype) if "residual" in words else y), kept

    def check(self, library: amxvm.Library, **how: Any) -> None:
        """Values by the rule of accuracy.py."""
        out, kept = self.run(library, **how)
        (true_out, true_kept), (outs, kepts) = self.expected(), self.plain()
        assert_near(out, true_out, outs, "output", BF16)
        if kept is not None:
            assert_near(kept, true_kept, kepts, "kept", BF16)


def batch(height: int, width: int) -> int:
    """Images, 1 to 3; many where they have a few pixels, of which PyTorch's own error may be small by chance."""
    return 1 + (height + width) % 3 + 60 // (height * width)


@pytest.mark.parametrize("c_out", C_OUT)
@pytest.mark.parametrize("c_in", C_IN)
def test_channels(library: amxvm.Library, c_in: int, c_out: int) -> None:
    """Sizes at which blocks begin and end, buffers between guard pages at their first or last byte."""
    for i, (height, width) in enumerate(((1, 1), (2, 33), (5, 16), (17, 17), (33, 5), (3, 50))):
        Drawn(i, (batch(height, width), c_in, height, width), c_out).check(library, at_end=i % 2 == 0)


@pytest.mark.parametrize("c_in", [3, 4, 37, 64])
@pytest.mark.parametrize("height", SIDES)
def test_sizes(library: amxvm.Library, height: int, c_in: int) -> None:
    for i, width in enumerate(SIDES):
        Drawn(i, (batch(height, width), c_in, height, width), 20, "prelus").check(library, at_end=i % 2 == 1)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize(
    ("c_in", "c_out"), [(1, 12), (3, 64), (8, 48), (37, 37), (64, 16), (64, 48), (100, 64), (17, 1)]
)
def test_tails(library: amxvm.Library, c_in: int, c_out: int, tail: str) -> None:
    """Columns that lie next to each other in the output, and those that do not."""
    r = TAILS[tail].get("pixel_shuffle", 1)
    c_out = -(-c_out // (r * r)) * r * r
    for i, (height, width) in enumerate(((7, 3), (9, 40), (4, 33))):
        Drawn(i, (2, c_in, height, width), c_out, tail).check(library, at_end=i % 2 == 0, bands=i + 1)


@pytest.mark.parametrize("channels", [3, 4, 16, 24])
@pytest.mark.parametrize("tail", ["shuffle2", "shuffled", "shuffle4"])
def test_shuffles(library: amxvm.Library, channels: int, tail: str) -> None:
    """Sub-rows of less than 16 values, of some and of whole blocks of them."""
    Drawn(2, (1, 19, 6, 35), channels * TAILS[tail]["pixel_shuffle"] ** 2, tail).check(library)


@pytest.mark.parametrize("tail", ["plain", "kept", "scatter", "shuffle2", "shuffle4"])
@pytest.mark.parametrize("c_in", [2, 5, 32, 37])
def test_nothing_but_the_operands_changes_a_bit(library: amxvm.Library, c_in: int, tail: str) -> None:
    """Neither bands, threads, where buffers lie nor what was in memory before."""
    case = Drawn(7, (2, c_in, 13, 53), 80, tail)
    out, kept = case.run(library)
    ways: list[dict[str, Any]] = [{"bands": bands} for bands in (2, 3, 7, 1000)]
    ways += [{"bands": 5, "threads": True}, {"at_end": False}, {"garbage": 0}, {"garbage": 0x4B, "bands": 3}]
    for how in ways:
        other, other_kept = case.run(library, **how)
        assert_same_bits(other, out, f"output, {how}")
        if kept is not None and other_kept is not None:
            assert_same_bits(other_kept, kept, f"kept, {how}")


@pytest.mark.parametrize(("c_in", "c_out"), [(3, 64), (4, 20), (37, 16), (64, 48)])
def test_the_place_of_a_pixel_changes_no_bit(library: amxvm.Library, c_in: int, c_out: int) -> None:
    """Neither its image in the batch nor its place in a block, staged or not."""
    case = Drawn(4, (3, c_in, 21, 71), c_out)
    whole, _ = case.run(library)
    for n in range(3):
        alone, _ = library.conv3x3(case.x[n : n + 1], case.weight, case.bias)
        assert_same_bits(alone, whole[n : n + 1], f"image {n}")
    for top, left, height, width in ((0, 0, 9, 11), (1, 10, 20, 40), (7, 38, 14, 33), (5, 1, 3, 68)):
        rows, cols = slice(top, top + height), slice(left, left + width)
        piece, _ = library.conv3x3(case.x[..., rows, cols], case.weight, case.bias)
        assert_same_bits(piece[..., 1:-1, 1:-1], whole[..., rows, cols][..., 1:-1, 1:-1], f"piece at {top}, {left}")


@pytest.mark.parametrize("c_in", [1, 3, 7, 37, 64])
def test_exact_sums(library: amxvm.Library, c_in: int) -> None:
    """Numbers of few bits: float32 sums are exact, and so is everything before the one rounding of the output."""
    case = Drawn(9, (2, c_in, 10, 37), 37, exact=True)
    assert_same_bits(case.run(library)[0] + 0.0, case.expected()[0].to(BF16) + 0.0, "output")


@pytest.mark.parametrize("tail", ["plain", "scatter"])
@pytest.mark.parametrize("c_in", [1, 3, 4, 17, 32, 37])
def test_gathered_channels(library: amxvm.Library, c_in: int, tail: str) -> None:
    """The same bits as of the channels alone, wherever they come from; what is not taken may be anything."""
    case = Drawn(8, (2, c_in, 9, 37), 37, tail)
    expected, _ = case.run(library)
    x = torch.full((2, c_in + 27, 9, 37), torch.nan, dtype=BF16)
    channels = torch.randperm(c_in + 27, generator=torch.Generator().manual_seed(1))[:c_in]
    x[:, channels] = case.x
    for at_end in (False, True):
        got, _ = library.conv3x3(
            x, case.weight, case.bias, **case.keywords, in_channels=channels, at_end=at_end, bands=3
        )
        assert_same_bits(got, expected, "output")


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "swapped"])
def test_layouts_of_the_weight(library: amxvm.Library, layout: str) -> None:
    draw = Draw(2, BF16, "cpu", exact=False)
    x, weight = draw.image((1, 21, 6, 18)), draw.weight((19, 21, 3, 3))
    expected, _ = library.conv3x3(x, weight)
    assert_same_bits(library.conv3x3(x, lay_out(weight, layout))[0], expected, layout)


@pytest.mark.parametrize("tail", ["plain", "residual", "shuffle2"])
@pytest.mark.parametrize("c_in", [3, 4, 37, 64])
def test_nan_and_infinity_stay_in_their_place(library: amxvm.Library, c_in: int, tail: str) -> None:
    """Beside the taps, where weights are zero but infinity times zero is not, as well."""
    case = Drawn(5, (2, c_in, 13, 52), 20, tail, exact=True)
    x = case.x
    x[0, 0, 1, 1], x[0, 1, 7, 6], x[1, 2, 0, 0], x[1, 0, 12, 51] = torch.nan, torch.inf, -torch.inf, torch.inf
    x[1, 1, 6, 29], x[1, 2, 6, 30] = torch.inf, -torch.inf
    got, expected = case.run(library)[0], case.expected()[0]
    for kind in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(kind(got), kind(expected))
    finite = expected.isfinite()
    assert_same_bits(got[finite] + 0.0, expected[finite].to(BF16) + 0.0, "finite values")
    assert not finite.all()


def test_subnormal_numbers_count_as_zero(library: amxvm.Library) -> None:
    """As operands and as results; the instruction says so, and PyTorch's error rule cannot ask for more."""
    x = torch.full((1, 40, 5, 20), torch.finfo(BF16).tiny / 2, dtype=BF16)
    weight = torch.full((16, 40, 3, 3), 2.0, dtype=BF16)
    assert_same_bits(library.conv3x3(x, weight)[0], torch.zeros(1, 16, 5, 20, dtype=BF16), "subnormal operands")
    x.fill_(torch.finfo(BF16).tiny)
    assert_same_bits(library.conv3x3(x, weight / 1e5)[0], torch.zeros(1, 16, 5, 20, dtype=BF16), "subnormal products")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_dtypes_are_left_to_vectors(library: amxvm.Library, dtype: torch.dtype) -> None:
    draw = Draw(1, dtype, "cpu", exact=False)
    with pytest.raises(amxvm.AmxError, match="left to avx512_bf16"):
        library.conv3x3(draw.image((1, 16, 4, 4)), draw.weight((16, 16, 3, 3)))


def test_no_input_channels_are_left_to_vectors(library: amxvm.Library) -> None:
    with pytest.raises(amxvm.AmxError, match="left to avx512_bf16"):
        library.conv3x3(torch.zeros(1, 0, 4, 4, dtype=BF16), torch.zeros(16, 0, 3, 3, dtype=BF16))


# Counts: the plan in figures


@pytest.mark.parametrize(
    ("c_in", "c_out", "multiplies", "loads"),
    [
        (64, 64, 288, 216 + 16),
        (64, 48, 216, 162 + 12),
        (3, 64, 16, 20 + 16),
        (37, 37, 144, 108 + 12),
        (4, 16, 12, 9 + 4),
    ],
)
def test_instructions_per_block(library: amxvm.Library, c_in: int, c_out: int, multiplies: int, loads: int) -> None:
    """Per block of 4 rows of 16 pixels; those of the bias behind the plus. One configuration per call."""
    blocks = 3 * 4
    library.conv3x3(torch.ones(1, c_in, 12, 64, dtype=BF16), torch.ones(c_out, c_in, 3, 3, dtype=BF16))
    counts = library.counts()
    assert counts.configurations == 1
    assert counts.multiplies == blocks * multiplies
    assert counts.loads == blocks * loads
    assert counts.stores == blocks * 4 * -(-c_out // 16)
    assert counts.loaded_bytes == 1024 * counts.loads


def test_rows_below_the_image_cost_nothing(library: amxvm.Library) -> None:
    """One row of outputs takes three lines per step."""
    library.conv3x3(torch.ones(1, 64, 1, 16, dtype=BF16), torch.ones(16, 64, 3, 3, dtype=BF16))
    counts = library.counts()
    assert (counts.multiplies, counts.loads, counts.stores) == (6 * 3, 6 * (3 + 3) + 1, 1)


def test_whole_lines_are_loaded(library: amxvm.Library) -> None:
    """With whole steps of aligned pixels each row of a tile is one cache line, staged blocks included."""
    library.conv3x3(torch.ones(1, 64, 12, 64, dtype=BF16), torch.ones(64, 64, 3, 3, dtype=BF16), at_end=False)
    counts = library.counts()
    assert counts.lines == 16 * counts.loads


# The instructions, beside NumPy's idea of them


def whole_config(rows: int = 16, row_bytes: int = 64, words: int = 16) -> amxvm.TileConfig:
    config = amxvm.TileConfig(palette=1)
    for tile in range(8):
        config.rows[tile], config.row_bytes[tile] = 16, 64
    config.rows[7], config.row_bytes[0] = rows, row_bytes
    config.rows[0], config.row_bytes[4] = rows, row_bytes
    config.rows[4], config.row_bytes[7] = words, 4 * words
    return config


@pytest.fixture
def tiles(library: amxvm.Library) -> Iterator[amxvm.Library]:
    yield library
    library.release()


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (5, 16), (16, 3)])
def test_the_product_of_tiles(tiles: amxvm.Library, rows: int, columns: int) -> None:
    """Tile 0 += tile 7 x tile 4; what its shape leaves out is zero."""
    draw = Draw(3, BF16, "cpu", exact=True)
    a, b, c = draw.image((16, 32)), draw.image((32, 16)), draw.image((16, 16)).float()
    pairs = b.view(16, 2, 16).transpose(1, 2).contiguous()  # [k / 2][column][k % 2]
    tiles.configure(whole_config(rows, 4 * columns))
    tiles.load(7, a, 64)
    tiles.load(4, pairs, 64)
    tiles.load(0, c, 64)
    tiles.multiply(0, 7, 4)
    got = torch.full((16, 16), torch.nan)
    tiles.store(0, got, 64)
    expected = c.double() + a.double() @ b.double()
    assert torch.equal(got[:rows, :columns].double(), expected[:rows, :columns])
    assert got[rows:].isnan().all() and got[:, columns:].isnan().all()


@pytest.mark.parametrize(("rows", "columns", "words"), [(16, 16, 16), (5, 16, 16), (16, 3, 16), (7, 9, 4)])
def test_the_product_of_tiles_of_bytes(tiles: amxvm.Library, rows: int, columns: int, words: int) -> None:
    """Without a sign times with one, exact, but modulo 2^32: against NumPy's integers."""
    random = np.random.default_rng(1)
    a = random.integers(0, 256, (16, 64), dtype=np.uint8)
    b = random.integers(-128, 128, (64, 16), dtype=np.int8)
    c = random.integers(-(2**31), 2**31, (16, 16), dtype=np.int32)
    a[0], b[:, 0] = 255, -128
    c[0, 0], c[1, 1], c[2, 2] = -(2**31), 2**31 - 1, 0
    fours = np.ascontiguousarray(b.reshape(16, 4, 16).transpose(0, 2, 1))  # [k / 4][column][k % 4]
    tiles.configure(whole_config(rows, 4 * columns, words))
    tiles.load(7, torch.from_numpy(a), 64)
    tiles.load(4, torch.from_numpy(fours), 64)
    tiles.load(0, torch.from_numpy(c), 64)
    tiles.multiply_bytes(0, 7, 4)
    got = torch.full((16, 16), 12345, dtype=torch.int32)
    tiles.store(0, got, 64)
    whole = c.astype(np.int64) + a[:, : 4 * words].astype(np.int64) @ b[: 4 * words].astype(np.int64)
    assert whole[0, 0] < -(2**31)  # which wraps around
    expected = whole.astype(np.uint32).view(np.int32)
    assert np.array_equal(got[:rows, :columns].numpy(), expected[:rows, :columns])
    assert (got[rows:] == 12345).all() and (got[:, columns:] == 12345).all()


def test_the_order_of_sums(tiles: amxvm.Library) -> None:
    """First and second halves of pairs apart, in order; then both; then what was there. Each sum is rounded."""
    a, b = torch.zeros(16, 32, dtype=BF16), torch.ones(16, 32, dtype=BF16)
    a[0, :6] = torch.tensor([2.0**24, 1, 1, 1, 1, -(2.0**24)])
    a[1, :2] = torch.tensor([2.0**-24, 2.0**-24])
    tiles.configure(whole_config())
    tiles.load(7, a, 64)
    tiles.load(4, b, 64)
    tiles.load(0, torch.ones(16, 16), 64)
    tiles.multiply(0, 7, 4)
    got = torch.empty(16, 16)
    tiles.store(0, got, 64)
    # 2^24 + 1 + 1 stays 2^24 at each step; 1 + 1 - 2^24 = 2 - 2^24; their sum is 2; and 1 more.
    assert got[0, 0] == 3.0
    # Added to 1 one by one, both would be lost; together they are one unit in the last place.
    assert got[1, 0] == 1.0 + 2.0**-23


def test_subnormal_numbers_in_tiles(tiles: amxvm.Library) -> None:
    """Zero, with their sign lost in a sum."""
    tiny = torch.finfo(torch.float32).tiny
    a, b = torch.zeros(16, 32, dtype=BF16), torch.zeros(16, 32, dtype=BF16)
    a[0, 0], b[0, 0] = tiny / 2, 1.0  # an operand
    a[1, 2], b[1, 2] = tiny, 0.5  # a product
    sums = torch.zeros(16, 16)
    sums[2, 0] = tiny / 2  # the sum
    tiles.configure(whole_config())
    for tile, values in ((7, a), (4, b), (0, sums)):
        tiles.load(tile, values, 64)
    tiles.multiply(0, 7, 4)
    tiles.store(0, sums, 64)
    assert not sums.any()


def test_a_tile_moves_its_rows_only(tiles: amxvm.Library) -> None:
    """What lies behind them stays as it is."""
    tiles.configure(whole_config(rows=2))
    tiles.load(7, torch.ones(2, 32, dtype=BF16), 64)
    got = torch.full((16, 32), 7, dtype=BF16)
    tiles.store(7, got, 64)
    assert (got[:2] == 1).all()
    assert (got[2:] == 7).all()


def bad(**changes: int) -> amxvm.TileConfig:
    config = whole_config()
    for name, value in changes.items():
        field, _, index = name.partition("_at_")
        if index:
            getattr(config, field)[int(index)] = value
        else:
            setattr(config, field, value)
    return config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (bad(palette=2), "palette 2 is not 1"),
        (bad(start_row=1), "start_row is not 0"),
        (bad(reserved_at_3=1), "a reserved byte is not 0"),
        (bad(rows_at_8=1), "there is no tile 8"),
        (bad(rows_at_1=17), "tile 1 is too large"),
        (bad(row_bytes_at_1=65), "tile 1 is too large"),
        (bad(rows_at_1=0), "tile 1 has rows or bytes only"),
    ],
)
def test_bad_configurations_fault(tiles: amxvm.Library, config: amxvm.TileConfig, message: str) -> None:
    with pytest.raises(amxvm.AmxError, match=message):
        tiles.configure(config)


def test_what_faults(tiles: amxvm.Library) -> None:
    """Tiles without a shape, and products of what does not fit."""
    values = torch.zeros(16, 32, dtype=BF16)
    for act in (
        lambda: tiles.load(0, values, 64),
        lambda: tiles.store(0, values, 64),
        lambda: tiles.multiply(0, 7, 4),
        lambda: tiles.multiply_bytes(0, 7, 4),
    ):
        with pytest.raises(amxvm.AmxError, match="tiles are not configured"):
            act()
    for name, multiply in (("tdpbf16ps", tiles.multiply), ("tdpbusd", tiles.multiply_bytes)):
        tiles.configure(bad(rows_at_7=3))
        with pytest.raises(amxvm.AmxError, match=f"{name}: the shapes of tile 0, tile 7 and tile 4 do not fit"):
            multiply(0, 7, 4)
        tiles.configure(bad(row_bytes_at_7=63))
        with pytest.raises(amxvm.AmxError, match=f"{name}: rows are not whole words"):
            multiply(0, 7, 4)
        tiles.configure(bad(rows_at_5=0, row_bytes_at_5=0))
        with pytest.raises(amxvm.AmxError, match=f"{name}: tile 5 has no shape"):
            multiply(0, 7, 5)
        with pytest.raises(amxvm.AmxError, match=f"{name}: a register is used twice"):
            multiply(0, 4, 4)


# What is shipped


@pytest.mark.parametrize("tail", ["plain", "prelus", "kept", "scatter", "shuffle2", "shuffle4"])
@pytest.mark.parametrize("c_in", [1, 3, 17, 37, 64])
def test_compiled_instructions(library: amxvm.Library, shipped: amxvm.Library, c_in: int, tail: str) -> None:
    """Executed one by one, they give the same bits: no compiler has moved a store behind what reads it."""
    for seed, (height, width) in enumerate(((3, 17), (6, 50))):
        case = Drawn(seed, (2, c_in, height, width), 48, tail)
        (expected, expected_kept), (got, kept) = case.run(library), case.run(shipped, bands=2)
        assert_same_bits(got, expected, "output")
        if kept is not None and expected_kept is not None:
            assert_same_bits(kept, expected_kept, "kept")


@pytest.fixture(scope="session")
def disassembly() -> str:
    """Of the object beside the package."""
    path = build.installed_object("_C")
    if path is None:
        pytest.skip("_C is not beside the package")
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        pytest.skip("the AMX kernels are for x86-64 and Linux")
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not on PATH")
    command = ["objdump", "-d", "--no-show-raw-insn", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("product", ["tdpbf16ps", "tdpbusd"])
def test_the_object_has_the_instructions(disassembly: str, product: str) -> None:
    """Every combination of sums and weights that the plan multiplies, and no other one."""
    found = set(re.findall(rf"{product}\s+(\S+)", disassembly))
    assert found == {f"%tmm{b},%tmm7,%tmm{c}" for b, c in itertools.product((4, 5, 6), range(4))}
    for name in ("ldtilecfg", "tileloadd", "tilestored", "tilerelease"):
        assert re.search(rf"\b{name}\b", disassembly), name
