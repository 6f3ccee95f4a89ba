"""The table of decoders, and what all of them share.

``decode(program, instruction, pc)`` looks the opcode up in ``DECODERS``.  A decoder
returns a plain function of the machine for straight-line instructions, an ``int`` (the
target) for a branch, or a ``Control`` / ``Collective`` wrapper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from . import floats
from .aliases import Array, Decoded, Elementwise
from .errors import Unsupported
from .syntax import TYPE_BYTES

if TYPE_CHECKING:
    from .program import Program
    from .syntax import Instruction

#: Decoders take (program, instruction), those marked ``wants_pc`` also the program counter.
Decoder: TypeAlias = Callable[..., Decoded]
DECODERS: dict[str, Decoder] = {}
FLOATS = {"f16", "f16x2", "bf16", "bf16x2", "f32", "f32x2", "f64"}
U32, U64, F32, F64 = np.uint32, np.uint64, np.float32, np.float64


def op(*names: str) -> Callable[[Decoder], Decoder]:
    """Register a decoder for opcodes."""

    def register(decoder: Decoder) -> Decoder:
        for name in names:
            DECODERS[name] = decoder
        return decoder

    return register


def decode(program: Program, instruction: Instruction, pc: int) -> Decoded:
    """The function that executes one instruction."""
    decoder = DECODERS.get(instruction.op)
    if decoder is None:
        raise Unsupported(f"PTX line {instruction.line}: {instruction.text}")
    try:
        return decoder(program, instruction, pc) if decoder in WANTS_PC else decoder(program, instruction)
    except (Unsupported, KeyError, IndexError) as error:
        raise Unsupported(f"PTX line {instruction.line}: {instruction.text} ({error})") from error


WANTS_PC: set[Decoder] = set()


def wants_pc(decoder: Decoder) -> Decoder:
    """Mark a decoder that also takes the program counter."""
    WANTS_PC.add(decoder)
    return decoder


def types(instruction: Instruction) -> list[str]:
    """The type modifiers, in order."""
    return [m for m in instruction.mods if m in TYPE_BYTES]


# -- float plumbing -----------------------------------------------------------------


def unpack_float(kind: str, wide: bool = False) -> Elementwise:
    """Raw register values to a NumPy float array; packed types gain a last axis of 2."""
    narrow = F64 if wide else F32
    if kind == "f32":
        return (lambda v: v.astype(F64)) if wide else (lambda v: v)
    if kind == "f64":
        return lambda v: v
    if kind == "f16":
        return lambda v: v.astype(narrow)
    if kind == "bf16":
        return lambda v: floats.bf16_to_f32(v).astype(narrow, copy=False)
    if kind == "f32x2":
        return lambda v: np.ascontiguousarray(v).reshape(-1, 1).view(F32).astype(narrow)

    def halves(value: Array) -> Array:
        return np.ascontiguousarray(value).reshape(-1, 1).view(np.uint16)

    if kind == "f16x2":
        return lambda v: halves(v).view(np.float16).astype(narrow)
    return lambda v: floats.bf16_to_f32(halves(v)).astype(narrow, copy=False)


def pack_float(kind: str, mode: str | None = None) -> Elementwise:
    """The inverse of ``unpack_float``: round once to the type."""
    if kind == "f64":
        return lambda v: v
    if kind == "f32":
        return lambda v: v if v.dtype == F32 else floats.directed(v, F32, mode)
    if kind == "f32x2":
        single = pack_float("f32", mode)
        return lambda v: np.ascontiguousarray(single(v)).view(U64).reshape(-1)
    half = (
        (lambda v: v.astype(np.float16))
        if mode in (None, "rn")
        else (lambda v: floats.directed(v.astype(F64), np.float16, mode))
    )
    if kind == "f16":
        return half
    if kind == "bf16":
        return lambda v: floats.f32_to_bf16(v, mode or "rn")
    to_bits = (
        (lambda v: half(v).view(np.uint16)) if kind == "f16x2" else (lambda v: floats.f32_to_bf16(v, mode or "rn"))
    )
    return lambda v: np.ascontiguousarray(to_bits(v)).view(U32).reshape(-1)


def saturate(x: Array) -> Array:
    """.sat: into [0, 1], NaN becomes zero."""
    return np.where(np.isnan(x), x.dtype.type(0), np.clip(x, 0, 1))


def rectify(x: Array) -> Array:
    """.relu: negative values become zero, NaN stays NaN."""
    return np.where(x <= 0, x.dtype.type(0), x)


def rounding(instruction: Instruction) -> str | None:
    """The rounding modifier, or None."""
    for mode in ("rn", "rz", "rm", "rp"):
        if mode in instruction.mods:
            return mode
    return None


# -- operand helpers ---------------------------------------------------------------------


def sized(nbytes: int) -> str:
    """The untyped PTX type of a size."""
    return {1: "b8", 2: "b16", 4: "b32", 8: "b64"}[nbytes]


STATE_SPACES = {
    "global": "global",
    "const": "const",
    "local": "local",
    "shared": "shared",
    "shared::cta": "shared",
    "shared::cluster": "shared",
    "param": "param",
}


def state_space(ins: Instruction) -> str:
    """The state space an access names; without one the address is generic."""
    return next((STATE_SPACES[m] for m in ins.mods if m in STATE_SPACES), "generic")


def access_width(ins: Instruction) -> tuple[int, str]:
    """(elements, PTX type) of a load or store."""
    vector = next((int(m[1:]) for m in ins.mods if m in ("v2", "v4", "v8")), 1)
    return vector, types(ins)[-1]
