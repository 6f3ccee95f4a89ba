"""Packing of convolution weights, one kernel per dtype: it runs once per layer, so that no layer is worth its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..checks import ACTIVATIONS
from .launch import Launch, View, element_bytes, longs
from .layout import Layout
from .warp import DTYPES, ELEMENTS

#: Threads of a block: kPackThreads.
THREADS = 256


@dataclass(frozen=True)
class Pack:
    """The kernel that packs weights of a dtype."""

    dtype: str

    entry = "conv3x3_pack"

    @property
    def source(self) -> str:
        """CUDA C++ of the kernel ``(weight, bias, slope, packed, strides, c_in, c_out, r, slopes, number, ...)``.

        Strides, counts and factor are 64-bit numbers, ``number`` is a float, and the last two, activation and
        whether float32 is exact, are 32-bit numbers.
        """
        return "\n".join(
            [
                '#include "cuda/conv3x3_pack_kernel.cuh"',
                "",
                "using namespace vsr;",
                "",
                f"static_assert(cuda::kPackThreads == {THREADS});",
                "",
                'extern "C" __global__ void __launch_bounds__(cuda::kPackThreads)',
                f"{self.entry}(const char* weight, const char* bias, const char* slope, char* packed,",
                "    int64_t stride_o, int64_t stride_i, int64_t stride_h, int64_t stride_w,",
                "    int64_t c_in, int64_t c_out, int64_t r, int64_t slopes, float number, int activation,",
                "    int exact) {",
                f"  constexpr DType kDType = DType::{DTYPES[self.dtype]};",
                "  const Conv3x3Layout layout = conv3x3_layout(c_in, c_out, r, kDType, exact != 0);",
                "  const Strides strides{stride_o, stride_i, stride_h, stride_w};",
                "  const Conv3x3Pack p{weight, bias, slope, packed, strides, slopes, number,",
                "      static_cast<Activation>(activation), kDType, false, layout};",
                f"  cuda::pack_element<{ELEMENTS[self.dtype]}>(p, packed_weights(layout));",
                "}",
                "",
            ]
        )


def pack(
    weight: View,
    bias: View | None,
    slope: View | None,
    packed: View,
    *,
    number: float,
    activation: str,
    r: int,
    exact: bool,
) -> Launch:
    """The launch that packs a layer.

    Args:
        weight: (C_out, C_in, 3, 3), any strides.
        bias: (C_out,), dense, or None.
        slope: (1,) or (C_out,), dense, of prelu.
        packed: ``Layout.packed_bytes`` bytes, from a multiple of 16 on.
        number: slope of leaky_relu.
        activation: one of ``checks.ACTIVATIONS``.
        r: factor of the shuffle that follows.
        exact: whether float32 is stored as the sum of two TF32 numbers.
    """
    c_out, c_in = weight.shape[:2]
    layout = Layout.of(c_in, c_out, r, weight.dtype, exact)
    values = layout.packed_weights // element_bytes(weight.dtype) + layout.packed_columns
    counts = (c_in, c_out, r, 0 if slope is None else slope.shape[0])
    modes = (np.float32(number), np.int32(ACTIVATIONS.index(activation)), np.int32(exact))
    arguments = (weight, bias, slope, packed, *longs((*weight.strides, *counts)), *modes)
    return Launch(Pack(weight.dtype), (-(-values // THREADS), 1, 1), (THREADS, 1, 1), 0, arguments)
