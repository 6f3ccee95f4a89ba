"""What the launches of one call did, as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ptxvm import Stats

from .devices import MMA_FLOPS
from .machine import Launched, Machine

SECTOR = 32


@dataclass(frozen=True)
class Counts:
    """One launch.

    Attributes:
        kernel: readable name.
        blocks: of the grid.
        threads: of a block.
        resident: blocks that fit on a multiprocessor.
        registers: of a thread.
        local_bytes: bytes of stack and of spilled registers of a thread.
        shared_bytes: of a block.
        mma: matrix products, in units of m16n8k16.
        wgmma: whether they are done by wgmma, whose reads of shared memory are not counted.
        ptx: warp instructions issued in PTX, matrix instructions left out.
        sass: the same in machine code.
        matrix_ptx: matrix instructions issued in PTX.
        matrix_sass: the same in machine code.
        loop_sass: the same per matrix instruction in the main loop; None without such a loop.
        shared_read: bytes read from shared memory.
        wavefronts: of shared memory.
        ideal_wavefronts: what there would be without bank conflicts.
        l1_bytes: sectors of loads and stores that pass through L1, in bytes; atomics too.
        asked_bytes: sectors of all loads, stores and copies, in bytes: what is asked of the caches.
        l2_bytes: what reaches L2 if L1 forgets nothing within a block; atomics count as a read and a write.
        moved_bytes: distinct bytes read plus distinct bytes written: what DRAM sees if L2 forgets nothing.
    """

    kernel: str
    blocks: int
    threads: int
    resident: int
    registers: int
    local_bytes: int
    shared_bytes: int
    mma: float
    wgmma: bool
    ptx: float
    sass: float
    matrix_ptx: int
    matrix_sass: float
    loop_sass: float | None
    shared_read: int
    wavefronts: int
    ideal_wavefronts: int
    l1_bytes: int
    asked_bytes: int
    l2_bytes: int
    moved_bytes: int


def count(machine: Machine, launched: Launched) -> Counts:
    """The figures of a launch."""
    stats, code = launched.stats, machine.assemble(launched)
    executed, loop = code.executed(stats), code.main_loop(stats)
    copied = copied_sectors(stats)
    loads = stats.global_load_sectors - copied
    asked = stats.global_load_sectors + stats.global_store_sectors
    # Distinct sectors are counted for loads and copies together: where there are copies, loads get no credit for L1.
    behind_l1 = loads if copied else stats.block_load_sectors
    added = sum(n for i, n in zip(stats.code, stats.sectors, strict=True) if i.op in ("atom", "red"))
    return Counts(
        kernel=launched.module.readable[launched.module.find(launched.kernel)],
        blocks=launched.blocks,
        threads=launched.threads,
        resident=machine.resident(launched),
        registers=code.registers,
        local_bytes=code.stack_bytes + code.spill_bytes,
        shared_bytes=launched.shared_bytes,
        mma=stats.mma_flops / MMA_FLOPS,
        wgmma=any(name.startswith("wgmma.mma_async") for name in stats.by_opcode),
        ptx=stats.warp_instructions - stats.mma_instructions,
        sass=executed.other,
        matrix_ptx=stats.mma_instructions,
        matrix_sass=executed.matrix,
        loop_sass=code.executed(stats, loop).other_per_matrix if loop is not None else None,
        shared_read=stats.shared_load_bytes,
        wavefronts=stats.shared_wavefronts,
        ideal_wavefronts=stats.shared_ideal_wavefronts,
        l1_bytes=SECTOR * (asked - copied),
        asked_bytes=SECTOR * asked,
        l2_bytes=SECTOR * (copied + behind_l1 + stats.global_store_sectors + added),
        moved_bytes=stats.unique_read_bytes + stats.unique_write_bytes,
    )


def copied_sectors(stats: Stats) -> int:
    """Sectors read by asynchronous copies that by-pass L1 (cp.async.cg)."""
    pairs = zip(stats.code, stats.sectors, strict=True)
    return sum(n for i, n in pairs if i.op == "cp" and ("cg" in i.mods or "bulk" in i.mods))


@dataclass(frozen=True)
class Total:
    """All launches of a call together, as ratios; instructions are counted by ``units`` where there are no MMAs."""

    counts: tuple[Counts, ...]
    compulsory: int
    units: float

    def sum(self, name: str) -> float:
        """A figure summed over launches."""
        return float(sum(getattr(each, name) for each in self.counts))

    @property
    def _units(self) -> float:
        return self.sum("mma") or self.units

    @property
    def ptx(self) -> float:
        """Other instructions per MMA (or unit), in PTX."""
        return self.sum("ptx") / self._units

    @property
    def sass(self) -> float:
        """The same in machine code."""
        return self.sum("sass") / self._units

    @property
    def loop_sass(self) -> float | None:
        """The same in the main loop, of the launch with most MMAs."""
        most = max(self.counts, key=lambda each: each.mma)
        return most.loop_sass

    @property
    def shared_read(self) -> float:
        """Bytes read from shared memory per MMA."""
        return self.sum("shared_read") / self._units

    @property
    def conflicts(self) -> float:
        """Shared-memory wavefronts over the ideal."""
        ideal = self.sum("ideal_wavefronts")
        return self.sum("wavefronts") / ideal if ideal else 1.0

    @property
    def asked(self) -> float:
        """Bytes asked of the caches over compulsory bytes."""
        return self.sum("asked_bytes") / self.compulsory

    @property
    def through_l2(self) -> float:
        """Bytes that reach L2 over compulsory bytes."""
        return self.sum("l2_bytes") / self.compulsory

    @property
    def dram(self) -> float:
        """DRAM bytes over compulsory bytes, were every launch to begin with empty caches."""
        return self.sum("moved_bytes") / self.compulsory

    @property
    def registers(self) -> int:
        """The most of any launch."""
        return max(each.registers for each in self.counts)

    @property
    def attributed(self) -> bool:
        """Whether machine instructions were traced to the PTX that ran: both then count the same matrix products.

        To 3 %, which is what the weight gradient's are off by. Where the assembler unrolls a loop of PTX, the code in
        it may be taken for as many times what it is.
        """
        return all(abs(each.matrix_sass - each.matrix_ptx) <= 0.03 * each.matrix_ptx for each in self.counts)

    @property
    def local_bytes(self) -> int:
        """Stack and spills, the most of any launch."""
        return max(each.local_bytes for each in self.counts)

    @property
    def work(self) -> float:
        """Matrix products done, in m16n8k16."""
        return self.sum("mma")


def total(machine: Machine, launches: Iterable[Launched], compulsory: int, units: float = math.nan) -> Total:
    """Count all launches of a call."""
    return Total(tuple(count(machine, launched) for launched in launches), compulsory, units)
