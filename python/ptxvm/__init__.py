"""A virtual machine that runs PTX kernels on the CPU with NumPy."""

from __future__ import annotations

# Decoders register themselves when their modules are imported.
from . import (  # noqa: F401
    arithmetic,
    asynccopy,
    bits,
    comparison,
    control,
    floating,
    integers,
    mbarrier,
    mma,
    movement,
    packed,
    warp,
    wgmma,
)
from .devices import DEVICES, Device, Occupancy, occupancy
from .errors import (
    AsyncCopyHazard,
    BlockConflict,
    Deadlock,
    IncompleteWarp,
    KernelFault,
    LaunchError,
    Misaligned,
    OutOfBounds,
    ParseError,
    PtxError,
    SharedRace,
    StepLimit,
    Trap,
    UninitializedRead,
    Unsupported,
)
from .memory import Memory
from .module import Module, compile_cuda, poison
from .options import Options
from .stats import Stats

__all__ = [
    "DEVICES",
    "AsyncCopyHazard",
    "BlockConflict",
    "Deadlock",
    "Device",
    "IncompleteWarp",
    "KernelFault",
    "LaunchError",
    "Memory",
    "Misaligned",
    "Module",
    "Occupancy",
    "Options",
    "OutOfBounds",
    "ParseError",
    "PtxError",
    "SharedRace",
    "Stats",
    "StepLimit",
    "Trap",
    "UninitializedRead",
    "Unsupported",
    "compile_cuda",
    "occupancy",
    "poison",
]
