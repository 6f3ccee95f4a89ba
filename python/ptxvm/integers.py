"""Decoders of integer arithmetic, carry chains included."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .aliases import Decoded, Elementwise, ScalarType, Values
from .decode import op, types
from .memory import UINT
from .program import NUMPY_TYPE
from .syntax import TYPE_BYTES

if TYPE_CHECKING:
    from .machine import Machine
    from .program import Program
    from .syntax import Instruction

U32, U64 = np.uint32, np.uint64


def packed_integer(program: Program, ins: Instruction, kind: str) -> Decoded:
    """Arithmetic on two half-words."""
    element = {"u16x2": np.uint16, "s16x2": np.int16}[kind]
    first, second = (program.reader(a, "b32") for a in ins.args[1:3])
    write = program.writer(ins.args[0])
    function = INTEGER_BINARY[ins.op]

    def run(m: Machine) -> None:
        a, b = (np.ascontiguousarray(np.broadcast_to(r(m), (m.count,))).view(element) for r in (first, second))
        result = function(a, b)
        write(m, (np.maximum(result, 0) if "relu" in ins.mods else result).view(U32))

    return run


def divide_unsigned(a: Values, b: Values) -> Values:
    """x / 0 has all bits set, as the hardware does."""
    zero = b == 0
    return np.where(zero, ~a.dtype.type(0), a // np.where(zero, b.dtype.type(1), b))


def divide(a: Values, b: Values) -> Values:
    """Integer division towards zero; x / 0 has all bits set, as the hardware does."""
    if a.dtype.kind == "u":
        return divide_unsigned(a, b)
    unsigned = UINT[a.dtype.itemsize]
    quotient = divide_unsigned(np.abs(a).view(unsigned), np.abs(b).view(unsigned)).view(a.dtype)
    return np.where((a < 0) != (b < 0), -quotient, quotient)


def remainder(a: Values, b: Values) -> Values:
    """The remainder that goes with ``divide``; x % 0 is x."""
    safe = np.where(b == 0, b.dtype.type(1), b)
    return np.where(b == 0, a, a - divide(a, safe) * safe)


def saturating(function: Elementwise, dtype: ScalarType) -> Elementwise:
    """Clamp the exact result of a 32-bit signed operation."""
    info = np.iinfo(dtype)
    return lambda a, b: np.clip(function(a.astype(np.int64), b.astype(np.int64)), info.min, info.max).astype(dtype)


INTEGER_BINARY: dict[str, Elementwise] = {
    "add": np.add,
    "sub": np.subtract,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "div": divide,
    "rem": remainder,
}


def integer_operation(program: Program, ins: Instruction, kind: str) -> Decoded:
    """Two-operand integer arithmetic, saturating where asked."""
    if kind.endswith("x2"):  # packed 16-bit integers
        return packed_integer(program, ins, kind)
    function = INTEGER_BINARY[ins.op]
    first, second = (program.reader(a, kind) for a in ins.args[1:3])
    write = program.writer(ins.args[0])
    if "sat" in ins.mods:
        function = saturating(function, NUMPY_TYPE[kind])
    if "relu" in ins.mods:
        return lambda m: write(m, np.maximum(function(first(m), second(m)), 0))
    if ins.op in ("div", "rem"):
        return lambda m: write(m, np.asarray(function(np.asarray(first(m)), np.asarray(second(m)))))
    return lambda m: write(m, function(first(m), second(m)))


@op("rem", "and", "or", "xor")
def integer_binary(program: Program, ins: Instruction) -> Decoded:
    """Two-operand instructions that only integers have."""
    return integer_operation(program, ins, types(ins)[-1])


def high_product(a: Values, b: Values) -> Values:
    """Upper half of the product of two integers of one type."""
    if a.dtype.itemsize <= 4:
        wide = np.int64 if a.dtype.kind == "i" else U64
        bits = 8 * a.dtype.itemsize
        return (a.astype(wide) * b.astype(wide) >> wide(bits)).astype(a.dtype)
    x, y = a.astype(U64), b.astype(U64)
    mask, half = U64(0xFFFFFFFF), U64(32)
    x0, x1, y0, y1 = x & mask, x >> half, y & mask, y >> half
    low = (x0 * y0 >> half) + (x1 * y0 & mask) + (x0 * y1 & mask)
    high = x1 * y1 + (x1 * y0 >> half) + (x0 * y1 >> half) + (low >> half)
    if a.dtype.kind == "i":
        high = high - np.where(a < 0, y, U64(0)) - np.where(b < 0, x, U64(0))
    return high.view(a.dtype)


WIDE = {"u16": np.uint32, "s16": np.int32, "u32": np.uint64, "s32": np.int64}


def product(ins: Instruction, kind: str) -> Elementwise:
    """The multiplication an integer mul or mad performs, before any addition."""
    if "wide" in ins.mods:
        wide = WIDE[kind]
        return lambda a, b: a.astype(wide) * b.astype(wide)
    if "hi" in ins.mods:
        return lambda a, b: high_product(np.asarray(a), np.asarray(b))
    return np.multiply


def multiply(program: Program, ins: Instruction, kind: str) -> Decoded:
    """mul of integers: the low, high or whole product."""
    function = product(ins, kind)
    first, second = (program.reader(a, kind) for a in ins.args[1:3])
    write = program.writer(ins.args[0])
    return lambda m: write(m, function(first(m), second(m)))


@op("mul24", "mad24")
def mul24(program: Program, ins: Instruction) -> Decoded:
    """mul24 and mad24."""
    kind = types(ins)[-1]
    reads = [program.reader(a, kind) for a in ins.args[1:]]
    write = program.writer(ins.args[0])
    shift = 16 if "hi" in ins.mods else 0

    def run(m: Machine) -> None:
        a, b = (
            r(m).astype(np.int64) << 40 >> 40 if kind == "s32" else r(m).astype(np.int64) & 0xFFFFFF for r in reads[:2]
        )
        result = (a * b >> shift).astype(NUMPY_TYPE[kind])
        write(m, result + reads[2](m) if len(reads) == 3 else result)

    return run


@op("sad")
def sum_of_differences(program: Program, ins: Instruction) -> Decoded:
    """sad."""
    kind = types(ins)[-1]
    a, b, c = (program.reader(x, kind) for x in ins.args[1:])
    write = program.writer(ins.args[0])
    return lambda m: write(m, np.maximum(a(m), b(m)) - np.minimum(a(m), b(m)) + c(m))


def read_carry(program: Program, m: Machine) -> Values:
    """The carry flag of the active lanes."""
    flag = m.regs[program.carry_slot]
    return m.pick(flag if flag is not None else m.new_register(program.carry_slot, np.bool_))


def write_carry(program: Program, m: Machine, flag: Values) -> None:
    """Set the carry flag of the active lanes."""
    carry = m.regs[program.carry_slot]
    if carry is None:
        carry = m.new_register(program.carry_slot, np.bool_)
    carry[m.active_lanes()] = flag


def add_with_carry(a: Values, b: Values, carry: Values) -> tuple[Values, Values]:
    """The sum, and where it wrapped around."""
    partial = a + b
    total = partial + carry.astype(a.dtype)
    return total, (partial < a) | (total < partial)


def carry_operation(program: Program, ins: Instruction, kind: str) -> Decoded:
    """add.cc, addc, sub.cc and subc; a borrow is the complement of the carry."""
    unsigned = "u64" if TYPE_BYTES[kind] == 8 else "u32"
    first, second = (program.reader(a, unsigned) for a in ins.args[1:3])
    write = program.writer(ins.args[0])
    subtract, uses = ins.op.startswith("sub"), ins.op.endswith("c")

    def run(m: Machine) -> None:
        a = np.broadcast_to(first(m), (m.count,))
        b = ~second(m) if subtract else second(m)
        default = np.full(m.count, subtract)
        carry_in = read_carry(program, m) if uses else default
        total, carry = add_with_carry(a, b, carry_in)
        write(m, total)
        if "cc" in ins.mods:
            write_carry(program, m, carry)

    return run


@op("addc", "subc")
def extended_add(program: Program, ins: Instruction) -> Decoded:
    """addc and subc."""
    return carry_operation(program, ins, types(ins)[-1])


@op("madc")
def extended_mad(program: Program, ins: Instruction) -> Decoded:
    """madc."""
    return carry_mad(program, ins, types(ins)[-1])


def carry_mad(program: Program, ins: Instruction, kind: str) -> Decoded:
    """mad.cc and madc."""
    unsigned = "u64" if TYPE_BYTES[kind] == 8 else "u32"
    function = product(ins, kind)
    first, second = (program.reader(a, kind) for a in ins.args[1:3])
    third, write = program.reader(ins.args[3], unsigned), program.writer(ins.args[0])

    def run(m: Machine) -> None:
        a, b = (np.broadcast_to(r(m), (m.count,)) for r in (first, second))
        low = function(a, b).view(NUMPY_TYPE[unsigned])
        carry_in = read_carry(program, m) if ins.op == "madc" else np.zeros(m.count, bool)
        total, carry = add_with_carry(low, third(m), carry_in)
        write(m, total)
        if "cc" in ins.mods:
            write_carry(program, m, carry)

    return run
