"""Decoders of operations on the bytes and half-words of a register."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .aliases import Array, Decoded, Elementwise
from .comparison import COMPARE
from .decode import op, types

if TYPE_CHECKING:
    from .machine import Machine
    from .program import Program
    from .syntax import Instruction

U32 = np.uint32


@op("dp4a", "dp2a")
def dot_product_bytes(program: Program, ins: Instruction) -> Decoded:
    """dp4a and dp2a."""
    first, second = types(ins)
    a, b = program.reader(ins.args[1], "b32"), program.reader(ins.args[2], "b32")
    signed = "s32" in (first, second)
    c, write = program.reader(ins.args[3], "s32" if signed else "u32"), program.writer(ins.args[0])

    def parts(value: Array, kind: str, size: int, count: int, start: int = 0) -> Array:
        dtype = np.dtype(f"{'i' if kind == 's32' else 'u'}{size}")
        rows = np.ascontiguousarray(value).reshape(-1, 1).view(dtype)[:, start : start + count]
        return rows.astype(np.int64)

    def run(m: Machine) -> None:
        left, right = np.broadcast_to(a(m), (m.count,)), np.broadcast_to(b(m), (m.count,))
        if ins.op == "dp4a":
            total = (parts(left, first, 1, 4) * parts(right, second, 1, 4)).sum(1)
        else:
            total = (parts(left, first, 2, 2) * parts(right, second, 1, 2, 2 if "hi" in ins.mods else 0)).sum(1)
        write(m, (total + c(m)).astype(U32))

    return run


VIDEO: dict[str, Elementwise] = {
    "add": np.add,
    "sub": np.subtract,
    "min": np.minimum,
    "max": np.maximum,
    "absdiff": lambda a, b: np.abs(a - b),
    "avrg": lambda a, b: (a + b + (a + b >= 0)) >> 1,
}


@op(*[f"v{name}{lanes}" for name in (*VIDEO, "set") for lanes in (2, 4)])
def video(program: Program, ins: Instruction) -> Decoded:
    """SIMD video instructions on all the bytes or half-words of a register."""
    lanes = int(ins.op[-1])
    target, *sources = types(ins)[:3] if not ins.op.startswith("vset") else ["u32", *types(ins)[:2]]
    element = {kind: np.dtype(f"{'i' if kind == 's32' else 'u'}{4 // lanes}") for kind in ("s32", "u32")}
    compares = next((COMPARE[m] for m in ins.mods if m in COMPARE), None)
    function = compares or VIDEO[ins.op[1:-1]]
    reads = [program.reader(a, "b32") for a in ins.args[1:4]]
    write, info = program.writer(ins.args[0]), np.iinfo(element[target])

    def run(m: Machine) -> None:
        a, b = (
            np.ascontiguousarray(np.broadcast_to(r(m), (m.count,))).view(element[kind]).astype(np.int64)
            for r, kind in zip(reads, sources, strict=False)
        )
        result = function(a, b).astype(np.int64)
        if "sat" in ins.mods:
            result = np.clip(result, info.min, info.max)
        if "add" in ins.mods:
            write(m, (result.reshape(-1, lanes).sum(1) + reads[2](m)).astype(U32))
        else:
            write(m, result.astype(element[target]).view(U32))

    return run
