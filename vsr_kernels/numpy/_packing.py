"""Packed weights that are kept between calls."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import _numpy
from ._layout import Array, vector


class _Held(NamedTuple):
    """A packing and what it was made of."""

    packed: _numpy.Packed
    arrays: tuple[Array | None, ...]  # held, so that no other array takes their identity
    settings: tuple[float, str, int]


class PackedWeights:
    """Weights of a convolution or residual block in the order in which the kernels read them.

    Without one, an operator packs its weights in every call. Give the same instance to every call with the same arrays:
    they are packed in the first call, and again when another array takes the place of one of them. NumPy does not tell
    when the values of an array change: call :meth:`clear` after changing them in place. Copies and pickles of an
    instance are empty.
    """

    def __init__(self) -> None:
        self._slots: dict[int, _Held] = {}

    def __reduce__(self) -> tuple[type[PackedWeights], tuple[()]]:
        return PackedWeights, ()

    def clear(self) -> None:
        """Forget everything, so that the next call packs anew."""
        self._slots.clear()

    def get(
        self,
        slot: int,
        weight: Array,
        bias: Array | None,
        slope: Array | None = None,
        number: float = 0.0,
        activation: str = "none",
        r: int = 1,
    ) -> _numpy.Packed:
        """The packing of these arrays, which an operator has checked.

        Args:
            slot: which of the convolutions that share this instance.
            weight, bias, slope, number, activation, r: as the operator takes them.
        """
        arrays, settings = (weight, bias, slope), (number, activation, r)
        held = self._slots.get(slot)
        if (
            held is not None
            and held.settings == settings
            and all(a is b for a, b in zip(held.arrays, arrays, strict=True))
        ):
            return held.packed
        aligned = np.require(weight, requirements="A")
        packed = _numpy.pack(aligned, vector(bias), vector(slope), *settings, weight.dtype.name)
        self._slots[slot] = _Held(packed, arrays, settings)
        return packed
