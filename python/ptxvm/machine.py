"""The execution engine: lanes, divergence, barriers and memory access.

All threads of a chunk of blocks run at once.  A register is one NumPy array with an
entry per lane (thread); every warp is padded to 32 lanes.  Lanes at the same program
counter form a group, and the group with the lowest counter runs first, so that
diverged lanes meet again as early as possible (min-PC scheduling).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .access import MemoryAccess
from .aliases import Array, Reader, Triple, Values
from .barriers import Barriers, Released
from .errors import Deadlock, IncompleteWarp, KernelFault, StepLimit
from .phases import PhaseBarrier
from .program import BRANCH, COLLECTIVE, NORMAL, Guard
from .special import special_register

END = 1 << 60
PATIENCE = 2000  # backward jumps before another group gets a turn


class Machine(MemoryAccess):
    """State of one chunk of blocks while it runs; the arguments are those of ``MemoryAccess``."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.barriers = Barriers(self, self.shadow)
        self.pending: dict[int, Array | None] = {}  # lanes ready to run, by program counter
        self.parked: dict[int, Array] = {}  # lanes that wait for their warp
        self.blocked: dict[int, tuple[Array, int]] = {}  # lanes that wait for an mbarrier, and the state they saw
        self.return_pc: dict[str, Array] = {}  # function: where each lane returns to, or -1
        self.callee: dict[int, Array] = {}  # pc of an indirect call: function number per lane
        self.specials: dict[str, Values] = {}
        self.clock = 0
        self.mbarriers: dict[tuple[int, int], PhaseBarrier] = {}  # by (block, shared address)
        self.mbarrier_version = 0
        self.copy_groups = np.zeros(self.lanes, np.int64)
        self.copies_done = np.full(self.lanes, -1, np.int64)
        self.patience = PATIENCE
        self.steps_left = self.options.max_steps

    # -- scheduling ------------------------------------------------------------
    def run(self) -> None:
        """Run every thread of the chunk to its end."""
        start = self.program.entry_pc[self.program.kernel.name]
        self.push(start, np.flatnonzero(self.alive))
        try:
            with np.errstate(all="ignore"):
                while self.pending or self.unblock():
                    self.run_group(self.next_group())
        except KernelFault as fault:
            raise self.locate(fault) from None
        self.stats.barriers += self.barriers.completed

    def next_group(self) -> int:
        """The lowest program counter; now and then the highest, in case the others spin."""
        if self.patience > 0:
            return min(self.pending)
        self.patience = PATIENCE
        self.retry_blocked()
        return max(self.pending)

    def run_group(self, pc: int) -> None:
        """Run the group at ``pc`` until it splits, waits, ends, or meets or jumps among other groups."""
        self.select(self.pending.pop(pc))
        limit = min((p for p in self.pending if p > pc), default=END)
        kinds, runs, guards = self.program.kinds, self.program.runs, self.program.guards
        issued, active, executed = self.stats.issued, self.stats.active, self.stats.executed
        following: int | None = pc
        while following is not None and following < limit:
            self.pc = pc = following
            kind, guard = kinds[pc], guards[pc]
            issued[pc] += self.warps
            active[pc] += self.count
            self.steps_left -= 1
            if self.steps_left < 0:
                raise StepLimit(f"more than {self.options.max_steps:,} steps: probably an endless loop", 0)
            if kind == NORMAL:
                if guard is None:
                    executed[pc] += self.count
                    runs[pc](self)
                else:
                    self.run_guarded(pc, guard)
                following = pc + 1
            elif kind == BRANCH:
                executed[pc] += self.count
                following = self.branch(pc, runs[pc], guard)
            else:
                following = self.control(pc, kind, guard)
        if following is not None:
            self.push(following, self.sel)

    def run_guarded(self, pc: int, guard: Guard) -> None:
        """A straight-line instruction for the lanes whose guard predicate holds."""
        taken = self.guard_values(guard)
        hits = int(np.count_nonzero(taken))
        self.stats.executed[pc] += hits
        if hits == self.count:
            self.program.runs[pc](self)
        elif hits:
            sel, count, warps = self.sel, self.count, self.warps
            self.sel, self.count = self.active_lanes()[taken], hits
            self.program.runs[pc](self)  # on a fault the guarded lanes stay selected, to name the culprit
            self.sel, self.count, self.warps = sel, count, warps

    def branch(self, pc: int, target: int, guard: Guard | None) -> int | None:
        """Where the group goes on, or None if it was split or queued behind others."""
        taken = np.ones(self.count, bool) if guard is None else self.guard_values(guard)
        hits = int(np.count_nonzero(taken))
        if hits == 0:
            return pc + 1
        if hits == self.count and not (self.pending or self.blocked):
            return target
        self.patience -= target <= pc
        if hits == self.count:
            self.push(target, self.sel)
        else:
            lanes = self.active_lanes()
            self.push(target, lanes[taken])
            self.push(pc + 1, lanes[~taken])
        return None

    def control(self, pc: int, kind: int, guard: Guard | None) -> int | None:
        """A barrier, call, exit or warp-wide instruction; returns the next pc like ``branch``."""
        if guard is not None:
            taken = self.guard_values(guard)
            if not taken.all():
                lanes = self.active_lanes()
                self.push(pc + 1, lanes[~taken])
                if not taken.any():
                    return None
                self.select(lanes[taken])
        self.stats.executed[pc] += self.count
        if kind == COLLECTIVE:
            run, mask, width = self.program.runs[pc]
            if not self.gather_warps(pc, mask, width):
                return None
            run(self)
            following = pc + 1
        else:
            following = self.program.runs[pc](self, pc)
            self.patience -= following is None
        if following is not None and self.pending:
            self.push(following, self.sel)
            return None
        return following

    def guard_values(self, guard: Guard) -> Array:
        """Which active lanes a guard predicate lets through."""
        slot, negate = guard
        value = self.regs[slot]
        if value is None:
            value = self.new_register(slot, np.bool_)
        value = self.pick(value)
        return ~value if negate else value

    def push(self, pc: int, sel: Array | None) -> None:
        """Let lanes continue at ``pc``, together with those already waiting there."""
        if pc in self.pending:
            other = self.pending[pc]
            if other is None or sel is None:
                sel = None
            else:
                sel = np.concatenate((other, sel))
                sel.sort()
        if sel is not None and len(sel) == self.lanes:
            sel = None
        self.pending[pc] = sel

    def retry_blocked(self) -> bool:
        """Let lanes that wait for an mbarrier look again, if any mbarrier has changed since."""
        groups, version = self.blocked, self.mbarrier_version
        if all(seen == version for _, seen in groups.values()):
            return False
        self.blocked = {}
        for pc, (lanes, _) in groups.items():
            self.push(pc, lanes)
        return True

    def unblock(self) -> bool:
        """Wake waiting lanes when nobody else can run; complain if that is impossible."""
        if self.retry_blocked():
            return True
        if self.blocked:
            pc, (lanes, _) = next(iter(self.blocked.items()))
            raise self.fault_at(Deadlock("threads wait for an mbarrier phase that never completes"), pc, lanes[0])
        if self.parked:
            pc, lanes = next(iter(self.parked.items()))
            lane = lanes[0]
            warp = (self.warp_of == self.warp_of[lane]) & self.alive
            missing = np.setdiff1d(np.flatnonzero(warp), lanes) % 32
            raise self.fault_at(
                IncompleteWarp(f"a warp-wide instruction waits for lanes {missing.tolist()} which never get there"),
                pc,
                lane,
            )
        waiting = self.barriers.waiting
        if waiting.any():
            lane = int(np.flatnonzero(waiting)[0])
            raise self.fault_at(Deadlock(self.barriers.describe(lane)), int(self.barriers.resume[lane]) - 1, lane)
        return False

    def gather_warps(self, pc: int, mask: Reader | None, width: int) -> bool:
        """Keep the warps whose needed lanes are all here; park the rest until they are."""
        if pc in self.parked:
            lanes = np.concatenate((self.parked.pop(pc), self.active_lanes()))
            lanes.sort()
            self.select(lanes)
        if self.lanes_per_block % width:
            raise IncompleteWarp("a warpgroup instruction needs blocks of whole warpgroups", 0)
        if self.sel is None or (width == 32 and self.count == 32 * self.warps):
            return True
        lanes = self.active_lanes()
        here = np.zeros(self.lanes, bool)
        here[lanes] = True
        if mask is None:
            needed = np.ones(self.lanes, bool)
            whole: Array = np.all(self.alive.reshape(-1, width), axis=1)
            dead = np.flatnonzero(~whole[lanes // width])
            if len(dead):
                raise IncompleteWarp("a warp-wide instruction ran in a warp with missing or exited lanes", int(dead[0]))
        else:  # the lanes that their own masks name
            members = np.zeros(self.lanes // 32, np.uint32)
            members[lanes >> 5] = mask(self)
            needed = (members[self.warp_of] >> (self.lane_index % 32).astype(np.uint32) & 1).astype(bool)
        missing: Array = np.any((needed & self.alive & ~here).reshape(-1, width), axis=1)
        waiting = missing[lanes // width]
        if waiting.any():
            self.parked[pc] = lanes[waiting]
            self.select(lanes[~waiting])
        return self.count > 0

    def locate(self, fault: KernelFault) -> KernelFault:
        """The fault with the place where the machine is now."""
        lane = None
        if fault.position is not None:
            lane = int(self.active_lanes()[min(fault.position, self.count - 1)])
        return self.fault_at(fault, self.pc, lane)

    def fault_at(self, fault: KernelFault, pc: int, lane: int | None) -> KernelFault:
        """The fault with a place: the instruction, and block and thread of a lane."""
        block = thread = None
        if lane is not None:
            block = self.unflatten(self.first_block + int(self.block_of[lane]), self.grid)
            thread = self.unflatten(int(self.thread_of[lane]), self.block)
        return fault.located(self.program.kernel.name, self.program.code[pc], block, thread)

    @staticmethod
    def unflatten(index: int, shape: Triple) -> Triple:
        """A linear index as x, y, z."""
        return (index % shape[0], index // shape[0] % shape[1], index // (shape[0] * shape[1]))

    # -- control flow ------------------------------------------------------------
    def exit_lanes(self) -> None:
        """The active lanes are done; barriers may now be complete without them."""
        lanes = self.active_lanes()
        self.alive[lanes] = False
        self.alive_count -= len(lanes)
        if self.alive_count and self.barriers.waiting.any():
            self.resume(self.barriers.release(np.unique(self.block_of[lanes])))

    def barrier_wait(self, pc: int, number: Values, expected: Values | None) -> int | None:
        """bar.sync: returns the next pc when everybody is here, else None."""
        if expected is None and self.count == self.alive_count and np.ndim(number) == 0:
            self.barriers.all_wait_for_all()
            return pc + 1
        self.resume(self.barriers.wait(pc, number, expected))
        return None

    def barrier_arrive(self, number: Values, expected: Values) -> None:
        """bar.arrive: count the active lanes without waiting."""
        self.resume(self.barriers.arrive(number, expected))

    def resume(self, released: Sequence[Released]) -> None:
        """Let lanes go on that a barrier has woken."""
        for pc, lanes in released:
            if pc - 1 in self.barriers.reductions:
                self.finish_reduction(pc - 1, lanes)
            self.push(pc, lanes)

    def finish_reduction(self, pc: int, lanes: Array) -> None:
        """bar.red: hand the result out to these lanes."""
        result, write = self.barriers.reduction_result(pc, lanes)
        sel, count, warps = self.sel, self.count, self.warps
        self.select(lanes)
        write(self, result)
        self.sel, self.count, self.warps = sel, count, warps

    # -- special registers -----------------------------------------------------------
    def special(self, name: str) -> Values:
        """Values of a special register for the active lanes (array or scalar)."""
        if name.startswith(("%clock", "%globaltimer")):  # any clock that advances will do
            self.clock += 1000
            return np.uint64(self.clock)
        if name not in self.specials:
            self.specials[name] = special_register(self, name, self.shared_bytes, self.program.dynamic_base)
        value = self.specials[name]
        return self.pick(value) if np.ndim(value) else value
