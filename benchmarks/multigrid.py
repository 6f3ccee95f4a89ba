"""Multigrid training against fixed shapes: the same network, the same samples, held-out clips, several seeds.

    vsr data prepare datasets/clips
    python benchmarks/multigrid.py [--seeds 2] [--iterations 3000] [--folder runs/multigrid] [--json FILE]

Each row adds one ingredient to the row above it. Runs that are there are not repeated. One thread: the times are
process times, so that they hold on a busy machine, too.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from training import Run, arguments, run, settings

from vsr.training.config import ClipsConfig


class Recipe(NamedTuple):
    """What a row differs in from the preset ``basicvsr-small``."""

    name: str
    settings: tuple[str, ...]
    backend: str | None = None


_FIXED = ("schedule.stages=[{crop: 64, share: 1.0}]", "schedule.clip_shares=[1.0]")
_FLOAT = "dtype=float32"
_BFLOAT = "+ bfloat16"
_LARGE = ("schedule.batch_mode=constant_cost", "schedule.max_batch=8")

#: From the paper's baseline to everything; "reference" is plain PyTorch.
LADDER = (
    Recipe("fixed shapes, float32, PyTorch's operators", (*_FIXED, _FLOAT), "reference"),
    Recipe("+ multigrid shapes", (_FLOAT,), "reference"),
    Recipe("+ fused operators", (_FLOAT,)),
    Recipe(_BFLOAT, ()),
    Recipe("+ large minibatches in small shapes", _LARGE),
)
#: Other ways to lead the learning rate through changes of shape than the ladder's cosine per stage.
PRESETS = (
    Recipe("one cosine", ("schedule.lr_preset=cosine",)),
    Recipe("one cosine, ramps at changes (rewarm)", ("schedule.lr_preset=rewarm", "schedule.rewarm=100")),
)


def main() -> None:
    parser = arguments(__doc__, iterations=3000, folder="runs/multigrid")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    # Whole clips of the size that a small network takes minutes for, not hours.
    held_out = [
        ClipsConfig(root=f"{args.clips}/validation"),
        ClipsConfig(root=f"{args.clips}/test", only=("city-0000", "vtest-0100"), frames=(0, 29)),
    ]

    def runs_of(recipe: Recipe) -> list[Run]:
        found = []
        for seed in range(args.seeds):
            name = f"{recipe.name.replace(' ', '-').replace(',', '').strip('+-')}-{seed}"
            changes = [*settings(args, seed), *recipe.settings]
            found.append(run(name, "basicvsr-small", changes, held_out, args.folder, backend=recipe.backend))
            print(f"{recipe.name}, seed {seed}: {found[-1].mean_psnr:.3f} dB, {found[-1].seconds:.0f} s", flush=True)
        return found

    ladder = {recipe.name: runs_of(recipe) for recipe in LADDER}
    presets = {"a cosine per stage (restart)": ladder[_BFLOAT]}
    presets |= {recipe.name: runs_of(recipe) for recipe in PRESETS}
    report("Speed, ingredient by ingredient", ladder)
    report("The learning rate at changes of shape (bfloat16, fused operators)", presets)
    if args.json:
        rows = {name: [vars(r) for r in found] for name, found in (ladder | presets).items()}
        args.json.write_text(json.dumps(rows, indent=1))


def report(title: str, rows: dict[str, list[Run]]) -> None:
    """Speed and PSNR against the first row, seed by seed."""
    first = next(iter(rows.values()))
    table = Table("", *first[0].psnr, "mean [per seed]", "against the first", "time", "times as fast [per seed]")
    bicubic = first[0].bicubic
    table.add_row("bicubic", *(f"{value:.2f}" for value in bicubic.values()))
    for name, found in rows.items():
        gains = [b.mean_psnr - a.mean_psnr for a, b in zip(first, found, strict=True)]
        ratios = [a.seconds / b.seconds for a, b in zip(first, found, strict=True)]
        table.add_row(
            name,
            *(f"{statistics.mean(r.psnr[clip] for r in found):.2f}" for clip in bicubic),
            f"{statistics.mean(r.mean_psnr for r in found):.3f} [{', '.join(f'{r.mean_psnr:.2f}' for r in found)}]",
            f"{statistics.mean(gains):+.3f}",
            f"{statistics.mean(r.seconds for r in found):.0f} s",
            f"{statistics.mean(ratios):.2f} [{', '.join(f'{ratio:.2f}' for ratio in ratios)}]",
        )
    Console(width=180).print(title, table)


if __name__ == "__main__":
    main()
