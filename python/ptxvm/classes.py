"""Sorts instructions into classes for the counters."""

from __future__ import annotations

from .syntax import Instruction

CLASSES = (
    "fma",
    "alu",
    "int",
    "ldst global",
    "ldst shared",
    "ldst other",
    "ldmatrix",
    "async copy",
    "mma",
    "barrier",
    "branch",
    "convert",
    "atomic",
    "other",
)
INTEGER_OPS = {
    "mul24",
    "mad24",
    "sad",
    "dp4a",
    "dp2a",
    "popc",
    "clz",
    "bfind",
    "brev",
    "bfe",
    "bfi",
    "lop3",
    "and",
    "or",
    "xor",
    "not",
    "cnot",
    "shl",
    "shr",
    "shf",
    "prmt",
    "fns",
    "szext",
    "bmsk",
    "addc",
    "subc",
    "madc",
}
ARITHMETIC_OPS = {
    "add",
    "sub",
    "mul",
    "div",
    "rem",
    "min",
    "max",
    "abs",
    "neg",
    "set",
    "setp",
    "selp",
    "slct",
    "testp",
    "copysign",
    "rcp",
    "sqrt",
    "rsqrt",
    "ex2",
    "lg2",
    "sin",
    "cos",
    "tanh",
}
FLOAT_TYPES = {"f16", "f16x2", "bf16", "bf16x2", "f32", "f64", "f32x2"}
FLOP_OPS = {"add", "sub", "mul", "fma", "mad", "div", "rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh"}


def classify(instruction: Instruction) -> str:
    """The opcode class an instruction is counted under."""
    op, mods = instruction.op, instruction.mods
    is_float = any(m in FLOAT_TYPES for m in mods)
    if op == "fma" or (op == "mad" and is_float):
        return "fma"
    if op in ("ld", "st", "ldu"):
        if "shared" in mods or "shared::cta" in mods:
            return "ldst shared"
        return "ldst other" if "local" in mods or "param" in mods or "const" in mods else "ldst global"
    if op == "cp" and "mbarrier" in mods:
        return "barrier"
    if op == "cp":  # the copies themselves; commits and waits are bookkeeping
        return "async copy" if any(m.startswith(("shared", "global")) for m in mods) else "other"
    if op in ("ldmatrix", "stmatrix"):
        return "ldmatrix"
    if op in ("mma", "wgmma", "wmma"):
        return "mma" if "mma" in mods or op == "mma" or "mma_async" in mods else "ldmatrix" if op == "wmma" else "other"
    if op in ("bar", "barrier", "mbarrier", "membar", "fence"):
        return "barrier"
    if op in ("bra", "brx", "call", "ret", "exit"):
        return "branch"
    if op == "cvt":
        return "convert"
    if op in ("atom", "red"):
        return "atomic"
    if op in INTEGER_OPS or (op in ARITHMETIC_OPS | {"mad"} and not is_float):
        return "int"
    return "alu" if op in ARITHMETIC_OPS else "other"


def flops_per_lane(instruction: Instruction) -> int:
    """Floating-point operations one lane performs (an fma counts two)."""
    if instruction.op not in FLOP_OPS or not any(m in FLOAT_TYPES for m in instruction.mods):
        return 0
    packed = 2 if any(m.endswith("x2") for m in instruction.mods) else 1
    return packed * (2 if instruction.op in ("fma", "mad") else 1)
