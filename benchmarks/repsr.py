"""RepSR's block against the plain convolution, ECB, RepVGG and SESR: one recipe, several seeds, held-out clips.

    vsr data prepare datasets/clips
    python benchmarks/repsr.py [--seeds 3] [--iterations 3000] [--folder runs/repsr] [--json FILE]

All networks cost the same once merged (M4C16 x2). Runs that are there are not repeated. One thread: the times are
process times, so that they hold on a busy machine, too.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from training import Run, arguments, run, settings

from vsr.training.config import ClipsConfig

BLOCKS = ("repsr", "plain", "ecb", "repvgg", "sesr")


def main() -> None:
    parser = arguments(__doc__, iterations=3000, folder="runs/repsr")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    held_out = [ClipsConfig(root=f"{args.clips}/validation"), ClipsConfig(root=f"{args.clips}/test")]
    runs: dict[str, list[Run]] = {block: [] for block in BLOCKS}
    for seed in range(args.seeds):
        for block in BLOCKS:
            changes = [*settings(args, seed), f"model.block={block}"]
            runs[block].append(run(f"{block}-{seed}", "repsr-x2", changes, held_out, args.folder))
            print(f"{block}, seed {seed}: {runs[block][-1].mean_psnr:.3f} dB", flush=True)
    report(runs)
    if args.json:
        args.json.write_text(json.dumps({block: [vars(r) for r in found] for block, found in runs.items()}, indent=1))


def report(runs: dict[str, list[Run]]) -> None:
    """Means over the seeds; differences are taken within a seed."""
    clips = list(runs["repsr"][0].psnr)
    table = Table("block", *clips, "mean", "RepSR is ahead by [per seed]", "process time")
    ours = runs["repsr"]
    table.add_row("bicubic", *(f"{ours[0].bicubic[clip]:.2f}" for clip in clips))
    for block, found in runs.items():
        gains = [mine.mean_psnr - other.mean_psnr for mine, other in zip(ours, found, strict=True)]
        table.add_row(
            block,
            *(f"{statistics.mean(r.psnr[clip] for r in found):.2f}" for clip in clips),
            f"{statistics.mean(r.mean_psnr for r in found):.3f}",
            ""
            if block == "repsr"
            else f"{statistics.mean(gains):+.3f} [{', '.join(f'{gain:+.3f}' for gain in gains)}]",
            f"{statistics.mean(r.seconds for r in found):.0f} s",
        )
    Console(width=160).print("PSNR-Y in dB", table)


if __name__ == "__main__":
    main()
