"""Argument checks for arrays: the sentences of the torch interface, naming operator, argument, expected and given."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..checks import ACTIVATIONS, distinct_channels, fail, shaped
from .library import Array, Library, is_dense

#: What the kernels compute in. bfloat16 is the dtype of that name that ``ml_dtypes`` gives to NumPy.
FLOATING = ("float32", "float16", "bfloat16")


def _kind(x: object) -> str:
    """The name of a type, with its library where that of arrays does not tell it."""
    name = type(x).__name__
    return f"{type(x).__module__.partition('.')[0]}.{name}" if name == "ndarray" else name


class Checks:
    """The checks, for arrays of one library."""

    def __init__(self, library: Library) -> None:
        self.library = library

    def image(self, op: str, name: str, x: Any, dtypes: Sequence[str] = FLOATING) -> Array:
        """Check a floating array of shape (N, C, H, W)."""
        if not isinstance(x, self.library.array):
            fail(op, name, "an array (N, C, H, W)", _kind(x), TypeError)
        if not (x.dtype.isnative and x.dtype.name in dtypes):
            fail(op, name, f"{', '.join(dtypes[:-1])} or {dtypes[-1]}", x.dtype, TypeError)
        if x.ndim != 4:
            fail(op, name, "4 dimensions (N, C, H, W)", f"shape {x.shape}")
        return x

    def like(self, op: str, name: str, t: Any, x: Array, dtypes: Sequence[Any] | None = None) -> Array:
        """Check that ``t`` is an array of ``x``'s dtype (or of one of ``dtypes``)."""
        if not isinstance(t, self.library.array):
            fail(op, name, "an array", _kind(t), TypeError)
        allowed = (x.dtype,) if dtypes is None else tuple(np.dtype(d) for d in dtypes)
        if t.dtype not in allowed:
            fail(op, name, " or ".join(str(d) for d in dict.fromkeys(allowed)), t.dtype, TypeError)
        return t

    def kernel3x3(self, op: str, name: str, weight: object, x: Array, in_channels: int, source: str) -> Array:
        """Check a 3x3 weight (C_out, in_channels, 3, 3); ``source`` says where in_channels comes from."""
        weight = self.like(op, name, weight, x)
        shaped(op, name, weight, (None, in_channels, 3, 3), f"(C_out, {source}, 3, 3)")
        return weight

    def optional_vector(self, op: str, name: str, t: object, x: Array, size: int, meaning: str) -> None:
        """Check an optional vector of ``size`` elements."""
        if t is not None:
            shaped(op, name, self.like(op, name, t, x), (size,), meaning)

    def activation(self, op: str, name: str, slope: object, x: Array, channels: int) -> tuple[Array | None, float]:
        """Check an activation's name, and its slope: an array (1,) or (C,) for prelu, a number for leaky_relu, or None.

        Returns:
            The slopes of prelu, the number of leaky_relu.
        """
        if name not in ACTIVATIONS:
            fail(op, "activation", "one of " + ", ".join(ACTIVATIONS), repr(name))
        if name == "leaky_relu":
            if isinstance(slope, bool) or not isinstance(slope, numbers.Real):
                fail(op, "slope", "a number for leaky_relu", type(slope).__name__, TypeError)
            assert isinstance(slope, numbers.Real)
            return None, float(slope)
        if name == "prelu":
            slopes = self.like(op, "slope", slope, x)
            if slopes.ndim != 1 or slopes.shape[0] not in (1, channels):
                fail(op, "slope", f"shape (1,) or ({channels},) for prelu", slopes.shape)
            return slopes, 0.0
        if slope is not None:
            fail(op, "slope", f"None for activation {name!r}", type(slope).__name__, TypeError)
        return None, 0.0

    def factor(self, op: str, name: str, r: object) -> int:
        """Check a pixel-shuffle factor."""
        if isinstance(r, bool) or not isinstance(r, numbers.Integral):
            fail(op, name, "an integer", type(r).__name__, TypeError)
        assert isinstance(r, numbers.Integral)
        if r < 1:
            fail(op, name, "an integer >= 1", r)
        return int(r)

    def channel_list(self, op: str, name: str, channels: object, limit: int) -> Array:
        """Check distinct channel numbers in [0, limit) and return them as a dense int64 array."""
        if not isinstance(channels, np.ndarray):
            if not isinstance(channels, Sequence) or not all(type(c) is int for c in channels):
                fail(op, name, "a sequence of integers or an int64 array", type(channels).__name__, TypeError)
            channels = np.array(channels, np.int64)
        if channels.dtype != np.int64:
            fail(op, name, "dtype int64", channels.dtype, TypeError)
        if channels.ndim != 1:
            fail(op, name, "one dimension", f"shape {channels.shape}")
        distinct_channels(op, name, channels.tolist(), limit)
        return np.require(channels, requirements=("C", "A"))

    def output(
        self, op: str, out: Any, shape: tuple[int, ...], channels_last: bool | None, **inputs: Array | None
    ) -> Array:
        """Check an array to write to.

        Args:
            op: the operator.
            out: what was given.
            shape: of the result.
            channels_last: the memory format it has to be in; None for any ascending strides.
            inputs: arrays that are read, by the names of their arguments; ``out`` has the dtype of ``x`` and shares
                memory with none of them.
        """
        assert inputs["x"] is not None
        checked = self.like(op, "out", out, inputs["x"])
        shaped(op, "out", checked, shape, "the result's")
        if not self.library.writable(checked):
            fail(op, "out", "an array that can be written to", "a read-only one")
        if not self.library.ascends(checked) or (channels_last is not None and not is_dense(checked, channels_last)):
            form = {True: "channels_last memory", False: "C-contiguous memory", None: "ascending strides"}
            where = f"strides {checked.strides} at address {self.library.address(checked):#x}"
            fail(op, "out", f"{form[channels_last]}, aligned", where)
        for name, array in inputs.items():
            if array is not None and self.library.may_share_memory(checked, array):
                fail(op, "out", "memory of its own", f"memory that {name} lies in")
        return checked
