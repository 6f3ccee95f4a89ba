"""A launch, as data: what is compiled, the grid, and the arguments. Nothing here needs a GPU or CuPy."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

#: Blocks of a grid along its three axes, at most.
MAX_GRID = (2**31 - 1, 65535, 65535)


class Kernel(Protocol):
    """What to compile: equal and hashable by its constants."""

    @property
    def entry(self) -> str:
        """Name of the function to launch."""

    @property
    def source(self) -> str:
        """CUDA C++, for a compiler that finds the folder csrc."""


class View(NamedTuple):
    """An array in device memory.

    Attributes:
        pointer: address of the first element.
        shape, strides: as the array has them; strides in elements.
        dtype: ``float32``, ``float16``, ``bfloat16``, or another name of NumPy.
        owner: the array, which lives as long as its view.
    """

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    owner: Any

    @property
    def on_vectors(self) -> bool:
        """Whether it begins on 16 bytes."""
        return self.pointer % 16 == 0


class Limits(NamedTuple):
    """What launches ask of a device.

    Attributes:
        capability: (major, minor).
        multiprocessors: their number.
        shared_per_block, shared_per_multiprocessor: bytes of shared memory.
    """

    capability: tuple[int, int]
    multiprocessors: int
    shared_per_block: int
    shared_per_multiprocessor: int


Arguments: TypeAlias = tuple[View | np.generic | None, ...]


class Launch(NamedTuple):
    """One launch of a kernel.

    Attributes:
        kernel: what is launched.
        grid, block: sizes in blocks and in threads.
        shared_bytes: dynamic shared memory of a block.
        arguments: in the kernel's order; None is a null pointer.
    """

    kernel: Kernel
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    arguments: Arguments


def element_bytes(dtype: str) -> int:
    """Bytes of an element."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def long(value: int) -> np.generic:
    """An argument of type int64_t."""
    return np.int64(value)


def longs(values: tuple[int, ...]) -> tuple[np.generic, ...]:
    """Arguments of type int64_t."""
    return tuple(np.int64(value) for value in values)
