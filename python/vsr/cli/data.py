"""``vsr data``: data sets for training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Data sets for training.")


@app.callback()
def _root() -> None:
    pass


@app.command("prepare")
def prepare_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Gets train, validation, test and manifest.json.")],
) -> None:
    """Make the small real sets that this package trains, validates and tests on, out of public clips (0.6 GB).

    Can be repeated after an interruption: what is there and whole is left alone.
    """
    from vsr.training.prepare import CUTS, prepare

    def tell(cut: object) -> None:
        typer.echo(f"{cut.part}/{cut.name}", err=True)  # type: ignore[attr-defined]

    manifest = prepare(folder, CUTS, on_clip=tell)
    typer.echo(str(manifest))
