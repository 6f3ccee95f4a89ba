"""Where in one piece of memory buffers lie whose lifetimes are known."""

from __future__ import annotations

import contextlib
import mmap
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


@dataclass(eq=False)
class Buffer:
    """Memory of one tensor and of the views into it.

    Attributes:
        nbytes: its size.
        first, last: the steps between which it is in use, both included.
        result: whether a caller gets it, so that it is not part of the arena.
        offset: its place in the arena, once that is laid out.
    """

    nbytes: int
    first: int
    last: int
    result: bool = False
    offset: int = 0


def lay_out(buffers: Sequence[Buffer]) -> int:
    """Give every buffer a place that no other one in use at the same time has; the bytes of the arena.

    Largest first, each at the lowest place that is free for its whole life.
    """
    placed: list[Buffer] = []
    total = 0
    for buffer in sorted(buffers, key=lambda b: b.nbytes, reverse=True):
        size = _aligned(buffer.nbytes)
        beside = [other for other in placed if other.first <= buffer.last and buffer.first <= other.last]
        at = 0
        for other in sorted(beside, key=lambda b: b.offset):
            if other.offset - at >= size:
                break
            at = max(at, other.offset + _aligned(other.nbytes))
        buffer.offset = at
        placed.append(buffer)
        total = max(total, at + size)
    return total


def reserve(nbytes: int) -> Tensor:
    """(nbytes,) uint8, in huge pages where the system has them to give."""
    if sys.platform != "linux" or nbytes < 1 << 21 or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(nbytes, dtype=torch.uint8)
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # of a kernel without them; ordinary pages do
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
