"""What ptxas says about the kernels of a file."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ptxvm.names import demangle, function_name
from vsr_kernels import build


@dataclass(frozen=True)
class Resources:
    """One kernel on one target; ``name`` with template arguments, ``family`` without."""

    name: str
    registers: int
    stack_bytes: int
    spill_bytes: int

    @property
    def family(self) -> str:
        return self.name.split("<")[0].split("::")[-1]


def compile_file(toolkit: Path, source: Path, target: str, folder: Path) -> list[Resources]:
    """Compile with the flags of the build for one target such as sm_80.

    Raises:
        AssertionError: nvcc failed; the message holds what it said.
    """
    flags = [*build.NVCC_FLAGS, "-std=c++17", "-I", str(build.source_root())]
    command = [toolkit / "bin" / "nvcc", *flags, f"-arch={target}", "-Xptxas", "-v", "--cubin", source]
    done = subprocess.run([*command, "-o", folder / "x.cubin"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return parse(done.stderr)


def parse(report: str) -> list[Resources]:
    """The kernels in the report of ``ptxas -v``; device functions that are not inlined are left out."""
    pattern = re.compile(
        r"Compiling entry function '(\w+)' for '\w+'\n"
        r".*Function properties for \1\n"
        r"\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
        r".*Used (\d+) registers"
    )
    found = pattern.findall(report)
    names = [function_name(name) for name in demangle([mangled for mangled, *_ in found])]
    assert len(found) == report.count("Compiling entry function"), report
    return [
        Resources(name, int(registers), int(stack), int(stores) + int(loads))
        for name, (_, stack, stores, loads, registers) in zip(names, found, strict=True)
    ]
