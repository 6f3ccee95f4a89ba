"""``vsr prune``: a smaller network whose time falls with its multiplications."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vsr.errors import UserError

if TYPE_CHECKING:
    from vsr.metrics.evaluation import ClipResult
    from vsr.models import Upscaler
    from vsr.training.trainer import Progress


class Score(str, Enum):
    """How much a unit matters; see :class:`vsr.pruning.SelectionConfig`."""

    scale = "scale"
    scale_norm = "scale-norm"
    l1 = "l1"


class Scope(str, Enum):
    """What units compete with."""

    globally = "global"
    layer = "layer"


def prune(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A checkpoint, or a name that `vsr models list` shows.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors to write.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings in place of the recipe's: finetune.schedule.batch=4"),
    ] = None,
    ratio: Annotated[float | None, typer.Option(help="Share of the units to prune; 0.5 without a budget.")] = None,
    gmacs: Annotated[
        float | None, typer.Option(help="Instead: GMAC per 320x180 frame to be left, without optical flow.")
    ] = None,
    milliseconds: Annotated[
        float | None,
        typer.Option(
            help="Instead: ms of convolutions per 320x180 frame on this CPU to be left, without optical flow."
        ),
    ] = None,
    score: Annotated[
        Score, typer.Option(help="What decides: trained scales, scales times the weights' norm, or the weights' L1.")
    ] = Score.scale_norm,
    scope: Annotated[
        Scope, typer.Option(help="Whether units compete globally or within their layer.")
    ] = Scope.globally,
    align: Annotated[
        int,
        typer.Option(min=1, help="Layers keep multiples of this many units; 16 suits AVX-512, AMX and tensor cores."),
    ] = 16,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Train before and after the cut: a YAML file or basicvsr. Without it the network is only cut."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--run", help="Folder of the training; a run in it is continued. OUT without its ending if absent."
        ),
    ] = None,
    clip: Annotated[
        list[str] | None,
        typer.Option(help="Score both networks on this clip (repeatable): a video, a folder, or clip:NAME."),
    ] = None,
    frames: Annotated[
        str | None, typer.Option(metavar="FIRST:STOP", help="Only these frames of each clip, such as 0:60.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw kept units by layer and PSNR by frame.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
) -> None:
    """Prune a network to fewer channels, with training before and after if a recipe says how, and report the effect."""
    from pydantic import ValidationError
    from rich.console import Console

    from vsr.files import check_folder
    from vsr.inference.device import choose_device
    from vsr.metrics.evaluation import FrameRange
    from vsr.metrics.plot import check_plot
    from vsr.models import load_model, save_model
    from vsr.pruning import report
    from vsr.pruning.recipe import prune as cut
    from vsr.pruning.recipe import prune_and_train, read_recipe
    from vsr.pruning.selection import SelectionConfig

    if out.suffix != ".safetensors":
        raise UserError(f"{out}: expected a name that ends in .safetensors")
    if recipe is None and (overrides or folder is not None):
        raise UserError("settings of a recipe and --run belong to --recipe")
    budget: dict[str, Any] = {"ratio": ratio, "gmacs": gmacs, "milliseconds": milliseconds}
    if all(value is None for value in budget.values()):
        budget["ratio"] = 0.5
    try:
        selection = SelectionConfig(**budget, score=score.value, scope=scope.value, align=align)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"--{part}: " for part in first["loc"])
        raise UserError(f"{where}{first['msg'].removeprefix('Value error, ')}") from error
    wanted = FrameRange() if frames is None else FrameRange.parse(frames)
    check_folder(out.parent)
    if plot is not None:
        check_folder(plot.parent)
        check_plot(plot)
    where_to = choose_device(device)

    dense = load_model(model)
    if recipe is None:
        pruned = cut(dense, selection)
    else:
        with _reporting() as on_step:
            place = folder or out.with_suffix("")
            made = read_recipe(recipe, overrides or [])
            pruned = prune_and_train(model, selection, made, place, device=where_to, on_step=on_step)
    save_model(pruned, out)
    if recipe is None:
        typer.echo("note: cut without training; a large cut needs --recipe before its pictures are of use", err=True)

    networks = {"before": dense, "after": pruned}
    found = report.figures(networks, where_to)
    console = Console()
    console.print(report.layer_table(found["before"], found["after"]))
    console.print(report.summary_table(found["before"], found["after"]))
    scores = _scores(clip or [], networks, wanted)
    if scores:
        console.print(report.psnr_table(scores))
    if plot is not None:
        report.plot_report(found["before"], found["after"], scores, plot)
    typer.echo(out)


def _scores(clips: list[str], networks: dict[str, Upscaler], wanted: Any) -> dict[str, list[ClipResult]]:
    """Scores of bicubic enlargement and of both networks, frame by frame."""
    from vsr.cli._clips import find_clips
    from vsr.metrics import Protocol
    from vsr.metrics.evaluation import bicubic_method, evaluate_methods, model_method

    results: dict[str, list[ClipResult]] = {}
    scale = networks["before"].scale
    methods = {"bicubic": bicubic_method(scale)} | {name: model_method(net) for name, net in networks.items()}
    for source in clips:
        for one in find_clips(source):
            scored = evaluate_methods(
                one, methods, scale=scale, degradation="bicubic", protocol=Protocol(), wanted=wanted
            )
            for name, result in scored.items():
                results.setdefault(name, []).append(result)
    return results


@contextmanager
def _reporting() -> Iterator[Callable[[str, Progress], None]]:
    """Progress of each stage, one after the other."""
    from vsr.cli.train import reporting

    with ExitStack() as stack:
        shown: dict[str, Callable[[Progress], None]] = {}

        def show(stage: str, progress: Progress) -> None:
            if stage not in shown:
                stack.close()
                typer.echo(stage, err=True)
                shown[stage] = stack.enter_context(reporting())
            shown[stage](progress)

        yield show
