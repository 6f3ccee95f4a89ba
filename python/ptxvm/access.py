"""Memory as the active lanes see it: state spaces, checks and counters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .aliases import Array, Elementwise, ScalarType, Triple, Values
from .atomics import apply_atomic
from .errors import Unsupported
from .lanes import Lanes
from .memory import UINT, WINDOW_BITS, BlockStorage, Memory, Region, Typed
from .options import Options
from .ownership import StoreOwners
from .program import WINDOWS, Program
from .races import SharedShadow
from .stats import Stats

SPACE_OF_WINDOW = {0: "global", 1: "shared", 2: "local", 3: "param"}


class MemoryAccess(Lanes):
    """Loads, stores and atomics of the active lanes.

    Args:
        program: the decoded kernel.
        grid: blocks of the launch.
        block: threads of a block.
        first_block: index of the first block of the chunk.
        blocks: number of blocks in the chunk.
        shared_bytes: shared memory of a block, static and dynamic.
        params: the parameter block.
        memory: global memory.
        owners: what notices stores of two blocks to one place, or None.
        stats: where to count.
        options: which checks to make.
    """

    def __init__(
        self,
        program: Program,
        grid: Triple,
        block: Triple,
        first_block: int,
        blocks: int,
        shared_bytes: int,
        params: Array,
        memory: Memory,
        owners: StoreOwners | None,
        stats: Stats,
        options: Options,
    ) -> None:
        super().__init__(grid, block, first_block, blocks, program.registers)
        self.program, self.memory, self.owners, self.stats, self.options = program, memory, owners, stats, options
        self.params = Typed(params)
        self.shared_bytes = shared_bytes
        self.shared = BlockStorage(blocks, shared_bytes, "shared")
        self.local = BlockStorage(self.lanes, program.local_bytes, "local")
        self.shadow: SharedShadow | None = None
        if options.check_shared:
            granule = program.smallest_shared_access
            self.shadow = SharedShadow(self, self.shared, granule, options.check_races, options.check_uninitialized)
        self.pc = 0  # of the instruction in progress

    def by_window(self, address: Array, action: Callable[[str, Array, Array | None], Any]) -> Any:
        """Run ``action(space, address, positions)`` for each window generic addresses fall in."""
        window = address >> np.uint64(WINDOW_BITS)
        if not window.any():
            return action("global", address, None)
        for value in np.unique(window).tolist():
            positions = np.flatnonzero(window == value)
            space = SPACE_OF_WINDOW.get(value, "global")
            local = address[positions] - np.uint64(WINDOWS.get(space, 0))
            self.run_on(positions, functools.partial(action, space, local, positions))
        return None

    def load(self, space: str, address: Array, size: int, n: int) -> Array:
        """Load ``n`` elements of ``size`` bytes per active lane: shape (L,) or (L, n)."""
        if space == "generic":
            result = np.empty((len(address), n) if n > 1 else len(address), UINT[size])

            def part(where: str, local: Array, positions: Array | None) -> None:
                result[slice(None) if positions is None else positions] = self.load(where, local, size, n)

            self.by_window(address, part)
            return result
        nbytes = size * n
        if space in ("global", "const"):
            segments = self.memory.resolve(address, nbytes)
            if space == "global":
                self.count_global(address, nbytes, False)
            parts = []
            for region, positions, offset in segments:
                region.mark(offset, nbytes, False)
                parts.append((positions, region.load(offset, size, n)))
            if parts[0][0] is None:
                return parts[0][1]
            result = np.empty((len(address), n) if n > 1 else len(address), UINT[size])
            for positions, values in parts:
                result[positions] = values
            return result
        if space == "shared":
            return self.shared.load(self.shared_offset(address, nbytes, False), size, n)
        if space == "local":
            return self.local.load(self.local.flatten(self.active_lanes(), address, nbytes), size, n)
        return self.params.load(address.astype(np.int64), size, n)

    def store(self, space: str, address: Array, values: Values, size: int, n: int, strong: bool = False) -> None:
        """Store ``n`` elements per active lane; the highest lane wins on equal addresses.

        ``strong`` stores (volatile, relaxed, release) are how blocks talk to each other: two may hit one place.
        """
        if space == "generic":

            def part(where: str, local: Array, positions: Array | None) -> None:
                self.store(where, local, values if positions is None else values[positions], size, n, strong)

            self.by_window(address, part)
            return
        nbytes = size * n
        if space == "global":
            segments = self.memory.resolve(address, nbytes)
            self.count_global(address, nbytes, True)
            for region, positions, offset in segments:
                region.mark(offset, nbytes, True)
                self.store_region(region, positions, offset, values, size, n, strong)
        elif space == "shared":
            self.store_shared(self.shared_offset(address, nbytes, True, checked=False), values, size, n)
        elif space == "local":
            self.local.store(self.local.flatten(self.active_lanes(), address, nbytes), values, size, n)
        else:
            raise Unsupported(f"store to {space} memory")

    def store_region(
        self, region: Region, positions: Array | None, offset: Array, values: Values, size: int, n: int, strong: bool
    ) -> None:
        """Store to one buffer, noticing bytes that another block stored to."""
        own = values if positions is None else values[positions]
        if self.owners is None or strong:
            region.store(offset, own, size, n)
            return
        block = self.first_block + self.pick(self.block_of)
        self.owners.store(
            region,
            offset,
            own,
            block if positions is None else block[positions],
            lambda: region.store(offset, own, size, n),
        )

    def count_global(self, address: Array, nbytes: int, write: bool) -> None:
        """Count one global access by the active lanes."""
        warp, block = (None, self.block_of) if self.sel is None else (self.warp_of[self.sel], self.block_of[self.sel])
        self.stats.global_access(self.pc, address, nbytes, warp, block, write)

    def store_shared(self, offset: Array, values: Values, size: int, n: int) -> None:
        """Store to flat shared offsets, with the checks of ``SharedShadow``."""
        if not self.shadow:
            self.shared.store(offset, values, size, n)
            return

        def matches() -> Array:
            same = self.shared.load(offset, size, n) == values
            return same if n == 1 else same.all(1)

        granules = self.shadow.write(offset, size * n, self.sel, matches())
        self.shared.store(offset, values, size, n)
        self.shadow.reject_overwritten(offset, granules, self.sel, matches())

    def atomic(
        self,
        space: str,
        address: Array,
        size: int,
        n: int,
        dtype: ScalarType,
        function: Elementwise | None,
        values: Sequence[Array],
        needed: bool,
    ) -> Array:
        """Atomic read-modify-write by the active lanes: returns the old values, shape (L, n)."""
        old = np.zeros((len(address), n), dtype)
        if space == "generic":

            def part(where: str, local: Array, positions: Array | None) -> None:
                rows = slice(None) if positions is None else positions
                old[rows] = self.atomic(where, local, size, n, dtype, function, [v[rows] for v in values], needed)

            self.by_window(address, part)
            return old
        nbytes = size * n
        self.stats.atomics += len(address)
        if space == "shared":
            offset = self.shared_offset(address, nbytes, True, checked=False)
            if self.shadow:
                self.shadow.atomic(offset, nbytes)
            table = self.shared.view(size, n).view(dtype).reshape(-1, n)
            return apply_atomic(table, offset // nbytes, dtype, function, values, needed)
        if space != "global":
            raise Unsupported(f"atomic on {space} memory")
        segments = self.memory.resolve(address, nbytes)
        self.count_global(address, nbytes, True)
        for region, positions, offset in segments:
            rows = slice(None) if positions is None else positions
            region.mark(offset, nbytes, False)
            region.mark(offset, nbytes, True)
            table = region.view(size, n).view(dtype).reshape(-1, n)
            old[rows] = apply_atomic(table, offset // nbytes, dtype, function, [v[rows] for v in values], needed)
        return old

    def shared_offset(
        self, address: Array, nbytes: int, write: bool, checked: bool = True, full_phases: bool = False
    ) -> Array:
        """Check, count and flatten shared addresses of the active lanes.

        ``checked``: look for hazards of reads too.  ``full_phases``: the lanes come in
        complete bank-conflict phases, in order.
        """
        offset = self.shared.flatten(self.pick(self.block_of), address, nbytes)
        self.stats.shared_access(self.pc, address.astype(np.int64), nbytes, None if full_phases else self.sel, write)
        if self.shadow and checked:
            self.shadow.read(offset, nbytes, self.sel)
        return offset
