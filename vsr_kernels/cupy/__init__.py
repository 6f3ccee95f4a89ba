"""The operators on CuPy arrays, by the CUDA kernels; needs CuPy and no torch.

Names, arguments, meaning and error messages are those of :mod:`vsr_kernels.numpy`: arrays are logically (N, C, H, W),
and pixels side by side in memory, (N, H, W, C), are handed over as ``pixels.transpose(0, 3, 1, 2)``. Kernels run on
CuPy's current stream of the arrays' device. The first call with other channel counts, lists, dtypes or modes compiles
its kernel; what is compiled stays on disk (:mod:`vsr_kernels.nvrtc.compiler`). Lists of channels become part of the
kernel, and are given as sequences of integers or as arrays of NumPy.
"""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("cupy") is None:
    raise ImportError("vsr_kernels.cupy: the package cupy is not installed: pip install 'vsr-kernels[cupy]'")

from ._operators import CUPY, CuPyOperators, PackedWeights

__all__ = [
    "PackedWeights",
    "conv3x3",
    "flow_warp",
    "pixel_shuffle",
    "pixel_unshuffle",
    "residual_block",
    "sparse_conv3x3",
    "sparse_residual_block",
]

_bound = CuPyOperators(CUPY)
conv3x3 = _bound.conv3x3
flow_warp = _bound.flow_warp
pixel_shuffle = _bound.pixel_shuffle
pixel_unshuffle = _bound.pixel_unshuffle
residual_block = _bound.residual_block
sparse_conv3x3 = _bound.sparse_conv3x3
sparse_residual_block = _bound.sparse_residual_block
