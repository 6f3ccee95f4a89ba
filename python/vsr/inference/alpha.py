"""Transparency: enlarged by itself, and colours under it that do not bleed into what is visible."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vsr.data.degrade import imresize
from vsr.inference.frame import Picture


def enlarge_alpha(alpha: Picture, scale: int, bits: int) -> Picture:
    """Enlarge a transparency plane by bicubic interpolation.

    A model trained on photographs has nothing to add to a mask; interpolation keeps its edge where it is.

    Args:
        alpha: (H, W) uint8 or uint16.
        scale: Enlargement.
        bits: 8 or 16: depth of the result.

    Returns:
        (scale * H, scale * W) uint8 or uint16.
    """
    values = torch.from_numpy(alpha).to(torch.float32)[None] / np.iinfo(alpha.dtype).max  # (1, H, W)
    top = (1 << bits) - 1
    codes = imresize(values, scale)[0].mul_(top).add_(0.5).clamp_(0, top)
    large: Picture = codes.to(torch.uint8 if bits == 8 else torch.uint16).numpy()
    return large


def fill_transparent(image: Picture, alpha: Picture) -> Picture:
    """Replace the colours of fully transparent pixels by those of the visible ones around.

    They are often black, and a model would blend them into the edge of what is visible.

    Args:
        image: (H, W, 3) uint8 or uint16.
        alpha: (H, W), 0 is transparent.

    Returns:
        (H, W, 3); equal to ``image`` wherever ``alpha`` is not 0.

    Source: the pull-push interpolation of S. Gortler et al., "The Lumigraph", 1996, section 4.2.
    """
    colour = torch.from_numpy(image).to(torch.float32).permute(2, 0, 1)[None]  # (1, 3, H, W)
    weight = torch.from_numpy(alpha != 0).to(torch.float32)[None, None]  # (1, 1, H, W)
    filled = _pull_push(colour * weight, weight)[0].permute(1, 2, 0)
    visible = (alpha != 0)[..., None]
    out: Picture = np.where(visible, image, filled.round().numpy().astype(image.dtype))
    return out


def _pull_push(weighted: Tensor, weight: Tensor) -> Tensor:
    """Colours where the weight is not 0; elsewhere those of the next coarser level of a pyramid."""
    known = weighted / weight.clamp(min=1e-6)
    if min(weight.shape[-2:]) < 2 or bool(weight.min() > 0):
        return known
    coarse_weight = F.avg_pool2d(weight, 2, ceil_mode=True)
    coarse = _pull_push(F.avg_pool2d(weighted, 2, ceil_mode=True), coarse_weight)
    guess = F.interpolate(coarse, scale_factor=2.0)[..., : weight.shape[-2], : weight.shape[-1]]
    return torch.where(weight > 0, known, guess)
