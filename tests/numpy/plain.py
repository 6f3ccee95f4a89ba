"""What the operators mean, in NumPy and float64, by other means than the kernels' and the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def conv(x: Array, weight: Array, bias: Array | None) -> Array:
    """Correlation with nine shifted copies of the image."""
    n, _, h, w = x.shape
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((n, weight.shape[0], h, w))
    for i in range(3):
        for j in range(3):
            tap = weight[:, :, i, j].astype(np.float64)
            out += np.einsum("oc,nchw->nohw", tap, padded[:, :, i : i + h, j : j + w])
    return out if bias is None else out + bias.astype(np.float64)[:, None, None]


def act(z: Array, activation: str, slope: float | Array | None) -> Array:
    factor = {"none": 1.0, "relu": 0.0}.get(activation, slope)
    factors = np.broadcast_to(np.asarray(factor, np.float64), (z.shape[1],))[:, None, None]
    return np.where(z > 0, z, z * factors)


def shuffle(x: Array, r: int) -> Array:
    n, c, h, w = x.shape
    out = np.empty((n, c // (r * r), h * r, w * r), x.dtype)
    for i in range(r):
        for j in range(r):
            out[:, :, i::r, j::r] = x[:, i * r + j :: r * r]
    return out


def unshuffle(x: Array, r: int) -> Array:
    n, c, h, w = x.shape
    out = np.empty((n, c * r * r, h // r, w // r), x.dtype)
    for i in range(r):
        for j in range(r):
            out[:, i * r + j :: r * r] = x[:, :, i::r, j::r]
    return out


def conv3x3(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    activation: str = "none",
    slope: float | Array | None = None,
    residual: Array | None = None,
    pixel_shuffle: int = 1,
) -> Array:
    y = shuffle(act(conv(x, weight, bias), activation, slope), pixel_shuffle)
    return y if residual is None else y + residual.astype(np.float64)


def residual_block(
    x: Array,
    weight1: Array,
    bias1: Array | None,
    weight2: Array,
    bias2: Array | None,
    *,
    activation: str = "relu",
    slope: float | Array | None = None,
    scale: float = 1.0,
) -> Array:
    return x.astype(np.float64) + scale * conv(act(conv(x, weight1, bias1), activation, slope), weight2, bias2)


def sparse_conv3x3(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    in_channels: Sequence[int] | None = None,
    out_channels: Sequence[int] | None = None,
    residual: Array | None = None,
    activation: str = "none",
    slope: float | Array | None = None,
) -> Array:
    y = act(conv(x if in_channels is None else x[:, list(in_channels)], weight, bias), activation, slope)
    if residual is None:
        return y
    out = residual.astype(np.float64)
    out[:, slice(None) if out_channels is None else list(out_channels)] += y
    return out


def sparse_residual_block(
    x: Array,
    weight1: Array,
    bias1: Array | None,
    weight2: Array,
    bias2: Array | None,
    *,
    in_channels: Sequence[int],
    out_channels: Sequence[int],
    activation: str = "relu",
    slope: float | Array | None = None,
) -> Array:
    hidden = act(conv(x[:, list(in_channels)], weight1, bias1), activation, slope)
    return sparse_conv3x3(hidden, weight2, bias2, out_channels=out_channels, residual=x)


def flow_warp(x: Array, flow: Array, *, interpolation: str = "bilinear", padding: str = "zeros") -> Array:
    """Sum of the four pixels around each place, by their weights."""
    n, _, h, w = x.shape
    rows, columns = np.mgrid[0:h, 0:w].astype(np.float64)
    out = np.zeros(x.shape)
    for image in range(n):
        row, column = rows + flow[image, 1], columns + flow[image, 0]
        if padding == "border":
            row, column = row.clip(0, h - 1), column.clip(0, w - 1)
        if interpolation == "nearest":
            row, column = np.rint(row), np.rint(column)
        for i in (0, 1):
            for j in (0, 1):
                y, z = np.floor(row) + i, np.floor(column) + j
                share = (1 - abs(row - y)) * (1 - abs(column - z))
                share = np.where((y >= 0) & (y < h) & (z >= 0) & (z < w), share, 0.0)
                inside = (y.clip(0, h - 1).astype(int), z.clip(0, w - 1).astype(int))
                out[image] += share * x[image].astype(np.float64)[:, inside[0], inside[1]]
    return out
