"""Machine code of a kernel, and how often a launch that ran here would have executed it.

ptxas turns PTX into SASS; nvdisasm prints it. The PTX is assembled with line information that refers to the PTX itself,
so that each SASS instruction names the PTX instruction it was made from, whose executions a launch has counted. A basic
block of SASS runs as often as the instructions that it consists of: that gives the instructions issued, without a GPU.
Branches inside what ptxas makes of one PTX instruction (64-bit division, slow paths of roots) count as taken both ways.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import PtxError
from .loops import Span, find_loops
from .module import Module
from .stats import Stats
from .toolkit import find_tool

LINE = re.compile(r"//## .*?, line (\d+)")
SECTION = re.compile(r"\.section\s+\.text\.(\S+?),")
LABEL = re.compile(r"(\.L\w+):$")
CODE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
TARGET = re.compile(r"`\((\.\S+?)\)")
RESOURCES = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
MATRIX = ("HMMA", "IMMA", "DMMA", "QMMA", "OMMA", "HGMMA", "IGMMA", "QGMMA")
# They end a block. A call or a barrier of convergence does not: control comes back.
JUMPS = ("BRA", "BRX", "JMP", "EXIT", "RET", "BREAK", "BSYNC", "KILL")
# Instructions that ptxas neither moves out of their block nor leaves out; it makes one of one, or a copy for each turn
# of a loop that it unrolls.
FIXED = (*MATRIX, "LDSM", "LDGSTS", "BAR", "STG", "STS", "ATOMG", "RED", "SHFL")


@dataclass(frozen=True)
class SassInstruction:
    """One instruction: its place, opcode with modifiers, guard, label it jumps to, line of the PTX it was made from."""

    address: int
    opcode: str
    guard: str
    operands: str
    target: str | None
    line: int | None

    @property
    def name(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.split(".")[0]

    @property
    def is_matrix(self) -> bool:
        """Whether tensor cores execute it."""
        return self.name in MATRIX


@dataclass(frozen=True)
class SassLoop:
    """A loop of the code: addresses, and its instructions without NOPs, loops inside it included."""

    first: int
    last: int
    depth: int
    instructions: int
    matrix: int

    @property
    def other_per_matrix(self) -> float:
        """Other instructions per matrix instruction; infinite without any."""
        return (self.instructions - self.matrix) / self.matrix if self.matrix else float("inf")


@dataclass(frozen=True)
class Executed:
    """Warp instructions that a launch issues, without NOPs, and those of them for tensor cores."""

    instructions: float
    matrix: float

    @property
    def other(self) -> float:
        """All but the matrix instructions."""
        return self.instructions - self.matrix

    @property
    def other_per_matrix(self) -> float:
        """Other instructions per matrix instruction; infinite without any."""
        return self.other / self.matrix if self.matrix else float("inf")


@dataclass(frozen=True)
class SassKernel:
    """The machine code of one kernel.

    Attributes:
        name: mangled name.
        code: its instructions in order of address.
        labels: address by label.
        registers: registers of a thread.
        stack_bytes: bytes of stack of a thread.
        spill_bytes: bytes of registers that are stored to memory and loaded again.
    """

    name: str
    code: tuple[SassInstruction, ...]
    labels: Mapping[str, int]
    registers: int
    stack_bytes: int
    spill_bytes: int

    def blocks(self) -> list[Span]:
        """The basic blocks, as ranges of indices of ``code``."""
        at = {instruction.address: i for i, instruction in enumerate(self.code)}
        leaders = {0} | {at[address] for address in self.labels.values() if address in at}
        leaders |= {i + 1 for i, instruction in enumerate(self.code) if instruction.name in JUMPS}
        starts = sorted(i for i in leaders if i < len(self.code))
        return [Span(first, end - 1, 0) for first, end in zip(starts, [*starts[1:], len(self.code)], strict=True)]

    def loops(self) -> list[SassLoop]:
        """The loops, found by their backward branches, in the order of the code."""
        at = {instruction.address: i for i, instruction in enumerate(self.code)}
        branches = [
            (i, at[self.labels[instruction.target]])
            for i, instruction in enumerate(self.code)
            if instruction.name == "BRA" and instruction.target and self.labels[instruction.target] in at
        ]
        found = []
        for span in find_loops([(pc, target) for pc, target in branches if target < pc]):  # a jump to itself ends code
            inside = [i for i in self.code[span.first : span.last + 1] if i.name != "NOP"]
            matrix = sum(i.is_matrix for i in inside)
            first, last = self.code[span.first].address, self.code[span.last].address
            found.append(SassLoop(first, last, span.depth, len(inside), matrix))
        return found

    def main_loop(self, stats: Stats | None = None) -> SassLoop | None:
        """The smallest loop with most of the matrix instructions (of those executed, if counts are given), or None."""
        weights = self.frequencies(stats) if stats is not None else [1.0] * len(self.code)

        def work(first: int, last: int) -> float:
            pairs = zip(self.code, weights, strict=True)
            return sum(w for i, w in pairs if i.is_matrix and first <= i.address <= last)

        most = work(0, self.code[-1].address) / 2
        loops = [loop for loop in self.loops() if loop.matrix and work(loop.first, loop.last) > most]
        return min(loops, key=lambda loop: loop.instructions, default=None)

    def frequencies(self, stats: Stats) -> list[float]:
        """How often warps execute each instruction in a launch of the same PTX.

        Instructions of a block are executed equally often; the counts of the PTX instructions that they were made from
        differ only where ptxas moved or copied some, so the middle of those that stay in their place decides. Copies of
        those share their executions evenly.
        """
        issued: dict[int, int] = {}
        for instruction, count in zip(stats.code, stats.issued, strict=True):
            issued[instruction.line] = max(count, issued.get(instruction.line, 0))
        copies = Counter((i.line, i.name) for i in self.code if i.name in FIXED)
        result: list[float] = []
        for block in self.blocks():
            inside = self.code[block.first : block.last + 1]
            known = [i for i in inside if i.line in issued]
            plain = [i for i in known if not i.guard]
            fixed = [i for i in plain if i.name in FIXED]
            some = fixed or plain or known
            evidence = [issued[i.line] / copies.get((i.line, i.name), 1) for i in some if i.line is not None]
            result += [statistics.median_low(evidence) if evidence else 0.0] * len(inside)
        return result

    def executed(self, stats: Stats, loop: SassLoop | None = None) -> Executed:
        """What a launch of the same PTX issues, in the whole kernel or in a loop."""
        first, last = (loop.first, loop.last) if loop is not None else (0, self.code[-1].address)
        counted = zip(self.code, self.frequencies(stats), strict=True)
        pairs = [(i, n) for i, n in counted if i.name != "NOP" and first <= i.address <= last]
        return Executed(sum(n for _, n in pairs), sum(n for i, n in pairs if i.is_matrix))


def assemble(module: Module, kernel: str, target: str, ptxas: str | None = None) -> SassKernel:
    """Assemble one kernel of a module for a target such as sm_86 and read the machine code.

    Args:
        module: the PTX.
        kernel: name of the kernel, as :meth:`Module.find` takes it.
        target: what to assemble for.
        ptxas: the assembler, by default that of the CUDA toolkit.

    Raises:
        PtxError: ptxas or nvdisasm is missing, or failed.
    """
    mangled = module.find(kernel)
    assembler = ptxas or find_tool("ptxas")
    if assembler is None:
        raise PtxError("ptxas was not found: expected it in CUDA_HOME/bin, on PATH or in /usr/local/cuda/bin")
    module.program(mangled)  # so that its lines are known
    with tempfile.TemporaryDirectory(prefix="ptxvm-") as folder:
        source, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(with_own_lines(module))
        command = [assembler, "-v", f"-arch={target}", "--generate-line-info", f"--entry={mangled}"]
        done = subprocess.run([*command, source, "-o", cubin], capture_output=True, text=True, check=False)
        if done.returncode:
            raise PtxError(f"ptxas failed:\n{done.stdout}{done.stderr}")
        report = done.stdout + done.stderr
        listing = disassemble(cubin)
    registers, spills = re.search(r"Used (\d+) registers", report), RESOURCES.search(report)
    if registers is None or spills is None:
        raise PtxError(f"ptxas said nothing about registers:\n{report}")
    stack, stores, loads = map(int, spills.groups())
    code, labels = parse(listing)[mangled]
    return SassKernel(mangled, code, labels, int(registers.group(1)), stack, stores + loads)


def with_own_lines(module: Module) -> str:
    """The PTX with line information that refers to its own lines."""
    starts = {i.line for f in module.parsed.functions.values() for i in f.body}
    lines, in_section = [], False
    for number, text in enumerate(module.text.splitlines(), 1):
        directive = (text.split() or [""])[0]
        in_section |= directive == ".section"
        if not in_section and directive not in (".loc", ".file"):
            lines += [f".loc 1 {number} 0", text] if number in starts else [text]
        in_section &= "}" not in text
        if directive == ".address_size":
            lines.append('.file 1 "kernel.ptx"')
    return "\n".join(lines) + "\n"


def disassemble(cubin: str | Path) -> str:
    """What nvdisasm prints of a cubin.

    Raises:
        PtxError: nvdisasm is missing, or failed.
    """
    tool = find_tool("nvdisasm")
    if tool is None:
        raise PtxError("nvdisasm was not found: expected it in the CUDA toolkit, on PATH or in Triton")
    done = subprocess.run([tool, "-c", "-g", str(cubin)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PtxError(f"nvdisasm failed:\n{done.stderr}")
    return done.stdout


def parse(listing: str) -> dict[str, tuple[tuple[SassInstruction, ...], dict[str, int]]]:
    """Instructions and labels of each kernel, by mangled name, in what nvdisasm prints."""
    kernels: dict[str, tuple[list[SassInstruction], dict[str, int]]] = {}
    code: list[SassInstruction] = []
    labels: dict[str, int] = {}
    waiting: list[str] = []  # labels of the next instruction
    line: int | None = None
    for text in map(str.strip, listing.splitlines()):
        if match := SECTION.match(text):
            code, labels = kernels.setdefault(match.group(1), ([], {}))
            waiting, line = [], None
        elif match := LINE.match(text):
            line = int(match.group(1))
        elif match := LABEL.match(text):
            waiting.append(match.group(1))
        elif match := CODE.match(text):
            address, guard, opcode, operands = match.groups()
            jump = TARGET.search(operands)
            labels.update(dict.fromkeys(waiting, int(address, 16)))
            waiting = []
            place = int(address, 16)
            code.append(SassInstruction(place, opcode, guard or "", operands, jump and jump.group(1), line))
    return {name: (tuple(found), places) for name, (found, places) in kernels.items()}
