"""Decoders of loads, stores, moves, address conversion and cvt."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import floats
from .aliases import Array, Decoded, Reader, Run, ScalarType, Values, Writer
from .decode import (
    DECODERS,
    access_width,
    op,
    pack_float,
    rectify,
    rounding,
    saturate,
    sized,
    state_space,
    types,
    unpack_float,
)
from .memory import UINT
from .program import NUMPY_TYPE, RAW_TYPE, WINDOWS
from .syntax import TYPE_BYTES, Imm, Reg, Var, Vector

if TYPE_CHECKING:
    from .machine import Machine
    from .program import Program
    from .syntax import Address, Instruction, Operand

U32, U64, F32, F64 = np.uint32, np.uint64, np.float32, np.float64


# -- data movement ------------------------------------------------------------------------------


@op("mov")
def move(program: Program, ins: Instruction) -> Decoded:
    """mov, also from and to vectors of registers."""
    kind = types(ins)[-1]
    target, source = ins.args
    if isinstance(target, Vector):
        return unpack_vector(program, target, source, kind)
    if isinstance(source, Vector):
        return pack_vector(program, target, source, kind)
    read, write = program.reader(source, kind), program.writer(target)
    if isinstance(source, Reg):
        return lambda m: write(m, read(m).copy())
    return lambda m: write(m, np.asarray(read(m)))


def pack_vector(program: Program, target: Operand, source: Vector, kind: str) -> Run:
    """mov of a vector of registers into one."""
    part = sized(TYPE_BYTES[kind] // len(source.items))
    reads = [program.reader(item, part) for item in source.items]
    write = program.writer(target)
    raw = RAW_TYPE[kind]

    def run(m: Machine) -> None:
        rows = np.empty((m.count, len(reads)), RAW_TYPE[part])
        for index, read in enumerate(reads):
            rows[:, index] = read(m)
        write(m, rows.view(raw).reshape(-1))

    return run


def unpack_vector(program: Program, target: Vector, source: Operand, kind: str) -> Run:
    """mov of a register into a vector of narrower ones."""
    part = sized(TYPE_BYTES[kind] // len(target.items))
    read = program.reader(source, kind)
    writes = [program.writer(item) for item in target.items]

    def run(m: Machine) -> None:
        rows = np.ascontiguousarray(np.broadcast_to(read(m), (m.count,))).reshape(-1, 1).view(RAW_TYPE[part])
        for index, write in enumerate(writes):
            write(m, rows[:, index].copy())

    return run


def param_space(ins: Instruction, address: Address, space: str) -> str:
    """Where a .param access goes: the launch parameters, or a local frame variable."""
    if space == "param" and isinstance(address.base, Var) and address.base.space == "local":
        return "local"
    return space


@op("ld", "ldu")
def load(program: Program, ins: Instruction) -> Decoded:
    """ld and ldu."""
    n, kind = access_width(ins)
    target, address = ins.args[0], ins.args[1]
    space = param_space(ins, address, state_space(ins))
    if isinstance(address.base, Var) and address.base.space == "reg":
        return move(program, ins)
    targets = target.items if isinstance(target, Vector) else (target,)
    writes = [program.writer(t) for t in targets]
    size, dtype = TYPE_BYTES[kind], NUMPY_TYPE[kind]
    if space == "param" and not isinstance(address.base, Reg):
        return load_parameter(program.symbol(address.base) + address.offset, writes, size, dtype)
    where = program.address(address)

    def run(m: Machine) -> None:
        values = m.load(space, where(m), size, n)
        if n == 1:
            writes[0](m, values.view(dtype))
        else:
            for index, write in enumerate(writes):
                write(m, values[:, index].copy().view(dtype))

    return run


def load_parameter(offset: Array, writes: Sequence[Writer], size: int, dtype: ScalarType) -> Run:
    """ld.param of a launch parameter: the same value for every lane."""

    def run(m: Machine) -> None:
        for index, write in enumerate(writes):
            at = offset + index * size
            write(m, m.params.data[at : at + size].view(UINT[size])[0].view(dtype))

    return run


@op("st")
def store(program: Program, ins: Instruction) -> Decoded:
    """st."""
    n, kind = access_width(ins)
    address, source = ins.args
    space = param_space(ins, address, state_space(ins))
    sources = source.items if isinstance(source, Vector) else (source,)
    size = TYPE_BYTES[kind]
    reads = [program.reader(s, sized(size) if not isinstance(s, Imm) else kind) for s in sources]
    where = program.address(address)
    raw, strong = UINT[size], ins.has("volatile", "relaxed", "release", "mmio")

    def run(m: Machine) -> None:
        if n == 1:
            values = np.broadcast_to(np.asarray(reads[0](m)).view(raw), (m.count,))
        else:
            values = np.empty((m.count, n), raw)
            for index, read in enumerate(reads):
                values[:, index] = np.asarray(read(m)).view(raw)
        m.store(space, where(m), values, size, n, strong)

    return run


@op("cvta")
def convert_address(program: Program, ins: Instruction) -> Decoded:
    """cvta: between a window and generic addresses."""
    space = state_space(ins)
    window = WINDOWS.get(space, 0)
    read, write = program.reader(ins.args[1], "u64"), program.writer(ins.args[0])
    if isinstance(ins.args[1], Var) and ins.args[1].space == "local":
        window = WINDOWS["local"]
    step = U64(window)
    if "to" in ins.mods:
        return lambda m: write(m, read(m) - step)
    return lambda m: write(m, read(m) + step)


@op("isspacep")
def is_space(program: Program, ins: Instruction) -> Decoded:
    """isspacep."""
    window = {"shared": 1, "local": 2, "param": 3}.get(state_space(ins), 0)
    read, write = program.reader(ins.args[1], "u64"), program.writer(ins.args[0])
    return lambda m: write(m, (read(m) >> U64(56)) == U64(window))


@op("mapa")
def map_address(program: Program, ins: Instruction) -> Decoded:
    """Cluster addresses: only clusters of one block exist, so every address is its own."""
    read, write = program.reader(ins.args[1], types(ins)[-1]), program.writer(ins.args[0])
    return lambda m: write(m, read(m).copy())


def no_operation(program: Program, ins: Instruction) -> Decoded:
    """Instructions without a visible effect here."""
    return lambda m: None


for _name in (
    "membar",
    "fence",
    "prefetch",
    "prefetchu",
    "nanosleep",
    "griddepcontrol",
    "setmaxnreg",
    "discard",
    "applypriority",
    "pmevent",
    "createpolicy",
):
    DECODERS[_name] = no_operation


# -- conversion -------------------------------------------------------------------------------------


def integer_range(kind: str) -> tuple[int, int]:
    """Lowest and highest value of an integer type."""
    info = np.iinfo(NUMPY_TYPE[kind])
    return info.min, info.max


ROUND_TO_INTEGER = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
SCALAR_FLOATS = {"f16", "bf16", "f32", "f64"}


def float_to_integer(values: Values, kind: str, source_kind: str) -> Array:
    """Saturating conversion; NaN gives 0, or the top bit for .f64 sources and 64-bit results."""
    dtype = NUMPY_TYPE[kind]
    low, high = integer_range(kind)
    x = values.astype(F64)
    bits = 8 * TYPE_BYTES[kind]
    with np.errstate(invalid="ignore"):
        result = x.astype(np.int64 if low < 0 or bits < 64 else U64)
    if bits == 64:
        result = np.where(x >= float(high), dtype(high), np.where(x <= float(low), dtype(low), result.astype(dtype)))
    else:
        result = np.clip(np.where(np.isnan(x), 0, np.clip(x, low, high)).astype(np.int64), low, high).astype(dtype)
    top_bit = source_kind == "f64" or bits == 64
    invalid = RAW_TYPE[kind](1 << (bits - 1) if top_bit else 0).view(dtype)
    return np.where(np.isnan(x), invalid, result)


def saturate_integer(values: Values, source_kind: str, kind: str) -> Array:
    """cvt.sat between integers."""
    low, high = integer_range(kind)
    source_low, source_high = integer_range(source_kind)
    return np.clip(values, max(low, source_low), min(high, source_high)).astype(NUMPY_TYPE[kind])


@op("cvt")
def convert(program: Program, ins: Instruction) -> Decoded:
    """cvt in all its forms."""
    if ins.has("pack"):
        return convert_pack(program, ins)
    names = [m for m in ins.mods if m in TYPE_BYTES or m in ("e4m3x2", "e5m2x2")]
    target, source = names[0], names[1]
    if len(ins.args) == 3 or target.endswith("x2") or source.endswith("x2"):
        return convert_packed(program, ins, target, source)
    read, write = program.reader(ins.args[1], source), program.writer(ins.args[0])
    if target == "tf32":
        mode = "rna" if "rna" in ins.mods else rounding(ins) or "rna"
        relu = "relu" in ins.mods
        return lambda m: write(m, floats.f32_to_tf32(rectify(read(m)) if relu else read(m), mode))
    if source in SCALAR_FLOATS:
        return convert_from_float(program, ins, read, write, target, source)
    if target in SCALAR_FLOATS:
        return convert_integer_to_float(ins, read, write, target)
    if "sat" in ins.mods:
        return lambda m: write(m, saturate_integer(np.asarray(read(m)), source, target))
    dtype = NUMPY_TYPE[target]
    return lambda m: write(m, np.asarray(read(m)).astype(dtype))


def convert_integer_to_float(ins: Instruction, read: Reader, write: Writer, target: str) -> Run:
    """cvt from an integer to a float."""
    mode = rounding(ins)
    if target in ("f32", "f64") and mode in (None, "rn"):
        dtype = NUMPY_TYPE[target]
        return lambda m: write(m, np.asarray(read(m)).astype(dtype))
    pack = pack_float(target, mode)
    return lambda m: write(m, pack(np.asarray(read(m)).astype(F64)))


def convert_from_float(
    program: Program, ins: Instruction, read: Reader, write: Writer, target: str, source: str
) -> Decoded:
    """cvt from a float, to another one or to an integer."""
    unpack = unpack_float(source)
    to_integer = next((ROUND_TO_INTEGER[m] for m in ins.mods if m in ROUND_TO_INTEGER), None)
    mode = rounding(ins)
    ftz = "ftz" in ins.mods
    sat, relu = "sat" in ins.mods, "relu" in ins.mods
    if target in SCALAR_FLOATS:
        pack = pack_float(target, mode)
        narrowing = TYPE_BYTES[target] < TYPE_BYTES[source]
        dtype = F64 if target == "f64" or (narrowing and source == "f64") else F32

        def to_float(m: Machine) -> None:
            value = unpack(np.asarray(read(m)))
            if ftz and value.dtype == F32:
                value = floats.flush(value)
            if to_integer is not None:
                value = to_integer(value)
            if sat:
                value = saturate(value)
            if relu:
                value = rectify(value)
            if target == "f32" and value.dtype == F64:
                result = floats.directed(value, F32, mode)
                write(m, floats.flush(result) if ftz else result)
                return
            result = pack(value.astype(dtype))
            write(m, result.copy() if result.base is not None or result is value else result)

        return to_float

    def to_int(m: Machine) -> None:
        value = unpack(np.asarray(read(m)))
        if ftz and value.dtype == F32:
            value = floats.flush(value)
        write(m, float_to_integer((to_integer or np.trunc)(value), target, source))

    return to_int


def convert_packed(program: Program, ins: Instruction, target: str, source: str) -> Decoded:
    """Two-element conversions; the first source goes to the upper half of the result."""
    write = program.writer(ins.args[0])
    relu, mode = "relu" in ins.mods, rounding(ins)
    if source in ("e4m3x2", "e5m2x2"):
        read = program.reader(ins.args[1], "b16")
        half = pack_float("f16x2")

        def widen(m: Machine) -> None:
            codes = np.ascontiguousarray(np.broadcast_to(read(m), (m.count,))).reshape(-1, 1).view(np.uint8)
            values = floats.fp8_to_f32(codes, source[:4])
            write(m, half(rectify(values) if relu else values))

        return widen
    if source == "f32":
        high, low = (program.reader(a, "f32") for a in ins.args[1:3])

        def pairs(m: Machine) -> Array:
            rows = np.empty((m.count, 2), F32)
            rows[:, 0], rows[:, 1] = low(m), high(m)
            return rows
    else:
        read, unpack = program.reader(ins.args[1], source), unpack_float(source)

        def pairs(m: Machine) -> Array:
            return unpack(np.broadcast_to(read(m), (m.count,)))

    eight_bits = target in ("e4m3x2", "e5m2x2")
    pack = functools.partial(floats.f32_to_fp8, kind=target[:4]) if eight_bits else pack_float(target, mode)
    finite = {"f16x2": 65504.0, "bf16x2": 3.3895314e38}.get(target) if "satfinite" in ins.mods else None

    def run(m: Machine) -> None:
        values = pairs(m)
        if relu:
            values = rectify(values)
        if finite:
            values = np.clip(values, F32(-finite), F32(finite))
        result = pack(values)
        write(m, result.view(np.uint16).reshape(-1) if eight_bits else result)

    return run


def convert_pack(program: Program, ins: Instruction) -> Decoded:
    """cvt.pack.sat.T.s32{.b32} d, a, b{, c}: saturate two integers and pack them."""
    target = ins.mods[2]
    a, b = (program.reader(x, "s32") for x in ins.args[1:3])
    c = program.reader(ins.args[3], "b32") if len(ins.args) > 3 else None
    write = program.writer(ins.args[0])
    bits = 8 * TYPE_BYTES[target]
    mask = U32((1 << bits) - 1)

    def run(m: Machine) -> None:
        low, high = integer_range(target)
        first, second = (np.clip(r(m), low, high).astype(np.int64).astype(U32) & mask for r in (a, b))
        result = first << U32(bits) | second
        if c is not None:
            result = result | c(m) << U32(2 * bits)
        write(m, result)

    return run
