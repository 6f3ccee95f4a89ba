"""What each operator has to compute, in float64 and by other means than ``vsr_kernels.reference``.

No convolution, grid sampling, pixel shuffle or index_add of PyTorch is used, so that an error there cannot hide; all
of it is differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution of odd size with zero padding: the sum of shifted products, one per tap."""
    n, c, h, w = x.shape
    size = weight.shape[-1]
    ring = size // 2
    padded = torch.cat([x.new_zeros(n, c, ring, w), x, x.new_zeros(n, c, ring, w)], dim=2)
    tall = h + 2 * ring
    padded = torch.cat([x.new_zeros(n, c, tall, ring), padded, x.new_zeros(n, c, tall, ring)], dim=3)
    out = x.new_zeros(n, weight.shape[0], h, w)
    for i in range(size):
        for j in range(size):
            window = padded[:, :, i : i + h, j : j + w]
            out = out + torch.einsum("oc,nchw->nohw", weight[:, :, i, j], window)
    return out if bias is None else out + bias[None, :, None, None]


def activate(z: Tensor, activation: str, slope: float | Tensor | None) -> Tensor:
    """The activation as two straight lines; zero belongs to the left one."""
    if activation == "none":
        return z
    if activation == "relu":
        return torch.where(z > 0, z, torch.zeros_like(z))
    if isinstance(slope, Tensor):
        slope = slope[None, :, None, None]
    assert slope is not None
    return torch.where(z > 0, z, slope * z)


def shuffle(x: Tensor, r: int) -> Tensor:
    """Every output pixel by the index formula of the definition."""
    _, c, h, w = x.shape
    channel = torch.arange(c // (r * r))[:, None, None]
    row = torch.arange(r * h)[None, :, None]
    col = torch.arange(r * w)[None, None, :]
    return x[:, channel * r * r + (row % r) * r + col % r, row // r, col // r]


def unshuffle(x: Tensor, r: int) -> Tensor:
    """The inverse index formula."""
    _, c, h, w = x.shape
    packed = torch.arange(c * r * r)[:, None, None]
    row = torch.arange(h // r)[None, :, None]
    col = torch.arange(w // r)[None, None, :]
    return x[:, packed // (r * r), row * r + packed % (r * r) // r, col * r + packed % r]


def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    slope: float | Tensor | None = None,
    residual: Tensor | None = None,
    pixel_shuffle: int = 1,
) -> Tensor:
    """Convolution, activation, shuffle, addition, one after the other."""
    y = activate(convolve(x, weight, bias), activation, slope)
    y = shuffle(y, pixel_shuffle)
    return y if residual is None else y + residual


def conv7x7(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str = "none") -> Tensor:
    """Convolution, activation."""
    return activate(convolve(x, weight, bias), activation, None)


def residual_block(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    *,
    activation: str = "relu",
    slope: float | Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Two convolutions and the skip."""
    return x + scale * convolve(activate(convolve(x, weight1, bias1), activation, slope), weight2, bias2)


def sparse_conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    in_channels: Sequence[int] | None = None,
    out_channels: Sequence[int] | None = None,
    residual: Tensor | None = None,
    activation: str = "none",
    slope: float | Tensor | None = None,
) -> Tensor:
    """A dense convolution over all channels whose weights are zero where the sparse one has none."""
    c_in = list(range(x.shape[1]) if in_channels is None else in_channels)
    dense = len(weight) if out_channels is None or residual is None else residual.shape[1]
    c_out = list(range(len(weight)) if out_channels is None else out_channels)
    rows = x.new_zeros(len(weight), x.shape[1], 3, 3)
    rows[:, c_in] = weight
    full = x.new_zeros(dense, x.shape[1], 3, 3)
    full[c_out] = rows
    full_bias = x.new_zeros(dense)
    if bias is not None:
        full_bias[c_out] = bias
    if isinstance(slope, Tensor):
        full_slope = x.new_zeros(dense)
        full_slope[c_out] = slope.expand(len(weight))
        slope = full_slope
    y = activate(convolve(x, full, full_bias), activation, slope)
    return y if residual is None else y + residual


def sparse_residual_block(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    *,
    in_channels: Sequence[int],
    out_channels: Sequence[int],
    activation: str = "relu",
    slope: float | Tensor | None = None,
) -> Tensor:
    """Two dense convolutions with zero-filled weights and the skip."""
    hidden = sparse_conv3x3(x, weight1, bias1, in_channels=in_channels, activation=activation, slope=slope)
    return sparse_conv3x3(hidden, weight2, bias2, out_channels=out_channels, residual=x)


def flow_warp(x: Tensor, flow: Tensor, *, interpolation: str = "bilinear", padding: str = "zeros") -> Tensor:
    """Sampling by gathering the neighbours of every coordinate."""
    _, _, h, w = x.shape
    if x.numel() == 0:
        return x.clone()
    cols = torch.arange(w, dtype=x.dtype) + flow[:, 0]  # (N, H, W)
    rows = torch.arange(h, dtype=x.dtype)[:, None] + flow[:, 1]
    if padding == "border":
        cols, rows = cols.clamp(0, w - 1), rows.clamp(0, h - 1)
    if interpolation == "nearest":
        return _pixels(x, rows.round(), cols.round())
    top, left = rows.detach().floor(), cols.detach().floor()
    down, right = (rows - top)[:, None], (cols - left)[:, None]  # (N, 1, H, W)
    return (
        _pixels(x, top, left) * (1 - down) * (1 - right)
        + _pixels(x, top, left + 1) * (1 - down) * right
        + _pixels(x, top + 1, left) * down * (1 - right)
        + _pixels(x, top + 1, left + 1) * down * right
    )


def flow_warp_concat(
    x: Tensor,
    flow: Tensor,
    y: Tensor,
    *,
    warp_first: bool = True,
    interpolation: str = "bilinear",
    padding: str = "zeros",
) -> Tensor:
    """Every channel of the warped image and of y at its place."""
    warped = flow_warp(x, flow, interpolation=interpolation, padding=padding)
    channels = [*warped.unbind(1), *y.unbind(1)] if warp_first else [*y.unbind(1), *warped.unbind(1)]
    return torch.stack(channels, 1)


def _pixels(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """x at whole-numbered coordinates (N, H, W), zero outside."""
    n, c, h, w = x.shape
    inside = (rows >= 0) & (rows < h) & (cols >= 0) & (cols < w)
    index = rows.clamp(0, h - 1).long() * w + cols.clamp(0, w - 1).long()
    values = x.flatten(2).gather(2, index.view(n, 1, -1).expand(n, c, -1)).view(n, c, *index.shape[1:])
    return torch.where(inside[:, None], values, torch.zeros_like(values))
