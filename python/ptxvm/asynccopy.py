"""Decoders of cp.async and 1-D bulk copies."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from .aliases import Array, Decoded, Values
from .decode import op
from .errors import Misaligned, Unsupported
from .mbarrier import arrive, barrier_keys, complete_bytes, lookup, mbarrier_operand, publish
from .syntax import Reg

if TYPE_CHECKING:
    from .machine import Machine
    from .program import Program
    from .syntax import Instruction

U32, U64 = np.uint32, np.uint64


@op("cp")
def copy(program: Program, ins: Instruction) -> Decoded:
    """Every instruction that begins with cp."""
    if "bulk" in ins.mods:
        return bulk_copy(program, ins)
    if ins.mods[:2] == ("async", "commit_group"):
        return commit_group
    if ins.mods[:2] == ("async", "wait_group"):
        pending = ins.args[0].value
        return lambda m: wait_group(m, pending)
    if ins.mods[:2] == ("async", "wait_all"):
        return wait_all
    if ins.mods[:2] == ("async", "mbarrier"):
        return copy_arrive(program, ins)
    return asynchronous_copy(program, ins)


def asynchronous_copy(program: Program, ins: Instruction) -> Decoded:
    """cp.async.{ca,cg}.shared.global [dst], [src], size{, src-size | ignore-src}."""
    target, source = program.address(ins.args[0]), program.address(ins.args[1])
    size = ins.args[2].value
    extra = next((a for a in ins.args[3:] if a is not None), None)
    has_policy = any(m.startswith("L2::cache_hint") for m in ins.mods)
    if has_policy and len(ins.args) == 4:
        extra = None
    ignore = isinstance(extra, Reg) and extra.type == "pred"
    read_extra = None if extra is None else program.reader(extra, "pred" if ignore else "u32")
    words = size // 4

    def run(m: Machine) -> None:
        address = source(m)
        if read_extra is None:
            kept = np.full(m.count, size)
        else:
            kept = np.broadcast_to(read_extra(m), (m.count,))
            kept = np.where(kept, 0, size) if ignore else np.minimum(kept.astype(np.int64), size)
        values = np.zeros((m.count, words), U32)
        if (kept == size).all():
            values[:] = m.load("global", address, 4, words).reshape(m.count, words)
        else:
            partial_load(m, address, kept, size, values)
        store_copy(m, target(m), values, size)

    return run


def partial_load(m: Machine, address: Array, kept: Array, size: int, values: Values) -> None:
    """Fill ``values`` with the first ``kept`` bytes at each address; the rest stays zero."""
    for count in np.unique(kept[kept > 0]).tolist():
        positions = np.flatnonzero(kept == count)
        if count == size:
            loaded = m.run_on(positions, functools.partial(m.load, "global", address[positions], 4, size // 4))
            values[positions] = loaded.reshape(len(positions), -1)
            continue
        data = np.zeros((len(positions), size), np.uint8)
        for byte in range(count):
            data[:, byte] = m.run_on(
                positions, functools.partial(m.load, "global", address[positions] + U64(byte), 1, 1)
            )
        values[positions] = data.view(U32)


def store_copy(m: Machine, address: Array, values: Values, size: int) -> None:
    """Write cp.async data and mark it as in flight until its group is waited for."""
    offset = m.shared_offset(address, size, True, checked=False)
    if m.shadow:
        lanes = m.active_lanes()
        m.shadow.start_copy(offset, size, lanes, m.copy_groups[lanes])
    m.shared.store(offset, values if values.shape[1] > 1 else values[:, 0], 4, values.shape[1])


def commit_group(m: Machine) -> None:
    """cp.async.commit_group."""
    m.copy_groups[m.active_lanes()] += 1


def wait_group(m: Machine, pending: int) -> None:
    """cp.async.wait_group: all but the newest ``pending`` groups of each lane are done."""
    lanes = m.active_lanes()
    m.copies_done[lanes] = np.maximum(m.copies_done[lanes], m.copy_groups[lanes] - 1 - pending)
    finish_copies(m)


def wait_all(m: Machine) -> None:
    """cp.async.wait_all."""
    commit_group(m)
    wait_group(m, 0)


def finish_copies(m: Machine) -> None:
    """Tell the shadow which copies can be read now."""
    if m.shadow:
        m.shadow.finish_copies(m.copies_done)


def copy_arrive(program: Program, ins: Instruction) -> Decoded:
    """cp.async.mbarrier.arrive: all earlier copies of the thread are done, then it arrives."""
    where, generic = mbarrier_operand(program, ins, 0)
    noinc = "noinc" in ins.mods

    def run(m: Machine) -> None:
        lanes = m.active_lanes()
        m.copies_done[lanes] = m.copy_groups[lanes]
        m.copy_groups[lanes] += 1
        finish_copies(m)
        keys = barrier_keys(m, where, generic)
        publish(m, keys)
        for position, key in enumerate(keys):
            if noinc:
                arrive(m, key, position)
            else:  # the pending count is raised and lowered by one
                lookup(m, key, position)

    return run


# -- bulk copies ------------------------------------------------------------------------------------------


def bulk_copy(program: Program, ins: Instruction) -> Decoded:
    """cp.async.bulk between global and shared memory; the data moves at once."""
    if ins.has("commit_group", "wait_group", "prefetch"):
        return lambda m: None
    if ins.has("tensor"):
        from .tensormap import tensor_copy

        return tensor_copy(program, ins)
    spaces = [m for m in ins.mods if m.startswith("shared") or m == "global"]
    if spaces not in (["shared::cluster", "global"], ["shared::cta", "global"], ["global", "shared::cta"]):
        raise Unsupported("bulk copy between these spaces")
    to_shared = spaces[-1] == "global"
    target, source = program.address(ins.args[0]), program.address(ins.args[1])
    size = program.reader(ins.args[2], "u32")
    barrier = program.address(ins.args[3]) if to_shared else None

    def run(m: Machine) -> None:
        targets, sources = target(m), source(m)
        sizes = np.broadcast_to(size(m), (m.count,)).tolist()
        keys = barrier_keys(m, barrier) if barrier else []
        for position, count in enumerate(sizes):
            where = np.array([position])
            if count % 16 or int(targets[position]) % 16 or int(sources[position]) % 16:
                raise Misaligned("bulk copies need 16-byte aligned addresses and sizes", position)
            m.run_on(where, functools.partial(move_bulk, m, targets[position], sources[position], count, to_shared))
            if keys:
                m.run_on(where, functools.partial(publish, m, [keys[position]]))
                complete_bytes(m, keys[position], position, count)

    return run


def move_bulk(m: Machine, target: Values, source: Values, count: int, to_shared: bool) -> None:
    """Copy ``count`` bytes for the single active lane, 16 at a time."""
    lane = np.repeat(m.active_lanes(), count // 16)
    step = np.arange(0, count, 16, dtype=U64)
    outer, size = m.sel, m.count
    m.sel, m.count = lane, len(lane)
    if to_shared:
        values = m.load("global", source + step, 4, 4)
        write_shared(m, target + step, values)
    else:
        values = m.load("shared", source + step, 4, 4)
        m.store("global", target + step, values, 4, 4)
    m.sel, m.count = outer, size


def write_shared(m: Machine, address: Array, values: Values) -> None:
    """A bulk write: others see it once they have waited on the mbarrier that its completion is published to."""
    offset = m.shared_offset(address, values.shape[1] * values.itemsize, True, checked=False)
    if m.shadow:
        m.shadow.write(offset, values.shape[1] * values.itemsize, m.sel)
    m.shared.store(offset, values, values.itemsize, values.shape[1])
