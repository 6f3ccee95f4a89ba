"""The CUDA 3x3 convolution, packing and launch code included, on the CPU, against a float64 reference.

ptxvm checks bounds, alignment, races, unfinished copies, reads of shared memory that nobody wrote, and bytes stored by
two blocks. Outputs start as NaN, so that whatever is not written shows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ptxvm
from ptxvm.cudart import Library

Array = npt.NDArray[np.unsignedinteger]
ACTIVATIONS = ["none", "relu", "leaky_relu", "prelu"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]  # as numbered in csrc/core/dtype.h
NEGATIVE_SLOPE = 0.1
INVALID_VALUE, MISALIGNED, NOT_SUPPORTED = 1, 716, 801

pytestmark = pytest.mark.slow  # no operator calls these kernels yet


@dataclass(frozen=True)
class Case:
    """One call of the convolution."""

    c_in: int
    c_out: int
    r: int = 1
    n: int = 1
    h: int = 5
    w: int = 7
    dtype: torch.dtype = torch.bfloat16
    exact: bool = False  # float32 without TF32
    activation: str = "none"
    slopes: int = 0  # of prelu: 0 for one per channel
    bias: bool = True
    residual: bool = False
    scale: float = 1.0
    height: int = 0  # of the tile; 0 for the launcher's choice
    offset: int = 0  # elements by which x misses its alignment
    weight_channels_last: bool = False

    def __str__(self) -> str:
        words = [f"{self.n}x{self.c_in}x{self.h}x{self.w}-{self.c_out}-r{self.r}-{self.activation}"]
        words += [f"tile{self.height}"] * bool(self.height) + ["residual"] * self.residual
        return "-".join(words)


class Inputs:
    """Random operands of a case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        rng = torch.Generator().manual_seed(case.c_in * 1000 + case.c_out)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=rng).to(case.dtype)

        shuffled = (case.n, case.c_out // case.r**2, case.h * case.r, case.w * case.r)
        self.x = normal(case.n, case.c_in, case.h, case.w)
        self.weight = normal(case.c_out, case.c_in, 3, 3) / max(1, 9 * case.c_in) ** 0.5
        if case.weight_channels_last:
            self.weight = self.weight.to(memory_format=torch.channels_last)
        self.bias = normal(case.c_out) if case.bias else None
        self.slope = normal(case.slopes or case.c_out) if case.activation == "prelu" else None
        self.residual = normal(*shuffled) if case.residual else None

    def convolve(self, dtype: torch.dtype, prepare: Callable[[Tensor], Tensor]) -> Tensor:
        case = self.case
        bias = torch.zeros(case.c_out, dtype=dtype) if self.bias is None else self.bias.to(dtype)
        if case.c_in == 0:  # which PyTorch refuses
            return bias[None, :, None, None].expand(case.n, case.c_out, case.h, case.w)
        return F.conv2d(prepare(self.x).to(dtype), prepare(self.weight).to(dtype), bias, padding=1)

    def compute(self, dtype: torch.dtype, prepare: Callable[[Tensor], Tensor] = lambda t: t) -> Tensor:
        """The definition of the operator by PyTorch, in a dtype; ``prepare`` is applied to x and weight."""
        case = self.case
        z = self.convolve(dtype, prepare)
        if case.activation == "relu":
            z = F.relu(z)
        elif case.activation == "leaky_relu":
            z = F.leaky_relu(z, NEGATIVE_SLOPE)
        elif self.slope is not None:
            z = F.prelu(z, self.slope.to(dtype))
        z = F.pixel_shuffle(z, case.r) * case.scale
        return z if self.residual is None else z + self.residual.to(dtype)

    def truth(self) -> Tensor:
        return self.compute(torch.float64)

    def low(self) -> Tensor:
        """What PyTorch makes of it in the arithmetic of the case."""
        if self.case.dtype == torch.float32 and not self.case.exact:
            return self.compute(torch.float32, round_to_tf32)
        return self.compute(self.case.dtype)


def round_to_tf32(x: Tensor) -> Tensor:
    """Ten bits of mantissa, ties away from zero."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def in_memory(x: Tensor, offset: int = 0) -> Array:
    """The elements of a tensor in order, as bits, from an address of 256 bytes plus ``offset`` elements."""
    bits = {2: np.uint16, 4: np.uint32}[x.element_size()]
    ordered = x.reshape(-1).contiguous().view(torch.uint8).numpy().view(bits)
    backing = np.empty(ordered.size + 512 // ordered.itemsize, bits)
    first = -(backing.ctypes.data // ordered.itemsize) % (256 // ordered.itemsize) + offset
    placed = backing[first : first + ordered.size]
    placed[:] = ordered
    return placed


def pixels(x: Tensor, offset: int = 0) -> Array:
    return in_memory(x.permute(0, 2, 3, 1), offset)


def pointer(array: Array | None) -> Array | ctypes.c_void_p:
    return ctypes.c_void_p(0) if array is None else array


def longs(*values: int) -> list[ctypes.c_int64]:
    return [ctypes.c_int64(value) for value in values]


def packed_bytes(library: Library, case: Case) -> int:
    kind = (DTYPES.index(case.dtype), int(case.exact))
    size: int = library.call(
        "conv3x3_packed_bytes", *longs(case.c_in, case.c_out, case.r), *kind, restype=ctypes.c_int64
    )
    return size


def launch(library: Library, inputs: Inputs, out_offset: int = 0) -> tuple[int, Tensor]:
    """Pack and convolve; the launcher's error and the output."""
    case = inputs.case
    kind = (ACTIVATIONS.index(case.activation), DTYPES.index(case.dtype), int(case.exact))
    x, weight = pixels(inputs.x, case.offset), inputs.weight
    in_order = weight.permute(0, 2, 3, 1) if case.weight_channels_last else weight
    bias, slope = (None if t is None else in_memory(t) for t in (inputs.bias, inputs.slope))
    residual = None if inputs.residual is None else pixels(inputs.residual)
    packed = ptxvm.poison(in_memory(torch.empty(packed_bytes(library, case) // 2, dtype=torch.int16)))
    shape = (case.n, case.h * case.r, case.w * case.r, case.c_out // case.r**2)
    out = ptxvm.poison(in_memory(torch.empty(shape, dtype=case.dtype), out_offset))
    arrays = [in_memory(in_order), pointer(bias), pointer(slope), packed]
    numbers = longs(case.c_in, case.c_out, case.r, *weight.stride(), 0 if slope is None else slope.size)
    code = library.call("conv3x3_pack", *arrays, *numbers, NEGATIVE_SLOPE, *kind)
    assert code == 0
    assert library.stats.unwritten(packed) == 0
    sizes = longs(case.n, case.h, case.w, case.c_in, case.c_out, case.r)
    code = library.call("conv3x3", x, packed, pointer(residual), out, *sizes, case.scale, *kind, case.height)
    result = torch.from_numpy(out.view({2: np.int16, 4: np.int32}[out.itemsize]).reshape(shape)).view(case.dtype)
    return code, result.permute(0, 3, 1, 2)


def check(library: Library, case: Case) -> None:
    """At most twice PyTorch's error in that arithmetic, plus one unit in the last place of the largest value."""
    inputs = Inputs(case)
    code, out = launch(library, inputs)
    assert code == 0
    truth = inputs.truth()
    assert torch.isfinite(out).all(), f"{case}: {int((~torch.isfinite(out)).sum())} values were not written"
    error = (out.double() - truth).abs().max().item()
    allowed = 2 * (inputs.low().double() - truth).abs().max().item()
    allowed += torch.finfo(case.dtype).eps * truth.abs().max().item()
    assert error <= allowed, f"{case}: largest error {error:.3e}, allowed {allowed:.3e}"
    if case.height:
        rows = library.launches[-1].grid[1]
        assert rows == -(-case.h // case.height)


@pytest.fixture(scope="module")
def conv(library: Callable[[str], Library]) -> Library:
    return library("conv3x3_call")


SIZES = [(5, 7), (1, 1), (2, 19), (8, 16), (13, 3), (17, 33)]
OUTPUTS = [(3, 1), (12, 2), (48, 4), (64, 1), (37, 1), (64, 2), (100, 1), (100, 2), (48, 1), (12, 1), (16, 4), (27, 3)]
ARITHMETICS = {
    "bf16": (torch.bfloat16, False),
    "f16": (torch.float16, False),
    "tf32": (torch.float32, False),
    "f32": (torch.float32, True),
}


def channel_cases(dtype: torch.dtype, exact: bool) -> Iterator[Case]:
    """Every pair of channel counts, with the other properties in turn."""
    for i, c_in in enumerate((1, 3, 17, 24, 37, 64, 100)):
        for j, (c_out, r) in enumerate(OUTPUTS):
            if exact and (i + j) % 2:
                continue
            h, w = SIZES[(i + 2 * j) % len(SIZES)]
            yield Case(
                c_in,
                c_out,
                r,
                n=1 + (i * j) % 3,
                h=h,
                w=w,
                dtype=dtype,
                exact=exact,
                activation=ACTIVATIONS[(i + j) % 4],
                slopes=1 if j % 5 == 0 else 0,
                bias=j % 4 != 1,
                residual=(i + j // 2) % 2 == 0,
                scale=(1.0, 0.3)[(i + j // 3) % 2],
                offset=int(c_in == 24 and j % 2),
                weight_channels_last=j % 3 == 0,
            )


@pytest.mark.parametrize("c_in", [1, 3, 17, 24, 37, 64, 100])
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_channels(conv: Library, arithmetic: str, c_in: int) -> None:
    """Odd counts are loaded and stored by elements, others by vectors; runs that are no whole vectors are staged."""
    for case in channel_cases(*ARITHMETICS[arithmetic]):
        if case.c_in == c_in:
            check(conv, case)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_epilogues(conv: Library, activation: str, residual: bool, scale: float) -> None:
    """Each with each, for the three ways to store: vectors, staged, scattered."""
    case = Case(16, 64, h=9, w=17, activation=activation, residual=residual, scale=scale)
    for c_out, r in ((64, 1), (32, 2), (48, 4), (75, 5)):
        check(conv, replace(case, c_out=c_out, r=r))
    check(conv, replace(case, dtype=torch.float32, c_out=48, r=4))


def heights(library: Library, c_out: int, dtype: torch.dtype) -> list[int]:
    found = np.zeros(8, np.int32)
    count = library.call("conv3x3_heights", ctypes.c_int64(c_out), DTYPES.index(dtype), found)
    return [int(h) for h in found[:count]]


@pytest.mark.parametrize(("c_in", "c_out", "r"), [(64, 64, 1), (64, 48, 4), (32, 32, 1), (64, 12, 2), (64, 3, 1)])
def test_every_tile_height(conv: Library, c_in: int, c_out: int, r: int) -> None:
    """Images that end inside a tile, at its edge, and one row and column behind it."""
    found = heights(conv, c_out, torch.bfloat16)
    assert found == {64: [8, 10, 12, 14, 16], 48: [8, 12, 16], 32: [8, 12, 16]}.get(c_out, [8, 16])
    for height in found:
        for h, w in ((height, 32), (height + 1, 33), (2 * height - 1, 17)):
            check(conv, Case(c_in, c_out, r, h=h, w=w, height=height, activation="relu", residual=w == 17))


def test_no_input_channels(conv: Library) -> None:
    """A sum of nothing is the bias."""
    check(conv, Case(0, 64))
    check(conv, Case(0, 3))


def test_nothing_to_do(conv: Library) -> None:
    before = len(conv.launches)
    for case in (Case(8, 64, n=0), Case(8, 64, h=0)):
        assert launch(conv, Inputs(case))[0] == 0
    assert [at.kernel for at in conv.launches[before:]] == [conv.launches[before].kernel] * 2  # the packing only


def test_nan_and_infinity_pass(conv: Library) -> None:
    """As in PyTorch: relu keeps NaN, and a pixel that is not finite spoils its neighbours only.

    float32 as a sum of products makes NaN of what is infinite, since the parts of a weight may differ in sign.
    """
    for dtype, exact in ARITHMETICS.values():
        for activation in ("none", "relu", "leaky_relu"):
            inputs = Inputs(Case(8, 8, h=6, w=20, dtype=dtype, exact=exact, activation=activation))
            inputs.x[0, 3, 1, 2], inputs.x[0, 1, 4, 9], inputs.x[0, 2, 4, 15] = torch.nan, torch.inf, -torch.inf
            _, out = launch(conv, inputs)
            expected = inputs.compute(dtype)
            if exact:
                sums = inputs.convolve(dtype, lambda t: t)
                assert out[sums.isfinite()].isfinite().all()
                assert not out[~expected.isfinite()].isfinite().any()
                continue
            assert torch.equal(out.isnan(), expected.isnan())
            assert torch.equal(out.isinf(), expected.isinf())
            assert torch.equal(out[out.isinf()], expected[out.isinf()])


def test_same_bits_for_every_tile_height(conv: Library) -> None:
    """The order of the sums does not depend on how the image is cut."""
    inputs = [Inputs(Case(64, 64, h=9, w=5, height=height)) for height in (8, 10, 12, 14, 16)]
    first, *others = [launch(conv, each)[1] for each in inputs]
    assert all(torch.equal(first, other) for other in others)


def test_refusals(conv: Library) -> None:
    """What the launchers say before they launch anything."""
    case = Case(8, 64, height=11)
    assert launch(conv, Inputs(case))[0] == INVALID_VALUE
    assert launch(conv, Inputs(replace(case, height=8)), out_offset=1)[0] == MISALIGNED
    assert launch(conv, Inputs(replace(case, c_out=3, height=8)), out_offset=1)[0] == 0


@pytest.mark.slow
def test_turing(toolkit: object) -> None:
    """sm_75: float16 only, products of half the depth, loads in place of asynchronous copies."""
    from pathlib import Path

    from vsr_kernels import build

    source = Path(__file__).with_name("kernels") / "conv3x3_call.cu"
    options = ["-I", str(build.source_root()), "--expt-relaxed-constexpr"]
    library = Library.build([source], arch="sm_75", options=options)
    library.options = {"check_uninitialized": True, "check_equal_stores": True}
    for case in channel_cases(torch.float16, False):
        check(library, case)
    for height in heights(library, 64, torch.float16)[:-1]:  # the highest tile needs more shared memory than there is
        check(library, Case(64, 64, h=17, w=17, dtype=torch.float16, height=height))
    for dtype in (torch.bfloat16, torch.float32):
        assert launch(library, Inputs(Case(8, 64, dtype=dtype)))[0] == NOT_SUPPORTED


# Packing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize(("c_in", "c_out", "r"), [(1, 3, 1), (17, 12, 2), (64, 64, 2), (100, 100, 1), (67, 48, 4)])
def test_packing_holds_every_weight_once(conv: Library, arithmetic: str, c_in: int, c_out: int, r: int) -> None:
    dtype, exact = ARITHMETICS[arithmetic]
    numbers = [*longs(c_in, c_out, r), DTYPES.index(dtype), int(exact)]
    count = conv.call("conv3x3_places", *numbers, ctypes.c_void_p(0), restype=ctypes.c_int64)
    places = np.zeros((count, 5), np.int64)
    conv.call("conv3x3_places", *numbers, places, restype=ctypes.c_int64)
    held = places[places[:, 0] >= 0]
    parts = 2 if exact else 1
    assert len(held) == len(np.unique(held, axis=0)) == c_out * c_in * 9 * parts
    assert (held.min(0) == 0).all()
    assert (held.max(0) == [c_out - 1, c_in - 1, 2, 2, parts - 1]).all()


# Tile heights --------------------------------------------------------------------------------------------------------

A100, RTX4090, H100, T4 = (108, 163, 164), (128, 99, 100), (132, 227, 228), (40, 64, 64)


def height(library: Library, device: tuple[int, int, int], n: int, h: int, w: int, c: int = 64, dtype: int = 2) -> int:
    multiprocessors, block, whole = device
    channels, image = longs(c, c), longs(n, h, w)
    found: int = library.call("conv3x3_height", *channels, dtype, 0, *image, multiprocessors, block << 10, whole << 10)
    return found


def test_height_fills_the_last_round(conv: Library) -> None:
    """64 channels at 180x320: 300 tiles of 12 rows in 3 rounds of 108, 360 of 10 in 3 of 128, 260 of 14 in 2 of 132."""
    assert height(conv, A100, 1, 180, 320) == 12
    assert height(conv, RTX4090, 1, 180, 320) == 10
    assert height(conv, H100, 1, 180, 320) == 14


def test_height_where_rounds_do_not_matter(conv: Library) -> None:
    """Low images take low tiles, many rounds the tallest; shared memory bounds both."""
    assert height(conv, A100, 1, 8, 1600) == 8
    assert height(conv, A100, 100, 320, 320) == 16
    assert height(conv, T4, 100, 560, 320, dtype=1) == 14
    assert height(conv, (40, 16, 16), 1, 180, 320) == 0


def test_height_of_more_than_32_bits(conv: Library) -> None:
    assert height(conv, A100, 2**20, 2**20, 2**20) == 16
    assert height(conv, A100, 1, 2**31 - 64, 16, c=2**20) in (8, 10, 12, 14, 16)


# Counts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "instructions", "shared_bytes", "asked"),
    [
        (Case(64, 64, activation="relu", height=16), 1.0, 86, 2.4),
        (Case(64, 64, activation="prelu", residual=True, height=12), 2.0, 100, 2.2),
        (Case(64, 48, 4, height=16), 1.9, 114, 2.3),
        (Case(32, 32, activation="relu", height=16), 1.45, 86, 1.45),
    ],
    ids=str,
)
def test_work_of_the_main_kernels(
    conv: Library, case: Case, instructions: float, shared_bytes: float, asked: float
) -> None:
    """PTX instructions and bytes of shared memory read per MMA, sectors asked of the L2 over the least there are.

    Gates a kernel against its own past: no bank conflicts, whole sectors, no instruction too many.
    """
    case = replace(case, h=180, w=320)
    inputs = Inputs(case)
    conv.options, checks = {"check_shared": False, "check_races": False}, conv.options
    try:
        launch(conv, inputs)
    finally:
        conv.options = checks
    stats = conv.stats
    products = sum(count for name, count in stats.by_opcode.items() if name.startswith("mma"))
    compulsory = 2 * (180 * 320 * (case.c_in + case.c_out * (1 + case.residual)) + 9 * case.c_in * case.c_out)
    assert stats.shared_wavefronts == stats.shared_ideal_wavefronts
    assert stats.global_store_efficiency == 1.0
    assert (stats.warp_instructions - products) / products <= instructions
    assert stats.shared_load_bytes / products <= shared_bytes
    assert 32 * (stats.global_load_sectors + stats.global_store_sectors) / compulsory <= asked
