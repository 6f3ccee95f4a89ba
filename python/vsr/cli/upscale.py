"""``vsr upscale``: enlarge an image, a video or a folder of frames."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from vsr.errors import DamagedInputError, UserError

if TYPE_CHECKING:
    from vsr.inference import UpscaleReport
    from vsr.models import Upscaler

_REPORT_SECONDS = 10.0


def upscale_command(
    source: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="A video, an image, a folder of frames, or clip:NAME for a sample clip."),
    ],
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUTPUT",
            help="A video (.mp4 .mov .mkv .webm), an image, or a folder, which is a name without a suffix.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="A checkpoint, or a name from `vsr models`; the best for --scale if absent."
        ),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Without --model: a small network, frame by frame, that comes with vsr.")
    ] = False,
    scale: Annotated[
        int | None,
        typer.Option("--scale", "-s", help="Enlargement. Smaller than the model's: its result is reduced by bicubic."),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            help="auto, float32, bfloat16 or float16. auto takes half precision where the device is made for it and "
            "the first frames come out within 50 dB of float32. What overflows is computed again in float32."
        ),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    tile: Annotated[
        int | None,
        typer.Option(help="Side of tiles in input pixels; 0 never to tile. Without it: only when memory is short."),
    ] = None,
    tile_overlap: Annotated[
        int | None, typer.Option(help="Surroundings of a tile in input pixels; as the model needs if absent.")
    ] = None,
    chunk: Annotated[
        int | None, typer.Option(help="Frames a recurrent model returns at a time; more is better and takes memory.")
    ] = None,
    lookahead: Annotated[
        int | None,
        typer.Option(help="Frames behind those that a recurrent model also sees; more is better and slower."),
    ] = None,
    scene_cut: Annotated[
        bool, typer.Option("--scene-cut/--no-scene-cut", help="Begin a recurrent model anew at every cut.")
    ] = True,
    codec: Annotated[
        str | None,
        typer.Option(help="h264, hevc, av1, vp9, ffv1 or prores; h264 if absent, hevc for more than 8 bits."),
    ] = None,
    crf: Annotated[
        int | None, typer.Option(help="Quality of the video, smaller is better; the codec's default.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Speed of the encoder, such as slow or veryfast.")] = None,
    pixel_format: Annotated[
        str | None, typer.Option(help="Pixel format of the video, such as yuv444p10le; like the input if absent.")
    ] = None,
    fps: Annotated[
        str | None, typer.Option(metavar="RATE", help="Frames per second of a video made of a folder: 25, 30000/1001.")
    ] = None,
    image_format: Annotated[str, typer.Option(help="Images of a folder: png, jpg, webp, tif or bmp.")] = "png",
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted job that writes a folder.")] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Leave out what is damaged in the input instead of stopping.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary; warnings remain.")] = False,
) -> None:
    """Enlarge an image, a video or a folder of frames. Sound, subtitles, tags and exact times are kept."""
    from vsr.cli._clips import locate
    from vsr.inference import UpscaleOptions, upscale
    from vsr.inference.device import choose_device
    from vsr.inference.options import CHUNK, LOOKAHEAD
    from vsr.inference.paths import check_paths

    options = UpscaleOptions(
        scale=scale,
        dtype=dtype,
        device=device,
        tile=tile,
        tile_overlap=tile_overlap,
        chunk=CHUNK if chunk is None else chunk,
        lookahead=LOOKAHEAD if lookahead is None else lookahead,
        scene_cut=scene_cut,
        crf=crf,
        codec=codec,
        preset=preset,
        pixel_format=pixel_format,
        fps=None if fps is None else _parse_rate(fps),
        image_format=image_format,
        resume=resume,
        keep_going=keep_going,
        overwrite=overwrite,
    )
    choose_device(device)
    path = locate(source)
    check_paths(path, output, overwrite=overwrite)  # before weights are fetched for nothing
    network = _load(model, scale, fast)
    with _stopped_by_sigterm(), _progress(quiet) as on_progress:
        try:
            report = upscale(path, output, model=network, options=options, on_progress=on_progress)
        except DamagedInputError as error:
            raise UserError(f"{error}; --keep-going leaves out what cannot be decoded") from error
    for warning in report.warnings:
        typer.echo(f"note: {warning}", err=True)
    if not quiet:
        typer.echo(_summary(report))


def _parse_rate(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f"--fps: expected a number such as 25, 29.97 or 30000/1001, got {text!r}") from error


def _load(model: str | None, scale: int | None, fast: bool) -> Upscaler:
    from vsr.models import load_model, weights

    if fast and model is not None:
        raise UserError(f"--fast chooses the network, and --model names one ({model}): give one of them")
    if model is None:
        known = {weights.describe(name).scale for name in weights.NAMES}
        # Without weights for this very scale, the next larger ones serve; their result is reduced.
        wanted = weights.describe(weights.NAMES[0]).scale if scale is None else scale
        fitting = [s for s in known if s >= wanted]
        model = weights.default_for_scale(min(fitting) if fitting else wanted, fast=fast)
    return load_model(model)


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Clean up on SIGTERM as on Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _progress(quiet: bool) -> AbstractContextManager[Callable[[int, int | None], None]]:
    if quiet:
        return _silent()
    return _bar() if sys.stderr.isatty() else _lines()


@contextmanager
def _silent() -> Iterator[Callable[[int, int | None], None]]:
    yield lambda done, total: None


@contextmanager
def _bar() -> Iterator[Callable[[int, int | None], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None, rate="")
        clock = _Clock()

        def show(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total, rate=f"{clock.rate(done):.2f} frames/s")

        yield show


@contextmanager
def _lines() -> Iterator[Callable[[int, int | None], None]]:
    """A line now and then, for logs."""
    clock = _Clock()
    shown_at = time.monotonic()

    def show(done: int, total: int | None) -> None:
        nonlocal shown_at
        rate = clock.rate(done)
        if time.monotonic() - shown_at < _REPORT_SECONDS:
            return
        shown_at = time.monotonic()
        left = f", {max(total - done, 0) / rate:.0f} s left" if total and rate else ""
        typer.echo(f"{done}{f' of {total}' if total else ''} frames, {rate:.2f} frames/s{left}", err=True)

    yield show


class _Clock:
    """Frames per second since the first report."""

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None

    def rate(self, done: int) -> float:
        """Frames per second, 0 at the first call."""
        now = time.monotonic()
        if self._start is None:
            self._start = (now, done)
        since, first = self._start
        return (done - first) / (now - since) if now > since else 0.0


def _summary(report: UpscaleReport) -> str:
    parts = [
        f"{report.frames} frames x{report.scale} in {report.seconds:.1f} s ({report.fps:.2f} frames/s)",
        f"{report.dtype} on {report.device}",
    ]
    if report.resumed:
        parts.append(f"{report.resumed} frames were there")
    if report.tile:
        parts.append(f"tiles of {report.tile}")
    if report.resets:
        parts.append(f"{report.resets} cut{'s' if report.resets > 1 else ''}")
    if report.overflows:
        parts.append(f"{report.overflows} repeated in float32")
    return f"wrote {report.output}: {', '.join(parts)}"
