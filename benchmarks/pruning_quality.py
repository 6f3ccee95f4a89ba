"""What pruning costs in quality: SSL against other ways to a network of as many multiplications.

    vsr data prepare datasets/clips
    vsr train basicvsr-small --out runs/basicvsr-small
    vsr train basicvsr-small model.num_feat=28 model.num_hr_feat=28 --out runs/basicvsr-narrow
    python benchmarks/pruning_quality.py [--ratio 0.5] [--seeds 2] [--folder runs/pruning] [--json FILE]
    python benchmarks/pruning_quality.py --dense basicvsr-vimeo-bi --recipe basicvsr --ways ssl layer l1

SSL prunes so many of the units; the others get the multiplications that SSL leaves as their budget. All are finetuned
equally long; what is pressed has trained before that, on smaller crops. The dense network, and a narrow one that was
trained like it, are trained on for as long. Scores are of the first 64 frames of held-out clips; runs that are there
are not repeated.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from model_cards import score
from rich.console import Console
from rich.table import Table

from vsr.models import Pruned, load_model
from vsr.models.base import Upscaler
from vsr.models.units import units_of
from vsr.pruning.cost import GigaMacs, counts_of
from vsr.pruning.recipe import FinetuneStage, Recipe, prune_and_train, read_recipe
from vsr.pruning.selection import SelectionConfig
from vsr.training.config import ClipsConfig
from vsr.training.run import open_clips, train
from vsr.training.trainer import FINAL

_CPU = torch.device("cpu")
#: Frames of the held-out clips that are scored: enough to see how errors travel.
_FRAMES = 64
#: Widths are multiples of it: 16 would leave two in networks of 32 features.
_ALIGN = 8
#: What SSL can be compared with.
_WAYS = {
    "ssl": "SSL",
    "temporal": "SSL, Temporal Finetuning",
    "layer": "pressed, every layer alike",
    "l1": "cut by L1 norm",
    "dense": "dense, trained on",
    "narrow": "narrow, trained on",
}


@dataclass
class Outcome:
    """A network and its scores.

    Attributes:
        gmacs: Billions of multiplications per frame of 320x180, the optical flow's left out.
        psnr, bicubic: PSNR-Y in dB of every frame, by held-out clip.
    """

    gmacs: float
    psnr: dict[str, list[float]]
    bicubic: dict[str, list[float]]

    @property
    def mean(self) -> float:
        """Over the clips."""
        return statistics.mean(statistics.mean(values) for values in self.psnr.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", default="datasets/clips", help="what `vsr data prepare` wrote")
    parser.add_argument("--folder", type=Path, default=Path("runs/pruning"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings for every recipe")
    parser.add_argument("--recipe", default="basicvsr-small")
    parser.add_argument("--dense", default="runs/basicvsr-small/final.safetensors")
    parser.add_argument("--narrow", default="runs/basicvsr-narrow/final.safetensors")
    parser.add_argument("--ways", nargs="+", choices=list(_WAYS), default=list(_WAYS), help="ssl among them")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if "ssl" not in args.ways:
        parser.error(f"--ways: expected ssl among them, whose multiplications are the others' budget, got {args.ways}")
    torch.set_num_threads(1)
    compare = Comparison(args.dense, args.clips, args.folder)
    rows: dict[str, list[Outcome]] = {"dense": [compare.untouched("dense", args.dense)]}
    if "narrow" in args.ways:
        rows["narrow"] = [compare.untouched("narrow", args.narrow)]
    for seed in range(args.seeds):
        changes = [f"data.train=[{{root: {args.clips}/train}}]", "data.validation=[]", f"seed={seed}", *args.set]
        recipe = read_recipe(args.recipe, changes)
        for way, outcome in outcomes(compare, args, recipe, seed):
            print(f"{_WAYS[way]}, seed {seed}: {outcome.mean:.3f} dB, {outcome.gmacs:.1f} GMAC", flush=True)
            rows.setdefault(_WAYS[way], []).append(outcome)
    report(rows)
    if args.json:
        args.json.write_text(json.dumps({name: [vars(r) for r in found] for name, found in rows.items()}, indent=1))


def outcomes(compare: Comparison, args: argparse.Namespace, recipe: Recipe, seed: int) -> Iterator[tuple[str, Outcome]]:
    """What the wanted ways come to, SSL's first."""
    assert recipe.finetune is not None
    plain = recipe.finetune.model_copy(update={"temporal": None})
    half = SelectionConfig(ratio=args.ratio, align=_ALIGN)
    ours = compare.pruned("ssl", half, recipe, plain, seed)
    yield "ssl", ours
    same: dict[str, Any] = {"gmacs": ours.gmacs + 1e-6, "align": _ALIGN}
    makers: dict[str, Callable[[], Outcome]] = {
        "temporal": lambda: compare.pruned("temporal", half, recipe, recipe.finetune, seed, pressed_as="ssl"),
        "layer": lambda: compare.pruned("layer", SelectionConfig(**same, scope="layer"), recipe, plain, seed),
        "l1": lambda: compare.pruned(
            "l1", SelectionConfig(**same, score="l1"), recipe.model_copy(update={"press": None}), plain, seed
        ),
        "dense": lambda: compare.trained_on("dense", args.dense, recipe, plain, seed),
        "narrow": lambda: compare.trained_on("narrow", args.narrow, recipe, plain, seed),
    }
    yield from ((way, make()) for way, make in makers.items() if way in args.ways)


