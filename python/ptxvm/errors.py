"""Exceptions raised while parsing or running PTX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .aliases import Triple

if TYPE_CHECKING:
    from .syntax import Instruction


class PtxError(Exception):
    """Base class of everything this package raises on purpose."""


class ParseError(PtxError):
    """The PTX text could not be understood."""


class Unsupported(PtxError):  # noqa: N818  (as in io.UnsupportedOperation)
    """The PTX text uses an instruction or modifier the machine lacks."""


class LaunchError(PtxError):
    """A launch was refused before any thread ran; ``code`` names the CUDA error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class KernelFault(PtxError):  # noqa: N818  (a fault is what hardware calls it)
    """A running thread did something wrong.

    The attributes ``kernel``, ``line`` (PTX line), ``source`` (``file:line`` of
    the CUDA source, if the PTX carries ``.loc``), ``block`` and ``thread`` say where.
    """

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.position = position  # index of the guilty lane among the active ones
        self.kernel: str | None = None
        self.line: int | None = None
        self.source: str | None = None
        self.text: str | None = None
        self.block: Triple | None = None
        self.thread: Triple | None = None

    def located(
        self, kernel: str, instruction: Instruction, block: Triple | None, thread: Triple | None
    ) -> KernelFault:
        """Fill in the place of the fault (the innermost call wins)."""
        if self.kernel is None:
            self.kernel, self.line = kernel, instruction.line
            self.source, self.text = instruction.source, instruction.text
            self.block, self.thread = block, thread
        return self

    def __str__(self) -> str:
        if self.kernel is None:
            return self.message
        place = f"kernel {self.kernel}, PTX line {self.line}"
        if self.source:
            place += f" ({self.source})"
        if self.block is not None:
            place += f", block {self.block}, thread {self.thread}"
        return f"{self.message}\n  at {place}\n  in {self.text}"


class OutOfBounds(KernelFault):
    """An access outside every buffer of its state space."""


class Misaligned(KernelFault):
    """An address that is not a multiple of the access size."""


class UninitializedRead(KernelFault):
    """A read of shared memory that nobody wrote."""


class SharedRace(KernelFault):
    """Two warps touched the same shared bytes, and nothing ordered one after the other."""


class BlockConflict(KernelFault):
    """Two blocks of a launch stored different values to the same bytes of global memory."""


class AsyncCopyHazard(KernelFault):
    """Bytes of a cp.async destination were touched before the copy was waited for."""


class Deadlock(KernelFault):
    """Every remaining thread waits for something that can no longer happen."""


class StepLimit(KernelFault):
    """The launch executed more instructions than the limit allows."""


class IncompleteWarp(KernelFault):
    """A warp-wide instruction ran without all the lanes it needs."""


class Trap(KernelFault):
    """The kernel executed trap, or a device-side assertion failed."""
