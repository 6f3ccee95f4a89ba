"""What the late switch to population statistics does for a RepSR network: pictures with and without it.

    vsr data prepare datasets/clips
    python benchmarks/repsr_artefacts.py PICTURE.png [--iterations 2000] [--folder runs/repsr-artefacts]

Trains one network twice, once with the statistics of the batch to the end. Merged, that one counts with population
statistics under which it was never trained; RepSR's paper reports artefacts in smooth regions. The picture has the
windows of the held-out clips where the error grows most without the switch: bicubic, without, with, the original.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from training import arguments, run, settings

from vsr.data.degrade import bicubic_upscale_frame, degrade_frame, mod_crop
from vsr.models import load_model
from vsr.training.config import ClipsConfig
from vsr.training.run import open_clips
from vsr.training.trainer import FINAL

_SCALE, _WINDOW, _ZOOM = 2, 64, 3


def main() -> None:
    parser = arguments(__doc__, iterations=2000, folder="runs/repsr-artefacts")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--rows", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    held_out = [ClipsConfig(root=f"{args.clips}/validation"), ClipsConfig(root=f"{args.clips}/test")]
    runs = {"never": ["model.switch=1"], "late": []}
    for name, changes in runs.items():
        found = run(name, "repsr-x2", [*settings(args, 0), *changes], held_out, args.folder)
        print(f"switch {name}: {', '.join(f'{clip} {psnr:.2f}' for clip, psnr in found.psnr.items())} dB", flush=True)
    never, late = (load_model(args.folder / name / FINAL) for name in runs)
    rows: list[tuple[float, Tensor]] = []
    for clip in open_clips(held_out):
        _, height, width = clip.hr.shape
        truth = mod_crop(torch.tensor(clip.hr.read(clip.first, 0, 0, height, width)), _SCALE)
        lr = degrade_frame(truth, _SCALE, "bicubic")
        planes = lr.movedim(-1, 0)[None].float() / 255
        with torch.inference_mode():
            outputs = [_to_8_bits(model(planes)) for model in (never, late)]
        frames = [bicubic_upscale_frame(lr, _SCALE), *outputs, truth]
        rows.append(_worst_window(frames))
    rows.sort(key=lambda row: -row[0])
    picture = torch.cat([row for _, row in rows[: args.rows]])
    size = (picture.shape[1] * _ZOOM, picture.shape[0] * _ZOOM)
    Image.fromarray(picture.numpy()).resize(size, Image.Resampling.NEAREST).save(args.picture)


def _to_8_bits(planes: Tensor) -> Tensor:
    return (planes[0].clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1)


def _worst_window(frames: list[Tensor]) -> tuple[float, Tensor]:
    """How much larger the error without the switch is where that is worst, and that window of all frames in a row."""
    _, never, late, truth = (frame.float() for frame in frames)
    excess = ((never - truth).square() - (late - truth).square()).mean(-1)
    means = F.avg_pool2d(excess[None, None], _WINDOW, stride=8)[0, 0]
    place = int(means.argmax())
    top, left = (8 * index for index in divmod(place, means.shape[1]))
    window = torch.cat([frame[top : top + _WINDOW, left : left + _WINDOW] for frame in frames], 1)
    return float(means.flatten()[place]), window


if __name__ == "__main__":
    main()
