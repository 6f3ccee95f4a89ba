"""Decoders of floating-point arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import floats
from .aliases import Decoded, Elementwise, Values
from .decode import DECODERS, op, pack_float, rectify, rounding, saturate, types, unpack_float
from .program import NUMPY_TYPE
from .syntax import TYPE_BYTES

if TYPE_CHECKING:
    from .decode import Decoder
    from .machine import Machine
    from .program import Program
    from .syntax import Instruction, Operand

F64 = np.float64


def float_operation(
    program: Program, ins: Instruction, kind: str, function: Elementwise, sources: Sequence[Operand], wide: bool = False
) -> Decoded:
    """dst = round(function(sources)) with .ftz, .sat and .relu handled."""
    mode = rounding(ins)
    wide = wide or (mode in ("rz", "rm", "rp") and kind in ("f32", "f32x2"))
    unpack, pack = unpack_float(kind, wide), pack_float(kind, mode)
    reads = [program.reader(s, kind) for s in sources]
    write = program.writer(ins.args[0])
    ftz, sat, relu = "ftz" in ins.mods and kind in ("f32", "f32x2"), "sat" in ins.mods, "relu" in ins.mods
    if kind in ("f32", "f64") and not (ftz or sat or relu or wide):
        if len(reads) == 2:
            first, second = reads
            return lambda m: write(m, function(first(m), second(m)))
        return lambda m: write(m, function(*[r(m) for r in reads]))

    def run(m: Machine) -> None:
        values = [unpack(np.asarray(r(m))) for r in reads]
        if ftz:
            values = [floats.flush(v) for v in values]
        result = function(*values)
        if sat:
            result = saturate(result)
        if relu:
            result = rectify(result)
        if ftz:
            result = floats.flush(result)
        write(m, pack(result))

    return run


FLOAT_BINARY: dict[str, Elementwise] = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}


def extremum(ins: Instruction) -> Elementwise:
    """min / max with PTX NaN rules and -0 < +0."""
    smaller, nan = ins.op == "min", "NaN" in ins.mods
    plain: np.ufunc = (np.minimum if nan else np.fmin) if smaller else (np.maximum if nan else np.fmax)
    magnitude = "abs" in ins.mods and "xorsign" in ins.mods

    def function(*values: Values) -> Values:
        operands = [np.abs(v) for v in values] if magnitude else list(values)
        result = operands[0]
        for other in operands[1:]:
            best = plain(result, other)
            zeros = (result == 0) & (other == 0)
            result = np.where(zeros & (np.signbit(result) == smaller), result, best) if np.any(zeros) else best
        if magnitude:
            result = np.where(np.logical_xor(*[np.signbit(v) for v in values]), -result, result)
        return result

    return function


@op("fma")
def fma(program: Program, ins: Instruction) -> Decoded:
    """Fused multiply and add, rounded once."""
    kind = types(ins)[-1]
    if kind == "f64":
        return float_operation(program, ins, kind, floats.fma_f64, ins.args[1:])
    if kind == "f32" and not ins.has("rz", "rm", "rp"):
        return float_operation(program, ins, kind, floats.fma_f32, ins.args[1:])
    return float_operation(program, ins, kind, lambda a, b, c: a * b + c, ins.args[1:], wide=True)


def unary_float(function: Elementwise) -> Decoder:
    """A decoder of a function of one operand."""

    def decoder(program: Program, ins: Instruction) -> Decoded:
        kind = types(ins)[-1]
        return float_operation(
            program, ins, kind, function, ins.args[1:], wide=TYPE_BYTES[kind.removesuffix("x2")] == 2
        )

    return decoder


DECODERS.update(
    {
        "rcp": unary_float(lambda x: x.dtype.type(1) / x),
        "sqrt": unary_float(np.sqrt),
        "rsqrt": unary_float(lambda x: (1 / np.sqrt(x.astype(F64))).astype(x.dtype)),
        "ex2": unary_float(np.exp2),
        "lg2": unary_float(np.log2),
        "sin": unary_float(np.sin),
        "cos": unary_float(np.cos),
        "tanh": unary_float(np.tanh),
    }
)


@op("copysign")
def copysign(program: Program, ins: Instruction) -> Decoded:
    """copysign: the sign of the first operand on the second."""
    kind = types(ins)[-1]
    a, b = (program.reader(s, kind) for s in ins.args[1:])
    write = program.writer(ins.args[0])
    return lambda m: write(m, np.copysign(b(m), a(m)))


@op("testp")
def testp(program: Program, ins: Instruction) -> Decoded:
    """testp: what kind of number it is."""
    kind = types(ins)[-1]
    read, write = program.reader(ins.args[1], kind), program.writer(ins.args[0])
    tiny = np.finfo(NUMPY_TYPE[kind]).tiny
    tests: dict[str, Elementwise] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda v: ~np.isnan(v),
        "notanumber": np.isnan,
        "normal": lambda v: np.isfinite(v) & (np.abs(v) >= tiny),
        "subnormal": lambda v: (v != 0) & (np.abs(v) < tiny),
    }
    test = tests[ins.mods[0]]
    return lambda m: write(m, test(read(m)))
