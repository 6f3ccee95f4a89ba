"""BasicVSR end to end: this package against the same weights in plain PyTorch.

    python benchmarks/basicvsr.py [--frames N] [--rounds N] [--size 180x320] [--json FILE]

The plain network is the restatement that the tests compare with (tests/models/plain_models.py): F.conv2d, grid_sample,
float32, contiguous, eager. A second peer is the same under channels_last and bfloat16 autocast, the strongest setting
that eager PyTorch offers. Weights are the public ones, frames come from a real clip.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from harness import Case, measure, report

from vsr.data.clips import fetch_clip
from vsr.data.degrade import imresize
from vsr.inference import VideoReader
from vsr.models import load_model

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "models"))
from plain_models import basicvsr


def lr_frames(count: int, height: int, width: int) -> torch.Tensor:
    """Frames of a real clip, reduced to 1/2 by MATLAB bicubic and cropped: (1, T, 3, H, W)."""
    frames = []
    with VideoReader(fetch_clip("city")) as reader:
        for frame in reader:
            frames.append(torch.from_numpy(frame.image).permute(2, 0, 1).float() / 255)
            if len(frames) == count:
                break
    return imresize(torch.stack(frames), 0.5)[None, :, :, :height, :width].contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="180x320", help="HEIGHTxWIDTH of the LR frames, at most 202x360")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    height, width = (int(side) for side in args.size.split("x"))
    frames = lr_frames(args.frames, height, width)
    full = load_model("basicvsr-vimeo-bi")
    half = load_model("basicvsr-vimeo-bi", dtype=torch.bfloat16)
    plain = {key: value.contiguous() for key, value in full.state_dict().items()}
    last = {
        key: value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value
        for key, value in plain.items()
    }

    def plain_autocast() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return basicvsr(last, frames)

    peers = {
        "ours bfloat16": lambda: half(frames),
        "ours float32": lambda: full(frames),
        "plain float32 NCHW": lambda: basicvsr(plain, frames),
        "plain float32 channels_last weights": lambda: basicvsr(last, frames),
        "plain bfloat16 autocast, channels_last weights": plain_autocast,
    }
    name = f"BasicVSR x4, {args.frames} frames {height}x{width}"
    report([measure(Case(name, peers, tolerance=2e-2, rounds=args.rounds, warmup=1))], args.json)


if __name__ == "__main__":
    main()
