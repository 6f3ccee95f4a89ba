"""The CUDA weight gradient of the 3x3 convolution, launch code included, on the CPU, against float64 autograd.

ptxvm checks bounds, alignment, races, unfinished copies, reads of shared memory that nobody wrote, and bytes stored by
two blocks. Outputs and workspace start as NaN, so that whatever is not written shows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from operands import DTYPES, Bits, longs, pixels, pointer, poisoned
from torch import Tensor

import ptxvm
from ptxvm.cudart import Library, device_attributes
from vsr_kernels import build

INVALID_VALUE, MISALIGNED, NOT_SUPPORTED = 1, 716, 801
ARITHMETICS = {
    "bf16": (torch.bfloat16, False),
    "f16": (torch.float16, False),
    "tf32": (torch.float32, False),
    "f32": (torch.float32, True),
}
SQUARE, FEW_OUT, FEW_IN = range(3)  # forms, as numbered in csrc/core/conv3x3_wgrad.h


@dataclass(frozen=True)
class Case:
    """One call of the weight gradient."""

    c_in: int
    c_out: int
    n: int = 1
    h: int = 5
    w: int = 7
    dtype: torch.dtype = torch.bfloat16
    exact: bool = False  # float32 without TF32
    bias: bool = True
    picked: int = 0  # channels of x of which c_in are picked; 0 for all
    offset: int = 0  # elements by which x and grad miss their alignment
    splits: int = 0  # 0 for the launcher's choice
    room: int = 0  # bytes of workspace; 0 for what the launcher asks for

    def __str__(self) -> str:
        words = [f"{self.n}x{self.c_in}x{self.h}x{self.w}-{self.c_out}-{str(self.dtype).removeprefix('torch.')}"]
        words += ["exact"] * self.exact + [f"picked{self.picked}"] * bool(self.picked)
        return "-".join(words + [f"splits{self.splits}"] * bool(self.splits))

    @property
    def kind(self) -> tuple[int, int]:
        return DTYPES.index(self.dtype), int(self.exact)


class Inputs:
    """Random operands of a case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        rng = torch.Generator().manual_seed(case.c_in * 1000 + case.c_out)
        self.x = torch.randn((case.n, case.picked or case.c_in, case.h, case.w), generator=rng).to(case.dtype)
        self.grad = torch.randn((case.n, case.c_out, case.h, case.w), generator=rng).to(case.dtype)
        self.picks = torch.randperm(case.picked, generator=rng)[: case.c_in] if case.picked else None

    def compute(self, dtype: torch.dtype, prepare: Callable[[Tensor], Tensor] = lambda t: t) -> tuple[Tensor, Tensor]:
        """Gradients of weight and bias by PyTorch, in a dtype; ``prepare`` is applied to the factors of products."""
        case = self.case
        x = self.x if self.picks is None else self.x[:, self.picks]
        weight = torch.zeros(case.c_out, case.c_in, 3, 3, dtype=dtype, requires_grad=True)
        if x.numel() and self.grad.numel():  # PyTorch refuses some sums of nothing
            F.conv2d(prepare(x).to(dtype), weight, padding=1).backward(prepare(self.grad).to(dtype))
        found = torch.zeros_like(weight) if weight.grad is None else weight.grad
        return found.detach(), self.grad.to(dtype).sum((0, 2, 3))

    def truth(self) -> tuple[Tensor, Tensor]:
        return self.compute(torch.float64)

    def low(self) -> tuple[Tensor, Tensor]:
        """What PyTorch makes of it in the arithmetic of the case; the bias is a sum, which TF32 does not touch."""
        if self.case.dtype == torch.float32 and not self.case.exact:
            return self.compute(torch.float32, round_to_tf32)
        return self.compute(self.case.dtype)


