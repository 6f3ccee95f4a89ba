"""The CUDA residual block by both plans, packing and launch code included, on the CPU, against a float64 reference.

ptxvm checks bounds, alignment, races, unfinished copies, reads of shared memory that nobody wrote, and bytes stored by
two blocks. Outputs start as NaN, so that whatever is not written shows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from operands import ACTIVATIONS, DTYPES, Bits, image, in_memory, longs, pixels, pointer, poisoned
from torch import Tensor

import ptxvm
from ptxvm.cudart import Library, device_attributes
from vsr_kernels import build, reference

FUSED, TWO_LAUNCHES = 0, 1  # as numbered in csrc/core/residual_block.h
INVALID_VALUE, MISALIGNED, NOT_SUPPORTED = 1, 716, 801
NEGATIVE_SLOPE = 0.1


@dataclass(frozen=True)
class Case:
    """One call of the block."""

    c: int
    c_mid: int = 0  # 0: as c
    n: int = 1
    h: int = 5
    w: int = 7
    dtype: torch.dtype = torch.bfloat16
    exact: bool = False
    activation: str = "relu"
    slopes: int = 0  # of prelu: 0 for one per channel
    number: float = NEGATIVE_SLOPE  # slope of leaky_relu
    bias: bool = True
    scale: float = 1.0
    keep: bool = False  # the hidden layer
    plan: int = FUSED
    height: int = 0  # of the fused tile; 0 for the launcher's choice

    @property
    def middle(self) -> int:
        return self.c_mid or self.c

    @property
    def before_activation(self) -> bool:
        return self.activation == "prelu" or (self.activation == "leaky_relu" and self.number < 0)

    def __str__(self) -> str:
        words = [f"{self.n}x{self.c}x{self.h}x{self.w}-{self.middle}-{self.activation}-{str(self.dtype)[6:]}"]
        words += [f"tile{self.height}"] * bool(self.height) + ["kept"] * self.keep
        return "-".join([*words, "two" if self.plan else "fused"])


class Inputs:
    """Random operands of a case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        rng = torch.Generator().manual_seed(case.c * 1000 + case.middle)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=rng).to(case.dtype)

        c, mid = case.c, case.middle
        self.x = normal(case.n, c, case.h, case.w)
        self.weights = [normal(mid, c, 3, 3) / (9 * c) ** 0.5, normal(c, mid, 3, 3) / (9 * mid) ** 0.5]
        self.biases = [normal(mid), normal(c)] if case.bias else [None, None]
        self.slope = normal(case.slopes or mid) if case.activation == "prelu" else None

    def slope_in(self, dtype: torch.dtype) -> float | Tensor | None:
        if self.case.activation == "leaky_relu":
            return self.case.number
        return None if self.slope is None else self.slope.to(dtype)

    def compute(self, dtype: torch.dtype) -> Tensor:
        """The block by PyTorch, in a dtype."""
        biases = [None if bias is None else bias.to(dtype) for bias in self.biases]
        x, first, second = (t.to(dtype) for t in (self.x, *self.weights))
        return reference.residual_block(
            x,
            first,
            biases[0],
            second,
            biases[1],
            activation=self.case.activation,
            slope=self.slope_in(dtype),
            scale=self.case.scale,
        )

    def hidden(self, dtype: torch.dtype) -> Tensor:
        """What is kept of the layer between, in a dtype."""
        case, bias = self.case, self.biases[0]
        return reference.conv3x3(
            self.x.to(dtype),
            self.weights[0].to(dtype),
            None if bias is None else bias.to(dtype),
            activation="none" if case.before_activation else case.activation,
            slope=None if case.before_activation else self.slope_in(dtype),
        )


@dataclass
class Outcome:
    code: int
    out: Tensor
    hidden: Tensor | None


