"""Finds bytes of global memory that two blocks of one launch store to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .aliases import Array
from .errors import BlockConflict
from .memory import UINT, Region


class StoreOwners:
    """Which block stored to each granule of each buffer.

    Blocks of a grid run in any order, so the result of two plain stores of different values is left to chance. Equal
    values do no harm and are common (flags, halos computed twice); they are a fault only if asked for.

    Args:
        granule: bytes per entry, the smallest global store of the program.
        reject_equal: stores of equal values are faults too.
    """

    def __init__(self, granule: int, reject_equal: bool) -> None:
        self.granule, self.reject_equal = granule, reject_equal
        self.owners: dict[int, Array] = {}  # by base address: block + 1, or 0

    def store(self, region: Region, offset: Array, values: Array, block: Array, act: Callable[[], None]) -> None:
        """Run ``act``, which stores ``values`` (one row per lane) at these offsets, for lanes of these blocks."""
        owners = self.owners.get(region.base)
        if owners is None:
            owners = np.zeros(-(-len(region.data) // self.granule), np.int32)
            self.owners[region.base] = owners
        nbytes = values.itemsize * (values.shape[1] if values.ndim > 1 else 1)
        granules = (offset // self.granule)[:, None] + np.arange(nbytes // self.granule)
        mine = (block + 1).astype(np.int32)[:, None]
        before = owners[granules]
        self._reject(region, granules, values, before, (before != 0) & (before != mine))
        owners[granules] = mine
        act()
        after = owners[granules]
        self._reject(region, granules, values, after, after != mine)

    def _reject(self, region: Region, granules: Array, values: Array, owner: Array, foreign: Array) -> None:
        if not foreign.any():
            return
        guilty = foreign
        if not self.reject_equal:
            size = min(self.granule, 8)
            held = region.view(size, self.granule // size)[granules].reshape(*granules.shape, -1)
            stored = np.ascontiguousarray(values).view(UINT[size]).reshape(held.shape)
            guilty = foreign & (held != stored).any(-1)
        if guilty.any():
            lane = int(np.flatnonzero(guilty.any(1))[0])
            which = int(np.flatnonzero(guilty[lane])[0])
            byte = int(granules[lane, which]) * self.granule - (region.base - region.origin)
            raise BlockConflict(
                f"byte {byte} of {region.name} is stored to by two blocks; the other has index "
                f"{int(owner[lane, which]) - 1}",
                lane,
            )
