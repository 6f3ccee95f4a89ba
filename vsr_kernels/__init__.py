"""Fused CUDA and CPU operators for video super-resolution, as PyTorch operators and drop-in modules.

Importing this package never compiles anything and never fails for want of a GPU, a compiler, torch or an optional
package. The compiled torch operators that were installed are loaded at once where torch is imported already, else with
the first name that is asked for; :func:`backends` tells what can be used and why not the rest. :mod:`vsr_kernels.numpy`
and :mod:`vsr_kernels.cupy` work without torch and do not import it.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from .version import __version__

__all__ = [
    "BackendStatus",
    "PackedWeights",
    "Plan",
    "RepBranch",
    "__version__",
    "backends",
    "conv3x3",
    "conv7x7",
    "conv_chain",
    "cpu_isa",
    "flow_warp",
    "load",
    "merge_rep_branches",
    "nn",
    "optimize",
    "pixel_shuffle",
    "pixel_unshuffle",
    "plan",
    "quantized_conv3x3",
    "residual_block",
    "sparse_conv3x3",
    "sparse_residual_block",
    "use_backend",
]

_SUBMODULES = ("backend", "nn", "ops", "planning", "reference")

if TYPE_CHECKING or "torch" in sys.modules:
    from . import nn
    from .torch_api import *
else:

    def __getattr__(name: str) -> Any:
        """One of the names above that is not here yet: it needs torch."""
        if name not in (*__all__, *_SUBMODULES):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            if name in _SUBMODULES:
                return importlib.import_module(f".{name}", __name__)
            value = getattr(importlib.import_module(".torch_api", __name__), name)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ImportError(
                f"vsr_kernels.{name} needs torch, which is not installed; vsr_kernels.numpy does not"
            ) from error
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
