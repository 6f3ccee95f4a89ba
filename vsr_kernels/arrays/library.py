"""What differs between libraries of arrays, and the memory formats of (N, C, H, W) arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

#: An array of whichever library the operators are for.
Array = Any


def prefers_channels_last(x: Array) -> bool:
    """Whether the channels of a pixel are neighbours and the array is not C-contiguous as well.

    The rule of :mod:`vsr_kernels.layout`, for operators that keep their input's format.
    """
    return x.strides[1] == x.itemsize and not x.flags.c_contiguous


def is_dense(x: Array, channels_last: bool) -> bool:
    """Whether there are no gaps between the elements in the order of this format."""
    return bool((x.transpose(0, 2, 3, 1) if channels_last else x).flags.c_contiguous)


class Library(ABC):
    """A library of arrays.

    Attributes:
        array: its class of arrays.
    """

    array: ClassVar[type]

    @abstractmethod
    def aligned(self, x: Array) -> bool:
        """Whether elements begin on multiples of their size."""

    @abstractmethod
    def writable(self, x: Array) -> bool:
        """Whether the array may be written to."""

    @abstractmethod
    def may_share_memory(self, a: Array, b: Array) -> bool:
        """Whether the extents of two arrays in memory overlap."""

    @abstractmethod
    def address(self, x: Array) -> int:
        """Of the first element."""

    @abstractmethod
    def compact(self, x: Array) -> Array:
        """``x`` itself where it is C-contiguous and aligned, else a copy that is."""

    @abstractmethod
    def new(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised C-contiguous array."""

    def empty(self, shape: tuple[int, ...], dtype: Any, channels_last: bool) -> Array:
        """Uninitialised (n, c, h, w) in this format."""
        if not channels_last:
            return self.new(shape, dtype)
        n, c, h, w = shape
        return self.new((n, h, w, c), dtype).transpose(0, 3, 1, 2)

    def dense(self, x: Array, channels_last: bool) -> Array:
        """``x`` itself where it is dense in this format, else a copy that is."""
        if not channels_last:
            return self.compact(x)
        return self.compact(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)

    def vector(self, t: Array | None) -> Array | None:
        """A dense vector, or None."""
        return None if t is None else self.compact(t)

    def ascends(self, x: Array) -> bool:
        """Whether ``x`` is aligned and no axis runs backwards."""
        return self.aligned(x) and min(x.strides) >= 0
