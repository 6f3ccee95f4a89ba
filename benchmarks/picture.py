"""The README's picture: one frame of the CC0 clip ``city``, x4, bicubic beside BasicVSR beside the original.

python benchmarks/picture.py docs/city-x4.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from fidelity import CLIPS, SCALE, hr_frames, round8

from vsr.data.degrade import imresize
from vsr.metrics.sidebyside import Crop, Picture, side_by_side
from vsr.models import load_model

SHOWN = 7
DETAIL = Crop(300, 150, 160, 120)


def main() -> None:
    clip = next(clip for clip in CLIPS if clip.name == "city")
    truth = hr_frames(clip)
    lr = round8(imresize(truth, 1 / SCALE))
    with torch.inference_mode():
        sr = load_model("basicvsr-vimeo-bi")(lr[None])[0]
    versions = {"bicubic x4": imresize(lr, SCALE), "BasicVSR x4": sr, "original": truth}
    pictures = [
        Picture(label, (round8(frames[SHOWN]) * 255).permute(1, 2, 0).byte().numpy())
        for label, frames in versions.items()
    ]
    side_by_side(pictures, DETAIL).save(Path(sys.argv[1]), optimize=True)


if __name__ == "__main__":
    main()
