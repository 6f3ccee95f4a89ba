"""CUDA kernels compiled at run time for one layer each: its channel counts, lists and activation are constants.

Needs CuPy, whose NVRTC compiles and which launches, and the CUDA headers; no toolkit, and to compile no GPU.
"""

from .compiler import compile_kernel, obstacle
from .conv import Conv3x3
from .pack import Pack
from .shuffle import PixelShuffle
from .warp import FlowWarp

__all__ = ["Conv3x3", "FlowWarp", "Pack", "PixelShuffle", "compile_kernel", "obstacle"]
