"""Decoders of mbarrier (PTX ISA: Parallel Synchronization and Communication Instructions)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .aliases import Array, Decoded, Reader
from .decode import op, state_space
from .errors import KernelFault, Unsupported
from .phases import PhaseBarrier
from .program import Control
from .syntax import Address

if TYPE_CHECKING:
    from .machine import Machine
    from .program import Program
    from .syntax import Instruction

U64 = np.uint64


def barrier_keys(m: Machine, where: Reader, generic: bool = False) -> list[tuple[int, int]]:
    """(block, address) of the mbarrier each active lane names."""
    address = where(m) & U64((1 << 56) - 1) if generic else where(m)
    m.shared.flatten(m.pick(m.block_of), address, 8)
    return list(zip(m.pick(m.block_of).tolist(), address.tolist(), strict=True))


def lookup(m: Machine, key: tuple[int, int], position: int) -> PhaseBarrier:
    """The mbarrier at a place, a fault if there is none."""
    found = m.mbarriers.get(key)
    if found is None:
        raise KernelFault(f"no mbarrier was initialised at shared address {key[1]:#x}", position)
    return found


def by_barrier(m: Machine, keys: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Array]:
    """The active warps at each of the mbarriers that the active lanes name."""
    warps: dict[tuple[int, int], set[int]] = {}
    for key, warp in zip(keys, m.pick(m.warp_of).tolist(), strict=True):
        warps.setdefault(key, set()).add(warp)
    return {key: np.array(sorted(found)) for key, found in warps.items()}


def publish(m: Machine, keys: Sequence[tuple[int, int]]) -> None:
    """Let those who will wait on these mbarriers know what the active warps did so far."""
    if m.shadow is None:
        return
    for key, warps in by_barrier(m, keys).items():
        barrier = lookup(m, key, 0)
        barrier.gathered = np.maximum(barrier.gathered, m.shadow.known[warps].max(axis=0))
    m.shadow.start_epochs(m.active_warps())


def learn(m: Machine, keys: Sequence[tuple[int, int]]) -> None:
    """The active lanes have waited on these mbarriers."""
    if m.shadow is not None:
        for key, warps in by_barrier(m, keys).items():
            m.shadow.learn(warps, lookup(m, key, 0).history)


def arrive(
    m: Machine, key: tuple[int, int], position: int, count: int = 1, transaction: int = 0, drop: bool = False
) -> int:
    """One arrival; returns the phase it belongs to."""
    barrier = lookup(m, key, position)
    phase = barrier.phase
    barrier.bytes += transaction
    barrier.pending -= count
    if drop:
        barrier.expected -= count
    if barrier.pending < 0:
        raise KernelFault("more arrivals on an mbarrier than it expects", position)
    barrier.settle()
    m.mbarrier_version += 1
    return phase


def complete_bytes(m: Machine, key: tuple[int, int], position: int, count: int) -> None:
    """A bulk copy delivered ``count`` bytes."""
    barrier = lookup(m, key, position)
    barrier.bytes -= count
    barrier.settle()
    m.mbarrier_version += 1


def mbarrier_operand(program: Program, ins: Instruction, at: int) -> tuple[Reader, bool]:
    """The address of the mbarrier, and whether it is generic."""
    return program.address(ins.args[at]), state_space(ins) == "generic"


@op("mbarrier")
def mbarrier(program: Program, ins: Instruction) -> Decoded:
    """Every instruction that begins with mbarrier."""
    action = ins.mods[0]
    handlers = {
        "init": mbarrier_init,
        "inval": mbarrier_invalidate,
        "arrive": mbarrier_arrive,
        "arrive_drop": mbarrier_arrive,
        "expect_tx": mbarrier_expect,
        "complete_tx": mbarrier_complete,
        "test_wait": mbarrier_wait,
        "try_wait": mbarrier_wait,
    }
    if action not in handlers:
        raise Unsupported(f"mbarrier.{action}")
    return handlers[action](program, ins)


def mbarrier_init(program: Program, ins: Instruction) -> Decoded:
    """mbarrier.init."""
    where, generic = mbarrier_operand(program, ins, 0)
    count = program.reader(ins.args[1], "u32")

    def run(m: Machine) -> None:
        counts = np.broadcast_to(count(m), (m.count,)).tolist()
        for key, expected in zip(barrier_keys(m, where, generic), counts, strict=True):
            m.mbarriers[key] = PhaseBarrier(expected)

    return run


def mbarrier_invalidate(program: Program, ins: Instruction) -> Decoded:
    """mbarrier.inval."""
    where, generic = mbarrier_operand(program, ins, 0)

    def run(m: Machine) -> None:
        for key in barrier_keys(m, where, generic):
            m.mbarriers.pop(key, None)

    return run


def mbarrier_arrive(program: Program, ins: Instruction) -> Decoded:
    """arrive, arrive_drop and arrive.expect_tx; the state token is the phase number."""
    has_state = not isinstance(ins.args[0], Address)
    where, generic = mbarrier_operand(program, ins, 1 if has_state else 0)
    write = program.writer(ins.args[0]) if has_state else None
    rest = ins.args[2:] if has_state else ins.args[1:]
    amount = program.reader(rest[0], "u32") if rest else None
    expects, drop = "expect_tx" in ins.mods, ins.mods[0] == "arrive_drop"

    def run(m: Machine) -> None:
        amounts = np.broadcast_to(amount(m), (m.count,)).tolist() if amount else [0 if expects else 1] * m.count
        phases = np.empty(m.count, U64)
        keys = barrier_keys(m, where, generic)
        publish(m, keys)
        for position, (key, value) in enumerate(zip(keys, amounts, strict=True)):
            count, transaction = (1, value) if expects else (value, 0)
            phases[position] = arrive(m, key, position, count, transaction, drop)
        if write:
            write(m, phases)

    return run


def mbarrier_expect(program: Program, ins: Instruction) -> Decoded:
    """mbarrier.expect_tx."""
    where, generic = mbarrier_operand(program, ins, 0)
    amount = program.reader(ins.args[1], "u32")

    def run(m: Machine) -> None:
        for position, (key, value) in enumerate(
            zip(barrier_keys(m, where, generic), np.broadcast_to(amount(m), (m.count,)).tolist(), strict=True)
        ):
            lookup(m, key, position).bytes += value

    return run


def mbarrier_complete(program: Program, ins: Instruction) -> Decoded:
    """mbarrier.complete_tx."""
    where, generic = mbarrier_operand(program, ins, 0)
    amount = program.reader(ins.args[1], "u32")

    def run(m: Machine) -> None:
        for position, (key, value) in enumerate(
            zip(barrier_keys(m, where, generic), np.broadcast_to(amount(m), (m.count,)).tolist(), strict=True)
        ):
            complete_bytes(m, key, position, value)

    return run


def mbarrier_wait(program: Program, ins: Instruction) -> Decoded:
    """test_wait answers at once; try_wait suspends the lanes until the phase completes."""
    where, generic = mbarrier_operand(program, ins, 1)
    parity = "parity" in ins.mods
    token = program.reader(ins.args[2], "u32" if parity else "u64")
    write, blocking = program.writer(ins.args[0]), ins.mods[0] == "try_wait"

    def run(m: Machine, pc: int) -> int | None:
        tokens = np.broadcast_to(token(m), (m.count,)).tolist()
        done = np.empty(m.count, bool)
        keys = barrier_keys(m, where, generic)
        for position, (key, value) in enumerate(zip(keys, tokens, strict=True)):
            phase = lookup(m, key, position).phase
            done[position] = phase % 2 != value % 2 if parity else phase > value
        if blocking and not done.all():
            lanes = m.active_lanes()
            waiting, _ = m.blocked.get(pc, (np.empty(0, np.int64), 0))
            m.blocked[pc] = (np.sort(np.concatenate((waiting, lanes[~done]))), m.mbarrier_version)
            if not done.any():
                return None
            m.select(lanes[done])
            keys = [key for key, ready in zip(keys, done.tolist(), strict=True) if ready]
            done = done[done]
        if done.any():
            finished = np.flatnonzero(done)
            m.run_on(finished, lambda: learn(m, [keys[position] for position in finished.tolist()]))
        write(m, done)
        return pc + 1

    return Control(run)
