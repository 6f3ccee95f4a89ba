"""CuPy's arrays, and the launches on them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import cupy

from ..arrays.checks import Checks
from ..arrays.library import Array, Library
from ..arrays.operators import Operators
from ..arrays.packing import PackedArrays
from ..checks import fail
from ..nvrtc import calls, shuffle, warp
from ..nvrtc.device import Device, device
from ..nvrtc.launch import Launch, View


class CuPy(Library):
    """CuPy's arrays, for checks (:class:`Library`) and for launches (:class:`vsr_kernels.nvrtc.calls.Arrays`)."""

    array = cupy.ndarray

    def aligned(self, x: Array) -> bool:
        """Whether elements begin on multiples of their size."""
        return bool(self.address(x) % x.itemsize == 0)

    def writable(self, x: Array) -> bool:
        """Whether the array may be written to: CuPy knows no other arrays."""
        return True

    def may_share_memory(self, a: Array, b: Array) -> bool:
        """Whether the extents of two arrays in memory overlap."""
        return bool(cupy.may_share_memory(a, b))

    def address(self, x: Array) -> int:
        """Of the first element."""
        return int(x.data.ptr)

    def compact(self, x: Array) -> Array:
        """``x`` itself where it is C-contiguous, else a copy that is."""
        return cupy.ascontiguousarray(x)

    def new(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised C-contiguous array."""
        return cupy.empty(shape, dtype)

    def view(self, array: Array) -> View:
        """Where it lies."""
        strides = tuple(stride // array.itemsize for stride in array.strides)
        return View(self.address(array), array.shape, strides, array.dtype.name, array)

    def bytes_beside(self, array: Array, count: int) -> Array:
        """An uninitialised buffer."""
        return cupy.empty(count, "uint8")

    def dense_on_vectors(self, array: Array) -> Array:
        """Dense channels_last and from a multiple of 16 bytes on; ``array`` itself where it is."""
        packed = self.dense(array, channels_last=True)
        return packed if self.address(packed) % 16 == 0 else packed.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)


CUPY = CuPy()


class CuPyChecks(Checks):
    """The checks, and that everything is on one device."""

    def like(self, op: str, name: str, t: Any, x: Array, dtypes: Sequence[Any] | None = None) -> Array:
        """Check that ``t`` is an array on ``x``'s device and of its dtype (or of one of ``dtypes``)."""
        found = super().like(op, name, t, x, dtypes)
        if found.device != x.device:
            fail(op, name, f"device {x.device.id} as x", found.device.id)
        return found


class PackedWeights(PackedArrays):
    __doc__ = PackedArrays.__doc__

    def place(self) -> tuple[Hashable, ...]:
        """The current stream: another could read a packing before it is made."""
        return cupy.cuda.Device().id, cupy.cuda.get_current_stream().ptr

    def pack(
        self, weight: Array, bias: Array | None, slope: Array | None, number: float, activation: str, r: int
    ) -> Array:
        """What the CUDA kernels take."""
        call = calls.Convolution(weight, bias, slope, number, activation, r=r)
        packed, launch = calls.packing(CUPY, call)
        device(weight.device.id).launch([launch])
        return packed


class CuPyOperators(Operators):
    """The operators by kernels that are compiled at run time; float32 is exact."""

    def __init__(self, library: CuPy) -> None:
        super().__init__(library)
        self.arrays = library
        self.check = CuPyChecks(library)

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
        with x.device:
            gpu = device(x.device.id)
            _check_capability(gpu, x)
            kept = None if packed is None else packed.get(slot, weight, bias, *slopes, activation, r)
            gather, scatter = (None if t is None else tuple(t.tolist()) for t in lists)
            call = calls.Convolution(
                weight, bias, *slopes, activation, residual, gather, scatter, scale, r, packed=kept
            )
            on_vectors = self.arrays.address(out) % 16 == 0
            made = out if on_vectors else self.arrays.empty(out.shape, out.dtype, channels_last=True)
            gpu.launch(calls.convolution(self.arrays, gpu.limits, made, x, call))
            if not on_vectors:
                out[...] = made

    def warp(self, out: Array, x: Array, flow: Array, nearest: bool, border: bool) -> None:
        """See :meth:`Operators.warp`."""
        views = (self.arrays.view(t) for t in (x, flow, out))
        _launch(x, warp.flow_warp(*views, nearest=nearest, border=border))

    def move(self, out: Array, x: Array, r: int, channels_last: bool, inverse: bool) -> None:
        """See :meth:`Operators.move`."""
        views = self.arrays.view(x), self.arrays.view(out)
        _launch(x, shuffle.pixel_shuffle(*views, r, channels_last=channels_last, inverse=inverse))


def _launch(x: Array, launch: Launch) -> None:
    with x.device:
        device(x.device.id).launch([launch])


def _check_capability(gpu: Device, x: Array) -> None:
    """Tensor cores: those of compute capability 7.5 take float16 only."""
    least = (7, 5) if x.dtype.name == "float16" else (8, 0)
    if gpu.limits.capability < least:
        needed = ".".join(map(str, least))
        found = ".".join(map(str, gpu.limits.capability))
        raise RuntimeError(
            f"vsr_kernels.cupy: {x.dtype.name} needs a GPU of compute capability {needed}, this one has {found}"
        )