def round_to_tf32(x: Tensor) -> Tensor:
    """Ten bits of mantissa, ties away from zero."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def values(bits: Bits, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    signed = bits.view({2: np.int16, 4: np.int32}[bits.itemsize])
    return torch.from_numpy(signed.reshape(shape)).view(dtype)


def workspace_bytes(library: Library, case: Case) -> int:
    sizes = longs(case.n, case.h, case.w, case.c_in, case.c_out)
    size: int = library.call("conv3x3_wgrad_workspace", *sizes, *case.kind, restype=ctypes.c_int64)
    return size


def launch(library: Library, inputs: Inputs, room_offset: int = 0) -> tuple[int, Tensor, Tensor]:
    """The launcher's error and the gradients of weight and bias."""
    case = inputs.case
    size = case.room or workspace_bytes(library, case)
    workspace = poisoned((size // 4,), torch.float32, room_offset)
    weight = poisoned((case.c_out, case.c_in, 3, 3), case.dtype)
    bias = poisoned((case.c_out,), case.dtype)
    picks = None if inputs.picks is None else inputs.picks.numpy()
    arrays: list[Any] = [pixels(inputs.x, case.offset), pixels(inputs.grad, case.offset)]
    arrays += [ctypes.c_void_p(0) if picks is None else picks, weight, pointer(bias if case.bias else None), workspace]
    sizes = longs(size, case.n, case.h, case.w, inputs.x.shape[1], case.c_in, case.c_out)
    code = library.call("conv3x3_wgrad", *arrays, *sizes, *case.kind, *longs(case.splits))
    return code, values(weight, (case.c_out, case.c_in, 3, 3), case.dtype), values(bias, (case.c_out,), case.dtype)


def check(library: Library, case: Case) -> None:
    """At most twice PyTorch's error in that arithmetic, plus one unit in the last place of the largest value.

    Four units where a product is the sum of three: it keeps 22 bits, which shows where few products are added.
    """
    inputs = Inputs(case)
    before = len(library.launches)
    code, *found = launch(library, inputs)
    assert code == 0, case
    assert len(library.launches) - before <= 2
    for name, out, truth, low in zip(("weight", "bias"), found, inputs.truth(), inputs.low(), strict=True):
        if name == "bias" and not case.bias:
            assert out.isnan().all(), f"{case}: a bias that nobody asked for was written"
            continue
        assert torch.isfinite(out).all(), f"{case}: {int((~torch.isfinite(out)).sum())} values of {name} are missing"
        if out.numel() == 0:
            continue
        error = (out.double() - truth).abs().max().item()
        allowed = 2 * (low.double() - truth).abs().max().item()
        allowed += (4 if case.exact else 1) * torch.finfo(case.dtype).eps * truth.abs().max().item()
        assert error <= allowed, f"{case}: largest error of {name} {error:.3e}, allowed {allowed:.3e}"


@pytest.fixture(scope="module")
def wgrad(library: Callable[[str], Library]) -> Library:
    return library("conv3x3_wgrad_call")


def sweep(found: Iterable[Any], quick: Iterable[Any]) -> list[Any]:
    """All values as parameters, of which every run takes the quick ones and `pytest -m slow` the others."""
    chosen = list(quick)
    return [
        pytest.param(
            v,
            marks=[] if v in chosen else [pytest.mark.slow],
            id="-".join(map(str, v)) if isinstance(v, tuple) else str(v),
        )
        for v in found
    ]


SIZES = [(5, 7), (1, 1), (2, 19), (8, 16), (13, 3), (17, 33), (3, 40)]
CHANNELS = (1, 3, 8, 17, 37, 64, 100)


def channel_cases(arithmetic: str) -> Iterator[Case]:
    """Every pair of channel counts, with the other properties in turn."""
    dtype, exact = ARITHMETICS[arithmetic]
    for i, c_in in enumerate(CHANNELS):
        for j, c_out in enumerate(CHANNELS):
            h, w = SIZES[(i + 2 * j) % len(SIZES)]
            yield Case(
                c_in,
                c_out,
                n=1 + (i * j) % 3,
                h=h,
                w=w,
                dtype=dtype,
                exact=exact,
                bias=(i + j) % 3 != 0,
                picked=c_in + 5 if (i + j) % 4 == 3 else 0,
                offset=int((i + 2 * j) % 5 == 4),
            )


QUICK_CHANNELS = [("bf16", 3), ("bf16", 64), ("f16", 37), ("tf32", 17), ("f32", 8)]


@pytest.mark.parametrize("which", sweep(product(ARITHMETICS, CHANNELS), QUICK_CHANNELS))
def test_channels(wgrad: Library, which: tuple[str, int]) -> None:
    """Odd counts are loaded by elements, others by vectors; few channels have kernels of their own."""
    arithmetic, c_in = which
    for case in channel_cases(arithmetic):
        if case.c_in == c_in:
            check(wgrad, case)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("channels", [(32, 32), (32, 8), (8, 32)], ids=str)
def test_sizes(wgrad: Library, arithmetic: str, channels: tuple[int, int]) -> None:
    """Strips that end inside the image, at its edge and behind it; stages that do; from one team's share to many."""
    dtype, exact = ARITHMETICS[arithmetic]
    for h, w in ((1, 1), (2, 15), (3, 16), (4, 17), (6, 31), (5, 33), (12, 9)):
        check(wgrad, Case(*channels, n=1 + h % 3, h=h, w=w, dtype=dtype, exact=exact))


@pytest.mark.parametrize("which", sweep(product(ARITHMETICS, (1, 2, 3, 5, 16)), [("bf16", 2), ("bf16", 5), ("f32", 3)]))
def test_splits(wgrad: Library, which: tuple[str, int]) -> None:
    """A split may begin anywhere in an image, and there may be more of them than stages."""
    arithmetic, splits = which
    dtype, exact = ARITHMETICS[arithmetic]
    for c_in, c_out in ((32, 32), (40, 16), (8, 40)):
        case = Case(c_in, c_out, n=2, h=14, w=20, dtype=dtype, exact=exact, splits=splits)
        check(wgrad, replace(case, room=splits * 2**20))


@pytest.mark.parametrize("arithmetic", sweep(ARITHMETICS, ["bf16"]))
def test_picked_channels(wgrad: Library, arithmetic: str) -> None:
    """in_channels: the gradient of a convolution of some channels of x, in any order."""
    dtype, exact = ARITHMETICS[arithmetic]
    for c_in, c_out, of in ((17, 32, 64), (40, 64, 48), (3, 3, 64), (8, 64, 9)):
        check(wgrad, Case(c_in, c_out, h=4, w=18, picked=of, dtype=dtype, exact=exact))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_to_sum(wgrad: Library, dtype: torch.dtype) -> None:
    """Without pixels the gradients are zeros; without input channels there is still that of the bias."""
    for case in (Case(8, 40, n=0), Case(8, 40, h=0), Case(8, 40, w=0), Case(8, 150, n=0)):
        code, weight, bias = launch(wgrad, Inputs(replace(case, dtype=dtype)))
        assert code == 0 and not weight.any() and not bias.any()
    check(wgrad, Case(0, 40, dtype=dtype))
    before = len(wgrad.launches)
    assert launch(wgrad, Inputs(Case(8, 0, dtype=dtype)))[0] == 0
    assert len(wgrad.launches) == before


def test_what_is_not_finite_shows(wgrad: Library) -> None:
    """A gradient that PyTorch finds to be NaN or infinite is not finite here either."""
    for (dtype, exact), c_out in zip(ARITHMETICS.values(), (16, 32, 32, 16), strict=True):
        inputs = Inputs(Case(16, c_out, h=6, w=20, dtype=dtype, exact=exact))
        inputs.x[0, 1, 1, 2], inputs.grad[0, 3, 4, 17] = torch.inf, torch.nan
        code, weight, bias = launch(wgrad, inputs)
        expected = inputs.truth()
        assert code == 0
        assert not weight[~expected[0].isfinite()].isfinite().any()
        assert torch.equal(bias.isfinite(), expected[1].isfinite())
        untouched = [c for c in range(c_out) if c != 3]
        assert weight[untouched][:, [0, 2]].isfinite().all()


@pytest.mark.parametrize("which", sweep(product(ARITHMETICS, [(40, 40), (40, 8), (8, 40)]), [("bf16", (40, 40))]))
def test_same_bits_in_every_order(wgrad: Library, which: tuple[str, tuple[int, int]]) -> None:
    """However many blocks run at a time, and whatever the workspace held."""
    arithmetic, channels = which
    dtype, exact = ARITHMETICS[arithmetic]
    inputs = Inputs(Case(*channels, h=11, w=20, dtype=dtype, exact=exact, splits=3, room=2**20))
    checks, found = wgrad.options, []
    try:
        for together in (0, 1, 5):
            wgrad.options = {**checks, "blocks_per_chunk": together}
            found.append(launch(wgrad, inputs))
    finally:
        wgrad.options = checks
    for code, weight, bias in found:
        assert code == 0
        assert torch.equal(weight, found[0][1]) and torch.equal(bias, found[0][2])


@contextmanager
def device(library: Library, number: int) -> Iterator[None]:
    """The limits of another device, for the same code."""

    def become(which: ptxvm.Device) -> None:
        library.device, library.attributes = which, device_attributes(which)
        for module in library.modules:
            module.device = which

    before = library.device
    become(ptxvm.DEVICES[number])
    try:
        yield
    finally:
        become(before)


@pytest.mark.parametrize("number", [86, 90, 120])
def test_launches_within_the_limits_of_devices(wgrad: Library, number: int) -> None:
    with device(wgrad, number):
        for dtype, exact in ARITHMETICS.values():
            for c_in, c_out in ((40, 40), (40, 3), (3, 40)):
                check(wgrad, Case(c_in, c_out, h=4, w=18, dtype=dtype, exact=exact))


def test_arithmetic_that_a_device_lacks(wgrad: Library) -> None:
    with device(wgrad, 75):
        for dtype in (torch.bfloat16, torch.float32):
            assert launch(wgrad, Inputs(Case(8, 64, dtype=dtype)))[0] == NOT_SUPPORTED


@pytest.mark.slow
def test_turing(toolkit: object) -> None:
    """sm_75: float16 only, products of half the depth, loads in place of asynchronous copies, two stages."""
    source = Path(__file__).with_name("kernels") / "conv3x3_wgrad_call.cu"
    options = ["-I", str(build.source_root()), "--expt-relaxed-constexpr"]
    library = Library.build([source], arch="sm_75", options=options)
    library.options = {"check_uninitialized": True, "check_equal_stores": True}
    for case in channel_cases("f16"):
        check(library, case)
    for splits in (1, 2, 5):
        check(library, Case(40, 40, n=2, h=14, w=20, dtype=torch.float16, splits=splits, room=2**22))


def test_refusals(wgrad: Library) -> None:
    """What the launcher says before it launches anything."""
    case = Case(8, 8)
    size = workspace_bytes(wgrad, case)
    before = len(wgrad.launches)
    assert launch(wgrad, Inputs(replace(case, room=size - 4)))[0] == INVALID_VALUE
    assert launch(wgrad, Inputs(case), room_offset=1)[0] == MISALIGNED
    assert launch(wgrad, Inputs(replace(case, splits=3, room=size)))[0] == INVALID_VALUE
    assert launch(wgrad, Inputs(replace(case, splits=65536, room=size)))[0] == INVALID_VALUE
    assert len(wgrad.launches) == before


# Plans ---------------------------------------------------------------------------------------------------------------

A100, RTX4090, H100, T4 = (80, 108, 164 << 10), (89, 128, 100 << 10), (90, 132, 228 << 10), (75, 40, 64 << 10)
WORKSPACE = 64 << 20


@dataclass(frozen=True)
class Plan:
    """What weight_gradient_plan found."""

    form: int
    row_blocks: int
    column_blocks: int
    splits: int
    stages: int
    bytes: int

    @property
    def blocks(self) -> int:
        return self.row_blocks * self.column_blocks * self.splits


def plan(
    library: Library,
    channels: tuple[int, int],
    image: tuple[int, int, int],
    gpu: tuple[int, int, int] = A100,
    kind: tuple[int, int] = (2, 0),
    workspace: int = WORKSPACE,
) -> Plan:
    out = np.zeros(6, np.int64)
    library.call("conv3x3_wgrad_plan", *longs(*image, *channels), *kind, *gpu, *longs(workspace), out)
    return Plan(*out.tolist())


def test_plan_fills_the_device(wgrad: Library) -> None:
    """One round of blocks, nearly all multiprocessors busy, shares that end together."""
    for gpu in (A100, RTX4090, H100):
        for image in ((1, 180, 320), (8, 64, 64), (4, 256, 256)):
            found = plan(wgrad, (64, 64), image, gpu)
            assert found.form == SQUARE and (found.row_blocks, found.column_blocks) == (2, 2)
            assert 0.85 * gpu[1] <= found.blocks <= gpu[1]
    assert plan(wgrad, (64, 64), (1, 180, 320)).stages == 20 * 61
    many = plan(wgrad, (256, 256), (4, 256, 256))  # 64 blocks a split: two rounds leave fewer idle than one
    assert many.splits * 64 <= 2 * 108


def test_plan_of_little_work(wgrad: Library) -> None:
    """A split that does less than it costs is not worth its sums; there is always one where there are pixels."""
    assert plan(wgrad, (64, 64), (1, 3, 16)).splits == 1
    assert plan(wgrad, (64, 64), (1, 32, 32)).splits < plan(wgrad, (64, 64), (1, 180, 320)).splits
    assert plan(wgrad, (64, 64), (0, 180, 320)).splits == 0
    assert plan(wgrad, (64, 64), (1, 0, 320)).splits == 0


def test_plan_keeps_to_the_workspace(wgrad: Library) -> None:
    free = plan(wgrad, (64, 64), (1, 180, 320))
    one = free.bytes // free.splits
    for room in (WORKSPACE, 20 * one, 5 * one + 3, one):
        found = plan(wgrad, (64, 64), (1, 180, 320), workspace=room)
        assert found.splits == min(free.splits, room // one) and found.bytes <= room
    assert plan(wgrad, (64, 64), (1, 180, 320), workspace=one - 1).splits == 1  # which the launcher refuses
    assert plan(wgrad, (2048, 2048), (8, 64, 64)).splits == 1  # of more than the workspace that splits are worth


def test_forms(wgrad: Library) -> None:
    """The form follows from the channels: whole blocks of 32 x 32 unless that is mostly padding."""
    image = (1, 180, 320)
    expected = {(64, 64): SQUARE, (32, 32): SQUARE, (64, 48): SQUARE, (64, 3): FEW_OUT, (16, 16): FEW_OUT}
    expected |= {(3, 64): FEW_IN, (3, 3): FEW_IN, (64, 12): FEW_OUT, (24, 24): SQUARE, (100, 100): SQUARE}
    for channels, form in expected.items():
        assert plan(wgrad, channels, image).form == form, channels
    assert plan(wgrad, (3, 64), image, kind=(0, 0)).form != FEW_IN
    assert plan(wgrad, (64, 64), image, kind=(0, 1)).form == FEW_OUT


def test_shared_memory_fits_every_device(wgrad: Library) -> None:
    for form, size in product((SQUARE, FEW_OUT, FEW_IN), (2, 4)):
        assert wgrad.call("conv3x3_wgrad_shared_bytes", form, size, 1) <= 99 << 10
    for form in (SQUARE, FEW_OUT, FEW_IN):
        assert wgrad.call("conv3x3_wgrad_shared_bytes", form, 2, 0) <= 64 << 10


def test_plan_of_more_than_32_bits(wgrad: Library) -> None:
    found = plan(wgrad, (64, 64), (2**20, 2**20, 2**20))
    assert found.stages == 2**20 * 2**16 * ((2**20 + 3) // 3)
    assert 100 <= found.blocks <= 216
    assert plan(wgrad, (2**20, 2**20), (1, 8, 16)).splits == 1


# Counts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "instructions", "shared_bytes", "asked"),
    [
        ((64, 64), 2.1, 84, 2.75),
        pytest.param((32, 32), 4.4, 119, 2.25, marks=pytest.mark.slow),
        pytest.param((64, 48), 2.1, 84, 2.85, marks=pytest.mark.slow),
        pytest.param((64, 3), 7.5, 136, 1.95, marks=pytest.mark.slow),
        pytest.param((3, 64), 9.2, 170, 2.2, marks=pytest.mark.slow),
    ],
)
def test_work_of_the_main_kernels(
    wgrad: Library, channels: tuple[int, int], instructions: float, shared_bytes: float, asked: float
) -> None:
    """PTX instructions and bytes of shared memory read per MMA, sectors asked of the L2 over the least there are.

    Both launches together; the fewer channels, the more of the work is the begin and the end of a split. Gates the
    kernels against their own past: no bank conflicts, no instruction too many.
    """
    case = Case(*channels, h=180, w=320)
    inputs = Inputs(case)
    before = len(wgrad.launches)
    wgrad.options, checks = {"check_shared": False, "check_races": False, "check_blocks": False}, wgrad.options
    try:
        assert launch(wgrad, inputs)[0] == 0
    finally:
        wgrad.options = checks
    counted = [at.stats for at in wgrad.launches[before:]]
    products = sum(n for stats in counted for name, n in stats.by_opcode.items() if name.startswith("mma"))
    compulsory = 2 * (180 * 320 * (case.c_in + case.c_out) + 9 * case.c_in * case.c_out)
    sectors = sum(stats.global_load_sectors + stats.global_store_sectors for stats in counted)
    assert all(stats.shared_wavefronts == stats.shared_ideal_wavefronts for stats in counted)
    assert sum(stats.warp_instructions for stats in counted) / products - 1 <= instructions
    assert sum(stats.shared_load_bytes for stats in counted) / products <= shared_bytes
    assert 32 * sectors / compulsory <= asked
