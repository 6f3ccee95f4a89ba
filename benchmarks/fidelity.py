"""PSNR-Y of the public weights on real clips: 15 frames, x4, LR by MATLAB bicubic in 8 bits, 8 px border cut.

    python benchmarks/fidelity.py [--dtype bfloat16] [--model NAME ...] [--json FILE]

The network sees all 15 frames at once, as in the papers' tests, so that the figures do not depend on windows.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from vsr.data.clips import fetch_clip
from vsr.data.degrade import imresize
from vsr.inference import VideoReader
from vsr.metrics import psnr_y
from vsr.models import load_model

FRAMES, SCALE, BORDER = 15, 4, 8


class Clip(NamedTuple):
    """A stretch of a clip, reduced by area first if its source is larger than wanted."""

    name: str
    first: int
    height: int
    width: int


CLIPS = (
    Clip("bbb-trailer", 700, 360, 640),
    Clip("bikes", 150, 272, 640),
    Clip("city", 20, 404, 720),
    Clip("vtest", 100, 576, 768),
    Clip("bbb", 60, 360, 640),
)


def round8(x: torch.Tensor) -> torch.Tensor:
    """Values in [0, 1] on the 8-bit grid."""
    return (x.clamp(0, 1) * 255).round() / 255


def hr_frames(clip: Clip) -> torch.Tensor:
    """(T, 3, H, W) in [0, 1]."""
    with VideoReader(fetch_clip(clip.name)) as reader:
        images = [frame.image for frame in islice(reader, clip.first, clip.first + FRAMES)]
    frames = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    if frames.shape[2] == 2 * clip.height:
        frames = round8(F.avg_pool2d(frames, 2))
    return frames[:, :, : clip.height, : clip.width]


def mean_psnr(frames: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean over frames of the luma PSNR, in dB."""
    pairs = ((round8(f) * 255, round8(t) * 255) for f, t in zip(frames, truth, strict=True))
    as_uint8 = ((a.permute(1, 2, 0).byte().numpy(), b.permute(1, 2, 0).byte().numpy()) for a, b in pairs)
    return float(np.mean([psnr_y(a, b, crop=BORDER) for a, b in as_uint8]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--model", nargs="+", default=["animevideov3", "basicvsr-vimeo-bi", "basicvsr-reds"])
    parser.add_argument("--json")
    args = parser.parse_args()
    models = {name: load_model(name, dtype=getattr(torch, args.dtype)) for name in args.model}
    rows = {}
    table = Table("clip (first frame)", "HR size", "bicubic", *models)
    for clip in CLIPS:
        truth = hr_frames(clip)
        lr = round8(imresize(truth, 1 / SCALE))
        row = {"bicubic": mean_psnr(imresize(lr, SCALE), truth)}
        with torch.inference_mode():
            for name, model in models.items():
                sr = model(lr[None])[0] if model.recurrent else torch.cat([model(frame[None]) for frame in lr])
                row[name] = mean_psnr(sr.float(), truth)
        rows[clip.name] = row
        table.add_row(
            f"{clip.name} ({clip.first})", f"{clip.width}x{clip.height}", *(f"{value:.2f}" for value in row.values())
        )
    Console(width=110).print(f"PSNR-Y in dB, {args.dtype}", table)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
