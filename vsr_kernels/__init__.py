"""Fused CUDA and CPU operators for video super-resolution, as PyTorch operators and drop-in modules.

Importing this package loads the compiled operators that were installed; it never compiles anything and never fails for
want of a GPU, a compiler or an optional package. :func:`backends` tells what can be used and why not the rest.
"""

from __future__ import annotations

from . import nn
from .backend import BackendStatus, backends, cpu_isa, load, use_backend
from .nn.optimize import optimize
from .ops import (
    PackedWeights,
    conv3x3,
    conv_chain,
    flow_warp,
    merge_rep_branches,
    pixel_shuffle,
    pixel_unshuffle,
    residual_block,
    sparse_conv3x3,
    sparse_residual_block,
)
from .planning import Plan, plan
from .types import RepBranch
from .version import __version__

load(compile_missing=False)

__all__ = [
    "BackendStatus",
    "PackedWeights",
    "Plan",
    "RepBranch",
    "__version__",
    "backends",
    "conv3x3",
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
    "residual_block",
    "sparse_conv3x3",
    "sparse_residual_block",
    "use_backend",
]
