"""The sixteen block barriers, and the one of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .aliases import Array, Writer
from .errors import KernelFault
from .lanes import Lanes
from .races import SharedShadow


class Reduction(NamedTuple):
    """A bar.red in progress."""

    values: Array  # the predicate of each lane
    combine: Callable[[Array, Array], Array]  # (lanes that say yes, lanes) of each block -> its result
    write: Writer


class Released(NamedTuple):
    """Lanes that a complete barrier wakes, and where they go on."""

    pc: int
    lanes: Array


class Barriers:
    """Who waits at which barrier.

    Args:
        lanes: the lanes of the chunk.
        shadow: what learns from barriers who is ordered before whom, or None.
    """

    def __init__(self, lanes: Lanes, shadow: SharedShadow | None) -> None:
        self.lanes, self.shadow = lanes, shadow
        self.waiting = np.zeros(lanes.lanes, np.int16)  # barrier number + 1, or 0
        self.resume = np.zeros(lanes.lanes, np.int64)
        self.expected: dict[tuple[int, int], int] = {}  # (block, barrier): explicit thread count
        self.arrived: dict[tuple[int, int], int] = {}  # (block, barrier): bar.arrive threads
        self.histories: dict[int, Array] = {}  # barrier: what the arrived warps of each block did
        self.reductions: dict[int, Reduction] = {}  # by program counter
        self.completed = 0

    def all_wait_for_all(self) -> None:
        """Every living thread of every block is at the same barrier of the whole block."""
        if self.shadow:
            self.shadow.barrier_of_all()
        self.completed += self.lanes.blocks

    def wait(self, pc: int, number: Array, expected: Array | int | None) -> list[Released]:
        """bar.sync by the active lanes; returns whom it wakes."""
        lanes = self.lanes.active_lanes()
        number = np.broadcast_to(number, (len(lanes),)).astype(np.int16)
        self.waiting[lanes] = number + 1
        self.resume[lanes] = pc + 1
        self._note_expected(lanes, number, expected)
        return self.release(np.unique(self.lanes.block_of[lanes]))

    def arrive(self, number: Array, expected: Array | int) -> list[Released]:
        """bar.arrive: count the active lanes without making them wait."""
        lanes = self.lanes.active_lanes()
        number = np.broadcast_to(number, (len(lanes),)).astype(np.int16)
        self._note_expected(lanes, number, expected)
        keys, counts = np.unique(np.stack((self.lanes.block_of[lanes], number)), axis=1, return_counts=True)
        for (block, barrier), count in zip(keys.T.tolist(), counts.tolist(), strict=True):
            self.arrived[block, barrier] = self.arrived.get((block, barrier), 0) + count
        if self.shadow:
            for barrier in np.unique(number).tolist():
                history = self.shadow.depart(np.unique(self.lanes.warp_of[lanes[number == barrier]]))
                self.histories[barrier] = np.maximum(self.histories.get(barrier, 0), history)
        return self.release(np.unique(self.lanes.block_of[lanes]))

    def _note_expected(self, lanes: Array, number: Array, expected: Array | int | None) -> None:
        if expected is None:
            return
        keys = np.stack((self.lanes.block_of[lanes], number, np.broadcast_to(expected, (len(lanes),))))
        for block, barrier, count in np.unique(keys, axis=1).T.tolist():
            self.expected[block, barrier] = count

    def release(self, blocks: Array) -> list[Released]:
        """Complete what can be completed in these blocks."""
        rows = self.waiting.reshape(self.lanes.blocks, -1)[blocks]
        alive = self.lanes.alive.reshape(self.lanes.blocks, -1)[blocks].sum(1)
        released: list[Released] = []
        for number in np.unique(rows[rows > 0]).tolist():
            here = (rows == number).sum(1)
            expected = alive.copy()
            for index, block in enumerate(blocks.tolist()):
                key = (block, number - 1)
                expected[index] = self.expected.get(key, expected[index])
                here[index] += self.arrived.get(key, 0)
                if key in self.expected and here[index] > expected[index]:
                    raise KernelFault(
                        f"barrier {number - 1} expects {expected[index]} threads, and {here[index]} arrived at once: "
                        "on hardware the first of them would not wait for the rest"
                    )
            complete = blocks[(here >= expected) & ((rows == number).any(1))]
            if len(complete):
                released += self._complete(complete, number)
        return released

    def _complete(self, blocks: Array, number: int) -> list[Released]:
        chosen = np.zeros(self.lanes.blocks, bool)
        chosen[blocks] = True
        lanes = np.flatnonzero(chosen[self.lanes.block_of] & (self.waiting == number))
        if self.shadow:
            self._order(blocks, number - 1, lanes)
        for block in blocks.tolist():
            self.expected.pop((block, number - 1), None)
            self.arrived.pop((block, number - 1), None)
        self.completed += len(blocks)
        self.waiting[lanes] = 0
        return [Released(pc, lanes[self.resume[lanes] == pc]) for pc in np.unique(self.resume[lanes]).tolist()]

    def _order(self, blocks: Array, barrier: int, lanes: Array) -> None:
        """Tell the shadow who waited for whom: the named groups, or whole blocks, exited warps included."""
        assert self.shadow is not None
        warps = np.unique(self.lanes.warp_of[lanes])
        whole = [block for block in blocks.tolist() if (block, barrier) not in self.expected]
        if whole:
            rows = np.arange(self.lanes.lanes // 32).reshape(self.lanes.blocks, -1)
            warps = np.union1d(warps, rows[whole].reshape(-1))
        history = self.histories.get(barrier)
        self.shadow.barrier(warps, history)
        if history is not None:
            history[blocks] = 0

    def reduction_result(self, pc: int, lanes: Array) -> tuple[Array, Writer]:
        """bar.red: the combined predicate of each lane's block, and where it goes."""
        values, combine, write = self.reductions[pc]
        totals = np.zeros(self.lanes.blocks, np.int64)
        counts = np.zeros(self.lanes.blocks, np.int64)
        np.add.at(totals, self.lanes.block_of[lanes], values[lanes])
        np.add.at(counts, self.lanes.block_of[lanes], 1)
        return combine(totals, counts)[self.lanes.block_of[lanes]], write

    def describe(self, lane: int) -> str:
        """What a lane that can never go on waits for."""
        same = self.lanes.block_of == self.lanes.block_of[lane]
        here = int((self.waiting[same] == self.waiting[lane]).sum())
        alive = int(self.lanes.alive[same].sum())
        return (
            f"barrier {int(self.waiting[lane]) - 1} has {here} threads waiting and {alive} threads alive in the block"
        )
