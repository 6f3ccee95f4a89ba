"""``vsr evaluate``: PSNR and SSIM of outputs, or of a model on high-resolution clips."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vsr.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vsr.metrics import ClipScore, Protocol
    from vsr.metrics.evaluation import ClipResult, FrameRange
    from vsr.models import Upscaler


class Channel(str, Enum):
    """What is compared."""

    y = "y"
    rgb = "rgb"


class Preset(str, Enum):
    """Benchmarks whose protocol is known; the names of :data:`vsr.metrics.PRESETS`."""

    reds4 = "reds4"
    vid4 = "vid4"
    udm10 = "udm10"
    vimeo = "vimeo"


class Reduction(str, Enum):
    """How high-resolution frames are reduced; the names of :data:`vsr.data.degrade.DEGRADATIONS`."""

    bicubic = "bicubic"
    bd = "bd"
    bd_duf = "bd-duf"


def evaluate(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="CLIP",
            help="Without --model: REFERENCE OUTPUT. With it: high-resolution clips. Each is a video, a folder of "
            "frames, a folder of clips, or clip:NAME for a public sample clip.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Reduce the clips, enlarge them with this model (a name or a file), and compare."),
    ] = None,
    preset: Annotated[
        Preset | None,
        typer.Option(help="Protocol of a benchmark: REDS4 on RGB, the others on Y, none with a crop."),
    ] = None,
    channel: Annotated[
        Channel | None, typer.Option(help="Compare luma or RGB; y if neither this nor --preset is given.")
    ] = None,
    crop: Annotated[int | None, typer.Option(min=0, help="Border in pixels to leave out; 0 otherwise.")] = None,
    frames: Annotated[
        str | None,
        typer.Option(metavar="FIRST:STOP", help="Only these frames of each clip, such as 150:165."),
    ] = None,
    degradation: Annotated[
        Reduction,
        typer.Option(help="How --model reduces: MATLAB's bicubic, or BD in BasicVSR's or DUF's phase."),
    ] = Reduction.bicubic,
    device: Annotated[str, typer.Option(help="Where --model runs: auto, cpu, cuda, cuda:1.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="Precision of --model: auto, float32, bfloat16, float16; published figures are float32.")
    ] = "float32",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write all scores as JSON.")
    ] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Also draw the scores of each frame.")
    ] = None,
) -> None:
    """Measure PSNR and SSIM of one video against another, or of a model on clips whose truth is known."""
    from vsr.metrics.evaluation import FrameRange

    protocol = _protocol(preset, channel, crop)
    wanted = FrameRange() if frames is None else FrameRange.parse(frames)
    settings: dict[str, Any] = {"protocol": asdict(protocol), "frames": str(wanted), "model": model}
    _check_targets(json_file, plot_file)
    if model is None:
        if len(inputs) != 2:
            raise UserError(f"without --model, two inputs are compared (REFERENCE OUTPUT), got {len(inputs)}")
        results = {"output": _compare(inputs[0], inputs[1], protocol, wanted)}
    else:
        network = _load(model, device, dtype)
        settings |= {"dtype": _dtype_of(network), "scale": network.scale, "degradation": degradation.value}
        method = Path(model).name
        results = _evaluate_model(inputs, method, network, degradation, protocol, wanted)
    _print_table(settings, results)
    if json_file is not None:
        _write_json(json_file, settings, results)
    if plot_file is not None:
        _write_plot(plot_file, results)


def _check_targets(json_file: Path | None, plot_file: Path | None) -> None:
    """Find out now, not after minutes of computing, that an output cannot be written."""
    from vsr.files import check_folder
    from vsr.metrics.plot import check_plot

    for target in (json_file, plot_file):
        if target is not None:
            check_folder(target.parent)
    if plot_file is not None:
        check_plot(plot_file)


def _protocol(preset: Preset | None, channel: Channel | None, crop: int | None) -> Protocol:
    from vsr.metrics import PRESETS, Protocol

    protocol = Protocol() if preset is None else PRESETS[preset.value]
    if channel is not None:
        protocol = replace(protocol, channel=channel.value)
    return protocol if crop is None else replace(protocol, crop=crop)


def _compare(reference: str, output: str, protocol: Protocol, wanted: FrameRange) -> list[ClipResult]:
    from vsr.cli._clips import find_clips
    from vsr.metrics.evaluation import compare_clips

    references, outputs = find_clips(reference), find_clips(output)
    if len(references) == len(outputs) == 1:
        return [compare_clips(references[0], outputs[0], protocol, wanted)]
    by_name = {clip.name: clip for clip in outputs}
    names = [clip.name for clip in references]
    if sorted(names) != sorted(by_name):
        only = sorted(set(names) ^ set(by_name))
        raise UserError(f"{reference} and {output} must hold the same clips; only one holds {', '.join(only)}")
    return [compare_clips(clip, by_name[clip.name], protocol, wanted) for clip in references]


def _load(name: str, device: str, dtype: str) -> Upscaler:
    from vsr.inference.device import choose_device, choose_dtype
    from vsr.models import load_model

    place = choose_device(device)
    return load_model(name, device=place, dtype=choose_dtype(dtype, place, bits=8))


def _dtype_of(network: Upscaler) -> str:
    return str(next(network.parameters()).dtype).removeprefix("torch.")


def _evaluate_model(
    inputs: Sequence[str],
    method: str,
    network: Upscaler,
    degradation: Reduction,
    protocol: Protocol,
    wanted: FrameRange,
) -> dict[str, list[ClipResult]]:
    from rich.console import Console

    from vsr.cli._clips import find_clips
    from vsr.metrics.evaluation import bicubic_method, evaluate_methods, model_method

    methods = {
        "bicubic": bicubic_method(network.scale),
        method: model_method(network, mirrored=protocol.mirrored),
    }
    results: dict[str, list[ClipResult]] = {name: [] for name in methods}
    clips = [clip for path in inputs for clip in find_clips(path)]
    with Console(stderr=True).status("") as status:
        for number, clip in enumerate(clips, 1):
            status.update(f"{clip.source} ({number} of {len(clips)})")
            scored = evaluate_methods(
                clip,
                methods,
                scale=network.scale,
                degradation=degradation.value,
                protocol=protocol,
                wanted=wanted,
            )
            for name, result in scored.items():
                results[name].append(result)
    return results


def _print_table(settings: Mapping[str, Any], results: Mapping[str, Sequence[ClipResult]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from vsr.metrics import average_clips

    protocol = settings["protocol"]
    title = f"PSNR (dB) / SSIM on {protocol['channel'].upper()}, border {protocol['crop']} px"
    if settings["model"] is not None:
        title += f", x{settings['scale']} {settings['degradation']}"
    table = Table(title=title)
    table.add_column("clip")
    table.add_column("frames", justify="right")
    for method in results:
        table.add_column(method, justify="right")
    columns = list(results.values())
    for row in zip(*columns, strict=True):
        table.add_row(row[0].name, str(row[0].score.frames), *(_cell(result.score) for result in row))
    if len(columns[0]) > 1:
        averages = [average_clips([result.score for result in column]) for column in columns]
        table.add_section()
        table.add_row("average", str(averages[0].frames), *(_cell(score) for score in averages))
    Console().print(table)


def _cell(score: ClipScore) -> str:
    text = f"{score.psnr:.2f} / {score.ssim:.4f}"
    return f"{text} ({score.identical} identical)" if score.identical else text


def _write_json(target: Path, settings: Mapping[str, Any], results: Mapping[str, Sequence[ClipResult]]) -> None:
    from vsr.files import whole_file
    from vsr.metrics import average_clips

    methods = {
        method: {
            "average": _finite(asdict(average_clips([result.score for result in column]))),
            "clips": [
                {
                    "name": result.name,
                    **_finite(asdict(result.score)),
                    "per_frame": [{"frame": index, **_finite(asdict(score))} for index, score in result.frames.items()],
                }
                for result in column
            ],
        }
        for method, column in results.items()
    }
    with whole_file(target) as temporary:
        text = json.dumps({**settings, "methods": methods}, indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    typer.echo(f"wrote {target}")


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: the PSNR of equal frames becomes null."""
    infinite = isinstance(values["psnr"], float) and math.isinf(values["psnr"])
    return values | {"psnr": None} if infinite else values


def _write_plot(target: Path, results: Mapping[str, Sequence[ClipResult]]) -> None:
    from vsr.files import whole_file
    from vsr.metrics.plot import plot_scores

    with whole_file(target) as temporary:
        plot_scores(results, temporary)
    typer.echo(f"wrote {target}")
