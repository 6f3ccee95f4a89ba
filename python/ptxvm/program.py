"""Programs: one kernel and the functions it calls, laid out and decoded to closures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from . import syntax
from .aliases import Decoded, Reader, Run, ScalarType, Step, Values, Writer
from .errors import Unsupported
from .loops import find_loops
from .memory import LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, UINT

if TYPE_CHECKING:
    from .machine import Machine
    from .module import Module
    from .syntax import Function, Imm, Instruction, Operand, Reg, Var

NUMPY_TYPE: dict[str, ScalarType] = {
    "pred": np.bool_,
    "b8": np.uint8,
    "u8": np.uint8,
    "s8": np.int8,
    "b16": np.uint16,
    "u16": np.uint16,
    "s16": np.int16,
    "f16": np.float16,
    "bf16": np.uint16,
    "b32": np.uint32,
    "u32": np.uint32,
    "s32": np.int32,
    "f32": np.float32,
    "f16x2": np.uint32,
    "bf16x2": np.uint32,
    "tf32": np.uint32,
    "u16x2": np.uint32,
    "s16x2": np.uint32,
    "f32x2": np.uint64,
    "b64": np.uint64,
    "u64": np.uint64,
    "s64": np.int64,
    "f64": np.float64,
}
RAW_TYPE: dict[str, ScalarType] = {
    kind: np.bool_ if kind == "pred" else UINT[syntax.TYPE_BYTES[kind]] for kind in NUMPY_TYPE
}
WINDOWS = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "param": PARAM_WINDOW}
NORMAL, BRANCH, CONTROL, COLLECTIVE = range(4)
#: A guard predicate: its register slot, and whether it is negated.
Guard: TypeAlias = tuple[int, bool]


class Control:
    """Marks a decoded instruction that decides itself where its lanes go next."""

    def __init__(self, run: Step) -> None:
        self.run = run


class Collective:
    """Marks a decoded instruction that needs the lanes of ``mask`` (None: all) of a warp together.

    ``width`` is 128 for instructions of a warpgroup of four warps.
    """

    def __init__(self, run: Run, mask: Reader | None = None, width: int = 32) -> None:
        self.run, self.mask, self.width = run, mask, width


class Program:
    """The code of one kernel and of all functions it calls, decoded to closures."""

    def __init__(self, module: Module, kernel: Function) -> None:
        from .decode import decode

        self.module, self.kernel = module, kernel
        self.symbols = module.symbols
        self.functions = self._callees_first(kernel, [])
        self.code: list[Instruction] = []
        self.placed: list[tuple[Function, Instruction]] = []
        self.entry_pc: dict[str, int] = {}
        self.label_pc: dict[str, list[int]] = {}
        self.registers, self.local_bytes = 0, 0
        self._lay_out_parameters()
        self._lay_out_shared()
        for function in self.functions:
            self._lay_out_function(function)
        self.read_slots = self._slots_read()
        self.carry_slot = self.registers
        self.registers += 1
        self.kinds: list[int] = []
        self.runs: list[Any] = []  # a Run, a target, a Step, or (run, mask, width), by kind
        self.guards: list[Guard | None] = []
        for pc, (function, instruction) in enumerate(self.placed):
            self.function = function
            self._add(decode(self, instruction, pc), instruction)
        self.loops = find_loops([(pc, run) for pc, run in enumerate(self.runs) if self.kinds[pc] == BRANCH])
        self.smallest_shared_access = self._smallest_access(("ld", "st"), ("shared", "generic"), False)
        self.smallest_global_store = self._smallest_access(("st",), ("global", "generic"), True)

    def _smallest_access(self, ops: Sequence[str], spaces: Sequence[str], whole: bool) -> int:
        """Bytes of the smallest access (of an element, or of the ``whole`` vector), at most 4 or 16."""
        from .decode import access_width, state_space

        sizes = [16 if whole else 4]
        for instruction in self.code:
            if instruction.op in ops and state_space(instruction) in spaces:
                count, kind = access_width(instruction)
                sizes.append(syntax.TYPE_BYTES[kind] * (count if whole else 1))
            elif whole and instruction.op in ("wmma", "cp"):  # store element by element
                sizes.append(1)
        return min(sizes)

    def _callees_first(self, function: Function, order: list[Function], seen: set[str] | None = None) -> list[Function]:
        """Every function the kernel can reach, callees before callers where that is possible."""
        seen = set() if seen is None else seen
        if function.name in seen:
            return order
        seen.add(function.name)
        for instruction in function.body:
            names = [a.name for a in instruction.args if isinstance(a, syntax.Name)]
            callee = next((a for a in instruction.args if not isinstance(a, syntax.Group)), None)
            if instruction.op == "call" and not isinstance(callee, syntax.Name):  # indirect: it may be any function
                names = list(self.module.parsed.functions)
            for name in names:
                callee = self.module.parsed.functions.get(name)
                if callee is not None and callee.defined and not callee.entry:
                    self._callees_first(callee, order, seen)
        order.append(function)
        return order

    def _lay_out_parameters(self) -> None:
        offset = 0
        for var in self.kernel.params:
            offset = (offset + var.align - 1) // var.align * var.align
            var.offset, var.space = offset, "kernel-param"
            offset += var.bytes
        self.parameter_bytes = offset

    def _lay_out_shared(self) -> None:
        """Static shared variables in order, then the dynamic ones, all at one base."""
        offset, dynamic = 0, []
        variables = [v for v in self.module.parsed.variables.values() if v.space == "shared"]
        used = self._names_used()
        for function in self.functions:
            variables += [v for v in function.variables if v.space == "shared"]
        for var in variables:
            if id(var) not in used:
                continue
            if var.bytes == 0:
                dynamic.append(var)
                continue
            offset = (offset + var.align - 1) // var.align * var.align
            var.offset = offset
            offset += var.bytes
        align = max([16, *(v.align for v in dynamic)])
        base = (offset + align - 1) // align * align
        for var in dynamic:
            var.offset = base
        self.static_shared = offset
        self.dynamic_base = base if dynamic else offset

    def _names_used(self) -> set[int]:
        used = set()

        def visit(operand: Any) -> None:
            if isinstance(operand, syntax.Var):
                used.add(id(operand))
            elif isinstance(operand, syntax.Address):
                visit(operand.base)
            elif isinstance(operand, (syntax.Vector, syntax.Group)):
                for item in operand.items:
                    visit(item)

        for function in self.functions:
            for instruction in function.body:
                for argument in instruction.args:
                    visit(argument)
        return used

    def _lay_out_function(self, function: Function) -> None:
        """Place code, registers and the local frame; a call takes two program counters."""
        self.entry_pc[function.name] = len(self.code)
        function.slot_base = self.registers
        self.registers += len(function.registers)
        frame = [v for v in function.variables if v.space in ("local", "param")]
        if not function.entry:
            frame += function.params + function.returns
        for var in frame:
            self.local_bytes = (self.local_bytes + var.align - 1) // var.align * var.align
            var.offset = self.local_bytes
            if var.space == "param":
                var.space = "local"
            self.local_bytes += var.bytes
        pcs = []
        for instruction in function.body:
            pcs.append(len(self.code))
            self.code.append(instruction)
            self.placed.append((function, instruction))
            if instruction.op == "call":
                after = syntax.Instruction(
                    "call_return",
                    instruction.mods,
                    instruction.args,
                    instruction.guard,
                    instruction.negate,
                    instruction.line,
                    instruction.source,
                    instruction.text,
                )
                self.code.append(after)
                self.placed.append((function, after))
        pcs.append(len(self.code))
        if not function.body or function.body[-1].op not in ("ret", "exit"):
            last = syntax.Instruction(
                "ret", (), [], None, False, function.body[-1].line if function.body else 0, None, "(end of function)"
            )
            self.code.append(last)
            self.placed.append((function, last))
        self.label_pc[function.name] = pcs

    def _slots_read(self) -> set[int]:
        """Registers that some instruction reads (all but pure destinations)."""
        read = set()

        def visit(function: Function, operand: Any) -> None:
            if isinstance(operand, syntax.Reg):
                read.add(function.slot_base + operand.slot)
            elif isinstance(operand, syntax.Address):
                visit(function, operand.base)
            elif isinstance(operand, syntax.Negated):
                visit(function, operand.operand)
            elif isinstance(operand, (syntax.Vector, syntax.Group)):
                for item in operand.items:
                    visit(function, item)

        for function, instruction in self.placed:
            arguments = instruction.args[1:] if instruction.op == "atom" else instruction.args
            for argument in arguments:
                visit(function, argument)
            if instruction.guard is not None:
                visit(function, instruction.guard)
        return read

    def _add(self, decoded: Decoded, instruction: Instruction) -> None:
        run: Any
        if isinstance(decoded, Control):
            kind, run = CONTROL, decoded.run
        elif isinstance(decoded, Collective):
            kind, run = COLLECTIVE, (decoded.run, decoded.mask, decoded.width)
        elif isinstance(decoded, int):
            kind, run = BRANCH, decoded
        else:
            kind, run = NORMAL, decoded
        self.kinds.append(kind)
        self.runs.append(run)
        guard = None
        if instruction.guard is not None:
            guard = (self.slot(instruction.guard), instruction.negate)
        self.guards.append(guard)

    # -- operands ------------------------------------------------------------
    def slot(self, register: Reg) -> int:
        """The place of a register in the register file of the machine."""
        return self.function.slot_base + register.slot

    def target(self, label: Any) -> int:
        """Program counter of a resolved label operand."""
        return self.label_pc[self.function.name][label[1]]

    def constant(self, operand: Imm, kind: str) -> Values:
        """A literal as a NumPy scalar of a PTX type."""
        dtype = NUMPY_TYPE[kind]
        value = operand.value
        if isinstance(value, float):
            if np.issubdtype(dtype, np.floating):
                return dtype(value)
            if operand.bits is not None:
                return dtype(operand.bits) if dtype != np.int32 else np.uint32(operand.bits).view(np.int32)
            return np.float64(value).view(np.uint64).astype(dtype)
        if kind == "pred":
            return np.bool_(value)
        size = np.dtype(dtype).itemsize
        raw = UINT[size](value & ((1 << (8 * size)) - 1))
        if kind in ("f32", "f64"):
            return dtype(value)
        return raw.view(dtype)

    def symbol(self, var: Var) -> int:
        """Address of a variable inside its own state space."""
        if var.space in ("global", "const"):
            return self.symbols[var.name]
        return var.offset

    def reader(self, operand: Operand, kind: str) -> Reader:
        """A function of the machine that yields an operand as an array (or scalar) of a PTX type."""
        dtype = NUMPY_TYPE[kind]
        if isinstance(operand, syntax.Reg):
            return self._register_reader(operand, dtype)
        if isinstance(operand, syntax.Imm):
            value = self.constant(operand, kind)
            return lambda m: value
        if isinstance(operand, syntax.Special):
            name = operand.name
            return lambda m: m.special(name).astype(dtype)
        if isinstance(operand, syntax.Negated):
            inner = self.reader(operand.operand, kind)
            return lambda m: ~inner(m)
        if isinstance(operand, (syntax.Var, syntax.Address)):
            base, offset = (operand.base, operand.offset) if isinstance(operand, syntax.Address) else (operand, 0)
            value = dtype(self.symbol(base) + offset)
            return lambda m: value
        if isinstance(operand, syntax.Name) and operand.name in self.symbols:
            value = dtype(self.symbols[operand.name])
            return lambda m: value
        raise Unsupported(f"operand {operand} as {kind}")

    def _register_reader(self, register: Reg, dtype: ScalarType) -> Reader:
        slot, own = self.slot(register), RAW_TYPE[register.type]
        size, want = np.dtype(own).itemsize, np.dtype(dtype).itemsize
        if dtype is np.bool_ or size == want:

            def read(m: Machine) -> Values:
                value = m.regs[slot]
                if value is None:
                    value = m.new_register(slot, own)
                if m.sel is not None:
                    value = value[m.sel]
                return value.view(dtype)

            return read
        raw = UINT[want]

        def read_resized(m: Machine) -> Values:
            value = m.regs[slot]
            if value is None:
                value = m.new_register(slot, own)
            return m.pick(value).astype(raw).view(dtype)

        return read_resized

    def writer(self, operand: Operand) -> Writer:
        """A function (machine, values) that stores values (or a scalar) into a register."""
        if operand is None:
            return lambda m, values: None
        if not isinstance(operand, syntax.Reg):
            raise Unsupported(f"destination {operand}")
        slot, raw = self.slot(operand), RAW_TYPE[operand.type]
        size = np.dtype(raw).itemsize

        def write(m: Machine, values: Values) -> None:
            dtype = values.dtype
            if dtype != raw:
                if dtype.itemsize != size:  # widen with the sign of the type, or keep the low bits
                    values = values.astype(raw)
                elif values.ndim:
                    values = np.ascontiguousarray(values).view(raw)
                else:
                    values = values.view(raw)
            if m.sel is None:
                m.regs[slot] = values if values.ndim else np.full(m.lanes, values, raw)
            else:
                register = m.regs[slot]
                if register is None:
                    register = m.new_register(slot, raw)
                register[m.sel] = values

        return write

    def address(self, operand: Operand) -> Reader:
        """A function of the machine that yields one uint64 address per active lane."""
        if not isinstance(operand, syntax.Address):
            raise Unsupported(f"address operand {operand}")
        base, offset = operand.base, operand.offset
        if isinstance(base, syntax.Reg):
            kind = "u64" if syntax.TYPE_BYTES[base.type] == 8 else "s32" if offset < 0 else "u32"
            read = self.reader(base, "u64" if kind == "u64" else "u32")
            wrap = np.uint64(offset & (1 << 64) - 1) if kind == "u64" else np.uint32(offset & 0xFFFFFFFF)
            if offset == 0:
                return lambda m: read(m).astype(np.uint64)
            return lambda m: (read(m) + wrap).astype(np.uint64)
        if isinstance(base, syntax.Imm):
            value = np.uint64(base.value + offset)
        else:
            value = np.uint64(self.symbol(base) + offset)
        return lambda m: np.full(m.count, value, np.uint64)
