"""``vsr train``: train a network as a configuration says, from wherever an earlier run stopped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vsr.training.trainer import Progress

_REPORT_SECONDS = 30.0


def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or a preset such as basicvsr-reds.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings in place of the file's: schedule.batch=16"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the run; a run in it is continued. runs/CONFIG if absent."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only show the schedule and its predicted cost.")] = False,
    plot: Annotated[Path | None, typer.Option(help="With --plan: draw it, too (png, svg, pdf).")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Log curves and pictures for TensorBoard into the folder.")
    ] = False,
) -> None:
    """Train a network from small shapes to large ones (multigrid), or with one shape.

    Under torchrun every process takes part: torchrun --nproc-per-node 8 -m vsr train CONFIG.
    """
    from rich.console import Console

    from vsr.errors import UserError
    from vsr.training.config import find_config, read_config
    from vsr.training.plan import plan_table, plot_plan

    path = find_config(config)
    made = read_config(path, overrides or [])
    if plot is not None and not plan:
        raise UserError("--plot draws the schedule that --plan shows: give both")
    if plan:
        Console().print(plan_table(made.schedule))
        if plot is not None:
            plot_plan(made.schedule, plot)
        return

    from vsr.inference.device import choose_device
    from vsr.training.run import train as run
    from vsr.training.trainer import FINAL

    folder = out or Path("runs") / path.stem
    where = None if device == "auto" else choose_device(device)

    def skipped(text: str) -> None:
        typer.echo(f"left out: {text}", err=True)

    with reporting() as on_step:
        run(made, folder, device=where, on_step=on_step, on_skip=skipped, tensorboard=tensorboard)
    typer.echo(f"{folder / FINAL}")


@contextmanager
def reporting() -> Iterator[Callable[[Progress], None]]:
    """Progress of a run as a bar, or as lines where there is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    shown_at = 0.0

    def text(progress: Progress) -> str:
        step = progress.step
        return (
            f"iteration {progress.iteration + 1}  {step.frames} frames {step.crop}x{step.crop}  batch {step.batch}  "
            f"lr {step.lr:.2e}  loss {progress.loss:.5f}  {_duration(progress.left)} left"
        )

    with Bar(BarColumn(), TextColumn("{task.description}"), console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=1.0)

        def show(progress: Progress) -> None:
            nonlocal shown_at
            line = text(progress)
            bar.update(task, completed=progress.share, description=line)
            if not sys.stderr.isatty() and time.monotonic() - shown_at > _REPORT_SECONDS:
                shown_at = time.monotonic()
                typer.echo(line, err=True)
            for name, score in progress.scores.items():
                console.print(f"  {name}: {score.psnr:.2f} dB (bicubic {score.bicubic:.2f})")

        yield show


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
