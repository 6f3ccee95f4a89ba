"""How many sectors and shared-memory wavefronts an access takes."""

from __future__ import annotations

import numpy as np

from .aliases import Array


def distinct_per_row(keys: Array) -> Array:
    """Number of distinct values in each row of a 2-D array."""
    step = keys[:, 1:] - keys[:, :-1]
    if (step < 0).any():
        keys = np.sort(keys, axis=1)
        step = keys[:, 1:] - keys[:, :-1]
    return (step != 0).sum(axis=1) + 1


def count_sectors(address: Array, warp: Array | None) -> int:
    """32-byte sectors touched, summed over warps (an access never straddles a sector)."""
    sector = (address >> np.uint64(5)).astype(np.int64)
    if warp is None:
        return int(distinct_per_row(sector.reshape(-1, 32)).sum())
    # The key keeps the low 40 bits of the sector, enough to tell sectors of one warp apart.
    keys = np.sort((warp << 40) | (sector & ((1 << 40) - 1)))
    return int((keys[1:] != keys[:-1]).sum()) + 1 if len(keys) else 0


def count_wavefronts(address: Array, nbytes: int, phase_of: Array | None, phases: int) -> tuple[int, int]:
    """Bank-conflict model: 32 banks of 4 bytes, one wavefront per distinct word of a bank.

    A warp access of 8 (16) bytes a lane is served in 2 (4) phases of 16 (8) lanes.
    Returns (wavefronts, ideal wavefronts).  ``phase_of`` numbers the phase of each
    lane; None says that lanes come in full phases, in order.
    """
    words = max(1, nbytes // 4)
    word = address >> 2
    if phase_of is None:
        rows = word.reshape(phases, -1)
        # All words inside one aligned window of the 32 banks cannot conflict.
        spread = rows.max(axis=1) + words - rows.min(axis=1)
        easy = spread <= 32
        if easy.all():
            return phases, phases
        hard = np.flatnonzero(~easy)
        word = rows[hard].reshape(-1)
        phase_of = np.repeat(np.arange(len(hard)), rows.shape[1])
        done, phases = int(easy.sum()), len(hard)
    else:
        done = 0
    word = (word[:, None] + np.arange(words)).reshape(-1)
    phase = np.repeat(phase_of, words)
    key = np.sort((phase << 32) | word)
    distinct = key[np.concatenate(([True], key[1:] != key[:-1]))]
    bank = (distinct >> 32) * 32 + (distinct & 31)
    per_bank = np.bincount(bank, minlength=phases * 32).reshape(phases, 32)
    per_phase = per_bank.max(axis=1)
    return done + int(per_phase.sum()), done + int((per_phase > 0).sum())


class BlockSectors:
    """Counts the distinct 32-byte sectors that each block touches: what L2 sees behind an L1 that forgets nothing."""

    LIMIT = 1 << 21  # entries before duplicates are thrown out

    def __init__(self) -> None:
        self.total = 0
        self._parts: list[Array] = []
        self._length = 0

    def add(self, block: Array, address: Array) -> None:
        """Accesses of these blocks (chunk-relative) to these addresses."""
        keys = block << 40 | (address >> np.uint64(5)).astype(np.int64) & (1 << 40) - 1
        keys = keys[np.concatenate(([True], keys[1:] != keys[:-1]))]
        self._parts.append(keys)
        self._length += len(keys)
        if self._length > self.LIMIT:
            self._parts = [np.unique(np.concatenate(self._parts))]
            self._length = 0  # count only what is new, or a large set would be sorted at every access

    def finish_chunk(self) -> None:
        """No block of the chunk touches anything any more."""
        if self._parts:
            self.total += len(np.unique(np.concatenate(self._parts)))
        self._parts, self._length = [], 0
