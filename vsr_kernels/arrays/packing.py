"""Packed weights that are kept between calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any, NamedTuple

from .library import Array


class _Held(NamedTuple):
    """A packing and what it was made of."""

    packed: Any
    arrays: tuple[Array | None, ...]  # held, so that no other array takes their identity
    settings: tuple[Hashable, ...]


class PackedArrays(ABC):
    """Weights of a convolution or residual block in the order in which the kernels read them.

    Without one, an operator packs its weights in every call. Give the same instance to every call with the same arrays:
    they are packed in the first call, and again when another array takes the place of one of them. Arrays do not tell
    when their values change: call :meth:`clear` after changing them in place. Copies and pickles of an instance are
    empty.
    """

    def __init__(self) -> None:
        self._slots: dict[int, _Held] = {}

    def __reduce__(self) -> tuple[type[PackedArrays], tuple[()]]:
        return type(self), ()

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
    ) -> Any:
        """The packing of these arrays, which an operator has checked.

        Args:
            slot: which of the convolutions that share this instance.
            weight, bias, slope, number, activation, r: as the operator takes them.
        """
        arrays, settings = (weight, bias, slope), (number, activation, r, *self.place())
        held = self._slots.get(slot)
        if (
            held is not None
            and held.settings == settings
            and all(a is b for a, b in zip(held.arrays, arrays, strict=True))
        ):
            return held.packed
        packed = self.pack(weight, bias, slope, number, activation, r)
        self._slots[slot] = _Held(packed, arrays, settings)
        return packed

    def place(self) -> tuple[Hashable, ...]:
        """What else a packing serves alone."""
        return ()

    @abstractmethod
    def pack(
        self, weight: Array, bias: Array | None, slope: Array | None, number: float, activation: str, r: int
    ) -> Any:
        """What the kernels of this library take."""
