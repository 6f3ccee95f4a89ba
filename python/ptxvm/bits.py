"""Decoders of logic, shifts and bit fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .aliases import Array, Decoded
from .decode import op, types
from .errors import Unsupported
from .memory import UINT
from .program import NUMPY_TYPE
from .syntax import TYPE_BYTES

if TYPE_CHECKING:
    from .machine import Machine
    from .program import Program
    from .syntax import Instruction

U32, U64 = np.uint32, np.uint64


@op("not", "cnot")
def bitwise_not(program: Program, ins: Instruction) -> Decoded:
    """not and cnot."""
    kind = types(ins)[-1]
    read, write = program.reader(ins.args[1], kind), program.writer(ins.args[0])
    if ins.op == "cnot":
        return lambda m: write(m, (read(m) == 0).astype(NUMPY_TYPE[kind]))
    return lambda m: write(m, ~read(m))


@op("shl", "shr")
def shift(program: Program, ins: Instruction) -> Decoded:
    """shl and shr; amounts beyond the width give zeros, or signs."""
    kind = types(ins)[-1]
    dtype = NUMPY_TYPE[kind]
    bits = 8 * TYPE_BYTES[kind]
    read, amount = program.reader(ins.args[1], kind), program.reader(ins.args[2], "u32")
    write = program.writer(ins.args[0])
    left = ins.op == "shl"
    signed = not left and kind.startswith("s")

    def run(m: Machine) -> None:
        value, count = read(m), amount(m)
        clamped = np.minimum(count, bits - 1).astype(dtype)
        result = value << clamped if left else value >> clamped
        if not signed and np.any(count >= bits):
            result = np.where(count >= bits, dtype(0), result)
        write(m, result)

    return run


@op("shf")
def funnel_shift(program: Program, ins: Instruction) -> Decoded:
    """shf: shift two registers as one."""
    low, high, amount = (program.reader(a, "u32") for a in ins.args[1:])
    write = program.writer(ins.args[0])
    left, clamp = "l" in ins.mods, "clamp" in ins.mods

    def run(m: Machine) -> None:
        count = amount(m)
        count = (np.minimum(count, 32) if clamp else count & U32(31)).astype(U64)
        joined = high(m).astype(U64) << U64(32) | low(m)
        write(m, ((joined << count) >> U64(32) if left else joined >> count).astype(U32))

    return run


@op("bfe")
def bit_field_extract(program: Program, ins: Instruction) -> Decoded:
    """bfe."""
    kind = types(ins)[-1]
    bits = 8 * TYPE_BYTES[kind]
    read = program.reader(ins.args[1], kind)
    start, length = (program.reader(a, "u32") for a in ins.args[2:])
    write = program.writer(ins.args[0])
    dtype = NUMPY_TYPE[kind]

    def run(m: Machine) -> None:
        value = np.broadcast_to(read(m), (m.count,))
        first = (start(m) & U32(0xFF)).astype(np.int64)
        count = (length(m) & U32(0xFF)).astype(np.int64)
        if kind.startswith("u"):
            field = np.where(first >= bits, dtype(0), value >> np.minimum(first, bits - 1).astype(dtype))
            mask = np.where(
                count >= bits, ~dtype(0), (dtype(1) << np.minimum(count, bits - 1).astype(dtype)) - dtype(1)
            )
            write(m, field & mask)
            return
        # The sign bit is that of the field, or of the value where the field runs past its end.
        top = np.minimum(first + count, bits)
        shifted = value << np.clip(bits - top, 0, bits - 1).astype(dtype)
        down = np.clip(bits - top + first, 0, bits - 1).astype(dtype)
        result = np.where(count == 0, dtype(0), shifted >> down)
        write(m, np.where((first >= bits) & (count > 0), value >> dtype(bits - 1), result))

    return run


@op("bfi")
def bit_field_insert(program: Program, ins: Instruction) -> Decoded:
    """bfi."""
    kind = types(ins)[-1]
    dtype, bits = NUMPY_TYPE[kind], 8 * TYPE_BYTES[kind]
    source, target = (program.reader(a, kind) for a in ins.args[1:3])
    start, length = (program.reader(a, "u32") for a in ins.args[3:5])
    write = program.writer(ins.args[0])

    def run(m: Machine) -> None:
        first, count = (start(m) & U32(0xFF)).astype(np.int64), (length(m) & U32(0xFF)).astype(np.int64)
        ones = np.where(count >= bits, ~dtype(0), (dtype(1) << np.minimum(count, bits - 1).astype(dtype)) - dtype(1))
        position = np.minimum(first, bits - 1).astype(dtype)
        mask = np.where(first >= bits, dtype(0), ones << position)
        write(m, (target(m) & ~mask) | ((source(m) << position) & mask))

    return run


def bit_length(value: Array) -> Array:
    """Position of the highest set bit plus one (0 for 0)."""
    value = value.astype(U64)
    result = np.zeros(value.shape, U32)
    for step in (32, 16, 8, 4, 2, 1):
        big = value >= U64(1) << U64(step)
        result += np.where(big, U32(step), U32(0))
        value = np.where(big, value >> U64(step), value)
    return result + value.astype(U32)


def reverse_bits(value: Array, bits: int) -> Array:
    """The lowest ``bits`` bits in reversed order."""
    result = np.zeros_like(value)
    for index in range(bits):
        result |= (value >> value.dtype.type(index) & value.dtype.type(1)) << value.dtype.type(bits - 1 - index)
    return result


@op("popc", "clz", "brev", "bfind")
def bit_scan(program: Program, ins: Instruction) -> Decoded:
    """popc, clz, brev and bfind."""
    kind = types(ins)[-1]
    bits = 8 * TYPE_BYTES[kind]
    read, write = program.reader(ins.args[1], kind), program.writer(ins.args[0])
    if ins.op == "popc":
        return lambda m: write(m, np.bitwise_count(read(m)).astype(U32))
    if ins.op == "clz":
        return lambda m: write(m, U32(bits) - bit_length(np.asarray(read(m))))
    if ins.op == "brev":
        return lambda m: write(m, reverse_bits(np.asarray(read(m)), bits))

    def run(m: Machine) -> None:
        value = np.asarray(read(m))
        if kind.startswith("s"):
            value = np.where(value < 0, ~value, value).view(UINT[TYPE_BYTES[kind]])
        length = bit_length(value)
        found = U32(bits) - length if "shiftamt" in ins.mods else length - U32(1)
        write(m, np.where(length == 0, U32(0xFFFFFFFF), found))

    return run


@op("prmt")
def permute_bytes(program: Program, ins: Instruction) -> Decoded:
    """prmt in its general form."""
    low, high, selector = (program.reader(a, "u32") for a in ins.args[1:4])
    write = program.writer(ins.args[0])
    mode = next((m for m in ins.mods if m != "b32"), None)
    if mode is not None:
        raise Unsupported(f"prmt.{mode}")

    def run(m: Machine) -> None:
        joined = high(m).astype(U64) << U64(32) | low(m)
        choice = selector(m)
        result = np.zeros(np.broadcast_shapes(np.shape(joined), np.shape(choice)), U32)
        for index in range(4):
            nibble = choice >> U32(4 * index) & U32(15)
            byte = joined >> ((nibble & U32(7)) * U32(8)).astype(U64) & U64(0xFF)
            byte = np.where(nibble & U32(8), np.where(byte & U64(0x80), U64(0xFF), U64(0)), byte)
            result = result | (byte.astype(U32) << U32(8 * index))
        write(m, result)

    return run


@op("lop3")
def three_input_logic(program: Program, ins: Instruction) -> Decoded:
    """lop3 by its truth table."""
    has_predicate = ins.has("BoolOp", "or", "and")
    if has_predicate:
        raise Unsupported("lop3 with a predicate destination")
    reads = [program.reader(a, "u32") for a in ins.args[1:4]]
    table = ins.args[4].value
    write = program.writer(ins.args[0])

    def run(m: Machine) -> None:
        a, b, c = (r(m) for r in reads)
        result = U32(0)
        for index in range(8):
            if table >> index & 1:
                term = (a if index & 4 else ~a) & (b if index & 2 else ~b) & (c if index & 1 else ~c)
                result = result | term
        write(m, np.asarray(result))

    return run


@op("bmsk", "szext")
def mask_operation(program: Program, ins: Instruction) -> Decoded:
    """bmsk and szext."""
    kind = types(ins)[-1]
    a, b = program.reader(ins.args[1], kind), program.reader(ins.args[2], "u32")
    write = program.writer(ins.args[0])
    wrap = "wrap" in ins.mods

    def run(m: Machine) -> None:
        value, width = a(m), b(m)
        if ins.op == "bmsk":
            first = (value & U32(31) if wrap else np.minimum(value, 32)).astype(U64)
            count = (width & U32(31) if wrap else np.minimum(width, 32)).astype(U64)
            write(m, ((((U64(1) << count) - U64(1)) << first) & U64(0xFFFFFFFF)).astype(U32))
            return
        count = (width & U32(31) if wrap else np.minimum(width, 32)).astype(np.int64)
        shifted = value.astype(np.int64) << (64 - np.maximum(count, 1))
        if kind == "s32":
            result = shifted >> (64 - np.maximum(count, 1))
        else:
            result = (shifted.view(U64) >> (64 - np.maximum(count, 1)).astype(U64)).astype(np.int64)
        write(m, np.where(count == 0, 0, result).astype(U32))

    return run
