"""SPyNet: optical flow from a pyramid of small networks."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr_kernels import flow_warp
from vsr_kernels.nn import Conv7x7

_LEVELS = 6
_MULTIPLE = 1 << (_LEVELS - 1)  # the coarsest level is this much smaller than the finest


class _Level(nn.Module):
    """Correction of the flow at one level: five 7x7 convolutions with ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 32, 64, 32, 16, 2)
        layers: list[nn.Module] = []
        for wide_in, wide_out in pairwise(widths):
            last = wide_out == widths[-1]
            layers += [Conv7x7(wide_in, wide_out, activation="none" if last else "relu"), nn.Identity()]
        self.basic_module = nn.Sequential(*layers[:-1])  # BasicSR's ReLUs have numbers, too

    def forward(self, x: Tensor) -> Tensor:
        """(N, 8, H, W), both frames and the flow so far -> (N, 2, H, W), what to add to the flow."""
        dtype = cast(Conv7x7, self.basic_module[0]).weight.dtype
        return cast(Tensor, self.basic_module(x.to(dtype)))


class SPyNet(nn.Module):
    """Optical flow between frames, as BasicVSR uses it. State_dict keys are BasicSR's.

    The convolutions run in the dtype of the parameters; pyramid, flow and coordinates stay float32 (float64 for
    float64 frames), because half precision cannot hold a pixel coordinate.

    Source: Ranjan, Black, "Optical Flow Estimation using a Spatial Pyramid Network", CVPR 2017.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.basic_module = nn.ModuleList(_Level() for _ in range(_LEVELS))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, ref: Tensor, supp: Tensor) -> Tensor:
        """Flow from ``ref`` to ``supp``: ``flow_warp(supp, flow)`` looks like ``ref``.

        Args:
            ref: (N, 3, H, W), RGB in [0, 1]; any size.
            supp: The same shape.

        Returns:
            (N, 2, H, W) in pixels, channel 0 = dx, 1 = dy; float32, or float64 for float64 frames.

        Raises:
            ValueError: The shapes differ or are not (N, 3, H, W).
        """
        if ref.shape != supp.shape or ref.dim() != 4 or ref.shape[1] != 3:
            raise ValueError(
                f"SPyNet: ref, supp: expected one shape (N, 3, H, W), got {tuple(ref.shape)} and {tuple(supp.shape)}"
            )
        height, width = ref.shape[2:]
        padded = tuple(-(-size // _MULTIPLE) * _MULTIPLE for size in (height, width))
        flow = self._coarse_to_fine(self._pyramid(ref, padded), self._pyramid(supp, padded))
        if padded == (height, width):
            return flow
        flow = F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False)
        return torch.stack([flow[:, 0] * (width / padded[1]), flow[:, 1] * (height / padded[0])], 1)

    def _pyramid(self, image: Tensor, size: tuple[int, ...]) -> list[Tensor]:
        """The normalised image at ``size`` and its halvings, coarsest first."""
        wide = torch.promote_types(image.dtype, torch.float32)
        x = (image.to(wide) - self.mean.to(wide)) / self.std.to(wide)
        if size != x.shape[2:]:
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        levels = [x.contiguous(memory_format=torch.channels_last)]
        for _ in range(_LEVELS - 1):
            levels.append(F.avg_pool2d(levels[-1], 2))
        return levels[::-1]

    def _coarse_to_fine(self, refs: list[Tensor], supps: list[Tensor]) -> Tensor:
        n, _, h, w = refs[0].shape
        flow = refs[0].new_zeros(n, 2, h, w)
        for level, (ref, supp) in enumerate(zip(refs, supps, strict=True)):
            warped = supp  # what a flow of zero gives
            if level > 0:
                flow = F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True) * 2
                warped = flow_warp(supp, flow, padding="border")
            seen = torch.cat([ref, warped.to(ref.dtype), flow], 1)  # (N, 8, h, w)
            flow = flow + self.basic_module[level](seen).to(flow.dtype)
        return flow
