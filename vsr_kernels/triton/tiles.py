"""What a launch is given besides its problem: tiles and the choice among them, kind of products, width of offsets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from ..backend import interpreted

#: Stages of a pipeline on AMD's GPUs, at most: theirs counts the stage that is being computed with, and has 64 KB.
AMD_STAGES = 2

#: Offsets below this many elements are computed in 32 bits. Half of what 32 bits hold, since those of masked neighbours
#: lie a row before or behind the image.
NARROW = 2**30


def autotune(tiles: Sequence[dict[str, int]], key: Sequence[str]) -> Callable[[Any], Any]:
    """Decorator: Triton's autotuner over a few tiles, its choice kept on disk per device, in Triton's cache.

    Args:
        tiles: constants of a kernel, with ``num_warps`` and ``num_stages``.
        key: arguments whose change asks for a new choice. The interpreter, which times nothing, takes the first tile.
    """
    configs = [
        triton.Config(
            {name: size for name, size in tile.items() if not name.startswith("num_")},
            num_warps=tile["num_warps"],
            num_stages=min(tile["num_stages"], AMD_STAGES) if torch.version.hip else tile["num_stages"],
        )
        for tile in tiles
    ]
    return triton.autotune(configs[:1] if interpreted() else configs, key=list(key), cache_results=True)


def at_least_16(size: int, most: int) -> int:
    """The power of two that holds ``size`` columns of a matrix product, between 16 and ``most``."""
    return min(most, max(16, triton.next_power_of_2(size)))


def precision(x: Tensor, exact: bool) -> str:
    """How ``tl.dot`` multiplies float32: as one product of TF32 numbers, or as three; AMD's units take it as it is."""
    if x.dtype != torch.float32 or torch.version.hip:
        return "ieee"
    return "tf32x3" if exact else "tf32"


def is_wide(*tensors: Tensor, batch: bool = False) -> bool:
    """Whether offsets within an image (or within the whole ``batch``) of any of these need 64 bits."""
    return any(
        sum((size - 1) * stride for size, stride in zip(t.shape[not batch :], t.stride()[not batch :], strict=True))
        >= NARROW
        for t in tensors
    )
