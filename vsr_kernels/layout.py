"""Memory formats of 4-d tensors."""

from __future__ import annotations

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
