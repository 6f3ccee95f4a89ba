"""flow_warp against torch.nn.functional.grid_sample with the grid built from the flow, as VSR models do, and against a
copy of the same image.

python benchmarks/flow_warp.py [--threads N] [--json FILE]
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from harness import Case, main

from vsr_kernels import flow_warp


def grid_sample(x: torch.Tensor, flow: torch.Tensor, padding: str) -> torch.Tensor:
    """The usual way: pixel grid + flow, normalised, permuted, sampled. x (N, C, H, W), flow (N, 2, H, W) in pixels.

    16-bit images are sampled in float32, as under autocast: with a bfloat16 grid torch 2.15 reads outside the image.
    """
    _, _, h, w = x.shape
    rows, cols = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    grid = torch.stack((cols, rows), 2).float() + flow.permute(0, 2, 3, 1)
    grid = torch.stack((2 * grid[..., 0] / (w - 1) - 1, 2 * grid[..., 1] / (h - 1) - 1), dim=3)
    return F.grid_sample(x.float(), grid, mode="bilinear", padding_mode=padding, align_corners=True).to(x.dtype)


def case(batch: int, padding: str, dtype: torch.dtype, spread: float) -> Case:
    """64 channels at 180x320; the flow is smooth, as real motion is, with displacements of ``spread`` pixels."""
    torch.manual_seed(0)
    x = torch.randn(batch, 64, 180, 320)
    flow = F.interpolate(torch.randn(batch, 2, 6, 10), size=(180, 320), mode="bicubic") * spread
    last = x.to(dtype).contiguous(memory_format=torch.channels_last)
    first = x.to(dtype).contiguous()
    warped = flow_warp(last, flow, padding=padding)
    peers = {
        "flow_warp channels_last": lambda: flow_warp(last, flow, padding=padding),
        "flow_warp contiguous": lambda: flow_warp(first, flow, padding=padding),
        "copy of the image": lambda: warped.clone(),
        "grid_sample channels_last": lambda: grid_sample(last, flow, padding),
        "grid_sample contiguous": lambda: grid_sample(first, flow, padding),
    }
    name = f"({batch}, 64, 180, 320) {str(dtype).removeprefix('torch.')} {padding}"
    return Case(name, peers, tolerance=1e-4 if dtype == torch.float32 else 1e-2, calls=5)


def cases() -> Iterator[Case]:
    yield case(1, "zeros", torch.float32, 4.0)
    yield case(1, "border", torch.float32, 4.0)
    yield case(4, "zeros", torch.float32, 4.0)
    yield case(1, "zeros", torch.bfloat16, 4.0)


if __name__ == "__main__":
    main(__doc__, cases)
