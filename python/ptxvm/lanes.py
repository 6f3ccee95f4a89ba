"""Which lanes of a chunk of blocks are active, and which warp and block each belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from .aliases import Array, ScalarType, Triple
from .errors import KernelFault

Result = TypeVar("Result")


class Lanes:
    """The lanes of a chunk of blocks, every warp padded to 32, and the selection that instructions act on.

    Args:
        grid: blocks of the launch.
        block: threads of a block.
        first_block: index of the first block of the chunk.
        blocks: number of blocks in the chunk.
        registers: number of virtual registers.
    """

    def __init__(self, grid: Triple, block: Triple, first_block: int, blocks: int, registers: int) -> None:
        self.grid, self.block, self.first_block, self.blocks = grid, block, first_block, blocks
        self.threads = block[0] * block[1] * block[2]
        self.warps_per_block = (self.threads + 31) // 32
        self.lanes_per_block = self.warps_per_block * 32
        self.lanes = blocks * self.lanes_per_block
        self.lane_index = np.arange(self.lanes)
        self.block_of = self.lane_index // self.lanes_per_block
        self.thread_of = self.lane_index % self.lanes_per_block
        self.warp_of = self.lane_index // 32
        self.warp_in_block = self.thread_of // 32
        self.alive = self.thread_of < self.threads
        self.alive_count = int(self.alive.sum())
        self.regs: list[Array | None] = [None] * registers
        self.sel: Array | None = None  # active lanes, None: every lane
        self.count, self.warps = self.lanes, self.lanes // 32

    def pick(self, values: Array) -> Array:
        """The entries of the active lanes."""
        return values if self.sel is None else values[self.sel]

    def active_lanes(self) -> Array:
        """Indices of the active lanes."""
        return self.lane_index if self.sel is None else self.sel

    def active_warps(self) -> Array:
        """Indices of the warps with an active lane."""
        return np.unique(self.pick(self.warp_of))

    def new_register(self, slot: int, dtype: ScalarType) -> Array:
        """A register that nothing was written to yet: all zeros."""
        register = np.zeros(self.lanes, dtype)
        self.regs[slot] = register
        return register

    def select(self, sel: Array | None) -> None:
        """Make ``sel`` (None: every lane) the active lanes."""
        self.sel = sel
        if sel is None:
            self.count, self.warps = self.lanes, self.lanes // 32
        else:
            self.count = len(sel)
            warp = sel >> 5
            self.warps = int(np.count_nonzero(warp[1:] != warp[:-1])) + 1 if len(sel) else 0

    def run_on(self, positions: Array, action: Callable[[], Result]) -> Result:
        """Run ``action()`` with only the active lanes at ``positions``."""
        sel, count, warps = self.sel, self.count, self.warps
        self.sel, self.count = self.active_lanes()[positions], len(positions)
        try:
            return action()
        except KernelFault as fault:
            if fault.position is not None:
                fault.position = int(positions[min(fault.position, len(positions) - 1)])
            raise
        finally:
            self.sel, self.count, self.warps = sel, count, warps
