"""Decoders of warp-level exchange and of atomics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .aliases import Array, Decoded, Elementwise, ScalarType, Values
from .decode import access_width, op, pack_float, state_space, types, unpack_float
from .errors import KernelFault, Unsupported
from .program import NUMPY_TYPE, Collective
from .syntax import TYPE_BYTES, Pair, Vector

if TYPE_CHECKING:
    from .machine import Machine
    from .program import Program
    from .syntax import Instruction

U32, U64, F32 = np.uint32, np.uint64, np.float32


# -- shfl, vote, match, redux ------------------------------------------------------------


def spread(m: Machine, values: Values, dtype: ScalarType) -> Array:
    """Values of the active lanes placed in an array with one entry per lane."""
    values = np.asarray(values)
    if m.sel is None and values.ndim:
        return values
    whole = np.zeros(m.lanes, dtype)
    whole[m.active_lanes()] = values
    return whole


def active_mask(m: Machine) -> Array:
    """Boolean array over all lanes: who takes part."""
    mask = np.zeros(m.lanes, bool)
    mask[m.active_lanes()] = True
    return mask


@op("shfl")
def shuffle(program: Program, ins: Instruction) -> Decoded:
    """PTX ISA: Data Movement and Conversion Instructions, shfl.sync."""
    mode = next(m for m in ins.mods if m in ("up", "down", "bfly", "idx"))
    target = ins.args[0]
    first, second = (target.first, target.second) if isinstance(target, Pair) else (target, None)
    write, write_valid = program.writer(first), program.writer(second)
    value, offset, bounds = (program.reader(a, "b32") for a in ins.args[1:4])
    mask = program.reader(ins.args[4], "u32") if len(ins.args) > 4 else None

    def run(m: Machine) -> None:
        lanes = m.active_lanes()
        lane = lanes % 32
        b = offset(m).astype(np.int64) & 31
        c = bounds(m).astype(np.int64)
        segment = c >> 8 & 31
        limit = c & 31
        high = (lane & segment) | (limit & ~segment)
        low = lane & segment
        if mode == "up":
            source = lane - b
            valid = source >= high
        elif mode == "down":
            source = lane + b
            valid = source <= high
        elif mode == "bfly":
            source = lane ^ b
            valid = source <= high
        else:
            source = low | (b & ~segment)
            valid = source <= high
        source = lanes - lane + np.where(valid, source, lane)
        if m.sel is not None and m.options.check_shuffle:
            absent = ~active_mask(m)[source]
            if absent.any():
                position = int(np.flatnonzero(absent)[0])
                raise KernelFault(f"shfl reads lane {int(source[position]) % 32}, which does not take part", position)
        write(m, spread(m, value(m), U32)[source] if np.ndim(value(m)) else np.asarray(value(m)))
        if second is not None:
            write_valid(m, np.broadcast_to(valid, (m.count,)).copy())

    return Collective(run, mask or (lambda m: np.uint32(0)))


def ballot(m: Machine, predicate: Values) -> Array:
    """Per warp, the bits of the active lanes whose predicate holds; one entry per warp."""
    bits = np.zeros(m.lanes, bool)
    bits[m.active_lanes()] = predicate
    return np.packbits(bits, bitorder="little").view(U32)


@op("vote")
def vote(program: Program, ins: Instruction) -> Decoded:
    """vote.sync."""
    mode = next(m for m in ins.mods if m in ("all", "any", "uni", "ballot"))
    predicate, write = program.reader(ins.args[1], "pred"), program.writer(ins.args[0])
    mask = program.reader(ins.args[2], "u32") if len(ins.args) > 2 else (lambda m: U32(0xFFFFFFFF))

    def run(m: Machine) -> None:
        warp, members = m.active_lanes() >> 5, mask(m)
        true = ballot(m, predicate(m))[warp] & members
        if mode == "ballot":
            write(m, true)
            return
        everyone = ballot(m, True)[warp] & members
        result = {"any": true != 0, "all": true == everyone}.get(mode)
        write(m, result if result is not None else (true == 0) | (true == everyone))

    return Collective(run, mask)


@op("activemask")
def read_active_mask(program: Program, ins: Instruction) -> Decoded:
    """activemask."""
    write = program.writer(ins.args[0])
    return lambda m: write(m, ballot(m, True)[m.active_lanes() >> 5])


@op("elect")
def elect(program: Program, ins: Instruction) -> Decoded:
    """elect.sync: the lowest lane."""
    target = ins.args[0]
    write, write_leader = program.writer(target.first), program.writer(target.second)
    mask = program.reader(ins.args[1], "u32")

    def run(m: Machine) -> None:
        lanes = m.active_lanes()
        members = ballot(m, True)[lanes >> 5] & mask(m)
        lowest = np.bitwise_count((members & (~members + U32(1))) - U32(1)).astype(U32)
        write(m, lowest)
        write_leader(m, lowest == (lanes % 32).astype(U32))

    return Collective(run, mask)


@op("match")
def match(program: Program, ins: Instruction) -> Decoded:
    """match.sync."""
    kind = types(ins)[-1]
    target = ins.args[0]
    first, second = (target.first, target.second) if isinstance(target, Pair) else (target, None)
    write, write_all = program.writer(first), program.writer(second)
    value, mask = program.reader(ins.args[1], kind), program.reader(ins.args[2], "u32")

    def run(m: Machine) -> None:
        lanes = m.active_lanes()
        whole = spread(m, value(m), NUMPY_TYPE[kind]).reshape(-1, 32)
        here, members = active_mask(m).reshape(-1, 32), mask(m)
        same = (whole[:, :, None] == whole[:, None, :]) & here[:, None, :]
        bits = np.packbits(same, axis=2, bitorder="little").reshape(-1, 32, 4).view(U32).reshape(-1)[lanes] & members
        if "any" in ins.mods:
            write(m, bits)
            return
        everyone = ballot(m, True)[lanes >> 5] & members
        write(m, np.where(bits == everyone, bits, U32(0)))
        if second is not None:
            write_all(m, bits == everyone)

    return Collective(run, mask)


@op("redux")
def warp_reduction(program: Program, ins: Instruction) -> Decoded:
    """redux.sync."""
    kind = types(ins)[-1]
    dtype = NUMPY_TYPE[kind]
    value, mask = program.reader(ins.args[1], kind), program.reader(ins.args[2], "u32")
    write = program.writer(ins.args[0])
    function = REDUCTIONS[next(m for m in ins.mods if m in REDUCTIONS)]
    absolute = "abs" in ins.mods

    def run(m: Machine) -> None:
        values = np.abs(value(m)) if absolute else value(m)
        group = (m.active_lanes() >> 5) << 32 | mask(m).astype(np.int64)  # lanes of a warp that name the same members
        order = np.argsort(group, kind="stable")
        ordered = group[order]
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        totals = function.reduceat(np.broadcast_to(values, (m.count,))[order], starts).astype(dtype)
        result = np.empty(m.count, dtype)
        result[order] = np.repeat(totals, np.diff(np.append(starts, m.count)))
        write(m, result)

    return Collective(run, mask)


REDUCTIONS: dict[str, np.ufunc] = {
    "add": np.add,
    "min": np.fmin,
    "max": np.fmax,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


# -- atomics --------------------------------------------------------------------------------


def increment(old: Values, bound: Values) -> Values:
    """atom.inc: wraps to zero above the bound."""
    return np.where(old >= bound, U32(0), old + U32(1))


def decrement(old: Values, bound: Values) -> Values:
    """atom.dec: wraps to the bound below zero."""
    return np.where((old == 0) | (old > bound), bound, old - U32(1))


ATOMIC: dict[str, Elementwise] = {
    "add": np.add,
    "min": np.fmin,
    "max": np.fmax,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "exch": lambda old, new: new,
    "inc": increment,
    "dec": decrement,
}


def float_atomic(kind: str, function: Elementwise) -> Elementwise:
    """Wrap an operation on decoded floats so that it works on raw register values."""
    unpack, pack = unpack_float(kind), pack_float(kind)

    def apply(old: Values, new: Values) -> Values:
        return pack(function(unpack(old), unpack(new)))

    return apply


def atomic_function(operation: str, kind: str) -> Elementwise:
    """The operation of an atomic on raw values of a type."""
    function = ATOMIC[operation]
    return float_atomic(kind, function) if kind in ("f16", "f16x2", "bf16", "bf16x2") else function


@op("atom", "red")
def atomic(program: Program, ins: Instruction) -> Decoded:
    """Atomics: lanes that share an address act one after another, in lane order."""
    if ins.has("async"):
        raise Unsupported("red.async")
    n, kind = access_width(ins)
    operation = next(m for m in ins.mods if m in ATOMIC or m == "cas")
    space = state_space(ins)
    returns = ins.op == "atom"
    target = ins.args[0] if returns else None
    address, *sources = ins.args[1:] if returns else ins.args
    where, size, dtype = program.address(address), TYPE_BYTES[kind], NUMPY_TYPE[kind]
    columns = [s.items if isinstance(s, Vector) else (s,) for s in sources]
    reads = [[program.reader(item, kind) for item in column] for column in columns]
    targets = target.items if isinstance(target, Vector) else (target,)
    needed = any(t is not None and program.function.slot_base + t.slot in program.read_slots for t in targets)
    writes = [program.writer(t) for t in targets]
    function = None if operation == "cas" else atomic_function(operation, kind)

    def run(m: Machine) -> None:
        values = [np.stack([np.broadcast_to(r(m), (m.count,)) for r in column], 1) for column in reads]
        old = m.atomic(space, where(m), size, n, dtype, function, values, needed)
        if needed:
            for index, write in enumerate(writes):
                write(m, old[:, index].copy())

    return run
