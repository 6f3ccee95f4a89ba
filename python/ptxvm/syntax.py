"""The words of PTX: operands, instructions, functions, and the sizes of types."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

TYPE_BYTES = {
    "pred": 1,
    "b8": 1,
    "u8": 1,
    "s8": 1,
    "b16": 2,
    "u16": 2,
    "s16": 2,
    "f16": 2,
    "bf16": 2,
    "b32": 4,
    "u32": 4,
    "s32": 4,
    "f32": 4,
    "f16x2": 4,
    "bf16x2": 4,
    "tf32": 4,
    "u16x2": 4,
    "s16x2": 4,
    "f32x2": 8,
    "b64": 8,
    "u64": 8,
    "s64": 8,
    "f64": 8,
    "b128": 16,
}


SPACES = {"global", "shared", "local", "const", "param"}


#: Any of the classes below that can stand in an instruction's argument list; None is the bit bucket ``_``.
Operand: TypeAlias = Any


@dataclass(frozen=True)
class Reg:
    """A virtual register: its slot in the register file and its declared type."""

    slot: int
    type: str
    name: str


@dataclass(frozen=True)
class Imm:
    """A literal; ``bits`` says how a float literal was written (32, 64 or None)."""

    value: int | float
    bits: int | None = None


@dataclass(frozen=True)
class Special:
    """A read-only special register such as %tid.x."""

    name: str


@dataclass
class Var:
    """A named piece of memory, or a formal or actual parameter."""

    name: str
    space: str
    type: str
    bytes: int
    align: int
    init: list[Imm | Address] = field(default_factory=list)
    extern: bool = False
    offset: int = 0


@dataclass(frozen=True)
class Name:
    """The name of a label or a function."""

    name: str


@dataclass(frozen=True)
class Address:
    """``base + offset``, the base being a register, a variable or an integer."""

    base: Operand
    offset: int = 0


@dataclass(frozen=True)
class Vector:
    """A brace-enclosed list of operands."""

    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Pair:
    """Two destinations written ``p|q``."""

    first: Operand
    second: Operand


@dataclass(frozen=True)
class Negated:
    """A predicate operand written ``!p``."""

    operand: Operand


@dataclass(frozen=True)
class Group:
    """A parenthesised list, as in the operands of call."""

    items: tuple[Operand, ...]


@dataclass
class Instruction:
    """One PTX instruction."""

    op: str
    mods: tuple[str, ...]
    args: list[Operand]
    guard: Reg | None
    negate: bool
    line: int
    source: str | None
    text: str

    def has(self, *mods: str) -> bool:
        """Whether any of the modifiers is there."""
        return any(m in self.mods for m in mods)


@dataclass
class Function:
    """An .entry or a .func with its body."""

    name: str
    entry: bool
    params: list[Var] = field(default_factory=list)
    returns: list[Var] = field(default_factory=list)
    body: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    registers: list[Reg] = field(default_factory=list)
    variables: list[Var] = field(default_factory=list)
    tables: dict[str, list[str]] = field(default_factory=dict)
    directives: dict[str, list[int]] = field(default_factory=dict)
    defined: bool = False
    slot_base: int = 0
