"""Memory formats of (N, C, H, W) arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def prefers_channels_last(x: Array) -> bool:
    """Whether the channels of a pixel are neighbours and the array is not C-contiguous as well.

    The rule of :mod:`vsr_kernels.layout`, for operators that keep their input's format.
    """
    return x.strides[1] == x.itemsize and not x.flags.c_contiguous


def is_dense(x: Array, channels_last: bool) -> bool:
    """Whether there are no gaps between the elements in the order of this format."""
    return bool((x.transpose(0, 2, 3, 1) if channels_last else x).flags.c_contiguous)


def dense(x: Array, channels_last: bool) -> Array:
    """``x`` itself where it is dense in this format, else a copy that is."""
    if not channels_last:
        return np.require(x, requirements=("C", "A"))
    return np.require(x.transpose(0, 2, 3, 1), requirements=("C", "A")).transpose(0, 3, 1, 2)


def ascends(x: Array) -> bool:
    """Whether ``x`` is aligned and no axis runs backwards: the kernels that take any strides add unsigned offsets."""
    return bool(x.flags.aligned) and min(x.strides) >= 0


def ascending(x: Array) -> Array:
    """``x`` itself where it has such strides, else a dense copy."""
    return x if ascends(x) else dense(x, prefers_channels_last(x))


def empty(shape: tuple[int, ...], dtype: Any, channels_last: bool) -> Array:
    """Uninitialised (n, c, h, w) in this format."""
    if not channels_last:
        return np.empty(shape, dtype)
    n, c, h, w = shape
    return np.empty((n, h, w, c), dtype).transpose(0, 3, 1, 2)


def vector(t: Array | None) -> Array | None:
    """A dense vector, or None."""
    return None if t is None else np.require(t, requirements=("C", "A"))
