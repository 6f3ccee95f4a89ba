"""Backward warp by a flow field in pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layout import memory_format_of

_FAR = 1e9  # a displacement beyond this is as far outside as any other


def flow_warp(
    x: Tensor,  # (N, C, H, W)
    flow: Tensor,  # (N, 2, H, W), pixels; channel 0 = dx, 1 = dy
    *,
    interpolation: str = "bilinear",
    padding: str = "zeros",
) -> Tensor:
    """``out[n, :, i, j] = x[n, :, i + dy, j + dx]``, written with ``grid_sample(align_corners=True)``.

    The normalised grid is computed in float32 (float64 for float64 input): half precision cannot hold coordinates.
    """
    _, _, h, w = x.shape
    if x.numel() == 0:
        both = x + flow.reshape(-1)[:0].sum()  # keeps flow in the graph
        return both.contiguous(memory_format=memory_format_of(x))
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    flow = torch.nan_to_num(flow.to(wide), nan=-_FAR).clamp(-_FAR, _FAR)
    cols = torch.arange(w, device=x.device, dtype=wide) + flow[:, 0]  # (N, H, W)
    rows = torch.arange(h, device=x.device, dtype=wide)[:, None] + flow[:, 1]
    # grid_sample undoes this: ((g + 1) / 2) * (size - 1). An axis of one pixel would be 0 * inf there, so it is
    # sampled as if it had two, the second of which the padding mode supplies.
    source = x.to(wide)
    source = F.pad(source, (0, int(w == 1), 0, int(h == 1)), mode="constant" if padding == "zeros" else "replicate")
    grid = torch.stack(
        (2 * cols / (source.shape[3] - 1) - 1, 2 * rows / (source.shape[2] - 1) - 1),
        dim=-1,
    )
    out = F.grid_sample(source, grid, mode=interpolation, padding_mode=padding, align_corners=True)
    return out.to(x.dtype).contiguous(memory_format=memory_format_of(x))


def flow_warp_concat(
    x: Tensor,  # (N, C, H, W)
    flow: Tensor,  # (N, 2, H, W)
    y: Tensor,  # (N, C_y, H, W)
    *,
    warp_first: bool = True,
    interpolation: str = "bilinear",
    padding: str = "zeros",
) -> Tensor:
    """The warped image and another tensor side by side."""
    warped = flow_warp(x, flow, interpolation=interpolation, padding=padding)
    both = torch.cat([warped, y] if warp_first else [y, warped], 1)
    return both.contiguous(memory_format=memory_format_of(x))
