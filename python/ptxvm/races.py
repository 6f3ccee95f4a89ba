"""Checks of shared memory: races between warps, unfinished asynchronous copies, bytes nobody wrote.

Whether two accesses are ordered is decided by vector clocks. Every warp counts its own epochs and knows, of each other
warp of its block, the last epoch that a barrier or mbarrier has ordered before what it does now.
(Mattern, "Virtual time and global states of distributed systems", 1989.)
"""

from __future__ import annotations

import numpy as np

from .aliases import Array
from .errors import AsyncCopyHazard, SharedRace, UninitializedRead
from .lanes import Lanes
from .memory import BlockStorage

IN_FLIGHT = np.int32(-1)
WARP_BITS = 6


class SharedShadow:
    """Who touched each granule of shared memory, and when.

    The tag of a write is ``epoch << WARP_BITS | warp + 1``; reads are kept per warp, because several may be unordered.

    Args:
        lanes: the lanes of the chunk.
        storage: its shared memory.
        granule: bytes per entry; accesses are multiples of it.
        check_races: look for races.
        check_uninitialized: look for reads of bytes that nobody wrote.
    """

    def __init__(
        self, lanes: Lanes, storage: BlockStorage, granule: int, check_races: bool, check_uninitialized: bool
    ) -> None:
        self.storage, self.granule = storage, granule
        self.check_races, self.check_uninitialized = check_races, check_uninitialized
        self.warp_of, self.warp_in_block = lanes.warp_of, lanes.warp_in_block
        self.warps = lanes.warps_per_block
        self.row_of = (self.warp_of * self.warps - 1)[
            :, None
        ]  # before a lane's row of ``known``; warps in tags start at 1
        count = len(storage.data) // granule
        self.writer = np.zeros(count, np.int32)
        self.reads = np.zeros((count, self.warps if check_races else 0), np.int32)  # epoch of each warp's last read
        self.known = np.zeros((lanes.blocks * self.warps, self.warps), np.int32)  # [a warp, a warp of its block]: epoch
        self.copies: list[tuple[Array, Array, Array]] = []  # outstanding cp.async: (lanes, group numbers, granules)
        self.start_epochs(np.arange(len(self.known)))

    # -- order -------------------------------------------------------------------
    def start_epochs(self, warps: Array) -> None:
        """What these warps do from now on is ordered before nothing yet."""
        self.known[warps, warps % self.warps] += 1
        epochs = self.known[np.arange(len(self.known)), np.arange(len(self.known)) % self.warps]
        tags = epochs << WARP_BITS | np.arange(len(self.known)) % self.warps + 1
        self.tags = tags.astype(np.int32)[self.warp_of][:, None]

    def depart(self, warps: Array) -> Array:
        """What others learn from these warps, up to now: for each block, an epoch per warp of the block."""
        history = np.zeros((len(self.known) // self.warps, self.warps), np.int32)
        np.maximum.at(history, warps // self.warps, self.known[warps])
        self.start_epochs(warps)
        return history

    def learn(self, warps: Array, history: Array | int) -> None:
        """Everything in ``history`` (a row for all warps, or one for each) is ordered before what they do next."""
        self.known[warps] = np.maximum(self.known[warps], history)

    def barrier(self, warps: Array, history: Array | None = None) -> None:
        """These warps wait for each other; ``history`` comes from those that arrived without waiting."""
        own = self.depart(warps)
        joined = own if history is None else np.maximum(own, history)
        self.learn(warps, joined[warps // self.warps])

    def barrier_of_all(self) -> None:
        """A barrier of every block."""
        by_block = self.known.reshape(-1, self.warps, self.warps)
        by_block[:] = by_block.max(axis=1, keepdims=True)
        self.start_epochs(np.arange(len(self.known)))

    def _unordered(self, lanes: Array | None, other: Array) -> Array:
        """Where the writes tagged ``other`` (lanes, granules) are not ordered before what these lanes do now."""
        row = self.row_of if lanes is None else self.row_of[lanes]
        known = self.known.reshape(-1).take(row + (other & (1 << WARP_BITS) - 1))
        unordered: Array = known < other >> WARP_BITS
        return unordered

    # -- accesses --------------------------------------------------------------------
    def _tag(self, lanes: Array | None) -> Array:
        return self.tags if lanes is None else self.tags[lanes]

    def _granules(self, offset: Array, nbytes: int) -> Array:
        first = (offset // self.granule)[:, None]
        count = nbytes // self.granule
        return first + np.arange(count) if count > 1 else first

    def read(self, offset: Array, nbytes: int, lanes: Array | None) -> None:
        """A read by ``lanes`` (None: all) of ``nbytes`` at each offset."""
        granules = self._granules(offset, nbytes)
        writer = self.writer[granules]
        self._reject_in_flight(offset, writer, "read")
        if self.check_uninitialized and not writer.all():
            lane = int(np.flatnonzero((writer == 0).any(1))[0])
            raise UninitializedRead(f"shared bytes at {self._place(offset, lane)} were never written", lane)
        if not self.check_races:
            return
        self._reject_writers(offset, writer, lanes, "read by {0} and written by {1}")
        warp = self.warp_in_block if lanes is None else self.warp_in_block[lanes]
        self.reads[granules, warp[:, None]] = self._tag(lanes) >> WARP_BITS

    def write(self, offset: Array, nbytes: int, lanes: Array | None, unchanged: Array | None = None) -> Array:
        """A write; lanes that store what is there already (``unchanged``) race with no other writer."""
        granules = self._granules(offset, nbytes)
        writer = self.writer[granules]
        self._reject_in_flight(offset, writer, "written")
        if self.check_races:
            others = writer if unchanged is None else np.where(unchanged[:, None], 0, writer)
            self._reject_writers(offset, others, lanes, "written by {0} and {1}")
            self._reject_readers(offset, granules, lanes)
        self.writer[granules] = self._tag(lanes)
        return granules

    def reject_overwritten(self, offset: Array, granules: Array, lanes: Array | None, kept: Array) -> None:
        """After the store: lanes whose value was replaced (not ``kept``) by another warp in the same step."""
        if self.check_races and not kept.all():
            others = np.where(kept[:, None], 0, self.writer[granules])
            self._reject_writers(offset, others, lanes, "written by {0} and {1}")

    def atomic(self, offset: Array, nbytes: int) -> None:
        """Atomics are ordered among themselves: they only count as having written the bytes."""
        granules = self._granules(offset, nbytes)
        self.writer[granules] = np.where(self.writer[granules] == 0, 1, self.writer[granules])

    def start_copy(self, offset: Array, nbytes: int, lanes: Array, groups: Array) -> None:
        """A cp.async into these bytes by these lanes, in these groups of theirs."""
        granules = self.write(offset, nbytes, lanes)
        if self.check_races:
            self._reject_writers(offset, self.writer[granules], lanes, "written by {0} and {1}")
        self.writer[granules] = IN_FLIGHT
        self.copies.append((lanes, groups, granules))

    def finish_copies(self, newest_complete: Array) -> None:
        """Groups numbered up to ``newest_complete[lane]`` (-1: none) are done."""
        remaining = []
        for lanes, groups, granules in self.copies:
            done = groups <= newest_complete[lanes]
            if done.any():
                self.writer[granules[done]] = self.tags[lanes[done]]
                lanes, groups, granules = lanes[~done], groups[~done], granules[~done]
            if len(lanes):
                remaining.append((lanes, groups, granules))
        self.copies = remaining

    # -- faults ------------------------------------------------------------------------
    def _place(self, offset: Array, lane: int) -> str:
        return f"{int(offset[lane]) % self.storage.stride:#x}"

    def _reject_in_flight(self, offset: Array, writer: Array, verb: str) -> None:
        if writer.size and writer.min() < 0:
            lane = int(np.flatnonzero((writer == IN_FLIGHT).any(1))[0])
            place = self._place(offset, lane)
            raise AsyncCopyHazard(
                f"shared bytes at {place} are {verb} while a cp.async into them is not waited for", lane
            )

    def _reject_writers(self, offset: Array, writer: Array, lanes: Array | None, verb: str) -> None:
        race = self._unordered(lanes, writer)
        if race.any():
            lane = int(np.flatnonzero(race.any(1))[0])
            culprit = int(writer[lane][race[lane]][0]) & (1 << WARP_BITS) - 1
            self._raise_race(offset, lane, lanes, verb, f"warp {culprit - 1}")

    def _reject_readers(self, offset: Array, granules: Array, lanes: Array | None) -> None:
        warp = self.warp_of if lanes is None else self.warp_of[lanes]
        race = self.reads[granules] > self.known[warp][:, None, :]
        if race.any():
            lane = int(np.flatnonzero(race.any((1, 2)))[0])
            culprits = np.flatnonzero(race[lane].any(0))
            other = f"warp {culprits[0]}" if len(culprits) == 1 else "several warps"
            self._raise_race(offset, lane, lanes, "written by {0} and read by {1}", other)

    def _raise_race(self, offset: Array, lane: int, lanes: Array | None, verb: str, other: str) -> None:
        warp = int(self.warp_in_block[lane if lanes is None else lanes[lane]])
        text = verb.format(f"warp {warp}", other)
        raise SharedRace(f"shared bytes at {self._place(offset, lane)} are {text} with no barrier between", lane)
