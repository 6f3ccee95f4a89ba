"""``vsr demo``: a real clip, made small and enlarged again, with the figures and pictures to judge it by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from vsr.inference import UpscaleReport
    from vsr.metrics import ClipScore

_CLIP = "bikes"
_FIRST, _STOP = 150, 165
_SHOWN = 157
_RATE = 25
_SCALE = 4
_BORDER = 8


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for the results; those of an earlier demo in it are replaced.")
    ] = Path("demo"),
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1.")] = "auto",
) -> None:
    """Enlarge fifteen frames of a public clip by four and compare them with the originals (fetches 73 MB once)."""
    from vsr.metrics.evaluation import bicubic_method
    from vsr.models import weights

    name = weights.default_for_scale(_SCALE)
    _announce(name)
    truth = _originals()
    low = out / f"{_CLIP}-low"
    large = out / f"{_CLIP}-x{_SCALE}"
    small = _reduce(truth, low)
    report = _upscale(name, low, large, device)
    outputs = _read(large)
    bicubic = list(bicubic_method(_SCALE)(small))
    height, width = small[0].shape[:2]
    typer.echo(
        f"{report.frames} frames, {width}x{height} to {width * _SCALE}x{height * _SCALE}, "
        f"{report.dtype} on {report.device}: {report.seconds:.1f} s, {report.fps:.2f} frames/s"
    )
    for warning in report.warnings:
        typer.echo(f"note: {warning}")
    typer.echo(f"\nagainst the originals, luma, without {_BORDER} pixels of border:")
    for label, frames in (("bicubic", bicubic), (name, outputs)):
        score = _score(truth, frames)
        typer.echo(f"  {label:<20} PSNR {score.psnr:5.2f} dB   SSIM {score.ssim:.4f}")
    video = _write_video(outputs, out / f"{_CLIP}-x{_SCALE}.mp4")
    picture = _write_picture({"bicubic": bicubic, name: outputs, "original": truth}, out / f"{_CLIP}-comparison.png")
    typer.echo(f"\nenlarged video     {video}\nside by side       {picture}\nframes             {low}, {large}")
    typer.echo("\nyour own video:    vsr upscale INPUT.mp4 OUTPUT.mp4")


def _announce(name: str) -> None:
    from vsr.data.clips import CLIPS
    from vsr.fetch import cache_dir, is_cached
    from vsr.models import weights

    clip, network = CLIPS[_CLIP], weights.describe(name)
    for title, file in (("clip", clip), *(("weights", file) for file in network.files)):
        state = "here already" if is_cached(file) else f"is fetched into {cache_dir()}"
        typer.echo(f"{title:<8} {file.source}\n         {file.licence}; {state}")
    typer.echo("")


def _originals() -> list[Tensor]:
    from vsr.cli._clips import SAMPLE, find_clips
    from vsr.data.degrade import mod_crop
    from vsr.metrics.evaluation import FrameRange

    (clip,) = find_clips(f"{SAMPLE}{_CLIP}")
    return [mod_crop(frame, _SCALE) for _, frame in clip.frames(FrameRange(_FIRST, _STOP))]


def _reduce(truth: list[Tensor], folder: Path) -> list[Tensor]:
    """Write the frames at a quarter of their size, as published test sets are made; the upscaler reads these files."""
    from vsr.data.degrade import degrade_frame
    from vsr.inference import StillInfo, write_image

    folder.mkdir(parents=True, exist_ok=True)
    small = [degrade_frame(frame, _SCALE) for frame in truth]
    for number, frame in enumerate(small, _FIRST):
        write_image(folder / f"{number:08d}.png", frame.numpy(), StillInfo())
    return small


def _upscale(name: str, source: Path, target: Path, device: str) -> UpscaleReport:
    from rich.console import Console
    from rich.progress import Progress

    import vsr_kernels
    from vsr.inference import UpscaleOptions, upscale
    from vsr.models import load_model

    model = load_model(name)
    vsr_kernels.load()  # so that a first-use build is not timed
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("enlarging", total=_STOP - _FIRST)
        return upscale(
            source,
            target,
            model=model,
            options=UpscaleOptions(device=device, overwrite=True),
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )


def _read(folder: Path) -> list[Tensor]:
    from vsr.cli._clips import find_clips

    (clip,) = find_clips(str(folder))
    return list(clip.open())


def _score(truth: list[Tensor], frames: list[Tensor]) -> ClipScore:
    from vsr.metrics import Protocol, average_frames, score_frame

    protocol = Protocol("y", _BORDER)
    return average_frames([score_frame(a, b, protocol) for a, b in zip(truth, frames, strict=True)])


def _write_video(frames: list[Tensor], target: Path) -> Path:
    from vsr.inference import Frame, VideoWriter

    height, width = frames[0].shape[:2]
    with VideoWriter(target, width=width, height=height, rate=_RATE) as writer:
        for index, frame in enumerate(frames):
            writer.write(Frame(frame.numpy(), index))
    return target


def _write_picture(versions: dict[str, list[Tensor]], target: Path) -> Path:
    from vsr.files import whole_file
    from vsr.metrics.sidebyside import Picture, side_by_side

    pictures = [Picture(label, frames[_SHOWN - _FIRST].numpy()) for label, frames in versions.items()]
    sheet = side_by_side(pictures)
    with whole_file(target) as temporary:
        sheet.save(temporary)
    return target
