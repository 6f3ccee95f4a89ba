"""A convolution with everything known but its tensors: the source of its kernel, and how to launch that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from ..checks import ACTIVATIONS, distinct_channels, fail
from .launch import MAX_GRID, Launch, Limits, View, element_bytes, longs
from .layout import Layout

#: Threads of a block: kConvThreads.
THREADS = 128

#: Rows, columns or channels, at most: what is behind them is counted in 32 bits.
MAX_SIZE = 2**31 - 65

#: The arithmetic of csrc/cuda/mma.cuh and the DType of csrc/core/dtype.h by dtype.
_MATH = {"float16": ("MathF16", "f16"), "bfloat16": ("MathBf16", "bf16"), "float32": ("MathTf32", "f32")}


@dataclass(frozen=True)
class Conv3x3:
    """``residual[:, out_channels] += scale * pixel_shuffle(act(conv(x[:, in_channels])), r)`` for one layer.

    Everything here becomes a constant of the kernel. Weights are packed as for the compiled kernel.

    Attributes:
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        c_in: input channels of the weight.
        c_out: output channels of the weight.
        in_channels: the c_in channels of x that are read; None for x's own.
        out_channels: the c_out channels of the residual that are added to; None for an output of c_out channels.
        c_total: channels of residual and output where ``out_channels`` is given, else 0.
        activation: ``none``, ``relu``, ``leaky_relu`` or ``prelu``; slopes are part of the packed weights.
        residual: whether there is one.
        rows: of a tile; a height of ``kConvHeights`` in csrc/core/conv3x3.h.
        neighbours: whether the channels of a pixel of x lie side by side (channels_last).
        x_on_vectors: whether, besides, every pixel of x begins on 16 bytes and has whole vectors of 16 bytes.
        out_on_vectors: whether residual and output begin on 16 bytes.
        r: factor of the shuffle; 1 with ``out_channels``.
        scaled: whether there is a scale; its value comes with the launch.
        exact: whether float32 is multiplied as three products of TF32 numbers, else as one.
    """

    dtype: str
    c_in: int
    c_out: int
    in_channels: tuple[int, ...] | None = None
    out_channels: tuple[int, ...] | None = None
    c_total: int = 0
    activation: str = "none"
    residual: bool = False
    rows: int = 8
    neighbours: bool = True
    x_on_vectors: bool = False
    out_on_vectors: bool = True
    r: int = 1
    scaled: bool = False
    exact: bool = False

    #: Name of the kernel.
    entry = "conv3x3"

    def __post_init__(self) -> None:
        op = "nvrtc.Conv3x3"
        if self.dtype not in _MATH:
            fail(op, "dtype", "one of " + ", ".join(_MATH), repr(self.dtype))
        if self.activation not in ACTIVATIONS:
            fail(op, "activation", "one of " + ", ".join(ACTIVATIONS), repr(self.activation))
        for name, least in (("c_in", 0), ("c_out", 1), ("r", 1)):
            if getattr(self, name) < least:
                fail(op, name, f"at least {least}", getattr(self, name))
        if self.c_out % self.r**2 != 0:
            fail(op, "c_out", f"a multiple of r^2 = {self.r**2}", self.c_out)
        if self.rows not in self.layout.heights:
            fail(op, "rows", "one of " + ", ".join(map(str, self.layout.heights)), self.rows)
        if self.in_channels is not None:
            if len(self.in_channels) != self.c_in or self.c_in == 0:
                fail(op, "in_channels", f"c_in = {self.c_in} channel numbers, or None for none", len(self.in_channels))
            distinct_channels(op, "in_channels", self.in_channels, 2**31)
        if (self.out_channels is None) != (self.c_total == 0):
            fail(op, "c_total", "0 exactly where out_channels is None", self.c_total)
        if self.out_channels is not None:
            if len(self.out_channels) != self.c_out:
                fail(op, "out_channels", f"c_out = {self.c_out} channel numbers", len(self.out_channels))
            distinct_channels(op, "out_channels", self.out_channels, self.c_total)
            if not self.residual:
                fail(op, "residual", "True where out_channels is given", False)
            if self.r != 1:
                fail(op, "r", "1 where out_channels is given", self.r)
        elif self.layout.vectors and not self.out_on_vectors:
            fail(op, "out_on_vectors", "True where pixels of the output are whole vectors", False)

    @cached_property
    def layout(self) -> Layout:
        """How it is cut."""
        return Layout.of(self.c_in, self.c_out, self.r, self.dtype, self.exact)

    @cached_property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return self.layout.shared_bytes(self.rows, self.out_channels is not None)

    def grid(self, n: int, h: int, w: int) -> tuple[int, int, int]:
        """Blocks of a launch on ``n`` images of ``h`` x ``w`` pixels.

        Raises:
            ValueError: the image is too large for one launch.
        """
        blocks = (-(-w // self.layout.width) * self.layout.column_blocks, -(-h // self.rows), n)
        if max(h, w) > MAX_SIZE or any(size > most for size, most in zip(blocks, MAX_GRID, strict=True)):
            fail("conv3x3", "x", f"a grid of at most {MAX_GRID} blocks", blocks)
        return blocks

    @property
    def source(self) -> str:
        """CUDA C++ of the kernel ``(x, packed, residual, out, strides of x, h, w, scale)``.

        Strides are 64-bit numbers, in bytes; h and w are 32-bit numbers, scale is a float.
        """
        math, dtype = _MATH[self.dtype]
        math += "x3" if self.layout.parts == 2 else ""
        gathered, listed = self.in_channels is not None, self.out_channels is not None

        def whole(channels: int) -> bool:
            return channels * self.layout.element_bytes % 16 == 0

        flags = {
            "kResidual": self.residual,
            "kScaled": self.scaled,
            "kNeighbours": self.neighbours,
            "kPixelsOnVectors": gathered and self.x_on_vectors,
            "kXByVectors": not gathered and self.x_on_vectors and whole(self.c_in),
            "kLanesAlongW": not self.neighbours or self.c_in * self.layout.element_bytes <= 32,
            "kOutOnVectors": self.out_on_vectors,
            "kListedByVectors": listed and self.out_on_vectors and whole(self.c_total),
        }
        lines = ['#include "cuda/conv3x3_special.cuh"', "", "using namespace vsr;", ""]
        for name, channels in (("kInChannels", self.in_channels), ("kOutChannels", self.out_channels)):
            if channels is not None:
                lines.append(f"__device__ constexpr int {name}[] = {{{', '.join(map(str, channels))}}};")
        lines += [
            "struct Call {",
            f"  using Math = cuda::{math};",
            f"  static constexpr DType kDType = DType::{dtype};",
            f"  static constexpr Activation kActivation = Activation::{self.activation};",
            f"  static constexpr int kIn = {self.c_in}, kOut = {self.c_out}, kTotal = {self.c_total};",
            f"  static constexpr int kShuffle = {self.r}, kRows = {self.rows};",
            *(f"  static constexpr bool {name} = {str(value).lower()};" for name, value in flags.items()),
            "  static __device__ constexpr int in_channel(int i) { return "
            + ("kInChannels[i]; }" if gathered else "i; }"),
            "};",
            f"static_assert(cuda::SpecialTile<Call>::kColumns == {self.layout.columns});",
            f"static_assert(cuda::SpecialTile<Call>::kWidth == {self.layout.width});",
            f"static_assert(cuda::SpecialTile<Call>::kColumnBlocks == {self.layout.column_blocks});",
            f"static_assert(cuda::SpecialTile<Call>::kSharedBytes == {self.shared_bytes});",
            f"static_assert(packed_bytes(cuda::SpecialArguments<Call>::kLayout) == {self.layout.packed_bytes});",
            "",
            f'extern "C" __global__ void __launch_bounds__({THREADS}, 2)',
            f"{self.entry}(const char* x, const char* packed, const char* residual, char* out, int64_t stride_n,",
            "    int64_t stride_c, int64_t stride_h, int64_t stride_w, int h, int w, float scale) {",
            "  cuda::convolve_special<Call>(x, packed, residual, out, {stride_n, stride_c, stride_h, stride_w}, h, w,",
            f"      scale, {'kInChannels' if gathered else 'nullptr'}, {'kOutChannels' if listed else 'nullptr'});",
            "}",
            "",
        ]
        return "\n".join(lines)


def fits_one_launch(shape: Sequence[int]) -> bool:
    """Whether images (N, C, H, W) surely do; larger ones may, if they have few channels."""
    return shape[0] <= MAX_GRID[2] and shape[2] <= MAX_GRID[1] * 8 and shape[3] <= 2**24


#: Channel lists are checked once, not in every call.
_conv3x3 = lru_cache(maxsize=4096)(Conv3x3)


def conv3x3(
    x: View,
    packed: View,
    residual: View | None,
    out: View,
    limits: Limits,
    *,
    c_out: int,
    in_channels: tuple[int, ...] | None,
    out_channels: tuple[int, ...] | None,
    activation: str,
    scale: float,
    r: int,
    exact: bool,
) -> Launch:
    """The launch of a checked call on images that are not empty.

    Args:
        x: (N, C_x, H, W), any strides.
        packed: what :func:`vsr_kernels.nvrtc.pack.pack` makes of weight, bias and slopes.
        residual: as ``out``, dense channels_last, or None.
        out: dense channels_last, from a multiple of 16 bytes on where its pixels are whole vectors.
        limits: of the device.
        c_out: channels of the weight, at least one.
        in_channels, out_channels: as :class:`Conv3x3` has them; no channels at all are an empty tuple.
        activation, scale, r, exact: likewise.

    Raises:
        ValueError: the images are too large for one launch.
        RuntimeError: the device has too little shared memory.
    """
    n, c_x, h, w = x.shape
    c_in = c_x if in_channels is None else len(in_channels)
    layout = Layout.of(c_in, c_out, r, x.dtype, exact)
    rows = layout.rows(n, h, w, out_channels is not None, limits)
    if rows == 0:
        raise RuntimeError(f"conv3x3: no tile fits the {limits.shared_per_block} bytes of shared memory of a block")
    per_vector = 16 // element_bytes(x.dtype)
    neighbours = c_x <= 1 or x.strides[1] == 1
    pixels = [(size, stride) for size, stride in zip(x.shape, x.strides, strict=True)]
    pixels.pop(1)
    x_on_vectors = (
        neighbours
        and x.on_vectors
        and c_x % per_vector == 0
        and all(size <= 1 or stride % per_vector == 0 for size, stride in pixels)
    )
    kernel = _conv3x3(
        dtype=x.dtype,
        c_in=c_in,
        c_out=c_out,
        in_channels=in_channels or None,
        out_channels=out_channels,
        c_total=0 if out_channels is None else out.shape[1],
        activation=activation,
        residual=residual is not None,
        rows=rows,
        neighbours=neighbours,
        x_on_vectors=x_on_vectors and c_in > 0,
        out_on_vectors=out.on_vectors and (residual is None or residual.on_vectors),
        r=r,
        scaled=scale != 1.0,
        exact=exact and x.dtype == "float32",
    )
    strides = longs(tuple(stride * element_bytes(x.dtype) for stride in x.strides))
    sizes = (np.int32(h), np.int32(w), np.float32(scale))
    arguments = (x, packed, residual, out, *strides, *sizes)
    return Launch(kernel, kernel.grid(n, h, w), (THREADS, 1, 1), kernel.shared_bytes, arguments)
