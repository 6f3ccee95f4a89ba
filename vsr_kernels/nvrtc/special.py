"""A sparse convolution with everything known but its tensors: the source of its kernel, and how to launch that."""

from __future__ import annotations

from dataclasses import dataclass

from .. import checks

#: Name of the kernel: ``(x, packed, residual, out, stride_n, stride_c, stride_h, stride_w, h, w)``; four pointers, the
#: strides of x in bytes as 64-bit integers, two 32-bit integers.
KERNEL = "sparse_conv3x3"

#: Threads of a block.
THREADS = 128

#: The arithmetic of csrc/cuda/mma.cuh and the DType of csrc/core/dtype.h by dtype; float32 is one product of TF32.
_MATH = {"float16": ("MathF16", "f16"), "bfloat16": ("MathBf16", "bf16"), "float32": ("MathTf32", "f32")}


@dataclass(frozen=True)
class SparseConv:
    """``sparse_conv3x3`` for one layer: ``residual[:, out_channels] += act(conv(x[:, in_channels]))``.

    Everything here becomes a constant of the kernel. Weights are packed as for the compiled kernel.

    Attributes:
        dtype: ``float32`` (in TF32), ``float16`` or ``bfloat16``.
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

    def __post_init__(self) -> None:
        op = "nvrtc.SparseConv"
        if self.dtype not in _MATH:
            checks.fail(op, "dtype", "one of " + ", ".join(_MATH), repr(self.dtype))
        if self.activation not in checks.ACTIVATIONS:
            checks.fail(op, "activation", "one of " + ", ".join(checks.ACTIVATIONS), repr(self.activation))
        for name in ("c_in", "c_out"):
            if getattr(self, name) < 1:
                checks.fail(op, name, "at least 1", getattr(self, name))
        if self.rows not in self._heights():
            checks.fail(op, "rows", "one of " + ", ".join(map(str, self._heights())), self.rows)
        if self.in_channels is not None and len(self.in_channels) != self.c_in:
            checks.fail(op, "in_channels", f"c_in = {self.c_in} channel numbers", len(self.in_channels))
        if self.in_channels is not None:
            checks.distinct_channels(op, "in_channels", self.in_channels, 2**31)
        if (self.out_channels is None) != (self.c_total == 0):
            checks.fail(op, "c_total", "0 exactly where out_channels is None", self.c_total)
        if self.out_channels is not None:
            if len(self.out_channels) != self.c_out:
                checks.fail(op, "out_channels", f"c_out = {self.c_out} channel numbers", len(self.out_channels))
            checks.distinct_channels(op, "out_channels", self.out_channels, self.c_total)
            if not self.residual:
                checks.fail(op, "residual", "True where out_channels is given", False)
        elif self.c_out * self.element_bytes % 16 == 0 and not self.out_on_vectors:
            checks.fail(op, "out_on_vectors", "True where pixels of the output are whole vectors", False)

    # The source asserts that these are the figures of csrc/core/conv3x3.h.

    @property
    def element_bytes(self) -> int:
        """Bytes of an element of x."""
        return 4 if self.dtype == "float32" else 2

    @property
    def columns(self) -> int:
        """Output channels of a block."""
        for columns in (8, 16, 32, 48):
            if self.c_out <= columns:
                return columns
        return 48 if -(-self.c_out // 48) * 48 < -(-self.c_out // 64) * 64 else 64

    @property
    def width(self) -> int:
        """Pixels of a row of a tile."""
        return 16 if self.columns >= 48 else 32

    @property
    def column_blocks(self) -> int:
        """Blocks that share the output channels of a tile."""
        return -(-self.c_out // self.columns)

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        pixel_bytes, stage = (128 if self.columns >= 48 else 64), (96 if self.columns >= 32 else 192) * self.columns
        needed = [(self.rows + 2) * (self.width + 2) * pixel_bytes + 4 * stage]
        run_bytes = self.c_out * self.element_bytes
        vectors = run_bytes % 16 == 0
        if not vectors and self.column_blocks == 1:
            needed.append(self.rows * (-(-self.width * run_bytes // 16) * 16 + 32))
        if self.out_channels is not None or not (vectors or self.column_blocks == 1):
            needed.append((self.rows * self.width * self.columns + 64) * 4)
        return max(needed)

    def grid(self, n: int, h: int, w: int) -> tuple[int, int, int]:
        """Blocks of a launch on ``n`` images of ``h`` x ``w`` pixels.

        Raises:
            ValueError: the image is too large for one launch.
        """
        blocks = (-(-w // self.width) * self.column_blocks, -(-h // self.rows), n)
        if blocks[0] >= 2**31 or max(blocks[1:]) > 65535:
            checks.fail("nvrtc.SparseConv", "n, h, w", "a grid of at most (2^31 - 1, 65535, 65535) blocks", blocks)
        return blocks

    def _heights(self) -> tuple[int, ...]:
        if self.dtype == "float32":
            return (8,)
        return (8, 10, 12, 14, 16) if self.columns == 64 else (8, 12, 16) if self.columns >= 32 else (8, 16)

    @property
    def source(self) -> str:
        """CUDA C++ of the kernel, for a compiler that finds the folder csrc."""
        math, dtype = _MATH[self.dtype]
        gathered, listed = self.in_channels is not None, self.out_channels is not None

        def whole(channels: int) -> bool:
            return channels * self.element_bytes % 16 == 0

        flags = {
            "kResidual": self.residual,
            "kNeighbours": self.neighbours,
            "kPixelsOnVectors": gathered and self.x_on_vectors,
            "kXByVectors": not gathered and self.x_on_vectors and whole(self.c_in),
            "kLanesAlongW": not self.neighbours or self.c_in * self.element_bytes <= 32,
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
            f"  static constexpr int kRows = {self.rows};",
            *(f"  static constexpr bool {name} = {str(value).lower()};" for name, value in flags.items()),
            "  static __device__ constexpr int in_channel(int i) { return "
            + ("kInChannels[i]; }" if gathered else "i; }"),
            "};",
            f"static_assert(cuda::SpecialTile<Call>::kColumns == {self.columns});",
            f"static_assert(cuda::SpecialTile<Call>::kWidth == {self.width});",
            f"static_assert(cuda::SpecialTile<Call>::kColumnBlocks == {self.column_blocks});",
            f"static_assert(cuda::SpecialTile<Call>::kSharedBytes == {self.shared_bytes});",
            "",
            f'extern "C" __global__ void __launch_bounds__({THREADS}, 2)',
            f"{KERNEL}(const char* x, const char* packed, const char* residual, char* out, int64_t stride_n,",
            "    int64_t stride_c, int64_t stride_h, int64_t stride_w, int h, int w) {",
            "  cuda::convolve_special<Call>(x, packed, residual, out, {stride_n, stride_c, stride_h, stride_w}, h, w,",
            f"      {'kInChannels' if gathered else 'nullptr'}, {'kOutChannels' if listed else 'nullptr'});",
            "}",
            "",
        ]
        return "\n".join(lines)
