"""Convolutions of pruned networks: gather the kept channels, convolve, scatter-add onto the full-width residual."""

from __future__ import annotations

from torch import Tensor

from .conv import conv3x3


def sparse_conv3x3(
    x: Tensor,  # (N, C, H, W)
    weight: Tensor,  # (C_out, len(in_channels), 3, 3)
    bias: Tensor | None = None,  # (C_out,)
    *,
    in_channels: Tensor | None = None,  # int64, each in [0, C)
    out_channels: Tensor | None = None,  # int64, C_out distinct channels of residual
    residual: Tensor | None = None,  # (N, C_res, H, W)
    activation: str = "none",
    slope: float | Tensor | None = None,
) -> Tensor:
    """``act(conv(x[:, in_channels]))``, added to ``residual`` (to its ``out_channels`` only, where they are given)."""
    gathered = x if in_channels is None else x.index_select(1, in_channels.to(x.device))
    y = conv3x3(gathered, weight, bias, activation=activation, slope=slope)
    if residual is None:
        return y
    if out_channels is None:
        return residual + y
    return residual.index_add(1, out_channels.to(x.device), y)


def sparse_residual_block(
    x: Tensor,  # (N, C, H, W)
    weight1: Tensor,  # (C_mid, len(in_channels), 3, 3)
    bias1: Tensor | None,  # (C_mid,)
    weight2: Tensor,  # (len(out_channels), C_mid, 3, 3)
    bias2: Tensor | None,  # (len(out_channels),)
    *,
    in_channels: Tensor,
    out_channels: Tensor,
    activation: str = "relu",
    slope: float | Tensor | None = None,
) -> Tensor:
    """Residual Sparsity Connection of SSL (CVPR 2023): ``x[:, out] += conv2(act(conv1(x[:, in])))``, out of place."""
    hidden = sparse_conv3x3(x, weight1, bias1, in_channels=in_channels, activation=activation, slope=slope)
    return sparse_conv3x3(hidden, weight2, bias2, out_channels=out_channels, residual=x)
