"""Decoders of opcodes that exist for integers and for floats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import floats
from .aliases import Decoded, Values
from .decode import FLOATS, op, types
from .floating import FLOAT_BINARY, extremum, float_operation, fma
from .integers import carry_mad, carry_operation, integer_operation, multiply, product, saturating
from .program import RAW_TYPE
from .syntax import TYPE_BYTES

if TYPE_CHECKING:
    from .program import Program
    from .syntax import Instruction

F32 = np.float32


@op("add", "sub", "mul", "div", "min", "max")
def binary(program: Program, ins: Instruction) -> Decoded:
    """Two-operand arithmetic of integers and floats."""
    kind = types(ins)[-1]
    if kind in FLOATS:
        function = FLOAT_BINARY.get(ins.op) or extremum(ins)
        return float_operation(program, ins, kind, function, ins.args[1:])
    if ins.op == "mul":
        return multiply(program, ins, kind)
    if "cc" in ins.mods:
        return carry_operation(program, ins, kind)
    return integer_operation(program, ins, kind)


@op("mad")
def mad(program: Program, ins: Instruction) -> Decoded:
    """Multiply and add; of floats it is an fma."""
    kind = types(ins)[-1]
    if kind in FLOATS:
        return fma(program, ins)
    if "cc" in ins.mods:
        return carry_mad(program, ins, kind)
    function = product(ins, kind)
    wide = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}[kind] if "wide" in ins.mods else kind
    first, second = (program.reader(a, kind) for a in ins.args[1:3])
    third, write = program.reader(ins.args[3], wide), program.writer(ins.args[0])
    if "sat" in ins.mods:
        add = saturating(np.add, np.int32)
        return lambda m: write(m, add(function(first(m), second(m)), third(m)))
    return lambda m: write(m, function(first(m), second(m)) + third(m))


@op("abs", "neg")
def sign_operation(program: Program, ins: Instruction) -> Decoded:
    """abs and neg."""
    kind = types(ins)[-1]
    write = program.writer(ins.args[0])
    if kind in FLOATS:  # only the sign bits change, NaNs included
        bits = {"f16": 0x8000, "bf16": 0x8000, "f32": 1 << 31, "f64": 1 << 63}.get(kind, 0x80008000)
        raw = RAW_TYPE[kind]
        read = program.reader(
            ins.args[1], kind if kind.endswith("x2") else {2: "b16", 4: "b32", 8: "b64"}[TYPE_BYTES[kind]]
        )

        def change(value: Values) -> Values:
            return value ^ raw(bits) if ins.op == "neg" else value & ~raw(bits)

        if "ftz" in ins.mods and kind == "f32":
            return lambda m: write(m, floats.flush(change(read(m)).view(F32)))
        return lambda m: write(m, change(read(m)))
    read = program.reader(ins.args[1], kind)
    function = np.abs if ins.op == "abs" else np.negative
    return lambda m: write(m, function(read(m)))
