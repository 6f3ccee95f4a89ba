"""Decoders of comparison and selection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import floats
from .aliases import Decoded, Elementwise, Reader, Values
from .decode import FLOATS, op, pack_float, types, unpack_float
from .program import RAW_TYPE
from .syntax import TYPE_BYTES, Pair

if TYPE_CHECKING:
    from .machine import Machine
    from .program import Program
    from .syntax import Instruction

U32, F32 = np.uint32, np.float32


COMPARE: dict[str, Elementwise] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}

COMBINE: dict[str, Elementwise] = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def comparison(name: str, is_float: bool) -> Elementwise:
    """The comparison a setp modifier names (ordered, or unordered with a trailing u)."""
    if name == "num":
        return lambda a, b: ~(np.isnan(a) | np.isnan(b))
    if name == "nan":
        return lambda a, b: np.isnan(a) | np.isnan(b)
    if is_float and name == "ne":
        return lambda a, b: (a != b) & ~(np.isnan(a) | np.isnan(b))
    if name in COMPARE:
        return COMPARE[name]
    if name == "neu":
        return np.not_equal
    ordered = COMPARE[name[:-1]]
    return lambda a, b: ordered(a, b) | np.isnan(a) | np.isnan(b)


def compare_values(program: Program, ins: Instruction, kind: str) -> Reader:
    """A function of the machine that yields the comparison result (last axis 2 if packed)."""
    is_float = kind in FLOATS
    compare = comparison(ins.mods[0], is_float)
    first, second = (program.reader(a, "b1" if kind == "pred" else kind) for a in ins.args[1:3])
    if not is_float:
        return lambda m: compare(first(m), second(m))
    unpack = unpack_float(kind)
    ftz = "ftz" in ins.mods and kind == "f32"

    def run(m: Machine) -> Values:
        a, b = unpack(np.asarray(first(m))), unpack(np.asarray(second(m)))
        return compare(floats.flush(a), floats.flush(b)) if ftz else compare(a, b)

    return run


@op("setp")
def set_predicate(program: Program, ins: Instruction) -> Decoded:
    """setp, with one or two predicates."""
    kind = types(ins)[-1]
    values = compare_values(program, ins, kind)
    target = ins.args[0]
    first, second = (target.first, target.second) if isinstance(target, Pair) else (target, None)
    write, write_other = program.writer(first), program.writer(second)
    combine = next((COMBINE[m] for m in ins.mods[1:] if m in COMBINE), None)
    third = program.reader(ins.args[3], "pred") if combine else None

    def run(m: Machine) -> None:
        result = values(m)
        halves = [result[:, 0], result[:, 1]] if kind.endswith("x2") else [result, ~result]
        if combine and third:
            other = third(m)
            halves = [combine(h, other) for h in halves]
        write(m, np.asarray(halves[0]).copy())
        if second is not None:
            write_other(m, np.asarray(halves[1]).copy())

    return run


@op("set")
def set_value(program: Program, ins: Instruction) -> Decoded:
    """set: all bits, or 1.0, where the comparison holds."""
    result_kind, kind = types(ins)
    values = compare_values(program, ins, kind)
    combine = next((COMBINE[m] for m in ins.mods[1:] if m in COMBINE), None)
    third = program.reader(ins.args[3], "pred") if combine else None
    write = program.writer(ins.args[0])

    def run(m: Machine) -> None:
        result = values(m)
        if combine and third:
            other = np.asarray(third(m))
            result = combine(result, other[:, None] if result.ndim == 2 else other)
        if result_kind in FLOATS:
            write(m, pack_float(result_kind)(result.astype(F32)))
        elif kind.endswith("x2"):
            halves = np.where(result, np.uint16(0xFFFF), np.uint16(0))
            write(m, np.ascontiguousarray(halves).view(U32).reshape(-1))
        else:
            zero = RAW_TYPE[result_kind](0)
            write(m, np.where(result, ~zero, zero))

    return run


@op("selp")
def select(program: Program, ins: Instruction) -> Decoded:
    """selp."""
    kind = {1: "b8", 2: "b16", 4: "b32", 8: "b64"}[TYPE_BYTES[types(ins)[-1]]]
    if types(ins)[-1] in ("f32", "f64"):
        kind = types(ins)[-1]
    first, second = (program.reader(a, kind) for a in ins.args[1:3])
    choice, write = program.reader(ins.args[3], "pred"), program.writer(ins.args[0])
    return lambda m: write(m, np.where(choice(m), first(m), second(m)))


@op("slct")
def select_by_sign(program: Program, ins: Instruction) -> Decoded:
    """slct."""
    kind, test = types(ins)
    first, second = (program.reader(a, kind) for a in ins.args[1:3])
    choice, write = program.reader(ins.args[3], test), program.writer(ins.args[0])
    return lambda m: write(m, np.where(choice(m) >= 0, first(m), second(m)))
