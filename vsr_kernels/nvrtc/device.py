"""A GPU through CuPy: its limits, and launches on CuPy's current stream."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np

from .background import Compilations
from .launch import Kernel, Launch, Limits, View

#: Dynamic shared memory that a kernel may use without asking for more.
_DEFAULT_SHARED = 48 << 10

COMPILATIONS = Compilations()


def cupy() -> Any:
    """The package, imported when a GPU is first used."""
    return importlib.import_module("cupy")


def architecture(capability: tuple[int, int]) -> str:
    """What NVRTC compiles for: machine code of this compute capability."""
    return "sm_{}{}".format(*capability)


class Device:
    """One GPU, which has to be CuPy's current one in calls of its methods.

    Attributes:
        limits: what launches ask of it.
        arch: what kernels are compiled for.
    """

    def __init__(self, index: int) -> None:
        found = cupy().cuda.runtime.getDeviceProperties(index)
        self.limits = Limits(
            (found["major"], found["minor"]),
            found["multiProcessorCount"],
            found["sharedMemPerBlockOptin"],
            found["sharedMemPerMultiprocessor"],
        )
        self.arch = architecture(self.limits.capability)
        self._functions: dict[Kernel, Any] = {}

    def ready(self, launches: list[Launch]) -> bool:
        """Whether these can be launched at once; what is not compiled yet is being compiled from now on."""
        ready = [COMPILATIONS.ready(launch.kernel, self.arch) for launch in launches]  # each is asked, none is skipped
        return all(ready)

    def loaded(self, launches: list[Launch]) -> bool:
        """Whether these were launched before, so that a launch does nothing else."""
        return all(launch.kernel in self._functions for launch in launches)

    def launch(self, launches: list[Launch]) -> None:
        """Launch on the current stream; what is not compiled yet is compiled first.

        Raises:
            RuntimeError: a kernel cannot be compiled.
        """
        functions = [self._function(launch) for launch in launches]
        for function, launch in zip(functions, launches, strict=True):
            arguments = tuple(map(_argument, launch.arguments))
            function(launch.grid, launch.block, arguments, shared_mem=launch.shared_bytes)

    def _function(self, launch: Launch) -> Any:
        function = self._functions.get(launch.kernel)
        if function is None:
            module = cupy().RawModule(path=str(COMPILATIONS.wait(launch.kernel, self.arch)))
            function = module.get_function(launch.kernel.entry)
            if launch.shared_bytes > _DEFAULT_SHARED:  # the same in all launches of a kernel
                function.max_dynamic_shared_size_bytes = launch.shared_bytes
            self._functions[launch.kernel] = function
        return function


def _argument(value: View | np.generic | None) -> np.generic:
    if value is None:
        return np.uint64(0)
    return np.uint64(value.pointer) if isinstance(value, View) else value


@cache
def device(index: int) -> Device:
    """The GPU of this number."""
    return Device(index)
