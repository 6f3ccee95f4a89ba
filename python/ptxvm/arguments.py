"""Lays the arguments of a launch out as the kernel's .param declarations ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .aliases import Array
from .errors import LaunchError
from .memory import Memory
from .syntax import Function, Var


class Buffer(NamedTuple):
    """An array argument: the array, its device address, and the contiguous memory that the kernel sees."""

    array: Array
    address: int
    work: Array


class Arguments:
    """The arguments of one launch, as bytes and as attached buffers.

    Args:
        memory: where array arguments appear while the launch lasts.
        kernel: the kernel, its parameters laid out.
        values: arrays (buffers), scalars, bytes (structs by value), or None (a null pointer).
    """

    def __init__(self, memory: Memory, kernel: Function, values: Sequence[Any]) -> None:
        if len(values) != len(kernel.params):
            raise LaunchError(
                "cudaErrorInvalidValue", f"{kernel.name} takes {len(kernel.params)} arguments, not {len(values)}"
            )
        self.memory = memory
        self.buffers: list[Buffer] = []
        block = bytearray(kernel.params[-1].offset + kernel.params[-1].bytes if kernel.params else 0)
        try:
            for index, (var, value) in enumerate(zip(kernel.params, values, strict=True)):
                block[var.offset : var.offset + var.bytes] = self._bytes(index, var, value)
        except BaseException:
            self.release()
            raise
        self.block = bytes(block)

    def release(self) -> None:
        """Detach the buffers."""
        for buffer in self.buffers:
            self.memory.free(buffer.address)

    def _bytes(self, index: int, var: Var, value: Any) -> bytes:
        if isinstance(value, np.ndarray):
            return self._attach(index, value).to_bytes(8, "little")
        if value is None:
            return bytes(var.bytes)
        if isinstance(value, bytes | bytearray):
            if len(value) != var.bytes:
                raise LaunchError("cudaErrorInvalidValue", f"argument {index} has {len(value)} bytes, not {var.bytes}")
            return bytes(value)
        return scalar_bytes(var, value)

    def _attach(self, index: int, array: Array) -> int:
        for known in self.buffers:
            if known.array is array:
                return known.address
        work = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        address = self.memory.attach(work, f"argument {index}")
        self.buffers.append(Buffer(array, address, work))
        return address


def scalar_bytes(var: Var, value: Any) -> bytes:
    """A Python or NumPy scalar in the bytes of a .param declaration."""
    if var.type in ("f32", "f64"):
        return np.array(value, np.dtype(var.type.replace("f32", "f4").replace("f64", "f8"))).tobytes()
    if isinstance(value, np.generic) and value.dtype.kind in "fV" and value.dtype.itemsize == var.bytes:
        return value.tobytes()
    if isinstance(value, float | np.floating):
        kind = {2: np.float16, 4: np.float32, 8: np.float64}[var.bytes]
        return np.array(value, kind).tobytes()
    return (int(value) & ((1 << (8 * var.bytes)) - 1)).to_bytes(var.bytes, "little")