def pack(library: Library, inputs: Inputs, which: int) -> Bits:
    case = inputs.case
    kind = (DTYPES.index(case.dtype), int(case.exact), case.plan)
    counts = longs(case.c, case.middle)
    size = library.call("block_packed_bytes", which, *counts, *kind, restype=ctypes.c_int64)
    packed = poisoned((size // 2,), torch.int16)
    bias, slope = inputs.biases[which], inputs.slope
    arrays = [None if t is None else in_memory(t) for t in (bias, None if which else slope)]
    operands = [in_memory(inputs.weights[which]), *map(pointer, arrays), packed]
    slopes = longs(0 if slope is None else slope.numel())
    activation = ACTIVATIONS.index(case.activation)
    code = library.call("block_pack", which, *operands, *counts, *slopes, case.number, activation, *kind)
    assert code == 0 and library.stats.unwritten(packed) == 0
    return packed


def run(library: Library, inputs: Inputs, offset: int = 0) -> Outcome:
    """Pack and run; the launcher's error, the output and what was kept. ``offset``: elements that out is off by."""
    case = inputs.case
    packed = [pack(library, inputs, which) for which in (0, 1)]
    shape, between = (case.n, case.h, case.w, case.c), (case.n, case.h, case.w, case.middle)
    out = poisoned(shape, case.dtype, offset)
    hidden = poisoned(between, case.dtype) if case.keep else None
    scratch = None
    if case.plan == TWO_LAUNCHES and (not case.keep or case.before_activation):
        scratch = poisoned(between, case.dtype)
    code = library.call(
        "residual_block",
        *[pixels(inputs.x), *packed, out, pointer(hidden), pointer(scratch)],
        *longs(case.n, case.h, case.w, case.c, case.middle),
        *[case.scale, ACTIVATIONS.index(case.activation), DTYPES.index(case.dtype), int(case.exact)],
        *[int(case.before_activation), case.plan, case.height],
    )
    kept = None if hidden is None else image(hidden, between, case.dtype)
    return Outcome(code, image(out, shape, case.dtype), kept)


def assert_near(case: Case, what: str, got: Tensor, truth: Tensor, low: Tensor) -> None:
    """At most twice PyTorch's error in that dtype, plus one unit in the last place of the largest value."""
    assert torch.isfinite(got).all(), f"{case}: {int((~torch.isfinite(got)).sum())} values of {what} were not written"
    error = (got.double() - truth).abs().max().item()
    allowed = 2 * (low.double() - truth).abs().max().item() + torch.finfo(case.dtype).eps * truth.abs().max().item()
    assert error <= allowed, f"{case}: largest error of {what} {error:.3e}, allowed {allowed:.3e}"


def check(library: Library, case: Case) -> Outcome:
    inputs = Inputs(case)
    before = len(library.launches)
    outcome = run(library, inputs)
    assert outcome.code == 0, f"{case}: error {outcome.code}"
    assert_near(case, "out", outcome.out, inputs.compute(torch.float64), inputs.compute(case.dtype))
    if outcome.hidden is not None:
        assert_near(case, "hidden", outcome.hidden, inputs.hidden(torch.float64), inputs.hidden(case.dtype))
    assert len(library.launches) - before == (3 if case.plan == FUSED else 4)  # two of them pack
    return outcome


@pytest.fixture(scope="module")
def block(library: Callable[[str], Library]) -> Library:
    return library("residual_block_call")


def heights(c: int) -> tuple[int, ...]:
    return (8, 16) if c <= 16 else (6, 10, 14) if c <= 32 else (6, 14)


SIZES = [(1, 1), (3, 5), (2, 33), (15, 17), (7, 31), (29, 3)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("c", [16, 32, 64])
def test_fused(block: Library, c: int, activation: str) -> None:
    """Every kernel, activation and size of tile, with what is kept of the hidden layer, without and with a scale."""
    for i, height in enumerate(heights(c)):
        turn = i + ACTIVATIONS.index(activation)
        h, w = SIZES[(c // 16 + 3 * i + turn) % len(SIZES)]
        case = Case(c, h=h, w=w, n=1 + i % 2, activation=activation, height=height, keep=turn % 2 == 0)
        if turn % 3 != 0:
            case = replace(case, scale=0.3, dtype=torch.float16, slopes=1, number=-0.1, bias=False)
        check(block, case)


@pytest.mark.parametrize(
    ("c", "c_mid"), [(1, 1), (3, 17), (17, 3), (24, 32), (33, 24), (37, 64), (48, 48), (64, 40), (8, 16), (5, 12)]
)
def test_channels(block: Library, c: int, c_mid: int) -> None:
    """Odd counts are padded, loaded and stored by elements, or staged; layers may differ."""
    height = heights(max(c, c_mid))[0]
    case = Case(c, c_mid, n=2, h=8, w=19, activation="prelu", height=height, keep=True)
    check(block, case)
    check(block, replace(case, activation="leaky_relu", scale=-0.5, dtype=torch.float16))


@pytest.mark.parametrize("c", [32, 64])
def test_images_of_whole_tiles(block: Library, c: int) -> None:
    """Three by three tiles, so that one has no edge of the image, and one more row and column than a tile has."""
    width = 30 if c == 32 else 14
    lowest, *others = heights(c)
    check(block, Case(c, h=3 * lowest, w=3 * width, height=lowest))
    for height in others:
        check(block, Case(c, h=height + 1, w=width + 1, height=height))


@pytest.mark.parametrize(("c", "w"), [(18, 64), (37, 32)])
def test_rows_of_whole_vectors_in_tiles_that_are_not(block: Library, c: int, w: int) -> None:
    """The second tile of a row begins beside a vector, although the row consists of them."""
    check(block, Case(c, h=3, w=w, height=6))


@pytest.mark.parametrize("activation", ["relu", "prelu"])
@pytest.mark.parametrize("c", [20, 32, 48, 64])
def test_plans_agree_to_the_bit(block: Library, c: int, activation: str) -> None:
    """The order of the sums and the rounding between the layers are the same."""
    case = Case(c, h=16, w=17, activation=activation, keep=True)
    fused, two = check(block, case), check(block, replace(case, plan=TWO_LAUNCHES))
    assert fused.hidden is not None and two.hidden is not None
    assert torch.equal(fused.out, two.out)
    assert torch.equal(fused.hidden, two.hidden)


@pytest.mark.parametrize("c", [7, 16])
def test_plans_agree_for_thin_blocks(block: Library, c: int) -> None:
    """Sums in another order: equal up to the rounding of the hidden layer and of the output."""
    case = Case(c, h=11, w=40)
    fused, two = check(block, case), check(block, replace(case, plan=TWO_LAUNCHES))
    assert (fused.out - two.out).abs().max() <= 2 * torch.finfo(case.dtype).eps * two.out.abs().max()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_two_launches(block: Library, activation: str) -> None:
    """Any dtype and channel count; the activated layer goes through memory."""
    for dtype, exact in ((torch.bfloat16, False), (torch.float32, True)):
        case = Case(24, 32, h=6, w=9, dtype=dtype, exact=exact, activation=activation, plan=TWO_LAUNCHES, scale=0.5)
        check(block, case)
        check(block, replace(case, keep=True))
    check(block, Case(100, 80, h=3, w=4, activation=activation, plan=TWO_LAUNCHES, keep=True))


def test_padding_of_the_hidden_layer_is_zero(block: Library) -> None:
    """Not act(bias): with no weights in the first convolution, the output counts the pixels of the neighbourhood."""
    for c in (16, 32, 64):
        inputs = Inputs(Case(c, h=4, w=4))
        inputs.x.zero_()
        inputs.weights[0].zero_()
        inputs.weights[1].fill_(1.0)
        inputs.biases = [torch.full((c,), 0.5).bfloat16(), torch.zeros(c).bfloat16()]
        out = run(block, inputs).out
        counts = torch.tensor([4.0, 6.0, 6.0, 4.0]).outer(torch.tensor([2.0, 3.0, 3.0, 2.0])) / 2
        assert torch.equal(out[0, 0].float(), counts * c / 2)


def test_nan_stays_in_its_neighbourhood(block: Library) -> None:
    for c in (16, 32, 64):
        inputs = Inputs(Case(c, h=16, w=20))
        inputs.x[0, 0, 9, 11] = torch.nan
        spoiled = run(block, inputs).out.isnan().any(1)[0]
        rows, columns = torch.arange(16)[:, None], torch.arange(20)[None, :]
        assert torch.equal(spoiled, ((rows - 9).abs() <= 2) & ((columns - 11).abs() <= 2))


def test_nothing_to_do(block: Library) -> None:
    before = len(block.launches)
    for plan in (FUSED, TWO_LAUNCHES):
        for case in (Case(32, n=0, plan=plan), Case(64, h=0, plan=plan), Case(16, w=0, plan=plan)):
            assert run(block, Inputs(case)).code == 0
    assert len(block.launches) - before == 12  # the packing only


def test_refusals(block: Library) -> None:
    """What the launcher says before it launches anything."""
    assert run(block, Inputs(Case(32, height=11))).code == INVALID_VALUE
    assert run(block, Inputs(Case(32, height=6)), offset=1).code == MISALIGNED
    assert run(block, Inputs(Case(33, height=6)), offset=1).code == 0
    for case in (Case(32, dtype=torch.float32), Case(65), Case(8, 80)):
        columns = block.call("fused_columns_of", *longs(case.c, case.middle), DTYPES.index(case.dtype))
        assert columns == 0


def simulate(library: Library, device: ptxvm.Device) -> None:
    library.device, library.attributes = device, device_attributes(device)
    for module in library.modules:
        module.device = device


@pytest.mark.parametrize("number", [75, 86, 90, 120])
def test_under_the_limits_of_devices(block: Library, number: int) -> None:
    """Tiles that fit the device; before sm_80 float16 only (the code is that of sm_80)."""
    dtype = torch.float16
    before = block.device
    simulate(block, ptxvm.DEVICES[number])
    try:
        for c in (16, 32, 64):
            check(block, Case(c, h=20, w=33, dtype=dtype))
        if number == 75:
            assert run(block, Inputs(Case(64))).code == NOT_SUPPORTED
    finally:
        simulate(block, before)


@pytest.mark.slow
def test_turing(toolkit: Path) -> None:
    """Code for sm_75: products of half the depth, loads in place of asynchronous copies."""
    source = Path(__file__).with_name("kernels") / "residual_block_call.cu"
    options = ["-I", str(build.source_root()), "--expt-relaxed-constexpr"]
    turing = Library.build([source], arch="sm_75", options=options)
    turing.options = {"check_uninitialized": True, "check_equal_stores": True}
    for c in (7, 16, 24, 32, 40, 64):
        for activation in ACTIVATIONS:
            check(turing, Case(c, h=15, w=18, dtype=torch.float16, activation=activation, keep=True))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (17, 33), (33, 17), (30, 62), (45, 31)])
@pytest.mark.parametrize("c", [1, 3, 8, 16, 17, 24, 32, 37, 48, 64])
def test_every_size(block: Library, c: int, size: tuple[int, int]) -> None:
    for i, height in enumerate(heights(c)):
        for dtype in (torch.bfloat16, torch.float16):
            activation = ACTIVATIONS[(c + i + size[0]) % 4]
            check(
                block, Case(c, n=(3, 1, 2)[i], h=size[0], w=size[1], dtype=dtype, activation=activation, height=height)
            )


# The choice of a plan -------------------------------------------------------------------------------------------------

# Capability, multiprocessors, KiB of shared memory per block and multiprocessor, MiB of L2.
A100, RTX4090, H100, T4 = (80, 108, 163, 164, 40), (89, 128, 99, 100, 72), (90, 132, 227, 228, 50), (75, 40, 64, 64, 4)


def numbers(device: tuple[int, int, int, int, int]) -> list[object]:
    capability, multiprocessors, per_block, whole, l2 = device
    return [capability, multiprocessors, per_block << 10, whole << 10, *longs(l2 << 20)]


def plan(library: Library, device: tuple[int, int, int, int, int], c: int, h: int, w: int, dtype: int = 2) -> int:
    found: int = library.call("block_plan", *longs(c, c, 1, h, w), dtype, *numbers(device))
    return found


@pytest.mark.parametrize("device", [A100, RTX4090, H100, T4], ids=["A100", "4090", "H100", "T4"])
def test_plan_by_channels(block: Library, device: tuple[int, int, int, int, int]) -> None:
    """64 channels are bound by products, of which the fused form has more; thin blocks by launches and bytes."""
    for h, w in ((180, 320), (720, 1280)):
        assert plan(block, device, 64, h, w, 1) == TWO_LAUNCHES
        assert plan(block, device, 16, h, w, 1) == FUSED


def test_plan_of_32_channels(block: Library) -> None:
    """About even: ahead on an A100, behind on an RTX 4090."""
    assert plan(block, A100, 32, 180, 320) == FUSED
    assert plan(block, RTX4090, 32, 180, 320) == TWO_LAUNCHES
    assert plan(block, H100, 32, 180, 320) == FUSED


def test_plan_where_launches_dominate(block: Library) -> None:
    for device in (A100, RTX4090, H100):
        assert plan(block, device, 64, 32, 32) == FUSED


def test_plan_where_nothing_is_fused(block: Library) -> None:
    """float32, wide blocks, enormous images, packings of no other use, and devices with little shared memory."""
    assert plan(block, A100, 32, 32, 32, 0) == TWO_LAUNCHES
    assert plan(block, A100, 65, 32, 32) == TWO_LAUNCHES
    assert plan(block, (75, 40, 16, 16, 4), 64, 32, 32, 1) == TWO_LAUNCHES
    assert plan(block, A100, 48, 32, 32) == TWO_LAUNCHES  # packed differently: 48 channels, or 64
    assert plan(block, A100, 8, 32, 32) == TWO_LAUNCHES
    assert plan(block, A100, 64, 2**20, 2**20) == TWO_LAUNCHES


def times(library: Library, device: tuple[int, int, int, int, int], c: int, h: int, w: int) -> tuple[float, float]:
    found = np.zeros(2)
    library.call("block_times", *longs(c, c, 1, h, w), 2, *numbers(device), found, restype=None)
    return float(found[0]), float(found[1])


def test_times_are_those_of_the_model(block: Library) -> None:
    """Microseconds within the ranges that were worked out by hand from counts of the kernels, a tenth about."""
    expected = {
        (A100, 64, 180, 320): ((45, 55), (42, 48)),
        (A100, 64, 720, 1280): ((633, 763), (522, 632)),
        (RTX4090, 64, 180, 320): ((99, 120), (70, 84)),
        (RTX4090, 64, 720, 1280): ((1254, 1517), (974, 1180)),
        (H100, 64, 180, 320): ((30, 36), (24, 26)),
        (H100, 64, 720, 1280): ((334, 401), (278, 336)),
        (A100, 32, 180, 320): ((14, 16), (16, 18)),
        (RTX4090, 32, 180, 320): ((26, 31), (22, 26)),
        (H100, 32, 180, 320): ((10, 11), (10, 12)),
    }
    for (device, c, h, w), ranges in expected.items():
        for found, (least, most) in zip(times(block, device, c, h, w), ranges, strict=True):
            assert 0.9 * least <= found <= 1.1 * most, (device, c, h, w, found, least, most)


def test_height_of_the_fused_tile(block: Library) -> None:
    """Low tiles for small images, high ones for large ones."""

    def height(device: tuple[int, int, int, int, int], c: int, h: int, w: int) -> int:
        found: int = block.call("block_height", *longs(c, c, 1, h, w), 2, *numbers(device))
        return found

    assert height(A100, 64, 720, 1280) == 14
    assert height(A100, 64, 32, 32) == 6
    assert height(A100, 32, 720, 1280) == 14
    assert height(A100, 32, 180, 320) == 10
    assert height((80, 108, 16, 16, 40), 64, 32, 32) == 0


# Counts --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("case", "most"), [(Case(64, height=14), 1.25), (Case(32, height=14), 1.2)], ids=str)
def test_products_computed_twice(block: Library, case: Case, most: float) -> None:
    """MMAs over those of two convolutions; stores of whole sectors. test_kernel_counts.py holds the other counts."""
    h, w = 180, 320
    block.options, checks = {"check_shared": False, "check_races": False}, block.options
    try:
        run(block, Inputs(replace(case, h=h, w=w)))
    finally:
        block.options = checks
    done = sum(count for name, count in block.stats.by_opcode.items() if name.startswith("mma"))
    assert done <= most * 2 * 9 * (case.c // 16) * (case.c // 8) * h * w / 16
    assert block.stats.global_store_efficiency == 1.0
