"""``vsr merge`` and ``vsr export``: networks as files that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="The folder of a RepSR run, its state.pt, or any checkpoint.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The .pth (Real-ESRGAN's layout) or .safetensors to write.")
    ],
) -> None:
    """Merge the branches of a RepSR network into plain 3x3 convolutions."""
    from vsr.errors import UserError
    from vsr.models import save_model
    from vsr.models.export import export_model
    from vsr.training.merge import merged_network

    if out.suffix not in (".pth", ".safetensors"):
        raise UserError(f"{out}: expected a name that ends in .pth or .safetensors")
    model = merged_network(checkpoint)
    save_model(model, out) if out.suffix == ".safetensors" else export_model(model, out)
    typer.echo(out)


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A checkpoint, or a name that `vsr models list` shows.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The .onnx, .param (ncnn, with .bin) or .pth (Real-ESRGAN) to write.")
    ],
) -> None:
    """Write a network for other programs: SRVGG and RepSR in any of these formats, BasicVSR and EDSR as .pth."""
    from vsr.models import load_model
    from vsr.models.export import export_model

    export_model(load_model(model), out)
    typer.echo(out)
