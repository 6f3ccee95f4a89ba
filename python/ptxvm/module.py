"""Modules, kernels and launches: the part of the package a test talks to."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .aliases import Array, Triple
from .arguments import Arguments
from .devices import Device, limits
from .errors import LaunchError, PtxError
from .machine import Machine
from .memory import Memory
from .names import demangle, matching
from .options import Options
from .ownership import StoreOwners
from .parser import parse
from .program import Program
from .stats import Stats
from .syntax import TYPE_BYTES, Address
from .toolkit import run_tool

if TYPE_CHECKING:
    from .syntax import Var

FIRST_FUNCTION = 0x1000  # address of the first device function


def poison(array: Array, byte: int = 0xFF) -> Array:
    """Fill an output array with a pattern (NaN for floats) that no kernel should leave behind."""
    array.reshape(-1).view(np.uint8)[...] = byte
    return array


def compile_cuda(source: str | os.PathLike[str], arch: str = "sm_80", options: Sequence[str] = ()) -> str:
    """PTX text of a .cu file."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "kernel.ptx")
        arguments = ["-ptx", f"-arch={arch}", "-lineinfo", "-std=c++17", *options, str(source), "-o", str(target)]
        run_tool("nvcc", arguments)
        return target.read_text()


class Module:
    """A PTX module: its kernels, and the memory its global variables live in.

    Args:
        text: PTX.
        memory: where buffers and global variables live, a new one by default.
        device: the simulated device, by default that of the PTX target.
    """

    def __init__(self, text: str, memory: Memory | None = None, device: Device | None = None) -> None:
        self.text = text
        self.parsed = parse(text)
        self.memory = memory or Memory()
        target = (self.parsed.target or "sm_80").split(",")[0]
        self.device = device or Device.for_target(target)
        self.entries = {name: f for name, f in self.parsed.functions.items() if f.entry and f.defined}
        self.readable = dict(zip(self.entries, demangle(list(self.entries)), strict=True))
        self.shared_limit: dict[str, int] = {}
        self.programs: dict[str, Program] = {}
        self.symbols: dict[str, int] = {}
        self._place_variables()

    @classmethod
    def from_ptx(cls, text: str, **keywords: Any) -> Module:
        """A module from PTX text; keywords are those of the constructor."""
        return cls(text, **keywords)

    @classmethod
    def from_cuda(
        cls,
        source: str | os.PathLike[str],
        arch: str = "sm_80",
        options: Sequence[str] = (),
        **keywords: Any,
    ) -> Module:
        """A module from a .cu file; keywords are those of the constructor."""
        return cls(compile_cuda(source, arch, options), **keywords)

    @property
    def kernels(self) -> list[str]:
        """Readable kernel names."""
        return list(self.readable.values())

    def _place_variables(self) -> None:
        functions = [f for f in self.parsed.functions.values() if f.defined and not f.entry]
        for index, function in enumerate(functions):
            self.symbols[function.name] = FIRST_FUNCTION + 16 * index
        self.function_at = {self.symbols[f.name]: f for f in functions}
        variables = [v for v in self.parsed.variables.values() if v.space in ("global", "const")]
        for var in variables:
            self.symbols[var.name] = self.memory.alloc(max(var.bytes, 1), var.name, fill=0)
        for var in variables:
            if var.init:
                self.memory.copy_in(self.symbols[var.name], self._initial_bytes(var))

    def _initial_bytes(self, var: Var) -> Array:
        width = TYPE_BYTES[var.type]
        data = bytearray()
        for item in var.init:
            if isinstance(item, Address):
                target = item.base.name
                value = self.symbols.get(target, 0) + item.offset
            elif isinstance(item.value, float):
                value = (
                    int(np.float32(item.value).view(np.uint32))
                    if width == 4
                    else int(np.float64(item.value).view(np.uint64))
                )
            else:
                value = item.value
            data += (value & ((1 << (8 * width)) - 1)).to_bytes(width, "little")
        return np.frombuffer(bytes(data), np.uint8)

    def find(self, name: str) -> str:
        """The mangled name of the only kernel that ``name`` can mean (see ``names.matching``)."""
        found = matching(name, self.readable)
        if len(found) != 1:
            raise PtxError(f"{name!r} names {len(found)} kernels; there are {self.kernels}")
        return found[0]

    def program(self, name: str) -> Program:
        """The decoded program of a kernel (made once)."""
        mangled = self.find(name)
        if mangled not in self.programs:
            self.parsed.read(mangled)
            self.programs[mangled] = Program(self, self.entries[mangled])
        return self.programs[mangled]

    def symbol_address(self, name: str) -> int:
        """Device address of a __device__ or __constant__ variable."""
        if name in self.symbols:
            return self.symbols[name]
        found = [s for s in self.symbols if name in s]
        if len(found) != 1:
            raise PtxError(f"{name!r} names {len(found)} variables")
        return self.symbols[found[0]]

    def allow_shared(self, name: str, nbytes: int) -> None:
        """cudaFuncSetAttribute(MaxDynamicSharedMemorySize)."""
        program = self.program(name)
        if nbytes + program.static_shared > self.device.shared_optin:
            raise LaunchError("cudaErrorInvalidValue", f"{nbytes} bytes exceed {self.device.shared_optin}")
        self.shared_limit[program.kernel.name] = nbytes

    # -- launching -----------------------------------------------------------------
    def launch(
        self,
        kernel: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        args: Sequence[Any] = (),
        shared_bytes: int = 0,
        options: Options | None = None,
        strict_shared: bool = False,
        **changes: Any,
    ) -> Stats:
        """Run a kernel; returns its ``Stats``.

        ``args``: NumPy arrays (buffers), scalars, or bytes (structs by value).
        Keyword ``changes`` override fields of ``Options``.  ``strict_shared`` asks for
        the opt-in that real launches need above 48 KiB of dynamic shared memory.
        """
        program = self.program(kernel)
        arguments = Arguments(self.memory, program.kernel, args)
        try:
            stats = self.launch_raw(
                program.kernel.name, grid, block, arguments.block, shared_bytes, options, strict_shared, **changes
            )
            for array, address, work in arguments.buffers:
                stats.note_written(array, self.memory.region(address))
                if work is not array:
                    array[...] = work
            return stats
        finally:
            arguments.release()

    def launch_raw(
        self,
        kernel: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        params: bytes,
        shared_bytes: int = 0,
        options: Options | None = None,
        strict_shared: bool = True,
        **changes: Any,
    ) -> Stats:
        """Run a kernel whose parameter block is already laid out in bytes."""
        program = self.program(kernel)
        blocks, threads = triple(grid), triple(block)
        allowed = self.shared_limit.get(program.kernel.name, limits.default_dynamic_shared)
        if not strict_shared:
            allowed = self.device.shared_optin
        self.device.check_launch(
            blocks, threads, shared_bytes, program.static_shared, allowed, program.kernel.directives
        )
        chosen = dataclasses.replace(options or Options(), **changes)
        stats = Stats(self.readable[program.kernel.name], program.code, program.loops)
        buffer = np.zeros((len(params) + 63) // 32 * 32, np.uint8)
        buffer[: len(params)] = np.frombuffer(params, np.uint8)
        for region in self.memory.regions:
            region.clear_marks()
        start, total = time.perf_counter(), math.prod(blocks)
        stats.blocks, stats.threads = total, math.prod(threads)
        shared = (
            max(program.dynamic_base + shared_bytes, program.static_shared) if shared_bytes else program.static_shared
        )
        step = chosen.blocks_per_chunk or self._blocks_per_chunk(program, threads, shared, chosen)
        owners = None
        if chosen.check_blocks and total > 1:
            owners = StoreOwners(program.smallest_global_store, chosen.check_equal_stores)
        for first in range(0, total, step):
            count = min(step, total - first)
            Machine(program, blocks, threads, first, count, shared, buffer, self.memory, owners, stats, chosen).run()
            stats.finish_chunk()
        stats.seconds = time.perf_counter() - start
        stats.unique_read_bytes = sum(r.marked(False) for r in self.memory.regions)
        stats.unique_write_bytes = sum(r.marked(True) for r in self.memory.regions)
        return stats

    @staticmethod
    def _blocks_per_chunk(program: Program, block: Triple, shared: int, options: Options) -> int:
        lanes = (math.prod(block) + 31) // 32 * 32
        entries = shared // program.smallest_shared_access  # of the shadow: a writer, and a reader of each warp
        per_block = (
            lanes * (program.registers * 5 + program.local_bytes + 64) + shared + 4 * entries * (1 + lanes // 32)
        )
        return max(1, min(options.chunk_lanes // lanes, options.chunk_bytes // per_block))


def triple(shape: int | Sequence[int]) -> Triple:
    """A launch dimension as three integers."""
    given = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    x, y, z = (int(value) for value in given + (1,) * (3 - len(given)))
    return x, y, z
