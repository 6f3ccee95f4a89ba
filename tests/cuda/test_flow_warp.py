"""The CUDA flow warp, launch code included, on the CPU, against a float64 reference.

ptxvm checks bounds, alignment, reads of shared memory that nobody wrote, and bytes stored by two blocks. Memory between
the elements of a tensor and outputs start as NaN, so that stray reads and missing writes show.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from ops import truth
from ops.accuracy import assert_near, assert_same_bits
from ops.inputs import lay_out
from torch import Tensor

import ptxvm
from ptxvm.cudart import Launch, Library
from ptxvm.sass import assemble
from vsr_kernels import build, reference

Array = npt.NDArray[np.generic]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]  # as numbered in csrc/core/dtype.h
BITS = {2: torch.int16, 4: torch.int32}
INVALID_CONFIGURATION = 9
NULL = ctypes.c_void_p(0)


@dataclass(frozen=True)
class Case:
    """One call of the warp."""

    c: int
    h: int = 5
    w: int = 37
    n: int = 1
    dtype: torch.dtype = torch.bfloat16
    same_flow: bool = False  # flow in the dtype of x, else float32
    interpolation: str = "bilinear"
    padding: str = "zeros"
    reach: float = 2.0
    layout: str = "channels_last"
    flow_layout: str = "contiguous"
    grad_layout: str = "channels_last"
    deterministic: bool = False

    @property
    def settings(self) -> dict[str, str]:
        return {"interpolation": self.interpolation, "padding": self.padding}

    @property
    def modes(self) -> list[int]:
        """Dtypes of x and flow, nearest, border."""
        flow = self.dtype if self.same_flow else torch.float32
        kinds = [DTYPES.index(self.dtype), DTYPES.index(flow)]
        return [*kinds, int(self.interpolation == "nearest"), int(self.padding == "border")]


def seeded(case: Case) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * case.c + 10 * case.w + case.h)


def image(case: Case, layout: str, c: int | None = None) -> Tensor:
    """Steps of 1/8, so that no product is near a tie of its rounding."""
    values = torch.randn(case.n, c or case.c, case.h, case.w, generator=seeded(case)).clamp(-3, 3)
    return lay_out(((values * 8).round() / 8).to(case.dtype), layout)


def field(case: Case) -> Tensor:
    """Odd multiples of 1/16 as far as the dtype holds them: no coordinate is near a pixel or a tie."""
    values = torch.randn(case.n, 2, case.h, case.w, generator=seeded(case).manual_seed(3)) * case.reach
    limit = {torch.bfloat16: 7.0, torch.float16: 60.0}.get(case.dtype if case.same_flow else torch.float32, 3e4)
    values = ((values.clamp(-limit, limit) * 8).floor() * 2 + 1) / 16
    return lay_out(values.to(case.dtype if case.same_flow else torch.float32), case.flow_layout)


def span(t: Tensor) -> Array:
    """The memory of a tensor from its first to its last element, as bits."""
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    bits: Array = t.detach().view(BITS[t.element_size()]).as_strided((last + 1,), (1,), t.storage_offset()).numpy()
    return bits


def numbers(*values: int) -> Array:
    return np.array(values, np.int64)


def blank(like: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """NaN in a dense memory format: that of ``like``."""
    last = like.stride(1) == 1 and not like.is_contiguous()
    memory = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape or like.shape, dtype=like.dtype, memory_format=memory).fill_(torch.nan)


def forward(library: Library, case: Case, x: Tensor, flow: Tensor) -> Tensor:
    out = blank(x)
    strides = numbers(*x.stride(), *flow.stride(), *out.stride())
    assert library.call("flow_warp", span(x), span(flow), span(out), numbers(*x.shape), strides, *case.modes) == 0
    return out


def sides(y: Tensor, x_channels: int, first: bool) -> tuple[Tensor, Tensor]:
    """The slices of a concatenation: that of the warped image, and the other."""
    if first:
        return y[:, :x_channels], y[:, x_channels:]
    return y[:, -x_channels:], y[:, :-x_channels]


def concatenated(library: Library, case: Case, x: Tensor, flow: Tensor, y: Tensor, first: bool) -> Tensor:
    out = blank(x, (case.n, case.c + y.shape[1], case.h, case.w))
    x_part, y_part = sides(out, case.c, first)
    strides = numbers(*x.stride(), *flow.stride(), *out.stride(), *y.stride())
    slices = [ctypes.c_void_p(part.data_ptr()) for part in (x_part, y_part)]
    whole = span(out)
    library.memory.attach(whole, "out")
    try:
        arrays = [span(x), span(flow), slices[0], span(y), slices[1], ctypes.c_int64(y.shape[1])]
        assert library.call("flow_warp_concat", *arrays, numbers(*x.shape), strides, *case.modes) == 0
    finally:
        library.memory.free(whole.ctypes.data)
    return out


def backward(
    library: Library, case: Case, grad: Tensor, x: Tensor, flow: Tensor, need_x: bool = True, need_flow: bool = True
) -> tuple[Tensor | None, Tensor | None]:
    grad_x, grad_flow = blank(x), torch.full(flow.shape, torch.nan, dtype=flow.dtype)
    sizes, strides = numbers(*x.shape), numbers(*grad.stride(), *x.stride(), *flow.stride())
    to_x = span(grad_x) if need_x else NULL
    to_flow = span(grad_flow) if need_flow else NULL
    wanted = library.call(
        "flow_warp_workspace", to_x, sizes, case.modes[0], int(case.deterministic), restype=ctypes.c_int64
    )
    workspace = span(torch.full((max(1, wanted // 4),), torch.nan))
    last = int(not grad_x.is_contiguous())
    arrays = [span(grad), span(x), span(flow), to_x, to_flow, workspace if wanted else NULL]
    code = library.call("flow_warp_backward", *arrays, sizes, strides, *case.modes, last, int(case.deterministic))
    assert code == 0
    return grad_x if need_x else None, grad_flow if need_flow else None


def exact(case: Case, x: Tensor, flow: Tensor) -> Tensor:
    """The definition in float64."""
    return truth.flow_warp(x.double().contiguous(), flow.double().contiguous(), **case.settings)


def gradients(
    function: Callable[[Tensor, Tensor], Tensor], x: Tensor, flow: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    leaves = x.clone().requires_grad_(), flow.clone().requires_grad_()
    found = torch.autograd.grad(function(*leaves), leaves, grad, materialize_grads=True)
    return found[0], found[1]


def check_forward(library: Library, case: Case) -> None:
    """The error rule of the operators."""
    x, flow = image(case, case.layout), field(case)
    out = forward(library, case, x, flow)
    low = reference.flow_warp(x, flow, **case.settings)
    assert_near(out, exact(case, x, flow), [low], str(case), case.dtype)


def check_backward(library: Library, case: Case) -> None:
    """Both gradients together, and each alone the same."""
    x, flow, grad = image(case, case.layout), field(case), image(case, case.grad_layout).flip(0)
    grad = lay_out(grad, case.grad_layout)
    ours = backward(library, case, grad, x, flow)
    wide = gradients(functools.partial(exact, case), x.double(), flow.double(), grad.double())
    low = gradients(functools.partial(reference.flow_warp, **case.settings), x, flow, grad)
    for name, got, true, plain in zip(("x", "flow"), ours, wide, low, strict=True):
        assert got is not None
        assert_near(got, true, [plain], f"{case}: gradient by {name}", got.dtype)
    alone = backward(library, case, grad, x, flow, True, False)[0], backward(library, case, grad, x, flow, False)[1]
    assert ours[1] is not None and alone[1] is not None and alone[0] is not None
    assert_same_bits(alone[1], ours[1], f"{case}: gradient by flow alone")
    assert_near(alone[0], wide[0], [low[0]], f"{case}: gradient by x alone", case.dtype)


@pytest.fixture(scope="module")
def warp(library: Callable[[str], Library]) -> Library:
    return library("flow_warp_call")


def launched(library: Library, function: Callable[..., object], *args: object) -> list[Launch]:
    """What ``function(library, *args)`` launches."""
    before = len(library.launches)
    function(library, *args)
    return library.launches[before:]


CHANNELS = [1, 3, 8, 17, 24, 37, 64, 100]
SIZES = [(5, 37), (1, 1), (9, 33), (2, 70), (17, 3), (8, 32), (1, 40), (40, 1)]
LAYOUTS = ["channels_last", "contiguous", "channel_slice", "sliced", "misaligned", "transposed", "expanded_columns"]
FLOWS = ["contiguous", "channels_last", "sliced", "misaligned", "transposed", "expanded_batch"]
GRADS = ["channels_last", "contiguous", "channel_slice", "one_number", "channels_last", "sliced"]


def varied(dtype: torch.dtype) -> Iterator[Case]:
    """Every channel count in both modes and paddings, with sizes, layouts and reaches in turn."""
    modes = itertools.product(CHANNELS, ("bilinear", "nearest"), ("zeros", "border"))
    for i, (c, interpolation, padding) in enumerate(modes):
        h, w = SIZES[(i * 3 + DTYPES.index(dtype)) % len(SIZES)]
        yield Case(
            c,
            h,
            w,
            n=1 + i % 3,
            dtype=dtype,
            same_flow=i % 2 == 1,
            interpolation=interpolation,
            padding=padding,
            reach=(0.7, 2.0, 40.0)[(i + i // 4) % 3],
            layout=LAYOUTS[0 if i % 3 == 0 else (i + i // 4) % len(LAYOUTS)],
            flow_layout=FLOWS[(i + i // 5) % len(FLOWS)],
            grad_layout=GRADS[(i // 2) % len(GRADS)],
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward(warp: Library, dtype: torch.dtype) -> None:
    for case in varied(dtype):
        check_forward(warp, case)


# The scatter takes longest to run here: a part of the cases, which between them have every channel count and mode.
PARTS = [pytest.param(part, marks=[pytest.mark.slow] if part else [], id=f"part{part}") for part in range(5)]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backward(warp: Library, dtype: torch.dtype, deterministic: bool, part: int) -> None:
    for i, case in enumerate(varied(dtype)):
        if (i + DTYPES.index(dtype) + deterministic) % len(PARTS) == part:
            check_backward(warp, replace(case, deterministic=deterministic))


def build_for(target: str) -> Library:
    """The same sources compiled for another target, which has other instructions."""
    source = Path(__file__).with_name("kernels") / "flow_warp_call.cu"
    options = ["-I", str(build.source_root()), "--expt-relaxed-constexpr"]
    library = Library.build([source], arch=target, options=options)
    library.options = {"check_uninitialized": True, "check_equal_stores": True}
    return library


@pytest.mark.parametrize(
    "target", ["sm_90", *(pytest.param(t, marks=pytest.mark.slow) for t in ("sm_75", "sm_86", "sm_120"))]
)
def test_other_targets(toolkit: object, target: str) -> None:
    """From sm_90 on, reductions take four floats each; sm_75 has no bfloat16 arithmetic."""
    library = build_for(target)
    for dtype, c in ((torch.bfloat16, 64), (torch.float32, 20), (torch.float16, 37), (torch.bfloat16, 3)):
        case = Case(c, 9, 35, n=2, dtype=dtype, layout="channels_last" if c != 3 else "contiguous")
        check_forward(library, case)
        check_backward(library, case)
        x, flow = image(case, case.layout), field(case)
        warped = sides(concatenated(library, case, x, flow, x[:, :3], False), c, False)[0]
        assert_same_bits(warped, forward(library, case, x, flow), str(case))
    check_backward(library, Case(64, deterministic=True))


# The decisions of the host -------------------------------------------------------------------------------------------


def plan(library: Library, x: Tensor) -> tuple[int, int]:
    """Bytes of a vector (0: a lane walks its own pixel) and lanes per pixel."""
    out, sizes = blank(x), numbers(*x.shape)
    strides = numbers(*x.stride(), *out.stride(), *out.stride())
    both: int = library.call(
        "flow_warp_plan", ctypes.c_void_p(x.data_ptr()), span(out), sizes, strides, DTYPES.index(x.dtype)
    )
    return divmod(both, 100)


def backward_plan(library: Library, grad: Tensor, x: Tensor) -> int:
    """Lanes per pixel."""
    strides, last = numbers(*grad.stride(), *x.stride()), int(x.stride(1) == 1)
    arrays = [ctypes.c_void_p(t.data_ptr()) for t in (grad, x, x)]
    lanes: int = library.call(
        "flow_warp_backward_plan", *arrays, numbers(*x.shape), strides, DTYPES.index(x.dtype), last
    )
    return lanes


@pytest.mark.parametrize(
    ("c", "dtype", "layout", "expected"),
    [
        (64, torch.bfloat16, "channels_last", (16, 8)),
        (64, torch.float32, "channels_last", (16, 16)),
        (48, torch.float16, "channels_last", (16, 8)),
        (8, torch.float16, "channels_last", (16, 1)),
        (400, torch.bfloat16, "channels_last", (16, 16)),
        (100, torch.bfloat16, "channels_last", (4, 16)),
        (37, torch.bfloat16, "channels_last", (2, 16)),
        (5, torch.float32, "channels_last", (4, 8)),
        (64, torch.bfloat16, "misaligned", (0, 1)),
        (64, torch.bfloat16, "channel_slice", (2, 16)),
        (64, torch.float32, "channel_slice", (4, 16)),
        (64, torch.bfloat16, "contiguous", (0, 1)),
        (3, torch.float32, "channels_last", (0, 1)),
    ],
)
def test_plan(warp: Library, c: int, dtype: torch.dtype, layout: str, expected: tuple[int, int]) -> None:
    """The widest vectors that every pixel starts at; few channels and planes go by pixels."""
    assert plan(warp, image(Case(c, dtype=dtype), layout)) == expected


@pytest.mark.parametrize(
    ("c", "dtype", "layout", "grad", "expected"),
    [
        (64, torch.bfloat16, "channels_last", "channels_last", 8),
        (64, torch.float32, "channels_last", "channels_last", 8),
        (64, torch.bfloat16, "channels_last", "channel_slice", 32),
        (64, torch.bfloat16, "channels_last", "contiguous", 1),
        (37, torch.float16, "channels_last", "channels_last", 32),
        (256, torch.bfloat16, "channels_last", "channels_last", 32),
        (257, torch.bfloat16, "channels_last", "channels_last", 1),
        (64, torch.bfloat16, "contiguous", "channels_last", 1),
        (4, torch.bfloat16, "channels_last", "channels_last", 1),
    ],
)
def test_backward_plan(warp: Library, c: int, dtype: torch.dtype, layout: str, grad: str, expected: int) -> None:
    case = Case(c, dtype=dtype)
    assert backward_plan(warp, image(case, grad), image(case, layout)) == expected


def test_plan_beyond_32_bits(warp: Library) -> None:
    """Offsets within an image are 32-bit counts of vectors; from image to image, strides may be any."""
    for row, expected in ((2**30, 1608), (2**35, 1)):
        strides = numbers(2**40, 1, row, 64, *[0] * 4, 2**40, 1, 192, 64)
        assert warp.call("flow_warp_plan", NULL, NULL, numbers(2, 64, 2, 3), strides, 2) == expected


def test_too_large(warp: Library) -> None:
    """Positions are 32-bit, and so many blocks of eight rows is all that a grid has."""
    x, nothing = np.zeros(1, np.uint16), numbers(*[0] * 12)
    for shape in ((1, 64, 1, 2**30 + 1), (1, 64, 2**30 + 1, 1), (1, 64, 8 * 65535 + 1, 1), (65536, 64, 1, 1)):
        sizes = numbers(*shape)
        assert warp.call("flow_warp", x, x, x, sizes, nothing, 2, 2, 0, 0) == INVALID_CONFIGURATION
        arrays = [x, x, x, x, x, NULL]
        assert warp.call("flow_warp_backward", *arrays, sizes, nothing, 2, 2, 0, 0, 1, 0) == INVALID_CONFIGURATION


@pytest.mark.parametrize("number", [75, 86, 90, 120])
def test_launches_within_the_limits_of_devices(warp: Library, number: int) -> None:
    """No kernel asks for more shared memory than any device has without being asked."""
    before, simulated = warp.device, ptxvm.DEVICES[number]
    try:
        for each in (warp, *warp.modules):
            each.device = simulated
        case = Case(64, 9, 35, dtype=torch.float32)
        check_backward(warp, case)
        concatenated(warp, case, image(case, "channels_last"), field(case), image(case, "sliced", 100), True)
    finally:
        for each in (warp, *warp.modules):
            each.device = before


def names(launches: list[Launch]) -> list[str]:
    families = ("concat", "backward_vectors", "backward_planes", "vectors", "planes", "largest", "round")
    return [next(f for f in families if f"warp_{f}_kernel" in launch.kernel) for launch in launches]


def test_launches(warp: Library) -> None:
    """One for each operator; the scatter into 16-bit images needs another, the deterministic one two more."""
    for dtype, deterministic in itertools.product(DTYPES, (False, True)):
        case = Case(16, 2, 5, dtype=dtype, deterministic=deterministic)
        x, flow = image(case, "channels_last"), field(case)
        assert names(launched(warp, forward, case, x, flow)) == ["vectors"]
        assert names(launched(warp, concatenated, case, x, flow, x[:, :3], True)) == ["concat"]
        expected = ["largest"] * deterministic + ["backward_vectors"]
        expected += ["round"] * (deterministic or dtype != torch.float32)
        assert names(launched(warp, backward, case, x, x, flow)) == expected
        alone = launched(warp, backward, case, x, x, flow, False)
        assert names(alone) == ["backward_vectors"]


def test_nothing_to_do(warp: Library) -> None:
    x, nothing = np.zeros(1, np.uint16), numbers(*[0] * 12)
    for shape in ((0, 8, 3, 4), (1, 8, 0, 4), (1, 8, 3, 0)):
        sizes = numbers(*shape)
        assert not launched(warp, Library.call, "flow_warp", x, x, x, sizes, nothing, 2, 2, 0, 0)
        arrays = [x, x, x, x, x, NULL]
        assert not launched(warp, Library.call, "flow_warp_backward", *arrays, sizes, nothing, 2, 2, 0, 0, 1, 0)


# Exact results -------------------------------------------------------------------------------------------------------

WAYS = [(64, "channels_last"), (17, "channels_last"), (3, "channels_last"), (8, "contiguous")]


def test_part_of_wider_pixels(warp: Library) -> None:
    """The first channels of 67: the first pixel starts at a multiple of 16 bytes, the others do not."""
    case = Case(64, 3, 9)
    x, flow = image(case, "channels_last", 67)[:, :64], field(case)
    grad = image(case, "channels_last", 67).flip(2)[:, :64]
    dense = x.contiguous(memory_format=torch.channels_last)
    dense_grad = grad.contiguous(memory_format=torch.channels_last)
    assert plan(warp, x) == (2, 16) and plan(warp, dense) == (16, 8)
    assert backward_plan(warp, grad, dense) == 32
    assert_same_bits(forward(warp, case, x, flow), forward(warp, case, dense, flow), str(case))
    for got, expected in zip(
        backward(warp, case, grad, dense, flow), backward(warp, case, dense_grad, dense, flow), strict=True
    ):
        assert got is not None and expected is not None
        torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-5)


def test_one_row_or_column_of_any_stride(warp: Library) -> None:
    """A stride that leads nowhere may be any number; corners beside the only row or column are outside."""
    for h, w, dimension in ((1, 9, 2), (9, 1, 3)):
        case = Case(64, h, w, reach=0.7)
        near, flow, grad = image(case, "channels_last"), field(case), image(case, "channels_last").flip(2, 3)
        grad = lay_out(grad, "channels_last")
        strides = list(near.stride())
        strides[dimension] = 3
        x = near.as_strided(near.shape, strides)
        assert plan(warp, x) == (16, 8)
        assert_same_bits(forward(warp, case, x, flow), forward(warp, case, near, flow), str(case))
        for got, expected in zip(
            backward(warp, case, grad, x, flow), backward(warp, case, grad, near, flow), strict=True
        ):
            assert got is not None and expected is not None
            assert_same_bits(got, expected, str(case))


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_whole_pixels(warp: Library, interpolation: str, padding: str) -> None:
    """Copies every bit, also from outside."""
    for (c, layout), (dx, dy) in itertools.product(WAYS, ((0, 0), (3, -2), (-1, 1), (-40, 0), (0, 30))):
        case = Case(c, 6, 35, interpolation=interpolation, padding=padding, layout=layout)
        x = image(case, layout)
        flow = torch.tensor([dx, dy], dtype=torch.float32).view(1, 2, 1, 1).expand(1, 2, 6, 35)
        rows, columns = torch.arange(6) + dy, torch.arange(35) + dx
        expected = x[:, :, rows.clamp(0, 5)][..., columns.clamp(0, 34)]
        if padding == "zeros":
            inside = ((rows >= 0) & (rows < 6))[:, None] & ((columns >= 0) & (columns < 35))
            expected = torch.where(inside, expected, 0)
        assert_same_bits(forward(warp, case, x, flow) + 0.0, expected + 0.0, str(case))


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_flow_to_nowhere(warp: Library, padding: str, interpolation: str) -> None:
    """Infinite, NaN and vast displacements are outside; no gradient reaches them, and no neighbour notices."""
    values = [torch.inf, -torch.inf, torch.nan, 1e10, -1e10, 3e38, 2.0**31, -(2.0**31), 2.0**63]
    for (c, layout), channel in itertools.product(WAYS, (0, 1)):
        case = Case(c, 5, len(values), interpolation=interpolation, padding=padding, layout=layout)
        x, flow = image(case, layout), torch.zeros(1, 2, 5, len(values))
        flow[0, channel, 2] = torch.tensor(values)
        expected = x.clone()
        for column, value in enumerate(values):
            far = -1 if value > 0 else 0
            at = x[0, :, 2, far] if channel == 0 else x[0, :, far, column]
            expected[0, :, 2, column] = at if padding == "border" else 0
        assert_same_bits(forward(warp, case, x, flow) + 0.0, expected + 0.0, str(case))
        grad_x, grad_flow = backward(warp, case, x, x, flow)
        assert grad_x is not None and grad_flow is not None
        assert torch.isfinite(grad_x).all() and torch.isfinite(grad_flow).all()
        assert not grad_flow[0, channel, 2].any()
        assert padding == "border" or not grad_flow[0, :, 2].any()


def test_nearest_takes_the_even_pixel(warp: Library) -> None:
    for c, layout in WAYS:
        case = Case(c, 6, 9, interpolation="nearest", padding="border", layout=layout)
        x, flow = image(case, layout), torch.full((1, 2, 6, 9), 0.5)
        rows, columns = (torch.arange(6) + 0.5).round().long(), (torch.arange(9) + 0.5).round().long()
        assert rows[:4].tolist() == [0, 2, 2, 4]
        expected = x[:, :, rows.clamp(max=5)][..., columns.clamp(max=8)]
        assert_same_bits(forward(warp, case, x, flow) + 0.0, expected + 0.0, str(case))


def test_pixels_that_are_not_wanted_are_not_read(warp: Library) -> None:
    """A corner outside, or one that nearest sampling leaves out, may hold anything in memory beside it."""
    for c, layout in WAYS:
        case = Case(c, 4, 5, interpolation="nearest", layout=layout)
        x = image(case, layout)
        x[..., 1::2] = torch.nan
        flow = torch.zeros(1, 2, 4, 5)
        flow[:, 0, :, 1::2] = 1.0
        expected = x[..., [0, 2, 2, 4, 4]]
        assert_same_bits(forward(warp, case, x, flow) + 0.0, expected + 0.0, str(case))


@pytest.mark.parametrize(("c", "layout"), [(64, "channels_last"), (17, "channels_last"), (3, "contiguous")])
@pytest.mark.parametrize("dimension", [0, 2])
def test_strides_beyond_32_bits(warp: Library, dimension: int, c: int, layout: str) -> None:
    """Two halves of an image, or two images, 2^32 elements apart."""
    case = Case(c, 2, 35, n=2, layout=layout, padding="border")
    near, flow = image(case, layout), field(case)
    elements = 2**32 + near.numel()
    memory = mmap.mmap(-1, 2 * elements, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)  # no pages reserved
    strides = list(near.stride())
    strides[dimension] = 2**32
    x = torch.frombuffer(memory, dtype=torch.bfloat16).as_strided(near.shape, strides).copy_(near)
    halves = [span(x.narrow(dimension, i, 1)) for i in (0, 1)]
    arrays = [ctypes.c_void_p(x.data_ptr()), span(flow), span(out := blank(near))]
    for half in halves:
        warp.memory.attach(half, "half")
    try:
        steps = numbers(*x.stride(), *flow.stride(), *out.stride())
        assert warp.call("flow_warp", *arrays, numbers(*x.shape), steps, *case.modes) == 0
    finally:
        for half in halves:
            warp.memory.free(half.ctypes.data)
    assert_same_bits(out, forward(warp, case, near, flow), str(case))


# Concatenation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False], ids=["warp-first", "warp-last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_concatenation(warp: Library, dtype: torch.dtype, first: bool) -> None:
    """The same bits as of a warp and a copy, whatever the channels and layouts; every byte is written."""
    counts = [(64, 3), (64, 64), (8, 1), (16, 5), (48, 8), (64, 100), (17, 3), (3, 8), (64, 400), (3, 3)]
    for i, (c, c_y) in enumerate(counts):
        h, w = SIZES[i % len(SIZES)]
        layout = "contiguous" if (c, c_y) == (3, 3) else "channels_last"
        padding = ("zeros", "border")[i % 2]
        case = Case(c, h, w, n=1 + i % 2, dtype=dtype, same_flow=i % 3 == 2, padding=padding, layout=layout)
        x, flow = image(case, layout), field(case)
        y = image(case, LAYOUTS[i % len(LAYOUTS)], c_y)
        out = concatenated(warp, case, x, flow, y, first)
        warped, beside = sides(out, c, first)
        assert_same_bits(warped, forward(warp, case, x, flow), f"{case}: warped")
        assert_same_bits(beside, y, f"{case}: copied")


def test_large_pixels_leave_fewer_warps_to_a_block(warp: Library) -> None:
    """Shared memory of a block stays below 48 KB, which every device has; beyond it, pixels go one by one."""
    shapes = []
    for c_y in (3, 100, 400, 800):
        case = Case(64, 9, 40)
        x, y = image(case, "channels_last"), image(case, "channels_last", c_y)
        (launch,) = launched(warp, concatenated, case, x, field(case), y, True)
        assert launch.shared_bytes <= 48 << 10
        shapes.append((names([launch])[0], launch.block[1]))
    assert shapes == [("concat", 8), ("concat", 4), ("concat", 1), ("planes", 8)]


# Determinism ---------------------------------------------------------------------------------------------------------


def in_other_orders(library: Library, *args: Any) -> list[Tensor]:
    """Gradients by x with all blocks in step, and with one after the other: atomics then act in other orders."""
    found = []
    for blocks in (0, 1):
        library.options["blocks_per_chunk"] = blocks
        try:
            result = backward(library, *args)[0]
        finally:
            del library.options["blocks_per_chunk"]
        assert result is not None
        found.append(result)
    return found


@pytest.mark.parametrize(("c", "layout"), [(64, "channels_last"), (37, "channels_last"), (3, "contiguous")])
def test_deterministic(warp: Library, c: int, layout: str) -> None:
    """The order in which blocks run changes float32 sums, and none of the deterministic ones."""
    case = Case(c, 17, 33, dtype=torch.float32, layout=layout, reach=30.0, padding="border")
    x, flow = image(case, layout), field(case)
    grad = torch.randn(x.shape, generator=seeded(case)) + 0.3
    grad = grad.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else grad
    for deterministic in (False, True):
        settings = replace(case, deterministic=deterministic)
        one, other = in_other_orders(warp, settings, grad, x, flow)
        assert torch.equal(one, other) == deterministic


def test_deterministic_over_a_wide_range(warp: Library) -> None:
    """Gradients of any size, and images of different ones, keep the precision of float32."""
    for scale in (1e-34, 1e-20, 1.0, 1e20, 1e29):
        case = Case(8, 6, 40, n=2, dtype=torch.float32, deterministic=True)
        x, flow = image(case, "channels_last"), field(case)
        grad = image(case, "channels_last") * scale
        grad[1] *= 1e8
        grad_x, _ = backward(warp, case, grad, x, flow)
        assert grad_x is not None
        wide = gradients(functools.partial(exact, case), x.double(), flow.double(), grad.double())[0]
        for got, true in zip(grad_x.double(), wide, strict=True):
            assert ((got - true).abs().max() <= 2e-6 * true.abs().max()).item(), scale


@pytest.mark.parametrize("deterministic", [False, True])
def test_what_a_walk_carries_along(warp: Library, deterministic: bool) -> None:
    """Sums that wait for the next pixel are not lost at the end of a row, and only continue what they belong to."""
    for c in (64, 17):
        case = Case(c, 2, 9, dtype=torch.float32, deterministic=deterministic)
        x, flow = image(case, "channels_last"), torch.zeros(1, 2, 2, 9)
        flow[0, 0, :, 8] = -8.5  # half of the last pixel goes to the first column, and half outside
        grad_x, _ = backward(warp, case, torch.ones_like(x), x, flow)
        expected = torch.ones_like(x)
        expected[..., 0], expected[..., 8] = 1.5, 0.0
        assert grad_x is not None and torch.equal(grad_x, expected)
        grad = torch.ones_like(x)
        grad[..., 0, 3] = torch.inf  # of which a neighbour would get 0 * inf
        nearest = replace(case, interpolation="nearest")
        grad_x, _ = backward(warp, nearest, grad, x, torch.zeros(1, 2, 2, 9))
        assert grad_x is not None and torch.equal(grad_x, grad)


@pytest.mark.parametrize("deterministic", [False, True])
def test_all_pixels_to_one(warp: Library, deterministic: bool) -> None:
    """The largest sum that there can be: every pixel of an image is added to its corner."""
    for c, layout in ((64, "channels_last"), (17, "channels_last"), (3, "contiguous")):
        case = Case(c, 16, 32, dtype=torch.float32, layout=layout, padding="border", deterministic=deterministic)
        x, flow = image(case, layout), torch.full((1, 2, 16, 32), 1e3)
        grad_x, _ = backward(warp, case, torch.full_like(x, 0.75), x, flow)
        expected = torch.zeros_like(x)
        expected[..., -1, -1] = 0.75 * 16 * 32
        assert grad_x is not None
        assert torch.equal(grad_x, expected)


def test_deterministic_infinities(warp: Library) -> None:
    """Infinite and NaN gradients reach the pixels that they would reach otherwise, and only those."""
    for c, layout in WAYS:
        case = Case(c, 9, 35, n=2, dtype=torch.float32, layout=layout, deterministic=True)
        x, flow, grad = image(case, layout), field(case), image(case, layout)
        grad[0, 0, 1, 3:5], grad[0, 1, 4, 7] = torch.inf, -torch.inf
        grad[0, 2, 6, 30], grad[1, 0, 2, 2], grad[1, 0, 2, 3] = torch.nan, torch.inf, -torch.inf
        got = backward(warp, case, grad, x, flow)[0]
        plain = backward(warp, replace(case, deterministic=False), grad, x, flow)[0]
        assert got is not None and plain is not None
        assert torch.equal(got.isnan(), plain.isnan()) and torch.equal(got.isinf(), plain.isinf())
        assert plain.isnan().any() and plain.isinf().any()
        torch.testing.assert_close(got, plain, rtol=1e-5, atol=1e-5, equal_nan=True)
    case = Case(8, 5, 9, dtype=torch.float32, deterministic=True)
    x, flow = image(case, "channels_last"), field(case)
    assert not torch.isfinite(backward(warp, case, torch.full_like(x, torch.nan), x, flow)[0]).all()
    assert not backward(warp, case, torch.zeros_like(x), x, flow)[0].any()


# Counts --------------------------------------------------------------------------------------------------------------


def smooth(h: int, w: int) -> Tensor:
    """Flow as between frames."""
    coarse = torch.randn(1, 2, 6, 10, generator=torch.Generator().manual_seed(2))
    return F.interpolate(coarse, size=(h, w), mode="bicubic").mul(4).contiguous()


def unchecked(library: Library, function: Callable[..., object], *args: object) -> list[Launch]:
    """The launches of a large call, without the checks that small ones had."""
    checks, library.options = library.options, {"check_shared": False, "check_races": False, "check_blocks": False}
    try:
        return launched(library, function, *args)
    finally:
        library.options = checks


def machine_code(library: Library, launch: Launch) -> tuple[int, float]:
    """Registers, and warp instructions that the launch issues on sm_80."""
    code = assemble(library.owner[launch.kernel], launch.kernel, "sm_80")
    assert code.stack_bytes == code.spill_bytes == 0
    return code.registers, code.executed(launch.stats).instructions


def test_work_of_the_forward_kernel(warp: Library) -> None:
    """64 channels of 16 bits at 180x320: instructions per four pixels, registers, and whole sectors once per corner."""
    case = Case(64, 180, 320)
    x, flow = image(case, "channels_last"), smooth(180, 320)
    (launch,) = unchecked(warp, forward, case, x, flow)
    registers, instructions = machine_code(warp, launch)
    stats, fours = launch.stats, 180 * 320 / 4
    assert launch.block == (32, 8, 1)
    assert registers <= 40
    assert stats.warp_instructions / fours <= 180
    assert instructions / fours <= 140
    assert stats.global_store_efficiency == 1.0
    assert stats.global_load_efficiency >= 1.0
    assert 32 * (stats.global_load_sectors + stats.global_store_sectors) / (180 * 320 * (4 * 64 + 8)) <= 2.45


def test_work_of_the_concatenating_kernel(warp: Library) -> None:
    """67 channels cost no more sectors than 64 and 3 by themselves; one launch and 134 bytes less to read and write."""
    case = Case(64, 180, 320)
    x, flow = image(case, "channels_last"), smooth(180, 320)
    y = image(case, "channels_last", 3)
    (launch,) = unchecked(warp, concatenated, case, x, flow, y, False)
    stats, fours = launch.stats, 180 * 320 / 4
    assert stats.warp_instructions / fours <= 260
    assert stats.by_opcode["bar.warp.sync"] == 180 * 320 / 32  # lanes that pass each other are not simulated
    assert stats.global_store_efficiency >= 0.95
    assert 32 * (stats.global_load_sectors + stats.global_store_sectors) / (180 * 320 * (4 * 67 + 8)) <= 2.45


@pytest.mark.parametrize("deterministic", [False, True])
def test_work_of_the_backward_kernels(warp: Library, deterministic: bool) -> None:
    """Where the flow is smooth, little more than two pixels are added to per pixel instead of four; whole sectors."""
    case = Case(64, 90, 160, deterministic=deterministic)
    x, flow = image(case, "channels_last"), smooth(90, 160)
    launches = unchecked(warp, backward, case, x, x, flow)
    pixels = 90 * 160
    scatter, rounding = launches[-2:]
    registers, instructions = machine_code(warp, scatter)
    assert registers <= (96 if deterministic else 80)
    assert scatter.stats.atomics / pixels / 64 <= 2.9
    assert scatter.stats.global_store_efficiency >= 0.95
    assert rounding.stats.global_store_efficiency == 1.0
    if not deterministic:
        assert scatter.stats.warp_instructions / (pixels / 4) <= 530
        assert instructions / (pixels / 4) <= 530
        assert rounding.stats.warp_instructions / (pixels / 4) <= 80
