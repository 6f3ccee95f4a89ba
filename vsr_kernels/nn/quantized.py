"""Convolution of uint8 with int8 as a module, for inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..ops import quantized_conv3x3
from .conv import KeepsPackedWeights

if TYPE_CHECKING:
    from typing_extensions import Self


class QuantizedConv3x3(KeepsPackedWeights):
    """:func:`vsr_kernels.quantized_conv3x3` with its weights, which are not trained.

    Casts to other dtypes leave it as it is: its integers, and float32 for what scales them.

    Args:
        in_channels, out_channels: C_in and C_out.
        activation: ``none``, ``relu``, ``leaky_relu`` or ``prelu``; the slopes of the last are a parameter (C_out,).
        slope: of ``leaky_relu``, else None.

    Attributes:
        weight: (C_out, C_in, 3, 3) int8.
        zero_point: (1,) uint8, what stands for zero in the input.
        scale, bias: (C_out,) float32.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, activation: str = "none", slope: float | None = None
    ) -> None:
        super().__init__()
        self.activation = activation
        self.number = slope
        self.weight = _constant(torch.zeros(out_channels, in_channels, 3, 3, dtype=torch.int8))
        self.zero_point = _constant(torch.zeros(1, dtype=torch.uint8))
        self.scale = _constant(torch.ones(out_channels))
        self.bias = _constant(torch.zeros(out_channels))
        if activation == "prelu":
            self.slope = _constant(torch.full((out_channels,), 0.25))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def moved(tensor: Tensor) -> Tensor:
            return fn(tensor.view(torch.int32)).view(torch.float32) if tensor.dtype == torch.float32 else fn(tensor)

        return super()._apply(moved, recurse)

    def forward(
        self,
        x: Tensor,
        *,
        out_zero_point: Tensor | None = None,
        base: Tensor | None = None,
        pixel_shuffle: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """(N, C_in, H, W) uint8, or floating in quanta -> (N, C_out / r^2, r * H, r * W); see the operator."""
        return quantized_conv3x3(
            x,
            self.weight,
            self.zero_point,
            self.scale,
            self.bias,
            activation=self.activation,
            slope=self.slope if self.activation == "prelu" else self.number,
            out_zero_point=out_zero_point,
            base=base,
            pixel_shuffle=pixel_shuffle,
            dtype=dtype,
            packed=self.packed_weights(),
        )

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        c_out, c_in = self.weight.shape[:2]
        return f"{c_in}, {c_out}, activation={self.activation}"


def _constant(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
