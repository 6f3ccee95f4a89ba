"""flow_warp with its number of channels, dtypes and modes as constants."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import fail
from .launch import MAX_GRID, Arguments, Launch, View, element_bytes, longs

ELEMENTS = {"float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}
DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}

#: Pixels of a row and rows of a block: kWarpPixels, kWarpRows.
PIXELS, ROWS = 32, 8
#: Up to so many channels, a lane walks over the channels of its pixel: kWarpFewChannels.
FEW_CHANNELS = 4
#: Rows and columns of an image, at most: a position plus 1e9 has to be an int.
MAX_SIZE = 2**30


@dataclass(frozen=True)
class FlowWarp:
    """The kernel of a warp.

    Attributes:
        dtype: of the image.
        flow_dtype: of the flow, ``float32`` or dtype.
        channels: of the image.
        nearest, border: else bilinear, else zeros.
        vector: bytes that a lane reads at once, 16, 4 or 2; 0 where channels do not lie side by side.
    """

    dtype: str
    flow_dtype: str
    channels: int
    nearest: bool
    border: bool
    vector: int

    entry = "flow_warp"

    @property
    def source(self) -> str:
        """CUDA C++ of the kernel ``(x, flow, out, h, w, strides of x, flow and out)``: 64-bit numbers, in elements."""
        element, size = ELEMENTS[self.dtype], element_bytes(self.dtype)
        strides = [f"int64_t {tensor}_{axis}" for tensor in ("x", "f", "o") for axis in "nchw"]
        x_c, o_c = ("x_c", "o_c") if self.vector == 0 else ("1", "1")
        call = f"  cuda::warp_planes<{element}>({{p, nullptr, nullptr, 0, {{}}}});"
        blocks = ""
        if self.vector:
            vectors = self.channels * size // self.vector
            lanes = f"warp_lanes({vectors}, {self.vector})"
            once = f"{str(self.vector == 16).lower()} && {vectors} <= {lanes}"
            call = (
                f"  cuda::warp_vectors<{element}, {self.vector}, {once}>("
                f"cuda::vector_arguments(p, {{{self.vector}, {lanes}}}));"
            )
            blocks = ", cuda::kWarpBlocks"
        return "\n".join(
            [
                '#include "cuda/flow_warp_kernel.cuh"',
                "",
                "using namespace vsr;",
                "",
                f"static_assert(cuda::kWarpPixels == {PIXELS} && cuda::kWarpRows == {ROWS});",
                f"static_assert(kWarpFewChannels == {FEW_CHANNELS});",
                "",
                f'extern "C" __global__ void __launch_bounds__(cuda::kWarpThreads{blocks})',
                f"{self.entry}(const char* x, const char* flow, char* out, int64_t h, int64_t w,",
                f"    {', '.join(strides)}) {{",
                "  FlowWarp p{};",
                f"  p.x = x, p.flow = flow, p.out = out, p.c = {self.channels}, p.h = h, p.w = w;",
                f"  p.xs = {{x_n, {x_c}, x_h, x_w}}, p.fs = {{f_n, f_c, f_h, f_w}}, p.os = {{o_n, {o_c}, o_h, o_w}};",
                f"  p.dtype = DType::{DTYPES[self.dtype]}, p.flow_dtype = DType::{DTYPES[self.flow_dtype]};",
                f"  p.nearest = {str(self.nearest).lower()}, p.border = {str(self.border).lower()};",
                call,
                "}",
                "",
            ]
        )


def flow_warp(x: View, flow: View, out: View, *, nearest: bool, border: bool) -> Launch:
    """The launch of a checked call on images that are not empty.

    Args:
        x: (N, C, H, W), any strides.
        flow: (N, 2, H, W), any strides.
        out: as ``x``, of any ascending strides.
        nearest, border: else bilinear, else zeros.

    Raises:
        ValueError: the images are too large for one launch.
    """
    n, c, h, w = x.shape
    grid = (-(-w // PIXELS), -(-h // ROWS), n)
    if max(h, w) > MAX_SIZE or any(size > most for size, most in zip(grid, MAX_GRID, strict=True)):
        fail("flow_warp", "x", f"at most {MAX_GRID[2]} images of {MAX_GRID[1] * ROWS} rows", f"shape {x.shape}")
    kernel = FlowWarp(x.dtype, flow.dtype, c, nearest, border, _vector(x, out))
    arguments: Arguments = (x, flow, out, *longs((h, w, *x.strides, *flow.strides, *out.strides)))
    return Launch(kernel, grid, (PIXELS, ROWS, 1), 0, arguments)


def _vector(x: View, out: View) -> int:
    """As plan_flow_warp in csrc/core/flow_warp.h."""
    channels, size = x.shape[1], element_bytes(x.dtype)
    if channels <= FEW_CHANNELS or x.strides[1] != 1 or out.strides[1] != 1:
        return 0
    for vector in (16, 4, size):
        if channels * size % vector == 0 and _in_vectors(x, vector) and _in_vectors(out, vector):
            return vector
    return 0


def _in_vectors(t: View, vector: int) -> bool:
    size = element_bytes(t.dtype)
    n, c, h, w = t.shape
    along = zip((n, h, w), (t.strides[0], t.strides[2], t.strides[3]), strict=True)
    if min(t.strides) < 0:  # offsets within an image are unsigned
        return False
    aligned = all(count <= 1 or stride * size % vector == 0 for count, stride in along)
    reach = ((h - 1) * t.strides[2] + (w - 1) * t.strides[3] + c) * size // vector
    return t.pointer % vector == 0 and aligned and reach < 2**31
