"""Scores over whole clips, as they will be watched: long, and with their borders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from vsr.data.degrade import Degradation, bicubic_upscale_frame, degrade_frame, mod_crop
from vsr.metrics import average_psnr, psnr_y, ssim_y
from vsr.models.base import Upscaler
from vsr.training.catalog import TrainingClip
from vsr.training.frames import Frames


class Score(NamedTuple):
    """How well a clip was enlarged, measured on the luma, borders included.

    Attributes:
        psnr, ssim: Means over the frames; PSNR in decibels.
        bicubic: PSNR of bicubic enlargement.
        picture: The middle frame, (H, 3 * W, 3) uint8 RGB: enlarged bicubically, by the network, and the truth.
    """

    psnr: float
    ssim: float
    bicubic: float
    picture: Tensor


@torch.no_grad()
def validate(
    model: Upscaler,
    clips: Sequence[TrainingClip],
    degradation: Degradation,
    device: torch.device,
    *,
    half: bool = False,
) -> dict[str, Score]:
    """The model's scores by clip; a recurrent network sees each clip whole.

    Args:
        model: In eval mode, on ``device``.
        clips: Their names must differ.
        degradation: How LR is made of HR where a clip comes without it.
        device: Where to compute.
        half: Compute under bfloat16 autocast.
    """
    scores = {}
    for clip in clips:
        hr, lr = _frames(clip, model.scale, degradation)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            output = _enlarge(model, lr.movedim(-1, -3).float().to(device) / 255)
        output = (output.float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).movedim(-3, -1)
        plain = bicubic_upscale_frame(lr, model.scale)
        ssim = [ssim_y(a, b) for a, b in zip(hr, output, strict=True)]
        middle = len(hr) // 2
        picture = torch.cat([plain[middle], output[middle], hr[middle]], 1)
        scores[clip.name] = Score(_psnr(hr, output), sum(ssim) / len(ssim), _psnr(hr, plain), picture)
    return scores


def _frames(clip: TrainingClip, scale: int, degradation: Degradation) -> tuple[Tensor, Tensor]:
    """HR and LR frames of a clip: (T, s * H, s * W, 3) and (T, H, W, 3), uint8."""
    order = range(clip.first, clip.first + clip.count)

    def whole(source: Frames) -> Tensor:
        _, height, width = source.shape
        return torch.stack([torch.tensor(source.read(i, 0, 0, height, width)) for i in order])

    hr = mod_crop(whole(clip.hr), scale)
    if clip.lr is not None:
        return hr, whole(clip.lr)
    return hr, torch.stack([degrade_frame(frame, scale, degradation) for frame in hr])


def _enlarge(model: Upscaler, lr: Tensor) -> Tensor:
    if model.recurrent:
        return cast(Tensor, model(lr[None]))[0]
    return torch.cat([model(frame[None]) for frame in lr])


def _psnr(reference: Tensor, output: Tensor) -> float:
    return average_psnr([psnr_y(a, b) for a, b in zip(reference.numpy(), output.numpy(), strict=True)])
