"""One row of the table: an operator at a size, by this package's kernels and by a plain Triton kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from .machine import Launched, Machine

Bits = npt.NDArray[Any]
Run = Callable[[Machine], Sequence[Launched]]
TOLERANCE = (
    1e-2  # relative L2 distance to float32 arithmetic on the same bfloat16 operands; a wrong index gives 0.1 or more
)


class WrongResultError(RuntimeError):
    """A kernel computed something else: its counts mean nothing."""


@dataclass(frozen=True)
class Case:
    """A row.

    Attributes:
        key: short name; gates and tests refer to it.
        title: for readers.
        flops: floating-point operations that the operator needs.
        compulsory: bytes of inputs and outputs, each once.
        ours: runs this package's kernels, checks the result, and says what was launched.
        triton: the same for the baseline; None without one.
        operators: the same for this package's Triton kernels; None where they are not counted.
        units: what instructions are counted by where there are no matrix products; nan where there are.
        unit: its name.
    """

    key: str
    title: str
    flops: float
    compulsory: int
    ours: Run
    triton: Run | None = None
    units: float = field(default=float("nan"))
    unit: str = "MMA"
    operators: Run | None = None


def bits(x: Tensor) -> Bits:
    """The elements in logical order, as NumPy can hold them."""
    dense = x.contiguous()
    return dense.view(torch.int16).numpy() if dense.dtype == torch.bfloat16 else dense.numpy()


def pixels(x: Tensor) -> Bits:
    """The same of an image (N, C, H, W), channels last."""
    return bits(x.permute(0, 2, 3, 1))


def poisoned(shape: Sequence[int], dtype: torch.dtype = torch.bfloat16) -> Bits:
    """An output full of NaN."""
    return bits(torch.full(tuple(shape), torch.nan, dtype=dtype))


def image(array: Bits) -> Tensor:
    """The image (N, C, H, W) of channels-last elements, as float32."""
    values = torch.from_numpy(array)
    values = values.view(torch.bfloat16) if values.dtype == torch.int16 else values
    return values.float().permute(0, 3, 1, 2)


def require_close(what: str, got: Tensor, expected: Tensor) -> None:
    """Refuse a wrong result.

    Raises:
        WrongResultError: the relative L2 distance exceeds ``TOLERANCE``, or is NaN.
    """
    distance = ((got - expected).norm() / expected.norm()).item()
    if not distance <= TOLERANCE:
        raise WrongResultError(f"{what}: expected a relative distance of at most {TOLERANCE}, got {distance:.2e}")


def longs(*values: int) -> list[ctypes.c_int64]:
    """Arguments of type int64_t."""
    return [ctypes.c_int64(value) for value in values]


def pointer(array: Bits | None) -> Bits | ctypes.c_void_p:
    """An array, or a null pointer."""
    return ctypes.c_void_p(0) if array is None else array


def nbytes(*arrays: Bits | None) -> int:
    """Bytes of the arrays that are there."""
    return sum(array.nbytes for array in arrays if array is not None)


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def random(seed: int, *shape: int) -> Tensor:
    """Normal numbers in bfloat16."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()
