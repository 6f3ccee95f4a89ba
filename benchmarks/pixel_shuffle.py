"""pixel_shuffle and pixel_unshuffle on the CPU against PyTorch, and against a copy of the same bytes.

    python benchmarks/pixel_shuffle.py [--threads N] [--json FILE]

Started with glibc's settings as benchmarks/conv3x3.py uses them, no peer spends its time on fresh pages.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from harness import Case, measure, report

from vsr_kernels import pixel_shuffle, pixel_unshuffle


def cases(channels: int, height: int, width: int, r: int, dtype: torch.dtype) -> list[Case]:
    """Both directions of one upsampling layer, channels_last."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        for size in ((180, 320), (360, 640)):
            results += [measure(case) for case in cases(256, *size, 2, dtype)]
    report(results, args.json)


if __name__ == "__main__":
    main()
