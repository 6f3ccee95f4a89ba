"""The operators on NumPy arrays, by the CPU kernels; needs NumPy and nothing else.

Arrays are logically (N, C, H, W), as tensors are in :mod:`vsr_kernels`: pixels side by side in memory, (N, H, W, C),
are handed over as ``pixels.transpose(0, 3, 1, 2)`` and read in place, which is the fast path. Names, meaning and error
messages are those of the torch operators; there are no gradients, and float64 is moved but not computed with. Other
Python threads run while a kernel does.
"""

from __future__ import annotations

import numbers

try:
    from .. import _numpy
except ImportError as error:
    raise ImportError(
        f"vsr_kernels.numpy: the object _numpy was not compiled or does not load ({error}); to compile it: "
        "pip install pybind11 setuptools, then VSR_KERNELS_BUILD=numpy pip install --no-deps --no-build-isolation . in "
        "the sources of vsr_kernels"
    ) from error

from ..checks import fail
from ._operators import NUMPY, NumPyOperators, PackedWeights

__all__ = [
    "PackedWeights",
    "conv3x3",
    "cpu_isa",
    "flow_warp",
    "get_num_threads",
    "pixel_shuffle",
    "pixel_unshuffle",
    "residual_block",
    "set_num_threads",
    "sparse_conv3x3",
    "sparse_residual_block",
]

_bound = NumPyOperators(NUMPY)
conv3x3 = _bound.conv3x3
flow_warp = _bound.flow_warp
pixel_shuffle = _bound.pixel_shuffle
pixel_unshuffle = _bound.pixel_unshuffle
residual_block = _bound.residual_block
sparse_conv3x3 = _bound.sparse_conv3x3
sparse_residual_block = _bound.sparse_residual_block


def cpu_isa() -> str:
    """Instruction set of the kernels.

    ``amx_int8``, ``amx_bf16``, ``avx512_bf16``, ``avx512_vnni``, ``avx512``, ``avx2`` or ``portable``: the best one
    that the CPU has; the environment variable ``VSR_KERNELS_CPU_ISA`` (read once) names a lesser one.
    """
    return _numpy.isa()


def get_num_threads() -> int:
    """Threads that an operator uses."""
    return _numpy.threads()


def set_num_threads(count: int) -> None:
    """Set how many threads an operator uses; at first, the number of CPUs that this process may run on.

    No result depends on it. Operators that are called from several Python threads at once do not share: one has the
    threads, the others run on their caller's.

    Args:
        count: >= 1, the caller's thread included.

    Raises:
        TypeError, ValueError: ``count`` is no such number.
    """
    if isinstance(count, bool) or not isinstance(count, numbers.Integral):
        fail("set_num_threads", "count", "an integer", type(count).__name__, TypeError)
    if count < 1:
        fail("set_num_threads", "count", "an integer >= 1", count)
    _numpy.set_threads(int(count))