class Comparison:
    """Runs that are scored on the same clips.

    Args:
        dense: What is pruned.
        clips: Folder of the prepared sets.
        folder: Holds all runs.
    """

    def __init__(self, dense: str, clips: str, folder: Path) -> None:
        self._dense, self._folder = dense, folder
        held_out = ClipsConfig(
            root=f"{clips}/test", only=("carphone-0000", "city-0000", "vtest-0100"), frames=(0, _FRAMES - 1)
        )
        self._clips = open_clips([held_out])

    def untouched(self, name: str, weights: str) -> Outcome:
        """A network as it is."""
        return self._known(f"{name}-as-it-was", {"weights": weights}, lambda _: load_model(weights))

    def pruned(
        self,
        name: str,
        selection: SelectionConfig,
        recipe: Recipe,
        finetune: FinetuneStage,
        seed: int,
        *,
        pressed_as: str | None = None,
    ) -> Outcome:
        """The dense network after a recipe with this last stage; what was pressed for another run may be taken."""
        whole = recipe.model_copy(update={"finetune": finetune})
        facts = {"dense": self._dense, "selection": selection.model_dump(), **whole.model_dump(mode="json")}

        def make(place: Path) -> Upscaler:
            if pressed_as is not None and not place.exists():
                shutil.copytree(self._folder / f"{pressed_as}-{seed}" / "press", place / "press")
            return prune_and_train(self._dense, selection, whole, place, device=_CPU)

        return self._known(f"{name}-{seed}", facts, make)

    def trained_on(self, name: str, weights: str, recipe: Recipe, stage: FinetuneStage, seed: int) -> Outcome:
        """A network after further training."""
        config = recipe.stage(stage, weights, load_model(weights).scale)

        def make(place: Path) -> Upscaler:
            train(config, place, device=_CPU)
            return load_model(place / FINAL)

        return self._known(f"{name}-{seed}", config.model_dump(mode="json"), make)

    def _known(self, name: str, facts: Mapping[str, Any], make: Callable[[Path], Upscaler]) -> Outcome:
        place = self._folder / name
        result = place.with_suffix(".json")
        if result.is_file():
            known = json.loads(result.read_text())
            if known.pop("facts") != facts:
                raise ValueError(f"{place}: holds a run with other settings: give another folder")
            return Outcome(**known)
        model = make(place)
        units = units_of(model)
        outcome = Outcome(
            GigaMacs(units).total(counts_of(model.kept if isinstance(model, Pruned) else units.everything)), {}, {}
        )
        for clip in self._clips:
            scores = score(clip, model, "bicubic")
            outcome.psnr[clip.name] = [frame.psnr for frame in scores["network"].frames.values()]
            outcome.bicubic[clip.name] = [frame.psnr for frame in scores["bicubic"].frames.values()]
        self._folder.mkdir(parents=True, exist_ok=True)
        result.write_text(json.dumps({"facts": facts, **vars(outcome)}, indent=1))
        return outcome


def report(rows: Mapping[str, Sequence[Outcome]]) -> None:
    """PSNR by clip, and by frame on the long clips."""
    first = rows["dense"][0]
    table = Table("", "GMAC", *first.psnr, "mean [per seed]", "against dense", title="PSNR-Y in dB")
    means = [statistics.mean(values) for values in first.bicubic.values()]
    table.add_row("bicubic", "", *(f"{mean:.2f}" for mean in means), f"{statistics.mean(means):.3f}")
    for name, found in rows.items():
        mean = statistics.mean(r.mean for r in found)
        table.add_row(
            name,
            f"{found[0].gmacs:.1f}",
            *(f"{statistics.mean(statistics.mean(r.psnr[clip]) for r in found):.2f}" for clip in first.psnr),
            f"{mean:.3f} [{', '.join(f'{r.mean:.3f}' for r in found)}]",
            f"{mean - first.mean:+.3f}",
        )
    by_frame = Table("frames", *rows, title="PSNR-Y in dB by frame, mean over the clips")
    for begin in range(0, _FRAMES, 8):
        cells = []
        for found in rows.values():
            values = [value for r in found for clip in r.psnr.values() for value in clip[begin : begin + 8]]
            cells.append(f"{statistics.mean(values):.3f}")
        by_frame.add_row(f"{begin} to {begin + 7}", *cells)
    console = Console(width=200)
    console.print(table)
    console.print(by_frame)


if __name__ == "__main__":
    main()
