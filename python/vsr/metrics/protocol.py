"""Which frames and channels the benchmarks compare, and how scores of frames become one number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vsr.metrics.frames import Frame, psnr_rgb, psnr_y, ssim_rgb, ssim_y


@dataclass(frozen=True)
class Protocol:
    """What is compared.

    Attributes:
        channel: ``y`` (luma) or ``rgb``.
        crop: Border in pixels left out at every side.
        centre_only: Score only the frame in the middle of each clip (Vimeo-90K's ``im4``).
        mirrored: Run a model over the clip followed by its reverse and average the two outputs of each frame.
    """

    channel: Literal["y", "rgb"] = "y"
    crop: int = 0
    centre_only: bool = False
    mirrored: bool = False


#: The protocols of the published tables: REDS4 on RGB, the others on luma, none with a cropped border.
PRESETS: dict[str, Protocol] = {
    "reds4": Protocol(channel="rgb"),
    "vid4": Protocol(channel="y"),
    "udm10": Protocol(channel="y"),
    "vimeo": Protocol(channel="y", centre_only=True, mirrored=True),
}


@dataclass(frozen=True)
class FrameScore:
    """PSNR in decibels (infinite where the frames are equal) and SSIM of one frame."""

    psnr: float
    ssim: float


@dataclass(frozen=True)
class ClipScore:
    """Averages of a clip or of several clips.

    Attributes:
        psnr: Mean PSNR in decibels of the frames that differ; infinite when none does.
        ssim: Mean SSIM of all frames.
        frames: Number of frames averaged.
        identical: How many of them equal the reference exactly; they are left out of ``psnr`` only.
    """

    psnr: float
    ssim: float
    frames: int
    identical: int


def score_frame(reference: Frame, output: Frame, protocol: Protocol) -> FrameScore:
    """Compare one frame; arguments and errors as :func:`vsr.metrics.psnr_y` and its siblings."""
    if protocol.channel == "rgb":
        return FrameScore(psnr_rgb(reference, output, protocol.crop), ssim_rgb(reference, output, protocol.crop))
    return FrameScore(psnr_y(reference, output, protocol.crop), ssim_y(reference, output, protocol.crop))


def average_psnr(values: Sequence[float]) -> float:
    """Mean of the finite values: a frame that equals its reference has no PSNR and would hide all others.

    Args:
        values: Decibels, at least one.

    Returns:
        The mean; infinite when all values are.

    Raises:
        ValueError: There is no value.
    """
    if not values:
        raise ValueError("average_psnr: there is no frame to average")
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.inf


def average_frames(scores: Sequence[FrameScore]) -> ClipScore:
    """Average the frames of a clip, by the rule of :func:`average_psnr`."""
    return ClipScore(
        psnr=average_psnr([score.psnr for score in scores]),
        ssim=sum(score.ssim for score in scores) / len(scores),
        frames=len(scores),
        identical=sum(math.isinf(score.psnr) for score in scores),
    )


def average_clips(clips: Sequence[ClipScore]) -> ClipScore:
    """Average clips, each with the same weight whatever its length, as the published tables do."""
    return ClipScore(
        psnr=average_psnr([clip.psnr for clip in clips]),
        ssim=sum(clip.ssim for clip in clips) / len(clips),
        frames=sum(clip.frames for clip in clips),
        identical=sum(clip.identical for clip in clips),
    )
