"""Runs the launchers and the Triton baselines in ptxvm for one target, and keeps what was launched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptxvm import Module, Stats, occupancy
from ptxvm.cudart import Library
from ptxvm.sass import SassKernel, assemble
from ptxvm.toolkit import triton_tools
from ptxvm.triton import TritonKernel
from vsr_kernels import build

ROOT = Path(__file__).resolve().parents[2]
# The tests check all this at small sizes; here the same code is only counted.
UNCHECKED = {"check_shared": False, "check_races": False, "check_blocks": False, "check_uninitialized": False}


@dataclass(frozen=True)
class Launched:
    """One launch: the code that ran, its geometry, its counters, and the assembler that goes with its PTX."""

    module: Module
    kernel: str
    blocks: int
    threads: int
    shared_bytes: int
    stats: Stats
    ptxas: str | None = None


def build_library(name: str, target: int) -> Library:
    """The launchers behind tests/cuda/kernels/<name>.cu."""
    source = ROOT / "tests" / "cuda" / "kernels" / f"{name}.cu"
    options = ["-I", str(build.source_root()), "--expt-relaxed-constexpr"]
    return Library.build([source], arch=f"sm_{target}", options=options)


class Machine:
    """One simulated device.

    Args:
        target: compute capability, a key of ``ptxvm.DEVICES``.
        load: where libraries come from; compiles them by default.
    """

    def __init__(self, target: int, load: Callable[[str], Library] | None = None) -> None:
        self.target = target
        self._load = load or (lambda name: build_library(name, target))
        self._libraries: dict[str, Library] = {}
        self._assembled: dict[tuple[int, str], SassKernel] = {}

    def library(self, name: str) -> Library:
        """A library, compiled when it is first asked for."""
        if name not in self._libraries:
            self._libraries[name] = self._load(name)
        return self._libraries[name]

    def call(self, name: str, function: str, *args: Any) -> list[Launched]:
        """Call a launcher; what it launched.

        Raises:
            RuntimeError: the launcher returned an error.
        """
        library = self.library(name)
        before, checks = len(library.launches), library.options
        library.options = UNCHECKED
        try:
            code = library.call(function, *args)
        finally:
            library.options = checks
        if code:
            what = f"{function} on sm_{self.target}: expected cudaSuccess, got error {code}"
            raise RuntimeError(f"{what} ({library.error})" if library.error else what)
        found = []
        for launch in library.launches[before:]:
            module = library.owner[launch.kernel]
            shared = launch.shared_bytes + module.program(launch.kernel).static_shared
            blocks, threads = int(np.prod(launch.grid)), int(np.prod(launch.block))
            found.append(Launched(module, launch.kernel, blocks, threads, shared, launch.stats))
        del library.launches[before:]
        return found

    def launch_triton(self, kernel: TritonKernel, grid: tuple[int, ...], args: list[Any]) -> Launched:
        """Launch a Triton kernel that was compiled for this target."""
        stats = kernel.launch(grid, args, **UNCHECKED)
        blocks = int(np.prod(grid))
        ptxas = triton_ptxas(self.target)
        return Launched(kernel.module, kernel.name, blocks, kernel.threads, kernel.shared_bytes, stats, ptxas)

    def assemble(self, launched: Launched) -> SassKernel:
        """The machine code of a launch (made once)."""
        key = (id(launched.module), launched.kernel)
        if key not in self._assembled:
            suffix = "a" if ".target sm_90a" in launched.module.text else ""
            target = f"sm_{self.target}{suffix}"
            self._assembled[key] = assemble(launched.module, launched.kernel, target, launched.ptxas)
        return self._assembled[key]

    def resident(self, launched: Launched) -> int:
        """Blocks that fit on a multiprocessor."""
        registers = self.assemble(launched).registers
        return occupancy(self.target, launched.threads, registers, launched.shared_bytes).blocks


def triton_ptxas(target: int) -> str:
    """The assembler that Triton uses for a target: its PTX can be of a later version than the toolkit's."""
    tools = triton_tools() or Path()
    newer = tools / "ptxas-blackwell"
    return str(newer if target >= 90 and newer.is_file() else tools / "ptxas")
