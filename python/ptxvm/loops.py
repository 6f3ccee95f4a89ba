"""Finds loops in a program, and says what was executed in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """The program counters ``first`` to ``last`` of a loop; ``depth`` counts the loops around it."""

    first: int
    last: int
    depth: int


@dataclass(frozen=True)
class LoopCounts:
    """What was executed inside a loop, loops inside it included.

    Attributes:
        first_line: PTX line where the loop begins.
        last_line: PTX line of the branch back.
        source: place of the branch back in the CUDA source, if known.
        depth: number of loops around this one.
        iterations: how often a warp went through the beginning.
        warp_instructions: instructions issued.
        by_class: the same by opcode class.
        mma: matrix instructions issued.
        shared_load_bytes: bytes read from shared memory.
    """

    first_line: int
    last_line: int
    source: str | None
    depth: int
    iterations: int
    warp_instructions: int
    by_class: Mapping[str, int]
    mma: int
    shared_load_bytes: int

    @property
    def other_per_mma(self) -> float:
        """Other instructions per matrix instruction; infinite without any."""
        return (self.warp_instructions - self.mma) / self.mma if self.mma else float("inf")


def find_loops(branches: Sequence[tuple[int, int]]) -> list[Span]:
    """Loops from branches ``(from, to)``: each target of a backward branch begins one, its last such branch ends it."""
    ends: dict[int, int] = {}
    for pc, target in branches:
        if target <= pc:
            ends[target] = max(ends.get(target, 0), pc)
    spans = sorted(ends.items())
    return [Span(first, last, sum(a <= first and last <= b for a, b in spans) - 1) for first, last in spans]
