"""Decoder of wgmma: matrix multiplication by four warps on operands in shared memory.

PTX ISA: "Asynchronous Warpgroup Level Matrix Instructions".  The multiplication is done
at once; fence, commit_group and wait_group have nothing left to do.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from .aliases import Array, Decoded, Values
from .decode import op
from .memory import UINT
from .mma import (
    ELEMENT_BYTES,
    decode_elements,
    encode_elements,
    fragment_index,
    gather,
    multiply_accumulate,
    scatter,
    shape_of,
)
from .program import Collective
from .syntax import Imm, Vector

if TYPE_CHECKING:
    from .machine import Machine
    from .program import Program
    from .syntax import Instruction, Operand

SWIZZLE_BYTES = {0: 16, 1: 128, 2: 64, 3: 32}  # descriptor bits 62-63


def swizzle(address: Values, width: int) -> Values:
    """Exchange 16-byte chunks within rows of ``width`` bytes (16: no swizzle)."""
    bits = {16: 0, 32: 1, 64: 3, 128: 7}[width]
    return address ^ ((address >> 7 & bits) << 4)


@functools.cache
def chunk_offsets(major: int, other: int, size: int, leading: int, stride: int, width: int) -> Array:
    """Byte offsets of the 16-byte chunks of a matrix, shape (other, chunks of a major row).

    "major" counts elements along the contiguous direction: K for a K-major operand
    (``other`` = M or N), else M or N (``other`` = K, written as a negative size).
    """
    transposed, other = other < 0, abs(other)
    row = np.arange(other)[:, None]
    byte = np.arange(0, major * size, 16)[None, :]
    if width == 16:
        outer, inner = (leading, stride) if transposed else (stride, leading)
        return row % 8 * 16 + row // 8 * outer + byte // 16 * inner
    if transposed:
        return row % 8 * width + row // 8 * stride + byte % width + byte // width * leading
    return row % 8 * width + row // 8 * stride + byte


class SharedOperand:
    """A or B of wgmma, given by a matrix descriptor."""

    def __init__(self, program: Program, operand: Operand, rows: int, depth: int, kind: str, transposed: bool) -> None:
        self.read = program.reader(operand, "u64")
        self.rows, self.depth, self.kind, self.transposed = rows, depth, kind, transposed
        self.size = ELEMENT_BYTES[kind]

    def load(self, m: Machine) -> Array:
        """The operand of each warpgroup, shape (groups, rows, depth)."""
        first = np.arange(0, m.count, 128)
        descriptor = np.broadcast_to(self.read(m), (m.count,))[first]
        major, other = (self.rows, -self.depth) if self.transposed else (self.depth, self.rows)
        offsets = []
        for value in descriptor.tolist():
            width = SWIZZLE_BYTES[value >> 62]
            start, leading, stride = ((value >> shift & 0x3FFF) << 4 for shift in (0, 16, 32))
            offsets.append(swizzle(start + chunk_offsets(major, other, self.size, leading, stride, width), width))
        chunks = np.stack(offsets)
        lanes = np.repeat(first, chunks[0].size)
        flat = m.run_on(lanes, lambda: self.check(m, chunks.reshape(-1)))
        values = m.shared.load(flat, 4, 4).view(UINT[self.size]).reshape(len(first), abs(other), major)
        matrix = decode_elements(np.ascontiguousarray(values), self.kind)
        return matrix.transpose(0, 2, 1) if self.transposed else matrix

    @staticmethod
    def check(m: Machine, address: Array) -> Array:
        """Check shared reads of 16 bytes; returns flat offsets."""
        offset = m.shared.flatten(m.pick(m.block_of), address, 16)
        if m.shadow:
            m.shadow.read(offset, 16, m.sel)
        return offset


class RegisterOperand:
    """Matrix fragments in registers: warp w of a group holds rows 16 w ... 16 w + 15."""

    def __init__(self, program: Program, operand: Any, role: str, columns: int, kind: str) -> None:
        self.size, self.kind, self.columns = ELEMENT_BYTES[kind], kind, columns
        self.reads = [program.reader(item, "b32") for item in operand.items]
        self.writes = [program.writer(item) for item in operand.items]
        self.place = fragment_index(role, 16, columns, self.size)
        self.inverse = np.argsort(self.place)

    def load(self, m: Machine) -> Array:
        """The matrix of each warpgroup, decoded: (groups, 64, columns)."""
        flat = gather(m, self.reads, self.size)
        return decode_elements(flat[:, self.place], self.kind).reshape(-1, 64, self.columns)

    def store(self, m: Machine, matrices: Array) -> None:
        """The inverse of ``load``."""
        flat = encode_elements(matrices, self.kind).reshape(m.count // 32, -1)
        scatter(m, self.writes, flat[:, self.inverse])


@op("wgmma")
def warpgroup_mma(program: Program, ins: Instruction) -> Decoded:
    """wgmma.mma_async, fence, commit and wait."""
    if "mma_async" not in ins.mods:
        return Collective(lambda m: None)
    rows, columns, depth = shape_of(ins)
    d_kind, a_kind, b_kind = (m for m in ins.mods if m in ELEMENT_BYTES)
    d = RegisterOperand(program, ins.args[0], "c", columns, d_kind)
    flags = [a.value for a in ins.args[4:] if isinstance(a, Imm)]
    scale_a, scale_b = flags[:2] if len(flags) >= 2 else (1, 1)
    transposes = flags[2:]
    a: RegisterOperand | SharedOperand
    if isinstance(ins.args[1], Vector):
        a = RegisterOperand(program, ins.args[1], "a", depth, a_kind)
        transposes = [0, *transposes]
    else:
        a = SharedOperand(program, ins.args[1], rows, depth, a_kind, bool(transposes and transposes[0]))
    b = SharedOperand(program, ins.args[2], columns, depth, b_kind, bool(len(transposes) > 1 and transposes[1]))
    keep = program.reader(ins.args[3], "pred") if len(ins.args) > 3 else None
    flops = 2 * rows * columns * depth

    def run(m: Machine) -> None:
        m.stats.mma_flops += flops * (m.count // 128)
        left, right = a.load(m), b.load(m).transpose(0, 2, 1)
        total = d.load(m)
        if keep is not None:
            kept = np.broadcast_to(keep(m), (m.count,))[::128]
            total = np.where(kept[:, None, None], total, total.dtype.type(0))
        d.store(m, multiply_accumulate(left * left.dtype.type(scale_a * scale_b), right, total, d_kind))

    return Collective(run, width=128)
