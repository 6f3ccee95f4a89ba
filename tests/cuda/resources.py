"""What the compiler made of the kernels, and what it may make of them."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptxvm.cudart import Library
from ptxvm.names import demangle, function_name
from ptxvm.toolkit import find_tool
from vsr_kernels import build

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CUDA = build.source_root() / "cuda"
TARGETS = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")


@dataclass(frozen=True)
class Resources:
    """One kernel on one target; ``name`` with template arguments, ``family`` without."""

    name: str
    registers: int
    stack_bytes: int
    spill_bytes: int
    shared_bytes: int = 0  # static

    @property
    def family(self) -> str:
        return family_of(self.name)


def family_of(name: str) -> str:
    """The name of a kernel without namespaces and template arguments."""
    return name.split("<")[0].split("::")[-1]


@dataclass(frozen=True)
class LaunchBudget:
    """What a block of the largest instance of a family takes.

    Attributes:
        threads: of a block.
        shared_bytes: of a block, static and dynamic.
        blocks: that fit on a multiprocessor at least, by target.
        tensor_cores: the first compute capability where the kernels use tensor cores; 0 if they never do.
    """

    threads: int
    shared_bytes: int
    blocks: Mapping[str, int]
    tensor_cores: int


@dataclass(frozen=True)
class Budget:
    """What the kernels of a family may use; ``registers`` by target."""

    registers: Mapping[str, int]
    launch: LaunchBudget | None = None


def read_budgets(text: str) -> dict[str, dict[str, Budget]]:
    """Budgets by file and family."""

    def budget(table: dict[str, Any]) -> Budget:
        launch = table.pop("launch", None)
        if launch is None:
            return Budget(table)
        numbers = (launch["threads"], launch.get("shared", 0), launch["blocks"], launch.get("tensor_cores", 0))
        return Budget(table, LaunchBudget(*numbers))

    files = tomllib.loads(text)
    return {file: {family: budget(table) for family, table in tables.items()} for file, tables in files.items()}


def budgets() -> dict[str, dict[str, Budget]]:
    """The budgets of this package."""
    return read_budgets((CUDA / "budgets.toml").read_text())


def by_family(files: dict[str, dict[str, Budget]]) -> dict[str, Budget]:
    """One budget per family: of families that several files instantiate, the largest of each number."""
    merged: dict[str, Budget] = {}
    for families in files.values():
        for family, budget in families.items():
            other = merged.get(family)
            if other is not None and budget.launch is not None and other.launch is not None:
                registers = {t: max(n, other.registers.get(t, 0)) for t, n in budget.registers.items()}
                mine, theirs = budget.launch, other.launch
                both = mine.blocks.keys() & theirs.blocks.keys()
                blocks = {t: min(mine.blocks[t], theirs.blocks[t]) for t in both}
                shared = max(mine.shared_bytes, theirs.shared_bytes)
                threads = max(mine.threads, theirs.threads)
                first = min(mine.tensor_cores, theirs.tensor_cores)
                budget = Budget(registers, LaunchBudget(threads, shared, blocks, first))
            merged[family] = budget
    return merged


def launch_complaints(libraries: Iterable[Library], budget: Mapping[str, Budget]) -> list[str]:
    """Launches with more threads or shared memory than the budgets of their families say."""
    wrong: set[str] = set()
    for library in libraries:
        for launch in library.launches:
            module = library.owner[launch.kernel]
            family = family_of(function_name(module.readable[launch.kernel]))
            allowed = budget[family].launch if family in budget else None
            threads = math.prod(launch.block)
            shared = launch.shared_bytes + module.program(launch.kernel).static_shared
            if allowed is not None and (threads > allowed.threads or shared > allowed.shared_bytes):
                wrong.add(
                    f"{family}: launched with {threads} threads and {shared} bytes of shared memory; "
                    f"the budget is {allowed.threads} and {allowed.shared_bytes}"
                )
    return sorted(wrong)


def compile_file(toolkit: Path, source: Path, target: str, folder: Path) -> list[Resources]:
    """Compile with the flags of the build for one target such as sm_80.

    Raises:
        AssertionError: nvcc failed, or warned; the message holds what it said.
    """
    flags = [*build.NVCC_FLAGS, "-std=c++17", "-I", str(build.source_root())]
    command = [toolkit / "bin" / "nvcc", *flags, f"-arch={target}", "-Xptxas", "-v", "--cubin", source]
    done = subprocess.run([*command, "-o", folder / "x.cubin"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    return parse(done.stderr)


def parse(report: str) -> list[Resources]:
    """The kernels in the report of ``ptxas -v``; device functions that are not inlined are left out."""
    pattern = re.compile(
        r"Compiling entry function '(\w+)' for '\w+'\n"
        r".*Function properties for \1\n"
        r"\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
        r".*Used (\d+) registers(?:.*?, (\d+) bytes smem)?"
    )
    found = pattern.findall(report)
    names = readable([mangled for mangled, *_ in found])
    assert len(found) == report.count("Compiling entry function"), report
    return [
        Resources(name, int(registers), int(stack), int(stores) + int(loads), int(shared or 0))
        for name, (_, stack, stores, loads, registers, shared) in zip(names, found, strict=True)
    ]


def readable(mangled: list[str]) -> list[str]:
    """Names of functions without their parameters."""
    return [function_name(name) for name in demangle(mangled)]


def installed_resources(path: Path) -> dict[str, list[Resources]]:
    """The kernels inside a shared object, by target; spills are part of the stack there."""
    found: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for target, lines in by_target(run_cuobjdump("-res-usage", str(path))):
        text = "\n".join(lines)
        pattern = r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)"
        rows = [(match[1], tuple(map(int, match.groups()[1:]))) for match in re.finditer(pattern, text)]
        assert len(rows) == text.count("Function "), text
        found.setdefault(target, []).extend(rows)
    reserved = {target: 1024 if int(target.removeprefix("sm_")) >= 90 else 0 for target in found}  # by the system
    return {
        target: [
            Resources(name, registers, stack, local, shared - reserved[target])
            for name, (_, (registers, stack, shared, local)) in zip(readable([n for n, _ in rows]), rows, strict=True)
        ]
        for target, rows in found.items()
    }


def matrix_instructions(path: Path, target: str) -> Counter[str]:
    """Machine instructions for tensor cores, by kernel, in a cubin or shared object; kernels without any count 0."""
    counts: Counter[str] = Counter()
    kernel = ""
    for line in run_cuobjdump("-sass", "-arch", target, str(path)).splitlines():
        if "Function : " in line:
            kernel = line.split("Function : ")[1].strip()
            counts[kernel] += 0
        elif re.search(r"\bH[G]?MMA\.", line):
            counts[kernel] += 1
    return Counter(dict(zip(readable(list(counts)), counts.values(), strict=True)))


def run_cuobjdump(*arguments: str) -> str:
    """What cuobjdump prints."""
    tool = find_tool("cuobjdump")
    assert tool is not None, "cuobjdump was not found: expected it in the CUDA toolkit, on PATH or in Triton"
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


def by_target(text: str) -> list[tuple[str, list[str]]]:
    """The parts of a listing that begin with ``arch = sm_..``."""
    parts: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        match = re.match(r"arch = (sm_\w+)", line)
        if match:
            parts.append((match[1], []))
        elif parts:
            parts[-1][1].append(line)
    return parts
