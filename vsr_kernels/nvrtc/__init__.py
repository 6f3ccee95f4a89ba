"""The CUDA convolution compiled at run time for one pruned layer: its channel counts and lists are constants.

Needs CuPy, whose NVRTC compiles, and the CUDA headers; no GPU and no toolkit.
"""

from .compiler import compile_kernel, obstacle
from .special import KERNEL, SparseConv

__all__ = ["KERNEL", "SparseConv", "compile_kernel", "obstacle"]
