"""``vsr models``: the pretrained weights that can be used by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vsr.models.weights import Weights

app = typer.Typer(no_args_is_help=True, help="List and fetch pretrained weights.")

_Name = Annotated[str, typer.Argument(metavar="NAME", help="A name that `vsr models list` shows.")]


@app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list instead of text.")] = False,
) -> None:
    """Show all weights: what they are for, their licence, where they come from, and which are here already."""
    from vsr.models import weights

    entries = [_facts(weights.describe(name)) for name in weights.NAMES]
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
        return
    for entry in entries:
        typer.echo(f"{entry['name']}  x{entry['scale']}  {'here' if entry['here'] else 'not fetched'}")
        typer.echo(f"    {entry['summary']}")
        typer.echo(f"    {entry['architecture']}; {entry['licence']}")
        if not entry["sources"]:
            typer.echo("    comes with this package")
        for source, origin in zip(entry["sources"], entry["origins"], strict=True):
            typer.echo(f"    {source} = {origin}")


@app.command()
def fetch(name: _Name) -> None:
    """Fetch weights into the cache folder, check them, and print where they are."""
    from vsr.models import weights

    entry = weights.describe(name)
    if not entry.is_here:
        typer.echo(f"fetching {', '.join(file.source for file in entry.files)} ({entry.licence})", err=True)
    typer.echo(weights.fetch(name))


@app.command()
def path(name: _Name) -> None:
    """Print where fetched weights are; never goes online."""
    from vsr.models import weights

    typer.echo(weights.cached(name))


def _facts(entry: Weights) -> dict[str, Any]:
    return {
        "name": entry.name,
        "scale": entry.scale,
        "here": entry.is_here,
        "summary": entry.summary,
        "architecture": entry.architecture,
        "licence": entry.licence,
        "sources": [file.source for file in entry.files],
        "origins": [file.origin for file in entry.files],
    }
