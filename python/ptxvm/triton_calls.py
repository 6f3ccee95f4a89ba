"""Launches of Triton kernels on tensors of the CPU: what Triton's own launcher would compile, run here instead.

A :class:`Launcher` stands in for ``torch.library.wrap_triton`` in code that launches kernels, so that this very code is
what runs: ``Launcher(80)(kernel)[grid](*args, **constants)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import triton as compiler
from .aliases import Array

if TYPE_CHECKING:
    from .stats import Stats

#: Triton's names of torch's types.
NAMES = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float64": "fp64",
    "int64": "i64",
    "int32": "i32",
    "uint8": "u8",
}


@dataclass(frozen=True)
class Call:
    """One launch, specialised as Triton does it: ones are constants, multiples of 16 are known to be such.

    Attributes:
        fn: the ``@triton.jit`` function.
        signature: types of the arguments that are left, by name.
        constexprs: the others.
        divisible: names of pointers and integers that are multiples of 16.
        grid: programs along each axis.
        arguments: values of ``signature``.
        num_warps, num_stages: as the autotuner's choice has them.
    """

    fn: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    divisible: tuple[str, ...]
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    num_warps: int = 4
    num_stages: int = 3

    @property
    def key(self) -> tuple[object, ...]:
        """What the compiled code depends on."""
        parts = (self.signature.items(), sorted(self.constexprs.items()), self.divisible)
        return self.fn.__name__, *map(tuple, parts), self.num_warps, self.num_stages

    @classmethod
    def of(cls, kernel: Any, tile: int, grid: Any, args: tuple[Any, ...], constants: Mapping[str, Any]) -> Call:
        """A launch of a kernel, or of an autotuner's with its configuration number ``tile``."""
        options: dict[str, int] = {}
        if hasattr(kernel, "configs"):
            config = kernel.configs[tile % len(kernel.configs)]
            constants = {**constants, **config.kwargs}
            options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
            kernel = kernel.fn
        signature, constexprs, divisible, values = {}, dict(constants), [], []
        for name, value in zip(kernel.arg_names, args, strict=False):
            if isinstance(value, int) and value == 1:
                constexprs[name] = 1
                continue
            signature[name] = type_of(value)
            values.append(value)
            if not isinstance(value, float) and (value if isinstance(value, int) else value.data_ptr()) % 16 == 0:
                divisible.append(name)
        programs = grid(constexprs) if callable(grid) else grid
        return cls(kernel, signature, constexprs, tuple(divisible), tuple(programs), tuple(values), **options)

    def compile(self, arch: int) -> compiler.TritonKernel:
        """For ``sm_<arch>``."""
        return compiler.compile(
            self.fn, self.signature, self.constexprs, arch, self.num_warps, self.num_stages, self.divisible
        )

    def numpy(self) -> list[Any]:
        """The arguments as the kernel sees them: tensors as the memory from their first to their last element."""
        return [extent(value) if hasattr(value, "data_ptr") else value for value in self.arguments]


def type_of(value: Any) -> str:
    """Triton's name of an argument's type."""
    if isinstance(value, float):
        return "fp32"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "*" + NAMES[str(value.dtype).removeprefix("torch.")]


def extent(tensor: Any) -> Array:
    """The memory between a tensor's first and last element, shared, as NumPy can hold it."""
    size = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    flat = tensor.detach().as_strided((size if tensor.numel() else 0,), (1,))
    found: Array = (flat.view(_integers(flat)) if flat.dtype.is_floating_point else flat).numpy()
    return found


def _integers(tensor: Any) -> Any:
    import torch

    return {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]


Run = Callable[[Call], "Stats | None"]


class Launcher:
    """Stands in for ``wrap_triton``.

    Args:
        arch: compute capability to compile for.
        tile: which of an autotuner's configurations to take.
        run: what to do with a launch; compiles it and runs it in ptxvm by default.

    Attributes:
        calls: what was launched.
    """

    def __init__(self, arch: int = 80, tile: int = 0, run: Run | None = None) -> None:
        self.arch, self.tile = arch, tile
        self.calls: list[Call] = []
        self._run = run or self.run
        self._compiled: dict[tuple[object, ...], compiler.TritonKernel] = {}

    def __call__(self, kernel: Any) -> Launchable:
        """Wrap a kernel."""
        return Launchable(self, kernel)

    def launch(self, call: Call) -> None:
        """Note a launch and do it."""
        self.calls.append(call)
        self._run(call)

    def run(self, call: Call, **options: Any) -> Stats:
        """Compile (once) and run in ptxvm."""
        kernel = self._compiled.get(call.key)
        if kernel is None:
            kernel = self._compiled[call.key] = call.compile(self.arch)
        return kernel.launch(call.grid, call.numpy(), **options)


@dataclass(frozen=True)
class Launchable:
    """A kernel to be launched as Triton writes it."""

    launcher: Launcher
    kernel: Any

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        """``launchable[grid](*args, **constants)``."""

        def launch(*args: Any, **constants: Any) -> None:
            self.launcher.launch(Call.of(self.kernel, self.launcher.tile, grid, args, constants))

        return launch
