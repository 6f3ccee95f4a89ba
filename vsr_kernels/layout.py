"""Memory formats of 4-d tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def memory_format_of(x: Tensor) -> torch.memory_format:
    """The format that operators which keep their input's format give their output.

    channels_last if the channels of a pixel are neighbours in memory, contiguous otherwise. Tensors that are both
    (one channel, or one pixel) count as contiguous. The C++ operators apply the same rule (``csrc/torch/tensors.h``).
    """
    if x.dim() == 4 and x.stride(1) == 1 and not x.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def empty_like_format(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Uninitialised, in the dtype and memory format of ``x``, for fake kernels.

    Asking for the format at allocation matters where a tensor is in both: ``contiguous`` would keep other strides.
    """
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x))
