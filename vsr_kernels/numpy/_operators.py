"""NumPy's arrays, and the calls of the CPU kernels on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _numpy
from ..arrays.library import Array, Library, prefers_channels_last
from ..arrays.operators import Operators
from ..arrays.packing import PackedArrays


class NumPy(Library):
    """NumPy's arrays."""

    array = np.ndarray

    def aligned(self, x: Array) -> bool:
        """Whether elements begin on multiples of their size."""
        return bool(x.flags.aligned)

    def writable(self, x: Array) -> bool:
        """Whether the array may be written to."""
        return bool(x.flags.writeable)

    def may_share_memory(self, a: Array, b: Array) -> bool:
        """Whether the extents of two arrays in memory overlap."""
        return np.may_share_memory(a, b)

    def address(self, x: Array) -> int:
        """Of the first element."""
        return int(x.ctypes.data)

    def compact(self, x: Array) -> Array:
        """``x`` itself where it is C-contiguous and aligned, else a copy that is."""
        return np.require(x, requirements=("C", "A"))

    def new(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised C-contiguous array."""
        return np.empty(shape, dtype)


NUMPY = NumPy()


class PackedWeights(PackedArrays):
    __doc__ = PackedArrays.__doc__

    def pack(
        self, weight: Array, bias: Array | None, slope: Array | None, number: float, activation: str, r: int
    ) -> _numpy.Packed:
        """What the CPU kernels take."""
        aligned = np.require(weight, requirements="A")
        vectors = NUMPY.vector(bias), NUMPY.vector(slope)
        return _numpy.pack(aligned, *vectors, number, activation, r, weight.dtype.name)


class NumPyOperators(Operators):
    """The operators by the CPU kernels, which add unsigned offsets: images whose axes run backwards are copied."""

    def convolve(
        self,
        out: Array,
        x: Array,
        weight: Array,
        bias: Array | None,
        slopes: tuple[Array | None, float],
        activation: str,
        *,
        residual: Array | None,
        lists: tuple[Array | None, Array | None],
        scale: float,
        r: int,
        packed: PackedArrays | None,
        slot: int,
    ) -> None:
        """See :meth:`Operators.convolve`."""
        _numpy.conv3x3(
            out,
            self.library.dense(x, channels_last=True),
            np.require(weight, requirements="A"),
            self.library.vector(bias),
            self.library.vector(slopes[0]),
            slopes[1],
            *lists,
            None if residual is None else self.library.dense(residual, channels_last=True),
            activation,
            scale,
            r,
            x.dtype.name,
            None if packed is None else packed.get(slot, weight, bias, *slopes, activation, r),
        )

    def warp(self, out: Array, x: Array, flow: Array, nearest: bool, border: bool) -> None:
        """See :meth:`Operators.warp`."""
        read = self._ascending(x), self._ascending(flow)
        _numpy.flow_warp(out, *read, nearest, border, x.dtype.name, flow.dtype.name)

    def move(self, out: Array, x: Array, r: int, channels_last: bool, inverse: bool) -> None:
        """See :meth:`Operators.move`."""
        pair = (out, x) if inverse else (x, out)
        _numpy.pixel_shuffle(*pair, r, channels_last, inverse)

    def _ascending(self, x: Array) -> Array:
        """``x`` itself where no axis runs backwards, else a dense copy."""
        return x if self.library.ascends(x) else self.library.dense(x, prefers_channels_last(x))
