"""Pixel shuffle and its inverse, in the memory format of the input."""

from __future__ import annotations

from torch import Tensor

from ..layout import memory_format_of


def shuffle(x: Tensor, r: int) -> Tensor:
    """(N, C * r^2, H, W) -> (N, C, r * H, r * W), in any memory format.

    ``torch.nn.functional.pixel_shuffle`` says the same but cannot be differentiated for empty tensors.
    """
    n, c, h, w = x.shape
    c //= r * r
    return x.reshape(n, c, r, r, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c, h * r, w * r)


def pixel_shuffle(x: Tensor, r: int) -> Tensor:
    """(N, C * r^2, H, W) -> (N, C, r * H, r * W)."""
    return shuffle(x, r).clone(memory_format=memory_format_of(x))


def pixel_unshuffle(x: Tensor, r: int) -> Tensor:
    """(N, C, r * H, r * W) -> (N, C * r^2, H, W)."""
    n, c, h, w = x.shape
    cells = x.reshape(n, c, h // r, r, w // r, r).permute(0, 1, 3, 5, 2, 4)  # (N, C, r, r, H / r, W / r)
    return cells.reshape(n, c * r * r, h // r, w // r).clone(memory_format=memory_format_of(x))
