"""Pixel shuffle and its inverse, in the memory format of the input."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..layout import memory_format_of


def pixel_shuffle(x: Tensor, r: int) -> Tensor:
    """(N, C * r^2, H, W) -> (N, C, r * H, r * W)."""
    return F.pixel_shuffle(x, r).contiguous(memory_format=memory_format_of(x))


def pixel_unshuffle(x: Tensor, r: int) -> Tensor:
    """(N, C, r * H, r * W) -> (N, C * r^2, H, W)."""
    return F.pixel_unshuffle(x, r).contiguous(memory_format=memory_format_of(x))
