"""What a launch checks, and where it gives up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """Checks and limits of a launch.

    Attributes:
        check_shared: everything about shared memory below, and unfinished cp.async.
        check_races: accesses of two warps to the same shared bytes that nothing orders.
        check_uninitialized: reads of shared memory that nobody wrote.
        check_shuffle: shfl from a lane that does not take part.
        check_blocks: two blocks that store different values to the same global bytes.
        check_equal_stores: two blocks that store equal values there, too.
        blocks_per_chunk: blocks that run together, 0: chosen from the size of the kernel.
        max_steps: instruction steps per chunk.
        chunk_bytes: memory that the state of a chunk may take, roughly.
        chunk_lanes: lanes of a chunk.
    """

    check_shared: bool = True
    check_races: bool = True
    check_uninitialized: bool = False
    check_shuffle: bool = True
    check_blocks: bool = True
    check_equal_stores: bool = False
    blocks_per_chunk: int = 0
    max_steps: int = 20_000_000
    chunk_bytes: int = 768 << 20
    chunk_lanes: int = 1 << 15
