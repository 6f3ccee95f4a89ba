"""Tensors as the launchers take them: plain arrays in the order of memory, from an aligned address."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import ptxvm

Bits = npt.NDArray[np.unsignedinteger]
ACTIVATIONS = ["none", "relu", "leaky_relu", "prelu"]  # as numbered in csrc/core/activation.h
DTYPES = [torch.float32, torch.float16, torch.bfloat16]  # as numbered in csrc/core/dtype.h


def in_memory(x: Tensor, offset: int = 0) -> Bits:
    """The elements of a tensor in order, as bits, from an address of 256 bytes plus ``offset`` elements."""
    bits = {1: np.uint8, 2: np.uint16, 4: np.uint32}[x.element_size()]
    ordered = x.reshape(-1).contiguous().view(torch.uint8).numpy().view(bits)
    backing = np.empty(ordered.size + 512 // ordered.itemsize, bits)
    first = -(backing.ctypes.data // ordered.itemsize) % (256 // ordered.itemsize) + offset
    placed: Bits = backing[first : first + ordered.size]
    placed[:] = ordered
    return placed


def pixels(x: Tensor, offset: int = 0) -> Bits:
    """(N, C, H, W) in the order of channels_last."""
    return in_memory(x.permute(0, 2, 3, 1), offset)


def poisoned(shape: tuple[int, ...], dtype: torch.dtype, offset: int = 0) -> Bits:
    """Room for an output, filled with NaN."""
    return ptxvm.poison(in_memory(torch.empty(shape, dtype=dtype), offset))


def image(bits: Bits, shape: tuple[int, int, int, int], dtype: torch.dtype) -> Tensor:
    """What a kernel wrote as (N, H, W, C), as (N, C, H, W)."""
    signed = bits.view({2: np.int16, 4: np.int32}[bits.itemsize])
    return torch.from_numpy(signed.reshape(shape)).view(dtype).permute(0, 3, 1, 2)


def pointer(array: Bits | None) -> Bits | ctypes.c_void_p:
    """Null for None."""
    return ctypes.c_void_p(0) if array is None else array


def longs(*values: int) -> list[ctypes.c_int64]:
    """Arguments of type int64_t."""
    return [ctypes.c_int64(value) for value in values]
