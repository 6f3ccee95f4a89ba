"""Counters of one launch: instructions, flops, memory traffic, bank conflicts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from .aliases import Array
from .classes import CLASSES, classify, flops_per_lane
from .loops import LoopCounts, Span
from .memory import Region
from .syntax import Instruction
from .traffic import BlockSectors, count_sectors, count_wavefronts


class Stats:
    """Counters of one launch; sum them up with ``table()``, ``loops()`` and ``by_line()``.

    Args:
        kernel: readable name.
        code: the instructions, by program counter.
        spans: the loops of the code.
    """

    def __init__(self, kernel: str, code: Sequence[Instruction], spans: Sequence[Span] = ()) -> None:
        self.kernel, self.code, self.spans = kernel, code, spans
        size = len(code)
        self.issued = [0] * size  # warp instructions issued
        self.active = [0] * size  # lanes of those warps that reached the instruction
        self.executed = [0] * size  # lanes whose guard predicate let it run
        self.sectors = [0] * size
        self.wavefronts = [0] * size
        self.ideal_wavefronts = [0] * size
        self.shared_loads = [0] * size  # bytes read from shared memory
        self._load_sectors, self._store_sectors = BlockSectors(), BlockSectors()
        self.global_load_bytes = self.global_store_bytes = 0
        self.global_load_sectors = self.global_store_sectors = 0
        self.shared_load_bytes = self.shared_store_bytes = 0
        self.mma_flops = 0
        self.atomics = 0
        self.barriers = 0
        self.unique_read_bytes = self.unique_write_bytes = 0
        self.blocks = self.threads = 0
        self.seconds = 0.0
        self.printed: list[str] = []  # what device printf printed, one entry per call and thread
        self._written: list[tuple[Array, Array | None]] = []  # (array argument, marks of the bytes stored to)

    # -- recording -------------------------------------------------------------
    def global_access(
        self, pc: int, address: Array, nbytes: int, warp: Array | None, block: Array, write: bool
    ) -> None:
        """One global access by lanes of these warps (None: all lanes of all warps) and blocks."""
        if len(address):
            (self._store_sectors if write else self._load_sectors).add(block, address)
        sectors = count_sectors(address, warp)
        self.sectors[pc] += sectors
        total = len(address) * nbytes
        if write:
            self.global_store_bytes += total
            self.global_store_sectors += sectors
        else:
            self.global_load_bytes += total
            self.global_load_sectors += sectors

    def shared_access(self, pc: int, address: Array, nbytes: int, lanes: Array | None, write: bool) -> None:
        """One shared access by ``lanes`` (None: all); addresses are offsets in the block."""
        per_phase = 32 // max(1, nbytes // 4)
        if lanes is None:
            phases, phase_of = len(address) // per_phase, None
        else:
            _, phase_of = np.unique(lanes // per_phase, return_inverse=True)
            phases = int(phase_of.max()) + 1 if len(phase_of) else 0
        actual, ideal = count_wavefronts(address, nbytes, phase_of, phases)
        self.wavefronts[pc] += actual
        self.ideal_wavefronts[pc] += ideal
        if write:
            self.shared_store_bytes += len(address) * nbytes
        else:
            self.shared_load_bytes += len(address) * nbytes
            self.shared_loads[pc] += len(address) * nbytes

    def note_written(self, array: Array, region: Region | None) -> None:
        """Remember which bytes of an argument array the launch stored to, for ``unwritten``."""
        marks = region.write_marks if region is not None else None
        first = region.base - region.origin if region is not None else 0
        self._written.append((array, None if marks is None else marks.data[first : first + array.nbytes]))

    def finish_chunk(self) -> None:
        """The blocks that ran so far are done."""
        self._load_sectors.finish_chunk()
        self._store_sectors.finish_chunk()

    # -- results -----------------------------------------------------------------
    @property
    def by_class(self) -> dict[str, int]:
        """Warp instructions issued, by opcode class."""
        totals = dict.fromkeys(CLASSES, 0)
        for count, instruction in zip(self.issued, self.code, strict=True):
            if count:
                totals[classify(instruction)] += count
        return totals

    @property
    def by_opcode(self) -> dict[str, int]:
        """Warp instructions issued, by full opcode."""
        totals: dict[str, int] = {}
        for count, instruction in zip(self.issued, self.code, strict=True):
            if count:
                name = ".".join((instruction.op, *instruction.mods))
                totals[name] = totals.get(name, 0) + count
        return totals

    @property
    def warp_instructions(self) -> int:
        """Instructions issued by warps."""
        return sum(self.issued)

    @property
    def scalar_flops(self) -> int:
        """Floating-point operations outside of matrix instructions."""
        return sum(n * flops_per_lane(i) for n, i in zip(self.executed, self.code, strict=True) if n)

    @property
    def divergence_efficiency(self) -> float:
        """Active lanes per issued lane slot (1.0: no divergence)."""
        return sum(self.active) / max(1, 32 * self.warp_instructions)

    @property
    def global_load_efficiency(self) -> float:
        """Bytes asked for per byte of the sectors they lie in (above 1 where lanes share bytes)."""
        return self.global_load_bytes / max(1, 32 * self.global_load_sectors)

    @property
    def global_store_efficiency(self) -> float:
        """The same for stores."""
        return self.global_store_bytes / max(1, 32 * self.global_store_sectors)

    @property
    def shared_wavefronts(self) -> int:
        """Shared-memory wavefronts."""
        return sum(self.wavefronts)

    @property
    def shared_ideal_wavefronts(self) -> int:
        """The wavefronts there would be without bank conflicts."""
        return sum(self.ideal_wavefronts)

    @property
    def mma_instructions(self) -> int:
        """Matrix instructions issued by warps."""
        return self.by_class["mma"]

    @property
    def other_per_mma(self) -> float:
        """Other instructions per matrix instruction; infinite without any."""
        return (
            (self.warp_instructions - self.mma_instructions) / self.mma_instructions
            if self.mma_instructions
            else math.inf
        )

    @property
    def block_load_sectors(self) -> int:
        """Distinct sectors that each block loads from, summed over blocks."""
        return self._load_sectors.total

    @property
    def block_store_sectors(self) -> int:
        """Distinct sectors that each block stores to, summed over blocks."""
        return self._store_sectors.total

    def loops(self) -> list[LoopCounts]:
        """What was executed in each loop, in the order of the code; loops that were not reached are left out."""
        found = []
        for span in self.spans:
            inside = slice(span.first, span.last + 1)
            if not sum(self.issued[inside]):
                continue
            by_class: Counter[str] = Counter()
            for count, instruction in zip(self.issued[inside], self.code[inside], strict=True):
                by_class[classify(instruction)] += count
            first, last = self.code[span.first], self.code[span.last]
            found.append(
                LoopCounts(
                    first.line,
                    last.line,
                    last.source,
                    span.depth,
                    self.issued[span.first],
                    by_class.total(),
                    +by_class,
                    by_class["mma"],
                    sum(self.shared_loads[inside]),
                )
            )
        return found

    def unwritten(self, array: Array) -> int:
        """Number of bytes of an argument array that the launch never stored to."""
        for candidate, marks in self._written:
            if candidate is array:
                return array.nbytes if marks is None else int(array.nbytes - np.count_nonzero(marks[: array.nbytes]))
        raise KeyError("not an array argument of this launch")

    def unwritten_mask(self, array: Array) -> Array:
        """Boolean array shaped like ``array``: True where some byte was never stored."""
        for candidate, marks in self._written:
            if candidate is array:
                if marks is None:
                    return np.ones(array.shape, bool)
                return (marks[: array.nbytes].reshape(array.shape + (array.itemsize,)) == 0).any(-1)
        raise KeyError("not an array argument of this launch")

    def by_line(self, top: int = 20) -> list[tuple[int, int, float, str, str | None]]:
        """The hottest PTX lines: (line, warp instructions, lane efficiency, text, source)."""
        order = sorted(range(len(self.code)), key=lambda pc: -self.issued[pc])[:top]
        return [
            (
                self.code[pc].line,
                self.issued[pc],
                self.executed[pc] / (32 * self.issued[pc]),
                self.code[pc].text,
                self.code[pc].source,
            )
            for pc in order
            if self.issued[pc]
        ]

    def worst_conflicts(self, top: int = 10) -> list[tuple[int, int, int, str, str | None]]:
        """Shared accesses with the most extra wavefronts: (line, wavefronts, ideal, text, source)."""
        extra = [a - b for a, b in zip(self.wavefronts, self.ideal_wavefronts, strict=True)]
        order = sorted(range(len(self.code)), key=lambda pc: -extra[pc])[:top]
        return [
            (
                self.code[pc].line,
                self.wavefronts[pc],
                self.ideal_wavefronts[pc],
                self.code[pc].text,
                self.code[pc].source,
            )
            for pc in order
            if extra[pc] > 0
        ]

    def table(self) -> str:
        """A readable summary."""
        rows = [
            ("kernel", self.kernel),
            ("blocks x threads", f"{self.blocks} x {self.threads}"),
            ("warp instructions", f"{self.warp_instructions:,}"),
        ]
        rows += [(f"  {name}", f"{count:,}") for name, count in self.by_class.items() if count]
        rows += self._loop_rows() + self._mma_rows()
        rows += [
            ("scalar flops", f"{self.scalar_flops:,}"),
            ("lane efficiency", f"{self.divergence_efficiency:.3f}"),
            (
                "global loads",
                f"{self.global_load_bytes:,} B asked, {self.global_load_sectors:,} sectors "
                f"({self.global_load_efficiency:.2f}), {self.block_load_sectors:,} distinct by block, "
                f"{self.unique_read_bytes:,} B unique",
            ),
            (
                "global stores",
                f"{self.global_store_bytes:,} B asked, {self.global_store_sectors:,} sectors "
                f"({self.global_store_efficiency:.2f}), {self.block_store_sectors:,} distinct by block, "
                f"{self.unique_write_bytes:,} B unique",
            ),
            (
                "shared",
                f"{self.shared_load_bytes:,} B read, {self.shared_store_bytes:,} B written, "
                f"{self.shared_wavefronts:,} wavefronts ({self.shared_ideal_wavefronts:,} ideal)",
            ),
            ("atomics", f"{self.atomics:,} lane operations"),
            ("barriers", f"{self.barriers:,} block barriers"),
            ("simulated in", f"{self.seconds:.2f} s"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def _loop_rows(self) -> list[tuple[str, str]]:
        rows = []
        for loop in self.loops():
            text = f"{loop.iterations:,} warp iterations, {loop.warp_instructions:,} warp instructions"
            if loop.mma:
                text += f", {loop.mma:,} mma, {loop.other_per_mma:.2f} others per mma"
            name = f"{'  ' * loop.depth}loop, lines {loop.first_line}-{loop.last_line}"
            rows.append((name, text + (f" ({loop.source})" if loop.source else "")))
        return rows

    def _mma_rows(self) -> list[tuple[str, str]]:
        count = self.mma_instructions
        if not count:
            return []
        return [
            ("mma flops", f"{self.mma_flops:,}"),
            (
                "per mma",
                f"{self.other_per_mma:.2f} other instructions, {self.shared_load_bytes / count:.0f} B from shared, "
                f"{self.shared_wavefronts / count:.2f} wavefronts, "
                f"{32 * self.global_load_sectors / count:.0f} B asked of global memory",
            ),
        ]
