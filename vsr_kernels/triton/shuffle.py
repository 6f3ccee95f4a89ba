"""pixel_shuffle and pixel_unshuffle as operators."""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton

from ..layout import empty_like_format, memory_format_of
from .kernels.shuffle import shuffle_kernel
from .tiles import autotune, is_wide

#: Elements of a program: a store of 16 bytes per lane of 16-bit elements, or several of them to hide the loads.
TILES = ({"BLOCK": 1024, "num_warps": 4, "num_stages": 1}, {"BLOCK": 2048, "num_warps": 4, "num_stages": 1})

_tuned_shuffle = autotune(TILES, ("C", "R", "INVERSE", "LAST"))(shuffle_kernel)


def _shuffled(x: Tensor, shape: tuple[int, int, int, int], r: int, inverse: bool) -> Tensor:
    out = empty_like_format(x, shape)
    if out.numel() == 0:
        return out

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(out.numel(), meta["BLOCK"]),)

    wrap_triton(_tuned_shuffle)[grid](
        x,
        out,
        out.numel(),
        *shape[1:],
        *x.stride(),
        R=r,
        INVERSE=inverse,
        LAST=memory_format_of(x) == torch.channels_last,
        WIDE=is_wide(x, out, batch=True),
    )
    return out


@triton_op("vsr_triton::pixel_shuffle", mutates_args=())
def pixel_shuffle(x: Tensor, r: int) -> Tensor:
    """(N, C r^2, H, W) -> (N, C, r H, r W)."""
    n, c, h, w = x.shape
    return _shuffled(x, (n, c // (r * r), h * r, w * r), r, False)


@triton_op("vsr_triton::pixel_unshuffle", mutates_args=())
def pixel_unshuffle(x: Tensor, r: int) -> Tensor:
    """(N, C, r H, r W) -> (N, C r^2, H, W)."""
    n, c, h, w = x.shape
    return _shuffled(x, (n, c * r * r, h // r, w // r), r, True)
