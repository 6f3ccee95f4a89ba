"""The part of the package that needs torch, under the names that :mod:`vsr_kernels` gives it."""

from __future__ import annotations

from .backend import BackendStatus, backends, cpu_isa, load, use_backend
from .nn.optimize import optimize
from .ops import (
    PackedWeights,
    conv3x3,
    conv7x7,
    conv_chain,
    flow_warp,
    merge_rep_branches,
    pixel_shuffle,
    pixel_unshuffle,
    quantized_conv3x3,
    residual_block,
    sparse_conv3x3,
    sparse_residual_block,
)
from .planning import Plan, plan
from .types import RepBranch

__all__ = [
    "BackendStatus",
    "PackedWeights",
    "Plan",
    "RepBranch",
    "backends",
    "conv3x3",
    "conv7x7",
    "conv_chain",
    "cpu_isa",
    "flow_warp",
    "load",
    "merge_rep_branches",
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
