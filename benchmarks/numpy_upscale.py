"""A video enlarged by examples/upscale_numpy.py, without torch, beside ``vsr upscale``: whole jobs, H.264 to H.264.

    python benchmarks/numpy_upscale.py CLIP [--model NAME] [--threads N] [--rounds N] [--cpu-time] [--json FILE]

Both encode with the same settings of x264. The pixels are compared first; more than one code value apart, and nothing
is timed. ``--cpu-time`` counts the processor time of the process instead of the clock's, for machines that others use.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from harness import Case, measure, report

import vsr_kernels.numpy as vk
from vsr.inference import FrameFolder, UpscaleOptions, VideoReader, upscale
from vsr.models import load_model, weights

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import upscale_numpy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--model", default="animevideov3")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    vk.set_num_threads(args.threads)
    checkpoint = weights.fetch(args.model)
    model = load_model(checkpoint)
    net = upscale_numpy.CompactNet(upscale_numpy.read_weights(checkpoint))
    options = UpscaleOptions(dtype="float32", device="cpu", overwrite=True)
    with tempfile.TemporaryDirectory() as folder:
        images, ours, theirs = (Path(folder) / name for name in ("images", "ours.mp4", "theirs.mp4"))
        upscale(args.clip, images, model=model, options=options)
        with VideoReader(args.clip) as reader:
            pairs = zip(upscale_numpy.upscaled(reader, net), FrameFolder(images), strict=True)
            apart = max(int(abs(a.astype(int) - np.asarray(b.image, int)).max()) for (a, _), b in pairs)
        print(f"largest difference of the pixels: {apart} of 255")
        if apart > 1:
            raise SystemExit("the pixels differ by more than one code value: no timing")
        case = Case(
            f"{args.model}, {args.clip.name}",
            {
                "NumPy alone": lambda: torch.tensor(upscale_numpy.upscale(args.clip, ours, net)),
                "vsr upscale": lambda: torch.tensor(upscale(args.clip, theirs, model=model, options=options).frames),
            },
            tolerance=0.0,
            rounds=args.rounds,
            warmup=1,
            clock=time.process_time if args.cpu_time else time.perf_counter,
        )
        report([measure(case)], args.json)


if __name__ == "__main__":
    main()
