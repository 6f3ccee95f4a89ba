"""pixel_shuffle and pixel_unshuffle on the CPU against PyTorch, and against a copy of the same bytes.

    python benchmarks/pixel_shuffle.py [--threads N] [--json FILE]

Started with glibc's settings as benchmarks/conv3x3.py uses them, no peer spends its time on fresh pages.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from harness import Case, main

from vsr_kernels import pixel_shuffle, pixel_unshuffle


def both_directions(channels: int, height: int, width: int, r: int, dtype: torch.dtype) -> list[Case]:
    """Forward and backward of one upsampling layer, channels_last."""
    torch.manual_seed(0)
    packed = torch.randn(1, channels, height, width).to(dtype).contiguous(memory_format=torch.channels_last)
    shuffled = pixel_shuffle(packed, r)
    name = f"{channels} -> {channels // r**2} at {height}x{width} {str(dtype).removeprefix('torch.')}"
    forward = {
        "pixel_shuffle": lambda: pixel_shuffle(packed, r),
        "copy of the same bytes": lambda: shuffled.clone(),
        "torch": lambda: F.pixel_shuffle(packed, r),
    }
    backward = {
        "pixel_unshuffle": lambda: pixel_unshuffle(shuffled, r),
        "copy of the same bytes": lambda: packed.clone(),
        "torch": lambda: F.pixel_unshuffle(shuffled, r),
    }
    return [Case(name, forward, tolerance=0.0, calls=3), Case(name + ", back", backward, tolerance=0.0, calls=3)]


def cases() -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16):
        for size in ((180, 320), (360, 640)):
            yield from both_directions(256, *size, 2, dtype)


if __name__ == "__main__":
    main(__doc__, cases)
