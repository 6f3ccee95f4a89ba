"""The operators in Triton, for GPUs without compiled kernels: no CUDA toolkit here, AMD's GPUs, or by choice.

Importing this package registers ``vsr_triton::*``: the operators of ``vsr_kernels::*`` with the same arguments, as
Triton operators, which ``torch.compile`` sees into. :mod:`vsr_kernels.backend` imports it where Triton is installed.
"""

from __future__ import annotations

from . import conv, shuffle, warp

__all__ = ["conv", "shuffle", "warp"]
