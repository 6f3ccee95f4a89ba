"""Short training runs that are compared with each other: what they cost, and what they reach on held-out clips."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from vsr.models import load_model
from vsr.training.config import ClipsConfig, TrainConfig, find_config, read_config
from vsr.training.run import open_clips, train
from vsr.training.trainer import FINAL
from vsr.training.validation import validate
from vsr_kernels import use_backend

_RESULT = "result.json"


@dataclass
class Run:
    """A finished run.

    Attributes:
        seconds: Process time of its steps; on one thread that is its time on an idle machine, whatever else runs.
        psnr: PSNR-Y in dB by held-out clip, of the averaged weights, merged.
        bicubic: The same of bicubic enlargement.
        loss: Mean training loss over the last tenth of the run.
    """

    seconds: float
    psnr: dict[str, float]
    bicubic: dict[str, float]
    loss: float

    @property
    def mean_psnr(self) -> float:
        """Over the clips."""
        return sum(self.psnr.values()) / len(self.psnr)


def arguments(description: str | None, *, iterations: int, folder: str) -> argparse.ArgumentParser:
    """What all comparisons are asked."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=iterations)
    parser.add_argument("--clips", default="datasets/clips", help="what `vsr data prepare` wrote")
    parser.add_argument("--folder", type=Path, default=Path(folder))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings for all of them")
    return parser


def settings(args: argparse.Namespace, seed: int) -> list[str]:
    """What all runs of a seed have in common."""
    return [
        f"data.train=[{{root: {args.clips}/train}}]",
        "data.validation=[]",
        f"schedule.iterations={args.iterations}",
        f"seed={seed}",
        *args.set,
    ]


def run(
    name: str,
    preset: str,
    changes: Sequence[str],
    held_out: Sequence[ClipsConfig],
    folder: Path,
    *,
    backend: str | None = None,
) -> Run:
    """Train, or read what an earlier call found.

    Args:
        name: Of the run's folder.
        preset: A configuration.
        changes: What differs from it, ``key=value``.
        held_out: Clips to score.
        folder: Holds all runs; a run that was cut off begins anew, so that its time is its own.
        backend: Trains on these operators; None for the package's choice.

    Raises:
        ValueError: The folder holds a run of that name with another configuration.
    """
    config = read_config(find_config(preset), changes)
    place = folder / name
    facts = {
        "config": config.model_dump(mode="json"),
        "held_out": [clips.model_dump(mode="json") for clips in held_out],
    }
    result = place / _RESULT
    if result.is_file():
        known = json.loads(result.read_text())
        if known.pop("facts") != facts:
            raise ValueError(f"{place}: holds a run with another configuration: give another folder")
        return Run(**known)
    shutil.rmtree(place, ignore_errors=True)
    with nullcontext() if backend is None else use_backend(backend):
        made = _train(config, held_out, place)
    result.write_text(json.dumps({"facts": facts, **asdict(made)}, indent=1))
    return made


def _train(config: TrainConfig, held_out: Sequence[ClipsConfig], place: Path) -> Run:
    # Neither validations nor checkpoints count as training.
    config = config.model_copy(update={"validate_every": 10**9, "save_every": 10**9})
    losses: list[float] = []
    begin = time.process_time()
    train(config, place, device=torch.device("cpu"), on_step=lambda progress: losses.append(progress.loss))
    seconds = time.process_time() - begin
    scores = validate(load_model(place / FINAL), open_clips(held_out), config.data.degradation, torch.device("cpu"))
    last = losses[-max(1, len(losses) // 10) :]
    return Run(
        seconds,
        {name: score.psnr for name, score in scores.items()},
        {name: score.bicubic for name, score in scores.items()},
        sum(last) / len(last),
    )
