"""``vsr compare``: one frame of several images or videos beside each other, with a detail enlarged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vsr.errors import UserError

if TYPE_CHECKING:
    from vsr.metrics.sidebyside import Crop


def compare(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Two or more images, videos or folders of frames, or clip:NAME for a public sample clip.",
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The picture to write, such as out.png.")],
    frame: Annotated[int, typer.Option(min=0, help="Which frame of videos and folders, from 0.")] = 0,
    crop: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,WIDTH,HEIGHT",
            help="Detail to enlarge, in pixels of the largest input; where the inputs differ most otherwise.",
        ),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="What to write above an input; once for each, in their order.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
) -> None:
    """Draw inputs side by side. Smaller ones are enlarged by bicubic, and labelled so; images serve every frame."""
    if len(inputs) < 2:
        raise UserError(f"expected two or more inputs and an output, got only {inputs[0]} and {output}")
    if output.suffix.lower() != ".png":
        raise UserError(f"{output}: the picture is written as PNG: its name must end in .png")
    if label and len(label) != len(inputs):
        raise UserError(f"--label must be given once for each of the {len(inputs)} inputs, got {len(label)}")
    if output.exists() and not overwrite:
        raise UserError(f"{output}: exists already; --overwrite replaces it")
    from vsr.cli._clips import frame_at
    from vsr.files import whole_file
    from vsr.metrics.sidebyside import Picture, side_by_side

    area = None if crop is None else _parse_crop(crop)
    names = [Path(name).name for name in inputs]
    labels = label or (names if len(set(names)) == len(names) else inputs)
    pictures = [Picture(text, frame_at(name, frame).numpy()) for text, name in zip(labels, inputs, strict=True)]
    sheet = side_by_side(pictures, area)
    with whole_file(output) as temporary:
        sheet.save(temporary)
    typer.echo(f"wrote {output}")


def _parse_crop(text: str) -> Crop:
    from vsr.metrics.sidebyside import Crop

    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"--crop: expected four whole numbers X,Y,WIDTH,HEIGHT, got {text!r}") from error
    return Crop(x, y, width, height)
