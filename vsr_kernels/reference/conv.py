"""Convolutions with their epilogue, and the residual block made of two of them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .shuffle import shuffle


def activate(x: Tensor, activation: str, slope: float | Tensor | None) -> Tensor:
    """``none``, ``relu``, ``leaky_relu`` (float slope) or ``prelu`` (slope (1,) or (C,)) of x (N, C, H, W)."""
    if activation == "none":
        return x
    if activation == "relu":
        return F.relu(x)
    if activation == "leaky_relu":
        assert isinstance(slope, float)
        return F.leaky_relu(x, slope)
    assert isinstance(slope, Tensor)
    return F.prelu(x, slope)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.numel() and weight.numel():
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
    # PyTorch refuses most empty convolutions, which are sums of nothing. The empty slices keep both in the graph.
    sums = (
        x.new_zeros(x.shape[0], weight.shape[0], *x.shape[2:]) + x.reshape(-1)[:0].sum() + weight.reshape(-1)[:0].sum()
    )
    return sums if bias is None else sums + bias[:, None, None]


def conv3x3(
    x: Tensor,  # (N, C_in, H, W)
    weight: Tensor,  # (C_out, C_in, 3, 3)
    bias: Tensor | None = None,  # (C_out,)
    *,
    activation: str = "none",
    slope: float | Tensor | None = None,
    residual: Tensor | None = None,  # (N, C_out / r^2, r * H, r * W)
    scale: float = 1.0,
    pixel_shuffle: int = 1,
) -> Tensor:
    """``scale * pixel_shuffle(act(conv2d(x, weight, bias, padding=1)), r) + residual``."""
    y = activate(_convolve(x, weight, bias), activation, slope)
    if pixel_shuffle > 1:
        y = shuffle(y, pixel_shuffle)
    if scale != 1.0:
        y = y * scale
    return y if residual is None else residual + y


def conv7x7(
    x: Tensor,  # (N, C_in, H, W)
    weight: Tensor,  # (C_out, C_in, 7, 7)
    bias: Tensor | None = None,  # (C_out,)
    *,
    activation: str = "none",
) -> Tensor:
    """``act(conv2d(x, weight, bias, padding=3))``."""
    return activate(_convolve(x, weight, bias), activation, None)


def residual_block(
    x: Tensor,  # (N, C, H, W)
    weight1: Tensor,  # (C_mid, C, 3, 3)
    bias1: Tensor | None,  # (C_mid,)
    weight2: Tensor,  # (C, C_mid, 3, 3)
    bias2: Tensor | None,  # (C,)
    *,
    activation: str = "relu",
    slope: float | Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """``x + scale * conv3x3(act(conv3x3(x)))``."""
    hidden = conv3x3(x, weight1, bias1, activation=activation, slope=slope)
    return conv3x3(hidden, weight2, bias2, residual=x, scale=scale)
