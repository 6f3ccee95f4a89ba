"""Takes finished training runs into the package: the weights, each with a card that says how and how good.

    vsr data prepare datasets/clips
    python benchmarks/model_cards.py runs/repsr-m4c16-x2 ... [--clips datasets/clips] [--into FOLDER]

A run's folder is called as its weights shall be; it is one of ``vsr train`` or of ``vsr prune``. Recurrent networks are
stored in 16 bits. Scores are of the stored weights, on whole clips that no training and no choice has seen (``test`` of
the small sets), PSNR and SSIM of the luma, borders included, against bicubic enlargement.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsr.metrics.evaluation import Clip, ClipResult, FrameRange, bicubic_method, evaluate_methods, model_method
from vsr.metrics.protocol import Protocol
from vsr.models import load_model, save_model
from vsr.models.base import Upscaler
from vsr.models.weights import NAMES
from vsr.pruning.recipe import RUN
from vsr.training.catalog import TrainingClip
from vsr.training.config import ClipsConfig
from vsr.training.run import open_clips
from vsr.training.state import read_state
from vsr.training.trainer import FINAL, STATE

_SHIPPED = Path(__file__).parents[1] / "python/vsr/models/shipped"
#: Too small for its quarter to be worth enlarging.
_LEAST_SIDE = 200
_FLOW = "The optical flow network is that of `basicvsr-vimeo-bi` (BasicSR, Apache-2.0), as it was."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--clips", default="datasets/clips", help="what `vsr data prepare` wrote")
    parser.add_argument("--into", type=Path, default=_SHIPPED)
    args = parser.parse_args()
    args.into.mkdir(parents=True, exist_ok=True)
    for run in args.runs:
        pruned = (run / RUN).is_file()
        last = run / "finetune" if pruned else run
        config = json.loads(read_state(last / STATE)["config"])
        model, target = load_model(last / FINAL), args.into / f"{run.name}.safetensors"
        save_model(model, target, half=model.recurrent)
        model = load_model(target)
        clips = open_clips([ClipsConfig(root=f"{args.clips}/test")])
        clips = [clip for clip in clips if model.scale < 4 or min(clip.hr.shape[1:]) >= _LEAST_SIDE]
        scores = {clip.name: score(clip, model, config["data"]["degradation"]) for clip in clips}
        how = prune_command(run) if pruned else train_command(run.name, model, config)
        text = card(run.name, model, how, config, scores, Path(args.clips))
        (args.into / f"{run.name}.md").write_text(text)
        print(text, flush=True)


def score(clip: TrainingClip, model: Upscaler, degradation: Any) -> dict[str, ClipResult]:
    """Of bicubic enlargement and of the network, over the whole clip at once."""

    def frames() -> Iterator[Tensor]:
        _, height, width = clip.hr.shape
        for i in range(clip.first, clip.first + clip.count):
            yield torch.tensor(clip.hr.read(i, 0, 0, height, width))

    return evaluate_methods(
        Clip(clip.name, clip.name, frames),
        {"bicubic": bicubic_method(model.scale), "network": model_method(model)},
        scale=model.scale,
        degradation=degradation,
        protocol=Protocol(),
        wanted=FrameRange(),
    )


def train_command(name: str, model: Upscaler, config: dict[str, Any]) -> str:
    """What trained it."""
    preset = "basicvsr-small" if model.recurrent else f"repsr-x{model.scale}"
    shape = config["model"]
    settings = "" if model.recurrent else f" model.num_block={shape['num_block']} model.num_feat={shape['num_feat']}"
    return f"vsr train {preset}{settings} seed={config['seed']} --out runs/{name}"


def prune_command(run: Path) -> str:
    """What pruned it."""
    settings = json.loads((run / RUN).read_text())
    dense = settings["model"]
    name = dense if dense in NAMES else Path(dense).parent.name
    ratio, align = (settings["selection"][key] for key in ("ratio", "align"))
    preset = "basicvsr" if name == "basicvsr-vimeo-bi" else "basicvsr-small"
    return f"vsr prune {name} {run.name}.safetensors --ratio {ratio} --align {align} --recipe {preset}"


def card(
    name: str,
    model: Upscaler,
    command: str,
    config: dict[str, Any],
    scores: dict[str, dict[str, ClipResult]],
    clips: Path,
) -> str:
    """The card's Markdown."""
    schedule = config["schedule"]
    stages = ", ".join(f"{stage['crop']}x{stage['crop']}" for stage in schedule["stages"])
    clip_length = f"clips of up to {schedule['frames']} frames, " if model.recurrent else ""
    manifest = json.loads((clips / "manifest.json").read_text())
    sources = sorted({(e["source"], e["licence"]) for key, e in manifest.items() if key.startswith("train/")})
    lines = [
        f"# {name}",
        "",
        f"{type(model).__name__}, {json.dumps(model.config)[1:-1]}; "
        f"{sum(p.numel() for p in model.parameters()):,} parameters"
        f"{' in 16 bits' if model.recurrent else ''}. Apache-2.0.",
        "",
        "```",
        "vsr data prepare datasets/clips",
        command,
        "```",
        "",
        f"{schedule['iterations']} iterations, batch {schedule['batch']}, {clip_length}LR crops {stages}, "
        f"{config['dtype']}; LR by MATLAB's bicubic, in 8 bits.",
        "",
        "Trained on " + "; ".join(f"{source} ({licence})" for source, licence in sources) + ".",
        *(["", _FLOW] if model.recurrent else []),
        "",
        "| held-out clip | bicubic | this network | gain |",
        "| --- | --- | --- | --- |",
    ]
    for clip, results in scores.items():
        before, after = results["bicubic"].score, results["network"].score
        lines.append(
            f"| {clip} | {before.psnr:.2f} dB, {before.ssim:.4f} | {after.psnr:.2f} dB, {after.ssim:.4f} "
            f"| {after.psnr - before.psnr:+.2f} dB |"
        )
    return "\n".join([*lines, "", "PSNR and SSIM of the luma over whole clips, borders included.", ""])


if __name__ == "__main__":
    main()
