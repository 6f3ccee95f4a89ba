"""Launches as CuPy makes them, of PTX on memory of the host: what stands in for CuPy where code launches by it.

Code that launches gets addresses, so the memory behind them has to be shown first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .module import Module
from .stats import Stats


class Machine:
    """Memory that kernels may reach, and the kernels that ran on it.

    Args:
        options: of every launch, as :meth:`ptxvm.Module.launch` takes them.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.extents: dict[tuple[int, int], Any] = {}
        self.launches: list[tuple[str, tuple[int, ...], int, Stats]] = []

    def show(self, pointer: int, shape: Sequence[int], strides: Sequence[int], itemsize: int, owner: Any) -> None:
        """Let kernels reach an array.

        Args:
            pointer: address of its first element.
            shape, strides: strides in elements, of either sign.
            itemsize: bytes of an element.
            owner: what keeps the memory alive.
        """
        reach = [(size - 1) * stride * itemsize for size, stride in zip(shape, strides, strict=True)]
        first = pointer + sum(r for r in reach if r < 0)
        self.extents[first, pointer + sum(r for r in reach if r > 0) + itemsize] = owner

    def raw_module(self, *, path: str) -> RawModule:
        """Stands in for ``cupy.RawModule``: of a file of PTX."""
        return RawModule(self, Path(path))


class RawModule:
    """A module of kernels."""

    def __init__(self, machine: Machine, path: Path) -> None:
        self.machine = machine
        self.module = Module.from_ptx(path.read_text().rstrip("\0"))

    def get_function(self, name: str) -> RawKernel:
        """A kernel by its name."""
        return RawKernel(self, name)


class RawKernel:
    """A kernel that is launched by calling it."""

    def __init__(self, owner: RawModule, name: str) -> None:
        self.machine, self.module, self.name = owner.machine, owner.module, name
        self.max_dynamic_shared_size_bytes = 0

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int
    ) -> None:
        """Launch: as CuPy does, but that this waits."""
        if self.max_dynamic_shared_size_bytes:
            self.module.allow_shared(self.name, self.max_dynamic_shared_size_bytes)
        visible: list[tuple[int, int]] = []
        for first, end in sorted(self.machine.extents, key=lambda extent: extent[0] - extent[1]):  # largest first
            if not any(first >= begin and end <= behind for begin, behind in visible):
                self.module.memory.attach_host(first, end - first)
                visible.append((first, end))
        try:
            arguments = [value if value.dtype.kind == "f" else int(value) for value in args]
            stats = self.module.launch(
                self.name, grid, block, arguments, shared_mem, strict_shared=True, **self.machine.options
            )
        finally:
            for first, _ in visible:
                self.module.memory.free(first)
        self.machine.launches.append((self.name, grid, shared_mem, stats))
