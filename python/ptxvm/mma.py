"""Decoders of ldmatrix, stmatrix, mma and wmma.

A fragment of a warp is gathered into one matrix per warp and all warps are multiplied
with one batched matmul.  Layouts follow the PTX ISA, section "Warp Level Matrix
Multiply-Accumulate Instructions", "Matrix Fragments for mma.m16n8k*".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import floats
from .aliases import Array, Decoded, Reader, Values, Writer
from .decode import op, state_space
from .errors import Unsupported
from .memory import SHARED_WINDOW, UINT
from .program import Collective
from .syntax import Imm

if TYPE_CHECKING:
    from .machine import Machine
    from .program import Program
    from .syntax import Instruction

U32, U64, F32, F64 = np.uint32, np.uint64, np.float32, np.float64
ELEMENT_BYTES = {"f16": 2, "bf16": 2, "tf32": 4, "f32": 4, "s32": 4, "s8": 1, "u8": 1, "e4m3": 1, "e5m2": 1, "f64": 8}
SHAPE = re.compile(r"m(\d+)n(\d+)k(\d+)$")


def shape_of(ins: Instruction) -> tuple[int, int, int]:
    """(M, N, K) from the shape modifier."""
    rows, columns, depth = next(found.groups() for found in map(SHAPE.match, ins.mods) if found)
    return int(rows), int(columns), int(depth)


# -- element formats ---------------------------------------------------------------------


def decode_elements(raw: Array, kind: str) -> Array:
    """Elements (as their raw unsigned view) to numbers that matmul can take exactly."""
    if kind == "f16":
        return raw.view(np.float16).astype(F32)
    if kind == "bf16":
        return floats.bf16_to_f32(raw)
    if kind == "tf32":
        return (raw & U32(0xFFFFE000)).view(F32)
    if kind in ("e4m3", "e5m2"):
        return floats.fp8_to_f32(raw, kind)
    if kind in ("s8", "u8"):
        return raw.view(np.int8 if kind == "s8" else np.uint8).astype(F32)
    return raw.view({"f32": F32, "s32": np.int32, "f64": F64}[kind])


def encode_elements(values: Values, kind: str) -> Array:
    """Accumulators to their raw unsigned view."""
    if kind == "f16":
        return values.astype(np.float16).view(np.uint16)
    if kind == "bf16":
        return floats.f32_to_bf16(values)
    dtype = {"f32": F32, "s32": np.int32, "f64": F64}[kind]
    return np.ascontiguousarray(values, dtype).view(UINT[np.dtype(dtype).itemsize])


def multiply_accumulate(a: Array, b: Array, c: Array, kind: str, saturating: bool = False) -> Array:
    """a @ b + c over a batch; integer products are exact in float32."""
    product = np.matmul(a, b)
    if kind != "s32":
        return product + c
    total = product.astype(np.int64) + c
    if saturating:
        total = np.clip(total, -(2**31), 2**31 - 1)
    return total.astype(np.int32)


# -- fragments -----------------------------------------------------------------------------


@functools.cache
def fragment_index(role: str, rows: int, columns: int, element_bytes: int) -> Array:
    """For each matrix element in row-major order, its place in the flattened fragments of a warp.

    Lane = 4 * g + t.  With e elements in a 32-bit register, register r of lane holds
      A: row g + 8 (r mod 2), columns t e + 4 e (r div 2) ...   (one register row if M = 8)
      B: rows t e + 4 e r ..., column g
      C/D: row g + 8 (pair mod 2), columns 2 t + (0, 1) + 8 (pair div 2)
    """
    per_lane = rows * columns // 32
    lane, element = np.divmod(np.arange(rows * columns), per_lane)
    g, t = np.divmod(lane, 4)
    if role == "c":
        pair = element // 2
        row = g + 8 * (pair % 2) if rows > 8 else g
        column = 2 * t + element % 2 + 8 * (pair // 2 if rows > 8 else pair)
    else:
        e = max(1, 4 // element_bytes)
        register, inside = np.divmod(element, e)
        if role == "a":
            row = g + 8 * (register % 2) if rows > 8 else g
            column = t * e + inside + 4 * e * (register // 2 if rows > 8 else register)
        else:
            row, column = t * e + inside + 4 * e * register, g
    place = np.empty(rows * columns, np.int64)
    place[row * columns + column] = np.arange(rows * columns)
    return place


def register_kind(element_bytes: int) -> str:
    """The type of the registers that hold elements of a size."""
    return "b64" if element_bytes == 8 else "b32"


def gather(m: Machine, reads: Sequence[Reader], element_bytes: int) -> Array:
    """Fragment registers of the active warps, flattened: shape (warps, elements per warp)."""
    raw = UINT[max(4, element_bytes)]
    registers = np.empty((m.count, len(reads)), raw)
    for index, read in enumerate(reads):
        registers[:, index] = read(m)
    return registers.view(UINT[element_bytes]).reshape(m.count // 32, -1)


def scatter(m: Machine, writes: Sequence[Writer], elements: Array) -> None:
    """The inverse of ``gather``: raw elements (warps, elements per warp) to registers."""
    raw = UINT[max(4, elements.dtype.itemsize)]
    registers = np.ascontiguousarray(elements).view(raw).reshape(m.count, len(writes))
    for index, write in enumerate(writes):
        write(m, registers[:, index].copy())


class Fragment:
    """Reads or writes one operand of mma as a batch of matrices."""

    def __init__(self, program: Program, operand: Any, role: str, rows: int, columns: int, kind: str) -> None:
        self.size, self.kind = ELEMENT_BYTES[kind], kind
        self.shape = (rows, columns)
        items = operand.items if hasattr(operand, "items") else (operand,)
        word = register_kind(self.size)
        self.reads = [
            program.reader(item, "f32" if isinstance(item, Imm) and kind == "f32" else word) for item in items
        ]
        self.writes = [program.writer(item) for item in items if not isinstance(item, Imm)]
        self.place = fragment_index(role, rows, columns, self.size)
        self.inverse = np.argsort(self.place)

    def load(self, m: Machine) -> Array:
        """The matrix of each active warp, decoded: (warps, rows, columns)."""
        flat = gather(m, self.reads, self.size)
        return decode_elements(flat[:, self.place], self.kind).reshape(-1, *self.shape)

    def store(self, m: Machine, matrices: Array) -> None:
        """The inverse of ``load``."""
        flat = encode_elements(matrices, self.kind).reshape(len(matrices), -1)
        scatter(m, self.writes, flat[:, self.inverse])


@op("mma")
def warp_mma(program: Program, ins: Instruction) -> Decoded:
    """mma.sync."""
    rows, columns, depth = shape_of(ins)
    if ins.has("sp", "sp::ordered_metadata", "block_scale") or rows * depth < 32 or ins.has("b1", "s4", "u4"):
        raise Unsupported("this form of mma")
    kinds = [x for x in ins.mods if x in ELEMENT_BYTES]
    d_kind, a_kind, b_kind, c_kind = kinds
    if (rows, depth) == (8, 4) and d_kind != "f64":
        raise Unsupported("mma.m8n8k4 with f16")
    d = Fragment(program, ins.args[0], "c", rows, columns, d_kind)
    a = Fragment(program, ins.args[1], "a", rows, depth, a_kind)
    b = Fragment(program, ins.args[2], "b", depth, columns, b_kind)
    c = Fragment(program, ins.args[3], "c", rows, columns, c_kind)
    flops = 2 * rows * columns * depth
    saturating = "satfinite" in ins.mods

    def run(m: Machine) -> None:
        m.stats.mma_flops += flops * (m.count // 32)
        d.store(m, multiply_accumulate(a.load(m), b.load(m), c.load(m), d_kind, saturating))

    return Collective(run)


# -- ldmatrix and stmatrix ---------------------------------------------------------------------


def matrix_addresses(m: Machine, where: Reader, count: int, generic: bool) -> tuple[Array, Array]:
    """Row addresses of ``count`` 8x8 matrices (given by the first 8 * count lanes of each warp)."""
    positions = np.arange(m.count).reshape(-1, 32)[:, : 8 * count].reshape(-1)
    address = where(m)[positions]
    return positions, address - U64(SHARED_WINDOW) if generic else address


@op("ldmatrix")
def load_matrix(program: Program, ins: Instruction) -> Decoded:
    """ldmatrix."""
    if "m8n8" not in ins.mods:
        raise Unsupported("ldmatrix shape")
    count = next(int(x[1:]) for x in ins.mods if x in ("x1", "x2", "x4"))
    transposed, generic = "trans" in ins.mods, state_space(ins) == "generic"
    writes = [program.writer(item) for item in getattr(ins.args[0], "items", (ins.args[0],))]
    where = program.address(ins.args[1])

    def run(m: Machine) -> None:
        positions, address = matrix_addresses(m, where, count, generic)
        offset = m.run_on(positions, lambda: m.shared_offset(address, 16, False, full_phases=True))
        rows = m.shared.load(offset, 4, 4)
        if transposed:
            tiles = rows.view(np.uint16).reshape(-1, 8, 8).transpose(0, 2, 1)
            rows = np.ascontiguousarray(tiles).view(U32)
        words = rows.reshape(-1, count, 32)
        for index, write in enumerate(writes):
            write(m, words[:, index].reshape(-1))

    return Collective(run)


@op("stmatrix")
def store_matrix(program: Program, ins: Instruction) -> Decoded:
    """stmatrix."""
    if "m8n8" not in ins.mods:
        raise Unsupported("stmatrix shape")
    count = next(int(x[1:]) for x in ins.mods if x in ("x1", "x2", "x4"))
    transposed, generic = "trans" in ins.mods, state_space(ins) == "generic"
    where = program.address(ins.args[0])
    reads = [program.reader(item, "b32") for item in getattr(ins.args[1], "items", (ins.args[1],))]

    def run(m: Machine) -> None:
        positions, address = matrix_addresses(m, where, count, generic)
        offset = m.run_on(positions, lambda: m.shared_offset(address, 16, True, checked=False, full_phases=True))
        words = np.stack([np.broadcast_to(r(m), (m.count,)).reshape(-1, 32) for r in reads], 1)
        rows = np.ascontiguousarray(words)
        if transposed:
            rows = np.ascontiguousarray(rows.view(np.uint16).reshape(-1, 8, 8).transpose(0, 2, 1)).view(U32)
        m.run_on(positions, lambda: m.store_shared(offset, rows.reshape(-1, 4), 4, 4))

    return Collective(run)


# -- wmma ----------------------------------------------------------------------------------------
# The layout of wmma fragments is opaque to programs.  Here lane l holds the elements
# l * c ... l * c + c - 1 of the row-major matrix (c = elements / 32), repeated if the
# fragment has room for more.


@op("wmma")
def wmma(program: Program, ins: Instruction) -> Decoded:
    """Every instruction that begins with wmma."""
    action = ins.mods[0]
    if action == "load":
        return wmma_load(program, ins)
    return wmma_store(program, ins) if action == "store" else wmma_multiply(program, ins)


def wmma_places(ins: Instruction, role: str, kind: str) -> tuple[Array, Array, tuple[int, int], int]:
    """Per lane and element: (row, column); with the matrix shape and element size."""
    rows, columns, depth = shape_of(ins)
    shape = {"a": (rows, depth), "b": (depth, columns)}.get(role, (rows, columns))
    count = shape[0] * shape[1] // 32
    index = np.arange(shape[0] * shape[1]).reshape(32, count)
    return index // shape[1], index % shape[1], shape, ELEMENT_BYTES[kind]


def wmma_address(
    m: Machine, where: Reader, stride: Reader, row: Array, column: Array, size: int, row_major: bool
) -> Array:
    """Address of one element per active lane."""
    lane = m.active_lanes() % 32
    step = np.broadcast_to(stride(m), (m.count,)).astype(np.int64)
    element = row[lane] * step + column[lane] if row_major else column[lane] * step + row[lane]
    return where(m) + (element * size).astype(U64)


def wmma_load(program: Program, ins: Instruction) -> Decoded:
    """wmma.load."""
    role = ins.mods[1]
    kind = next(x for x in reversed(ins.mods) if x in ELEMENT_BYTES)
    rows, columns, shape, size = wmma_places(ins, role, kind)
    writes = [program.writer(item) for item in ins.args[0].items]
    where, space, row_major = program.address(ins.args[1]), state_space(ins), "row" in ins.mods
    stride = wmma_stride(program, ins, 2, shape, row_major)
    width = max(4, size)

    def run(m: Machine) -> None:
        elements = np.empty((m.count, rows.shape[1]), UINT[size])
        for index in range(rows.shape[1]):
            address = wmma_address(m, where, stride, rows[:, index], columns[:, index], size, row_major)
            elements[:, index] = m.load(space, address, size, 1)
        repeats = len(writes) * width // size // rows.shape[1]
        registers = np.ascontiguousarray(np.tile(elements, (1, repeats))).view(UINT[width])
        for index, write in enumerate(writes):
            write(m, registers[:, index].copy())

    return Collective(run)


def wmma_stride(program: Program, ins: Instruction, at: int, shape: tuple[int, int], row_major: bool) -> Reader:
    """The leading dimension operand; without it the matrix is packed."""
    if len(ins.args) > at:
        return program.reader(ins.args[at], "u32")
    packed = U32(shape[1] if row_major else shape[0])
    return lambda m: packed


def wmma_store(program: Program, ins: Instruction) -> Decoded:
    """wmma.store."""
    kind = next(x for x in reversed(ins.mods) if x in ELEMENT_BYTES)
    rows, columns, shape, size = wmma_places(ins, "d", kind)
    reads = [program.reader(item, register_kind(size)) for item in ins.args[1].items]
    where, space, row_major = program.address(ins.args[0]), state_space(ins), "row" in ins.mods
    stride = wmma_stride(program, ins, 2, shape, row_major)

    def run(m: Machine) -> None:
        elements = gather(m, reads, size).reshape(m.count, -1)
        for index in range(rows.shape[1]):
            address = wmma_address(m, where, stride, rows[:, index], columns[:, index], size, row_major)
            m.store(space, address, np.ascontiguousarray(elements[:, index]), size, 1)

    return Collective(run)


def wmma_multiply(program: Program, ins: Instruction) -> Decoded:
    """wmma.mma."""
    kinds = [x for x in ins.mods if x in ELEMENT_BYTES]
    if len(kinds) == 2:  # the f16 forms name only the types of d and c
        kinds = [kinds[0], "f16", "f16", kinds[1]]
    d_kind, a_kind, b_kind, c_kind = kinds
    m_size, n_size, k_size = shape_of(ins)
    operands = []
    shapes = (m_size, k_size), (k_size, n_size), (m_size, n_size)
    for operand, kind, shape in zip(ins.args[1:4], (a_kind, b_kind, c_kind), shapes, strict=True):
        reads = [program.reader(item, register_kind(ELEMENT_BYTES[kind])) for item in operand.items]
        operands.append((reads, kind, shape))
    writes = [program.writer(item) for item in ins.args[0].items]
    flops = 2 * m_size * n_size * k_size

    def run(m: Machine) -> None:
        m.stats.mma_flops += flops * (m.count // 32)
        matrices = []
        for reads, kind, shape in operands:
            count = shape[0] * shape[1] // 32
            flat = gather(m, reads, ELEMENT_BYTES[kind]).reshape(m.count, -1)[:, :count]
            matrices.append(decode_elements(np.ascontiguousarray(flat), kind).reshape(-1, *shape))
        left, right, addend = matrices
        result = multiply_accumulate(left, right, addend, d_kind, "satfinite" in ins.mods)
        scatter(m, writes, encode_elements(result, d_kind).reshape(len(result), -1))

    return Collective(run)
