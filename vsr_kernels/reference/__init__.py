"""The meaning of every operator, in plain PyTorch: any floating dtype (float64 included), any device, differentiable.

Each function takes validated arguments (``vsr_kernels.ops`` does the checking) and is written for reading, not for
speed. The tests compare every backend with these functions in float64; :func:`vsr_kernels.use_backend` with
``"reference"`` runs them, and an operator falls back to them where no kernel exists.
"""

from __future__ import annotations

from .conv import activate, conv3x3, conv7x7, residual_block
from .quantized import quantized_conv3x3
from .rep import merge_rep_branches
from .shuffle import pixel_shuffle, pixel_unshuffle
from .sparse import sparse_conv3x3, sparse_residual_block
from .warp import flow_warp, flow_warp_concat

__all__ = [
    "activate",
    "conv3x3",
    "conv7x7",
    "flow_warp",
    "flow_warp_concat",
    "merge_rep_branches",
    "pixel_shuffle",
    "pixel_unshuffle",
    "quantized_conv3x3",
    "residual_block",
    "sparse_conv3x3",
    "sparse_residual_block",
]
