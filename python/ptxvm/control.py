"""Decoders of branches, calls, device-side library functions and block barriers."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .aliases import Array, Decoded
from .barriers import Reduction
from .decode import op, wants_pc
from .errors import KernelFault, OutOfBounds, Trap, Unsupported
from .program import WINDOWS, Collective, Control
from .syntax import Group, Name

if TYPE_CHECKING:
    from .machine import Machine
    from .program import Program
    from .syntax import Function, Instruction, Operand, Var

U32, U64, F64 = np.uint32, np.uint64, np.float64


# -- control flow ----------------------------------------------------------------------------------------


@op("bra")
def branch(program: Program, ins: Instruction) -> Decoded:
    """bra: its target."""
    return program.target(ins.args[0])


@op("brx")
@wants_pc
def branch_indexed(program: Program, ins: Instruction, pc: int) -> Decoded:
    """brx.idx: a branch through a table of labels."""
    index = program.reader(ins.args[0], "u32")
    labels = program.function.tables[ins.args[1][1] if isinstance(ins.args[1], tuple) else ins.args[1].name]
    targets = np.array([program.label_pc[program.function.name][program.function.labels[name]] for name in labels])

    def run(m: Machine, pc: int) -> int | None:
        lanes = m.active_lanes()
        goal = targets[np.broadcast_to(index(m), (m.count,))]
        for target in np.unique(goal).tolist():
            m.push(target, lanes[goal == target])
        return None

    return Control(run)


@op("exit")
def exit_thread(program: Program, ins: Instruction) -> Decoded:
    """exit."""

    def run(m: Machine, pc: int) -> int | None:
        m.exit_lanes()
        return None

    return Control(run)


@op("ret")
def return_from(program: Program, ins: Instruction) -> Decoded:
    """ret: back to the caller, or the end of the thread."""
    function = program.function
    if function.entry:
        return exit_thread(program, ins)

    def run(m: Machine, pc: int) -> int | None:
        lanes = m.active_lanes()
        goal = m.return_pc[function.name][lanes]
        m.return_pc[function.name][lanes] = -1
        for target in np.unique(goal).tolist():
            m.push(target, lanes[goal == target])
        return None

    return Control(run)


def copy_local(m: Machine, source: Var, target: Var) -> None:
    """Copy a frame variable to another one for the active lanes."""
    lanes = m.active_lanes()
    rows = m.local.data.reshape(m.lanes, -1)
    rows[lanes, target.offset : target.offset + target.bytes] = rows[
        lanes, source.offset : source.offset + target.bytes
    ]


def call_parts(ins: Instruction) -> tuple[Sequence[Any], Operand, Sequence[Any]]:
    """(results, callee operand, arguments) of a call in any of its forms."""
    at = next(i for i, a in enumerate(ins.args) if not isinstance(a, Group))
    after = next((a.items for a in ins.args[at + 1 :] if isinstance(a, Group)), ())
    return ins.args[0].items if at else (), ins.args[at], after


def enter(m: Machine, program: Program, function: Function, arguments: Sequence[Any], pc: int) -> int:
    """Pass the arguments of the active lanes and note where they return to."""
    for actual, formal in zip(arguments, function.params, strict=True):
        copy_local(m, actual, formal)
    lanes = m.active_lanes()
    returns = m.return_pc.setdefault(function.name, np.full(m.lanes, -1, np.int64))
    if (returns[lanes] >= 0).any():
        raise KernelFault("recursive calls are not supported", int(np.flatnonzero(returns[lanes] >= 0)[0]))
    returns[lanes] = pc + 1
    return program.entry_pc[function.name]


@op("call")
@wants_pc
def call(program: Program, ins: Instruction, pc: int) -> Decoded:
    """A direct call; its second half fetches the results."""
    _, callee, arguments = call_parts(ins)
    if not isinstance(callee, Name):
        return call_indirect(program, callee, arguments)
    function = program.module.parsed.functions[callee.name]
    if not function.defined:
        return call_runtime(program, callee.name, arguments)
    return Control(lambda m, pc: enter(m, program, function, arguments, pc))


def call_indirect(program: Program, callee: Operand, arguments: Sequence[Any]) -> Decoded:
    """A call through a register: every target that a lane names is entered."""
    read = program.reader(callee, "u64")

    def run(m: Machine, pc: int) -> int | None:
        lanes, target = m.active_lanes(), np.broadcast_to(read(m), (m.count,))
        m.callee.setdefault(pc, np.zeros(m.lanes, np.uint64))[lanes] = target
        for address in np.unique(target).tolist():
            function = program.module.function_at.get(address)
            positions = np.flatnonzero(target == address)
            if function is None:
                raise KernelFault(f"call of {address:#x}, which is not a function", int(positions[0]))
            entry = m.run_on(positions, functools.partial(enter, m, program, function, arguments, pc))
            m.push(entry, lanes[positions])
        return None

    return Control(run)


@op("call_return")
@wants_pc
def call_return(program: Program, ins: Instruction, pc: int) -> Decoded:
    """The second half of a call: fetch the results."""
    results, callee, _ = call_parts(ins)
    if isinstance(callee, Name):
        function = program.module.parsed.functions[callee.name]
        return lambda m: take_results(m, function, results)

    def run(m: Machine) -> None:
        called = m.callee[pc - 1][m.active_lanes()]
        for address in np.unique(called).tolist():
            function = program.module.function_at[address]
            m.run_on(np.flatnonzero(called == address), functools.partial(take_results, m, function, results))

    return run


def take_results(m: Machine, function: Function, results: Sequence[Any]) -> None:
    """Copy results to the frame variables of the caller."""
    for formal, actual in zip(function.returns if function.defined else (), results, strict=False):
        copy_local(m, formal, actual)


def call_runtime(program: Program, name: str, arguments: Sequence[Any]) -> Decoded:
    """Device-side library functions: assertions and printf."""
    if name == "__assertfail":

        def fail(m: Machine, pc: int) -> int | None:
            raise Trap("device-side assertion failed", 0)

        return Control(fail)
    if name == "vprintf":

        def show(m: Machine, pc: int) -> int | None:
            frame = m.local.data.reshape(m.lanes, -1)
            for lane in m.active_lanes().tolist():
                template, values = (int(frame[lane, a.offset : a.offset + 8].view(U64)[0]) for a in arguments)
                m.stats.printed.append(format_printf(m, lane, template, values))
            return pc + 1

        return Control(show)
    raise Unsupported(f"call of undefined function {name}")


def read_string(m: Machine, address: int) -> str:
    """A zero-terminated string in global memory."""
    region = m.memory.region(address)
    if region is None:
        raise OutOfBounds(m.memory.describe(address, 1), 0)
    tail = region.data[address - region.origin :]
    return bytes(tail[: int(np.flatnonzero(tail == 0)[0])]).decode(errors="replace")


CONVERSION = re.compile(r"%[-+ #0]*[\d.]*(hh|h|ll|l|z|j|t)?([diouxXeEfFgGaAcsp%])")


def format_printf(m: Machine, lane: int, template: int, values: int) -> str:
    """What device printf prints: the arguments lie in local memory, naturally aligned."""
    frame = m.local.data.reshape(m.lanes, -1)[lane]
    at = values - WINDOWS["local"]

    def convert(match: re.Match[str]) -> str:
        nonlocal at
        length, letter = match.groups()
        if letter == "%":
            return "%"
        wide = letter in "eEfFgGaAsp" or length in ("l", "ll", "z", "j", "t")
        size = 8 if wide else 4
        at = (at + size - 1) // size * size
        raw = frame[at : at + size]
        at += size
        if letter in "eEfFgGaA":
            return match.group().replace(length or "", "") % raw.view(F64)[0]
        if letter == "s":
            return match.group() % read_string(m, int(raw.view(U64)[0]))
        if letter == "p":
            return hex(int(raw.view(U64)[0]))
        kind = ("i" if letter in "di" else "u") + str(size)
        value = int(raw.view(kind)[0])
        return match.group().replace(length or "", "").replace("u", "d") % (chr(value) if letter == "c" else value)

    return CONVERSION.sub(convert, read_string(m, template))


@op("trap", "brkpt")
def trap(program: Program, ins: Instruction) -> Decoded:
    """trap and brkpt."""

    def run(m: Machine) -> None:
        raise Trap("trap instruction", 0)

    return run


# -- barriers -------------------------------------------------------------------------------------------------


@op("bar", "barrier")
def barrier(program: Program, ins: Instruction) -> Decoded:
    """Barriers of a block or its part, of a warp, and of a cluster of one block."""
    if ins.has("warp"):
        return Collective(lambda m: None, program.reader(ins.args[0], "u32"))
    if ins.has("cluster"):
        if ins.has("arrive"):
            return lambda m: None
        return Control(lambda m, pc: m.barrier_wait(pc, np.int64(16), None))
    if ins.has("red"):
        return barrier_reduction(program, ins)
    number = program.reader(ins.args[0], "s32")
    expected = program.reader(ins.args[1], "s32") if len(ins.args) > 1 else None
    if ins.has("arrive"):
        if expected is None:
            raise Unsupported("bar.arrive without a number of threads")

        def arrive(m: Machine, pc: int) -> int | None:
            m.barrier_arrive(number(m), expected(m))
            return pc + 1

        return Control(arrive)

    def wait(m: Machine, pc: int) -> int | None:
        return m.barrier_wait(pc, number(m), expected(m) if expected else None)

    return Control(wait)


def barrier_reduction(program: Program, ins: Instruction) -> Decoded:
    """bar.red: a barrier that also combines one predicate per thread."""
    number = program.reader(ins.args[1], "s32")
    predicate = program.reader(ins.args[-1], "pred")
    expected = program.reader(ins.args[2], "s32") if len(ins.args) == 4 else None
    write = program.writer(ins.args[0])

    def combine(totals: Array, counts: Array) -> Array:
        if "popc" in ins.mods:
            return totals.astype(U32)
        return np.asarray(totals == counts if "and" in ins.mods else totals > 0)

    def run(m: Machine, pc: int) -> int | None:
        if pc not in m.barriers.reductions:
            m.barriers.reductions[pc] = Reduction(np.zeros(m.lanes, bool), combine, write)
        m.barriers.reductions[pc].values[m.active_lanes()] = predicate(m)
        following = m.barrier_wait(pc, number(m), expected(m) if expected else None)
        if following is not None:
            m.finish_reduction(pc, m.active_lanes())
        return following

    return Control(run)
