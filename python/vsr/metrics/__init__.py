"""PSNR and SSIM as the super-resolution papers compute them, and the protocols of the usual benchmarks."""

from vsr.metrics.frames import psnr_rgb, psnr_y, ssim_rgb, ssim_y, to_y
from vsr.metrics.protocol import (
    PRESETS,
    ClipScore,
    FrameScore,
    Protocol,
    average_clips,
    average_frames,
    average_psnr,
    score_frame,
)

__all__ = [
    "PRESETS",
    "ClipScore",
    "FrameScore",
    "Protocol",
    "average_clips",
    "average_frames",
    "average_psnr",
    "psnr_rgb",
    "psnr_y",
    "score_frame",
    "ssim_rgb",
    "ssim_y",
    "to_y",
]
