"""The backward of the convolution's epilogue on CUDA, launch code included, on the CPU, against float64.

The truth is PyTorch's autograd in float64. Results start as NaN, so that whatever is not written shows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from operands import ACTIVATIONS, DTYPES, image, in_memory, longs, pixels, pointer, poisoned
from torch import Tensor

from ptxvm.cudart import Library
from vsr_kernels import build


@dataclass(frozen=True)
class Case:
    """One call; ``c`` counts the channels before the shuffle, ``h`` and ``w`` the pixels before it."""

    c: int
    r: int = 1
    n: int = 1
    h: int = 3
    w: int = 5
    dtype: torch.dtype = torch.bfloat16
    activation: str = "relu"
    number: float = 0.125
    slopes: int = 0  # of prelu: 0 for one per channel
    scale: float = 0.5
    of_output: bool = False
    grad_offset: int = 0  # elements by which it misses its alignment
    saved_offset: int = 0


class Inputs:
    """Random operands of a case; the values before the activation stay away from zero."""

    def __init__(self, case: Case) -> None:
        rng = torch.Generator().manual_seed(case.c)
        z = torch.randn(case.n, case.c, case.h, case.w, generator=rng)
        self.case = case
        self.z = (z + 0.1 * z.sign()).to(case.dtype)
        shuffled = (case.n, case.c // case.r**2, case.h * case.r, case.w * case.r)
        self.grad = torch.randn(shuffled, generator=rng).to(case.dtype)
        slope = torch.rand(case.slopes or case.c, generator=rng).to(case.dtype)
        self.slope = slope if case.activation == "prelu" else None

    def activate(self, z: Tensor, slope: Tensor | None) -> Tensor:
        case = self.case
        if case.activation == "none":
            return z
        if case.activation == "relu":
            return F.relu(z)
        return F.leaky_relu(z, case.number) if slope is None else F.prelu(z, slope)

    def saved(self) -> Tensor:
        """What the forward keeps, in the layout of its output."""
        kept = self.activate(self.z, self.slope) if self.case.of_output else self.z
        return F.pixel_shuffle(kept, self.case.r)

    def gradients(self, dtype: torch.dtype) -> list[Tensor]:
        """By autograd in a dtype: of what is before the epilogue, and of the slope."""
        leaves = [t.to(dtype).requires_grad_() for t in (self.z, self.slope) if t is not None]
        out = F.pixel_shuffle(self.activate(leaves[0], leaves[1] if len(leaves) > 1 else None), self.case.r)
        return list(torch.autograd.grad(out * self.case.scale, leaves, self.grad.to(dtype)))


def launch(library: Library, inputs: Inputs) -> list[Tensor]:
    """What the launchers make of it; launches one kernel, and one more for a slope."""
    case = inputs.case
    kind = (ACTIVATIONS.index(case.activation), DTYPES.index(case.dtype))
    grad = pixels(inputs.grad, case.grad_offset)
    saved = pointer(None if case.activation == "none" else pixels(inputs.saved(), case.saved_offset))
    slope = pointer(None if inputs.slope is None else in_memory(inputs.slope))
    shape = (case.n, case.h, case.w, case.c)
    before = poisoned(shape, case.dtype)
    slices = library.call("epilogue_slice_count", *longs(case.n * case.h * case.w), restype=ctypes.c_int64)
    parts = pointer(None if inputs.slope is None else poisoned((slices, case.c), torch.float32))
    sizes = longs(case.n, case.h, case.w, case.c, case.r, 0 if inputs.slope is None else inputs.slope.numel())
    launched = len(library.launches)
    code = library.call("epilogue_backward", grad, saved, slope, before, parts, *sizes, case.number, case.scale, *kind)
    assert code == 0
    assert len(library.launches) == launched + 1
    results = [image(before, shape, case.dtype)]
    if inputs.slope is not None:
        assert isinstance(parts, np.ndarray)
        assert np.isfinite(parts.view(np.float32)).all()
        total = poisoned((inputs.slope.numel(),), case.dtype)
        code = library.call("slope_sum", parts, total, *longs(slices, case.c, inputs.slope.numel()), kind[1])
        assert code == 0
        results.append(image(total, (1, 1, 1, inputs.slope.numel()), case.dtype).flatten())
    return results


def check(library: Library, case: Case) -> None:
    """At most twice PyTorch's error in that dtype, plus one unit in the last place of the largest value.

    A slope's gradient is a sum, of which the largest value is the sum of the magnitudes, in float32.
    """
    inputs = Inputs(case)
    truths, lows = inputs.gradients(torch.float64), inputs.gradients(case.dtype)
    terms = (F.pixel_shuffle(inputs.z, case.r).double() * inputs.grad.double() * case.scale).abs().sum().item()
    atols = (0.0, torch.finfo(torch.float32).eps * terms)
    for got, truth, low, atol in zip(launch(library, inputs), truths, lows, atols):  # noqa: B905 (no slope, no atol)
        assert torch.isfinite(got).all(), f"{case}: {int((~torch.isfinite(got)).sum())} values were not written"
        error = (got.double() - truth).abs().max().item()
        allowed = atol + 2 * (low.double() - truth).abs().max().item()
        allowed += torch.finfo(case.dtype).eps * truth.abs().max().item()
        assert error <= allowed, f"{case}: largest error {error:.3e}, allowed {allowed:.3e}"


def kernel(library: Library) -> str:
    """The family of the last launch but the sum."""
    names = [at.kernel for at in library.launches if "slope_kernel" not in at.kernel]
    return next(name for name in ("pixels_kernel", "shuffled_kernel") if name in names[-1])


@pytest.fixture(scope="module")
def epilogue(library: Callable[[str], Library]) -> Library:
    return library("conv3x3_epilogue_call")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", [1, 3, 17, 24, 37, 64, 100])
def test_channels(epilogue: Library, c: int, dtype: torch.dtype) -> None:
    """Every activation; images of one pixel, and more pixels than threads of a block."""
    for i, activation in enumerate(ACTIVATIONS):
        n, h, w = ((3, 3, 7), (1, 1, 1), (1, 20, 15))[(i + c) % 3]
        case = Case(c, n=n, h=h, w=w, dtype=dtype, activation=activation, scale=(1.0, -0.5)[i % 2])
        check(epilogue, case)
        if activation == "prelu":
            check(epilogue, replace(case, slopes=1))
        elif activation != "none":
            check(epilogue, replace(case, of_output=True, scale=1.0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("c", "r", "w", "family"),
    [
        (48, 4, 16, "shuffled_kernel"),
        (48, 4, 5, "pixels_kernel"),  # a row of the gradient ends inside a vector of 16-bit numbers
        (12, 2, 4, "shuffled_kernel"),
        (256, 2, 37, "shuffled_kernel"),
        (27, 3, 8, "pixels_kernel"),
        (72, 3, 9, "shuffled_kernel"),
        (4, 2, 200, "shuffled_kernel"),
        (1600, 2, 4, "pixels_kernel"),  # too many channels for the room
    ],
)
def test_shuffles(epilogue: Library, c: int, r: int, w: int, family: str, dtype: torch.dtype) -> None:
    """Each with slopes per channel, and without: stretches that end with the row or before, and element by element."""
    for activation in ("prelu", "relu", "none"):
        check(epilogue, Case(c, r, n=2, h=2, w=w, dtype=dtype, activation=activation))
        whole = c // r * w % (16 // dtype.itemsize) == 0
        assert kernel(epilogue) == ("shuffled_kernel" if whole and (c, r) == (48, 4) else family)


def test_more_channels_than_threads(epilogue: Library) -> None:
    check(epilogue, Case(515, h=2, w=2, activation="prelu"))
    check(epilogue, Case(4128, h=1, w=3, activation="prelu"))


def test_addresses_that_are_no_multiple_of_16(epilogue: Library) -> None:
    for case in (Case(64), Case(48, 4, w=8), Case(64, activation="prelu")):
        check(epilogue, replace(case, grad_offset=1))
        check(epilogue, replace(case, saved_offset=3))


def test_slopes_below_zero(epilogue: Library) -> None:
    check(epilogue, Case(8, activation="leaky_relu", number=-0.5))


def test_relu_stops_what_is_not_finite(epilogue: Library) -> None:
    """As in PyTorch: an infinite gradient does not pass where relu is flat, and passes elsewhere."""
    inputs = Inputs(Case(8, scale=1.0))
    inputs.grad[:] = torch.inf
    (before,) = launch(epilogue, inputs)
    assert torch.equal(before, torch.where(inputs.z > 0, torch.inf, 0.0).to(before.dtype))


def test_many_slices(epilogue: Library) -> None:
    """More pixels than slices of the smallest size: the sums of every slice are in the result, in one order."""
    case = Case(8, h=40, w=80, activation="prelu", dtype=torch.float32, scale=1.0)
    inputs = Inputs(case)
    first, second = launch(epilogue, inputs), launch(epilogue, inputs)
    assert torch.equal(first[1], second[1])
    assert epilogue.launches[-2].grid[0] == 50
    check(epilogue, case)
    check(epilogue, replace(case, slopes=1))


def test_number_of_slices(epilogue: Library) -> None:
    """As many as there are pixels for, up to a limit, whatever the size."""

    def slices(count: int) -> int:
        found: int = epilogue.call("epilogue_slice_count", *longs(count), restype=ctypes.c_int64)
        return found

    assert [slices(count) for count in (0, 1, 64, 65, 64 * 1024, 2**40)] == [0, 1, 1, 2, 1024, 1024]


def test_nothing_to_do(epilogue: Library) -> None:
    before = len(epilogue.launches)
    x = np.zeros(1, np.uint16)
    for shape in ((0, 2, 2, 8), (1, 0, 2, 8), (1, 2, 0, 8), (1, 2, 2, 0)):
        assert epilogue.call("epilogue_backward", x, x, x, x, x, *longs(*shape, 1, 0), 0.0, 1.0, 1, 2) == 0
    assert len(epilogue.launches) == before


def test_bytes_moved(epilogue: Library) -> None:
    """Every byte once, in whole sectors, with a shuffle and without."""
    for case in (Case(64, h=16, w=32), Case(64, h=16, w=32, activation="prelu"), Case(48, 4, h=4, w=64)):
        inputs = Inputs(case)
        launch(epilogue, inputs)
        stats = next(at.stats for at in reversed(epilogue.launches) if "slope_kernel" not in at.kernel)
        size = 2 * inputs.z.numel()
        slopes = 0 if inputs.slope is None else 2 * case.c
        assert stats.unique_read_bytes == 2 * size + slopes
        assert 32 * stats.global_load_sectors == 2 * size + 8 * slopes * stats.blocks  # each warp reads the slopes
        assert stats.global_store_efficiency == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_75", "sm_86", "sm_90", "sm_120"])
def test_other_devices(toolkit: Path, arch: str) -> None:
    source = Path(__file__).with_name("kernels") / "conv3x3_epilogue_call.cu"
    options = ["-I", str(build.source_root()), "--expt-relaxed-constexpr"]
    library = Library.build([source], arch=arch, options=options)
    library.options = {"check_uninitialized": True, "check_equal_stores": True}
    for dtype in DTYPES:
        for case in (Case(64, activation="prelu"), Case(48, 4, w=8), Case(37, activation="leaky_relu"), Case(12, 2)):
            check(library, replace(case, dtype=dtype))
