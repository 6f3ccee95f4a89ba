"""Ahead-of-time compilation of Triton kernels to PTX, and their launch convention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import LaunchError
from .module import Module

if TYPE_CHECKING:
    from .stats import Stats


class TritonKernel:
    """A compiled Triton kernel: ``launch(grid, args)`` takes the non-constexpr arguments."""

    def __init__(self, compiled: Any, num_warps: int) -> None:
        self.ptx = compiled.asm["ptx"]
        self.shared_bytes = compiled.metadata.shared
        self.threads = 32 * num_warps
        self.scratch_sizes = [
            getattr(compiled.metadata, name, 0) or 0 for name in ("global_scratch_size", "profile_scratch_size")
        ]
        self.module = Module.from_ptx(self.ptx)
        self.name = compiled.metadata.name

    def launch(self, grid: Sequence[int], args: Sequence[Any], **options: Any) -> Stats:
        """Run the kernel; Triton appends pointers to scratch memory to the parameters."""
        program = self.module.program(self.name)
        missing = len(program.kernel.params) - len(args)
        if not 0 <= missing <= 2:
            raise LaunchError("cudaErrorInvalidValue", f"{self.name} takes {len(program.kernel.params)} parameters")
        blocks = int(np.prod(grid))
        scratch = [np.zeros(size * blocks, np.uint8) if size else None for size in self.scratch_sizes[:missing]]
        return self.module.launch(
            self.name, grid, self.threads, [*args, *scratch], shared_bytes=self.shared_bytes, **options
        )


def compile(
    fn: Any,
    signature: Mapping[str, str],
    constexprs: Mapping[str, Any] | None = None,
    arch: int = 80,
    num_warps: int = 4,
    num_stages: int = 2,
    divisible: Sequence[str] = (),
) -> TritonKernel:
    """Compile a ``@triton.jit`` function for ``sm_<arch>``; no GPU is needed.

    ``divisible`` names pointers and integers that are multiples of 16, which is what
    lets the compiler use wide and asynchronous copies.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constexprs = constexprs or {}
    signature = {**signature, **dict.fromkeys(constexprs, "constexpr")}
    attrs = {(fn.arg_names.index(name),): [["tt.divisibility", 16]] for name in divisible}
    source = ASTSource(fn=fn, signature=signature, constexprs=constexprs, attrs=attrs)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", arch, 32), options={"num_warps": num_warps, "num_stages": num_stages}
    )
    return TritonKernel(compiled, num_warps)
