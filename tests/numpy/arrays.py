"""Calls of every operator with drawn arrays, and the layouts that arrays come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]
Call = tuple[str, dict[str, Any]]

LAYOUTS = ("channels_last", "contiguous", "sliced", "reversed", "transposed", "read-only", "unaligned", "expanded")


def dtype_of(name: str) -> Any:
    """bfloat16 is NumPy's where ml_dtypes is installed; the test is skipped elsewhere."""
    return pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else np.dtype(name)


def draw(seed: int, shape: tuple[int, ...], dtype: Any = np.float32, scale: float = 1.0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)


def calls(n: int, c: int, h: int, w: int, dtype: Any = np.float32) -> list[Call]:
    """Every operator on images (n, c, h, w), with activations, residuals, shuffles and lists."""

    def a(seed: int, *shape: int, scale: float = 1.0) -> Array:
        return draw(seed, shape, dtype, scale)

    def kernel(seed: int, c_out: int, c_in: int) -> Array:
        return a(seed, c_out, c_in, 3, 3, scale=1 / np.sqrt(9 * max(c_in, 1)))

    x, mid, r = a(1, n, c, h, w), c // 2 + 3, 2
    kept = list(range(c - 1, -1, -2))
    up = 4 * (c // 4 + 1)
    return [
        ("conv3x3", {"x": x, "weight": kernel(2, mid, c)}),
        (
            "conv3x3",
            {
                "x": x,
                "weight": kernel(2, up, c),
                "bias": a(3, up),
                "activation": "prelu",
                "slope": a(4, up),
                "pixel_shuffle": r,
                "residual": a(5, n, up // 4, h * r, w * r),
            },
        ),
        (
            "conv3x3",
            {"x": x, "weight": kernel(2, 3, c), "bias": a(3, 3), "activation": "leaky_relu", "slope": 0.1},
        ),
        (
            "residual_block",
            {
                "x": x,
                "weight1": kernel(2, mid, c),
                "bias1": a(3, mid),
                "weight2": kernel(6, c, mid),
                "bias2": a(7, c),
                "activation": "prelu",
                "slope": a(4, 1),
                "scale": 0.5,
            },
        ),
        (
            "sparse_conv3x3",
            {
                "x": x,
                "weight": kernel(2, mid, len(kept)),
                "bias": a(3, mid),
                "in_channels": kept,
                "activation": "relu",
                "residual": a(5, n, mid + 2, h, w),
                "out_channels": np.random.default_rng(8).permutation(mid + 2)[:mid],
            },
        ),
        (
            "sparse_residual_block",
            {
                "x": x,
                "weight1": kernel(2, mid, len(kept)),
                "bias1": None,
                "weight2": kernel(6, len(kept), mid),
                "bias2": a(7, len(kept)),
                "in_channels": np.array(kept),
                "out_channels": kept[::-1],
            },
        ),
        ("flow_warp", {"x": x, "flow": draw(9, (n, 2, h, w), np.float32, 3.0)}),
        ("flow_warp", {"x": x, "flow": draw(9, (n, 2, h, w), np.float32, 3.0), "padding": "border"}),
        ("flow_warp", {"x": x, "flow": a(9, n, 2, h, w, scale=3.0), "interpolation": "nearest"}),
        ("pixel_shuffle", {"x": a(1, n, 9 * c, h, w), "r": 3}),
        ("pixel_unshuffle", {"x": a(1, n, c, h * 2, w * 2), "r": 2}),
    ]


def name_of(call: Call) -> str:
    name, arguments = call
    words = [str(v) for k, v in arguments.items() if k in ("activation", "padding", "interpolation")]
    return "-".join([name, *words])


def laid_out(x: Array, layout: str) -> Array:
    """The same values in other memory; ``expanded`` repeats the first image."""
    n, c, h, w = x.shape
    if layout == "channels_last":
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if layout == "sliced":
        wide = np.full((n, h, w + 2, c + 3), 7, x.dtype)
        view = wide.transpose(0, 3, 1, 2)[:, 1 : c + 1, :, 1 : w + 1]
        view[...] = x
        return view
    if layout == "reversed":
        return np.ascontiguousarray(x[:, :, ::-1, ::-1])[:, :, ::-1, ::-1]
    if layout == "transposed":
        return np.ascontiguousarray(x.transpose(3, 2, 0, 1)).transpose(2, 3, 1, 0)
    if layout == "read-only":
        copy = x.copy()
        copy.flags.writeable = False
        return copy
    if layout == "unaligned":
        shifted = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
        shifted[...] = x
        return shifted
    if layout == "expanded":
        return np.broadcast_to(x[:1], x.shape)
    return x.copy()
