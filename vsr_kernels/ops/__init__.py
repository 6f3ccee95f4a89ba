"""The public operators: one module per family with checks, dispatch, fake kernels, gradients and autocast rules.

Importing this package loads the compiled operators that were installed.
"""

from ..backend import load
from .chain import conv_chain
from .conv import conv3x3, residual_block
from .conv7x7 import conv7x7
from .packing import PackedWeights
from .quantized import quantized_conv3x3
from .rep import merge_rep_branches
from .shuffle import pixel_shuffle, pixel_unshuffle
from .sparse import sparse_conv3x3, sparse_residual_block
from .warp import flow_warp

load(compile_missing=False)

__all__ = [
    "PackedWeights",
    "conv3x3",
    "conv7x7",
    "conv_chain",
    "flow_warp",
    "merge_rep_branches",
    "pixel_shuffle",
    "pixel_unshuffle",
    "quantized_conv3x3",
    "residual_block",
    "sparse_conv3x3",
    "sparse_residual_block",
]
