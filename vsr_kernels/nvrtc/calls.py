"""From arrays of any library to launches: what the torch operators and those on CuPy arrays share."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from ..checks import fail
from . import conv, pack
from .launch import Launch, Limits, View
from .layout import Layout

Array = Any


class Arrays(Protocol):
    """What is asked of a library of arrays."""

    def view(self, array: Array) -> View:
        """Where it lies."""

    def bytes_beside(self, array: Array, count: int) -> Array:
        """An uninitialised buffer on the device of ``array``, from a multiple of 16 bytes on."""

    def dense_on_vectors(self, array: Array) -> Array:
        """Dense channels_last and from a multiple of 16 bytes on; ``array`` itself where it is."""

    def vector(self, array: Array) -> Array:
        """Dense; ``array`` itself where it is."""


class Convolution(NamedTuple):
    """A checked convolution: what comes to x.

    Attributes:
        weight: (C_out, C_in, 3, 3), C_out >= 1.
        bias: (C_out,) or None.
        slope: (1,) or (C_out,), of prelu.
        number: slope of leaky_relu.
        activation: of the sums.
        residual: as the output, or None.
        in_channels, out_channels: lists, or None.
        scale: of the shuffled values.
        r: factor of the shuffle.
        exact: whether float32 is not rounded to TF32.
        packed: what :func:`packing` made, or None.
    """

    weight: Array
    bias: Array | None = None
    slope: Array | None = None
    number: float = 0.0
    activation: str = "none"
    residual: Array | None = None
    in_channels: tuple[int, ...] | None = None
    out_channels: tuple[int, ...] | None = None
    scale: float = 1.0
    r: int = 1
    exact: bool = True
    packed: Array | None = None


def _layout(weight: View, call: Convolution) -> Layout:
    return Layout.of(weight.shape[1], weight.shape[0], call.r, weight.dtype, call.exact)


def packing(arrays: Arrays, call: Convolution) -> tuple[Array, Launch]:
    """Room for the packed weights of a call, and the launch that fills it."""
    weight = arrays.view(call.weight)
    packed = arrays.bytes_beside(call.weight, _layout(weight, call).packed_bytes)
    bias, slope = (None if t is None else arrays.view(arrays.vector(t)) for t in (call.bias, call.slope))
    launch = pack.pack(
        weight,
        bias,
        slope,
        arrays.view(packed),
        number=call.number,
        activation=call.activation,
        r=call.r,
        exact=call.exact,
    )
    return packed, launch


def convolution(arrays: Arrays, limits: Limits, out: Array, x: Array, call: Convolution) -> list[Launch]:
    """The launches of a convolution on images that are not empty: its weights are packed first unless they are.

    Args:
        arrays: the library of the arrays.
        limits: of the device.
        out: dense channels_last, from a multiple of 16 bytes on.
        x: (N, C, H, W), any strides.
        call: the rest.

    Raises:
        ValueError: what is packed is something else, or the images are too large for one launch.
    """
    launches = []
    packed = call.packed
    if packed is None:
        packed, launch = packing(arrays, call)
        launches.append(launch)
    found, needed = arrays.view(packed), _layout(arrays.view(call.weight), call).packed_bytes
    if (found.dtype, found.shape) != ("uint8", (needed,)):
        fail("conv3x3", "packed", f"the {needed} bytes that packing these weights gives", f"shape {found.shape}")
    residual = None if call.residual is None else arrays.view(arrays.dense_on_vectors(call.residual))
    launches.append(
        conv.conv3x3(
            arrays.view(x),
            found,
            residual,
            arrays.view(out),
            limits,
            c_out=call.weight.shape[0],
            in_channels=call.in_channels,
            out_channels=call.out_channels,
            activation=call.activation,
            scale=call.scale,
            r=call.r,
            exact=call.exact,
        )
    )
    return launches
