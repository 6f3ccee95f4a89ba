"""``vsr quantize``: a plain network in int8, calibrated on a clip."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vsr.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from vsr.models import SRVGGNet, Upscaler

_LOOKED_AT = 1000  # frames of a clip
_PATCH, _CHECKED = 128, 256  # sides of what is calibrated and checked on


def quantize(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A checkpoint of SRVGG or RepSR, or a name of weights.")
    ],
    clip: Annotated[
        str, typer.Argument(metavar="CLIP", help="Pictures like those to come: a video, a folder, or clip:NAME.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors to write.")],
    frames: Annotated[int, typer.Option(min=1, help="Frames to calibrate on; as many others are for the check.")] = 16,
) -> None:
    """Make a network int8, and say how far it is from float32 and how fast on this CPU."""
    import torch

    from vsr.files import check_folder
    from vsr.inference.device import cpu_has_bfloat16
    from vsr.models import load_model, save_model
    from vsr.quantization import psnr_between
    from vsr.quantization import quantize as made_int8

    if out.suffix != ".safetensors":
        raise UserError(f"{out}: expected a name that ends in .safetensors")
    check_folder(out.parent)
    network = _plain(model, load_model(model))
    drawn = _draw(clip, 2 * frames)
    chance = random.Random(0)
    calibrated = made_int8(network, [_patch(frame, _PATCH, chance) for frame in drawn[::2]])
    save_model(calibrated, out)

    checked = [_patch(frame, _CHECKED, chance) for frame in drawn[1::2]]
    fast = torch.bfloat16 if cpu_has_bfloat16() else torch.float32  # as ``vsr upscale`` chooses it
    calibrated.to(fast)
    scores = psnr_between(calibrated, network, checked)
    typer.echo(
        f"PSNR to float32 on {len(scores)} frames that were not calibrated on: {sum(scores) / len(scores):.2f} dB "
        f"(least {min(scores):.2f})"
    )
    networks = {
        "int8": calibrated,
        str(fast).removeprefix("torch."): copy.deepcopy(network).to(fast),
        "float32": network,
    }
    typer.echo(_speed(networks, checked[0]))
    typer.echo(out)


def _plain(name: str, model: Upscaler) -> SRVGGNet:
    """The network, if it is one that can be quantized."""
    from vsr.models import Pruned, SRVGGNet
    from vsr.models.quantized import QuantizedSRVGGNet

    if isinstance(model, SRVGGNet) and not isinstance(model, Pruned):
        return model
    wrong = "recurrent" if model.recurrent else "pruned" if isinstance(model, Pruned) else "no chain of convolutions"
    if isinstance(model, QuantizedSRVGGNet):
        wrong = "quantized already"
    raise UserError(f"{name}: expected a plain network (SRVGG or RepSR, not pruned), got one that is {wrong}")


def _draw(name: str, count: int) -> list[Tensor]:
    """Frames (H, W, 3) uint8 of a clip, in its order: any are as likely as others among the first thousand.

    Raises:
        UserError: There are fewer than two.
    """
    from itertools import chain, islice

    from vsr.cli._clips import find_clips

    chance = random.Random(0)
    kept: list[tuple[int, Tensor]] = []
    stream = chain.from_iterable(clip.open() for clip in find_clips(name))
    for number, frame in enumerate(islice(stream, _LOOKED_AT)):
        if len(kept) < count:
            kept.append((number, frame))
        elif (place := chance.randrange(number + 1)) < count:
            kept[place] = (number, frame)
    if len(kept) < 2:
        raise UserError(f"{name}: expected at least two frames, one to calibrate on and one to check, got {len(kept)}")
    return [frame for _, frame in sorted(kept, key=lambda one: one[0])]


def _patch(frame: Tensor, side: int, chance: random.Random) -> Tensor:
    """A part of a frame, at most ``side`` pixels wide and high, as (1, 3, H, W) in [0, 1]."""
    height, width = min(side, frame.shape[0]), min(side, frame.shape[1])
    top, left = chance.randint(0, frame.shape[0] - height), chance.randint(0, frame.shape[1] - width)
    part = frame[top : top + height, left : left + width]
    return part.permute(2, 0, 1)[None].float() / 255


def _speed(networks: dict[str, Upscaler], picture: Tensor) -> str:
    """Times of one picture by each network, the first of which should be the fastest."""
    import torch

    from vsr.quantization import seconds_per_picture
    from vsr_kernels import cpu_isa

    times = seconds_per_picture(networks, picture)
    height, width = picture.shape[-2:]
    listed = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in times.items())
    text = f"{width}x{height}, {torch.get_num_threads()} threads, {cpu_isa()}: {listed}"
    rival = min((name for name in times if name != "int8"), key=times.__getitem__)
    if times["int8"] >= times[rival]:
        text += f"\nint8 is not faster than {rival} on this CPU: use {rival} here"
    return text
