"""Enlarging images, videos and folders of frames: reader, model and writer put together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import av.error
import torch
from av.packet import Packet
from av.stream import Stream
from torch import Tensor, nn

from vsr.data.degrade import imresize
from vsr.errors import UserError
from vsr.inference.alpha import fill_transparent
from vsr.inference.device import choose_device, choose_dtype
from vsr.inference.encoders import container_of
from vsr.inference.frame import Frame
from vsr.inference.options import UpscaleOptions, UpscaleReport
from vsr.inference.paths import Kind, check_paths
from vsr.inference.pipeline import run_pipeline
from vsr.inference.pixels import layout_of
from vsr.inference.resume import Checkpoint, FolderJob, model_identity, source_identity
from vsr.inference.runner import Runner
from vsr.inference.scenes import SceneDetector
from vsr.inference.sinks import FolderSink, ImageSink, Prepared, Sink, VideoSink
from vsr.inference.sources import Source, folder_source, image_source, video_source
from vsr.inference.state import tensors_of
from vsr.inference.video_reader import VideoReader
from vsr.inference.video_writer import VideoWriter
from vsr.inference.windows import Window, windows
from vsr.models import QuantizedSRVGGNet

_QUEUE = 8
_CHECKPOINT_SECONDS = 30.0

Progress = Callable[[int, "int | None"], None]
_Item: TypeAlias = "Frame | Packet[Stream]"
_Result: TypeAlias = "Prepared | Checkpoint | Packet[Stream]"


def upscale(
    source: str | Path,
    target: str | Path,
    *,
    model: nn.Module,
    options: UpscaleOptions | None = None,
    on_progress: Progress | None = None,
) -> UpscaleReport:
    """Enlarge an image, a video or a folder of frames.

    Memory use does not depend on the length. The target appears when it is complete; an interrupted job leaves nothing
    but, if the target is a folder, the finished frames for ``resume``. Audio, subtitles, tags, chapters and the exact
    times of a video's frames are kept.

    Args:
        source: What to enlarge.
        target: An image, a video or a folder; the suffix decides.
        model: Has ``scale``, ``recurrent`` and ``receptive_field``; see :mod:`vsr.models`. It is not changed.
        options: See :class:`UpscaleOptions`.
        on_progress: Called in another thread after each frame with the number of frames written and the number there
            are, if known. What it raises stops the job.

    Returns:
        What was done.

    Raises:
        UserError: Something about the source, the target or the options makes the job impossible.
    """
    source, target = Path(source), Path(target)
    options = options or UpscaleOptions()
    kinds = check_paths(source, target, overwrite=options.overwrite)
    if options.fps is not None and kinds != (Kind.FOLDER, Kind.VIDEO):
        raise UserError("--fps: only a video made of a folder of images takes it; videos keep their times")
    if options.resume and kinds[1] is not Kind.FOLDER:
        raise UserError("--resume: only a job whose output is a folder of images can be continued")
    scale = _scale(model, options)
    device = choose_device(options.device)
    with ExitStack() as stack:
        origin = _open_source(source, target, kinds, options, stack)
        dtype = choose_dtype(options.dtype, device, origin.bits)
        runner = Runner(
            model,
            device=device,
            dtype=dtype,
            tile=options.tile,
            overlap=options.tile_overlap,
            check_precision=options.dtype == "auto",
        )
        job = None
        if kinds[1] is Kind.FOLDER:
            identity = _identity(source, model, options, scale, dtype, device)
            job = FolderJob(target, identity, resume=options.resume, overwrite=options.overwrite)
        sink = _open_sink(target, kinds[1], origin, job, scale, options)
        try:
            task = _Task(runner, sink, origin, options, scale, job, on_progress)
            started = time.perf_counter()
            task.run()
            sink.finish()
            seconds = time.perf_counter() - started
        except av.error.FFmpegError as error:
            sink.discard()
            raise UserError(f"{target}: FFmpeg cannot write it ({error.strerror})") from error
        except BaseException:
            sink.discard()
            raise
    return UpscaleReport(
        output=target,
        frames=task.written,
        resumed=task.resumed,
        seconds=seconds,
        resets=task.resets,
        overflows=runner.overflows,
        shortages=runner.shortages,
        tile=runner.tile_in_use,
        dtype=("int8 and " if isinstance(model, QuantizedSRVGGNet) else "") + str(runner.dtype).removeprefix("torch."),
        device=str(device),
        model_scale=runner.scale,
        scale=scale,
        warnings=[*origin.notes, *sink.notes, *runner.warnings, *task.notes, *origin.damage()],
    )


class _Task:
    """The three stages of one job and what they count."""

    def __init__(
        self,
        runner: Runner,
        sink: Sink,
        origin: Source,
        options: UpscaleOptions,
        scale: int,
        job: FolderJob | None,
        on_progress: Progress | None,
    ) -> None:
        self._runner = runner
        self._sink = sink
        self._origin = origin
        self._scale = scale
        self._options = options
        self._on_progress = on_progress
        self._saves = job is not None and runner.recurrent
        self._saved_at = time.monotonic()
        self._restored = False
        self.resumed = self._resume(job) if job is not None and options.resume else 0
        self.written = 0
        self.resets = 0
        self.notes: list[str] = []
        if scale != runner.scale:
            self.notes.append(
                f"the x{runner.scale} model's result is reduced to x{scale} by antialiased bicubic interpolation"
            )

    def run(self) -> None:
        """Read, compute and write until the source ends."""
        depth = max(_QUEUE, self._options.chunk) if self._runner.recurrent else _QUEUE
        run_pipeline(self._origin.items, self._compute, self._write, read_ahead=depth, write_behind=depth)

    def _resume(self, job: FolderJob) -> int:
        """Take up what an interrupted job left; the number of frames that need not be computed again."""
        if self._runner.recurrent:
            checkpoint = job.load()
            if checkpoint is None:
                return 0
            self._runner.restore(checkpoint.states, checkpoint.tile, checkpoint.size)
            self._restored = True
            return checkpoint.index
        finished = job.finished()
        names: Iterable[str] = self._origin.names or (f"{index:08d}" for index in range(len(finished)))
        count = 0
        for name in names:
            if name not in finished:
                break
            count += 1
        return count

    def _compute(self, items: Iterable[_Item]) -> Iterator[_Result]:
        recurrent, options = self._runner.recurrent, self._options
        detector = SceneDetector() if recurrent and options.scene_cut else None
        grouped = windows(
            items,
            chunk=options.chunk if recurrent else 1,
            lookahead=options.lookahead if recurrent else 0,
            detector=detector,
            start=self.resumed,
        )
        for item in grouped:
            if not isinstance(item, Window):
                yield item
                continue
            if item.fresh and (item.cut or not self._restored):
                self._runner.reset()
                self.resets += item.cut and recurrent
            self._restored = False
            pictures = self._runner.run(_tensor(item.frames, self._runner.device), item.keep)
            for frame, picture in zip(item.frames, pictures, strict=False):
                yield self._sink.prepare(self._resized(picture), frame)
            if self._saves and time.monotonic() - self._saved_at >= _CHECKPOINT_SECONDS:
                self._saved_at = time.monotonic()
                yield self._checkpoint(item)

    def _resized(self, picture: Tensor) -> Tensor:
        if self._scale == self._runner.scale:
            return picture
        return imresize(picture, self._scale / self._runner.scale)

    def _checkpoint(self, window: Window) -> Checkpoint:
        states = [[tensor.cpu() for tensor in tensors_of(state)] for state in self._runner.states]
        height, width = window.frames[0].image.shape[:2]
        return Checkpoint(window.frames[0].index + window.keep, states, self._runner.tile, (height, width))

    def _write(self, result: _Result) -> None:
        if isinstance(result, Prepared):
            self._sink.write(result)
            self.written += 1
            if self._on_progress is not None:
                self._on_progress(self.resumed + self.written, self._origin.total)
        elif isinstance(result, Checkpoint):
            self._sink.save(result)
        else:
            self._sink.pass_on(result)


def _tensor(frames: Iterable[Frame], device: torch.device) -> Tensor:
    """(T, 3, H, W) float32 in [0, 1], channels last; whole numbers travel to the device, a quarter of the bytes."""
    pictures = []
    for frame in frames:
        alpha = frame.still.alpha
        image = frame.image if alpha is None else fill_transparent(frame.image, alpha)
        pictures.append(torch.from_numpy(image))
    codes = torch.stack(pictures).permute(0, 3, 1, 2)
    top = torch.iinfo(codes.dtype).max
    if codes.dtype == torch.uint16:
        codes = codes.to(torch.int32)  # CUDA has next to no operators for uint16
    return codes.to(device).to(torch.float32).mul_(1 / top)


def _scale(model: nn.Module, options: UpscaleOptions) -> int:
    available = int(model.scale)  # type: ignore[arg-type]
    scale = options.scale or available
    if scale > available:
        raise UserError(f"--scale {scale}: this model enlarges by {available}; a model for x{scale} is needed")
    return scale


def _open_source(
    source: Path, target: Path, kinds: tuple[Kind, Kind], options: UpscaleOptions, stack: ExitStack
) -> Source:
    if kinds[0] is Kind.IMAGE:
        return image_source(source)
    to_video = kinds[1] is Kind.VIDEO
    if kinds[0] is Kind.FOLDER:
        if to_video and options.fps is None:
            raise UserError("--fps: a video made of images needs the number of frames per second")
        return folder_source(source, to_video=to_video, keep_going=options.keep_going)
    # MP4, MOV and Matroska tell players how to turn a picture; images and WebM get it turned.
    turns = not to_video or container_of(target) == "webm"
    reader = stack.enter_context(VideoReader(source, apply_rotation=turns, keep_going=options.keep_going))
    return video_source(reader, to_images=not to_video)


def _open_sink(
    target: Path, kind: Kind, origin: Source, job: FolderJob | None, scale: int, options: UpscaleOptions
) -> Sink:
    if job is not None:
        return FolderSink(job, options.image_format, scale)
    if kind is Kind.IMAGE:
        return ImageSink(target, scale)
    asked: dict[str, Any] = {
        "codec": options.codec,
        "crf": options.crf,
        "preset": options.preset,
        "pixel_format": options.pixel_format,
    }
    if origin.reader is None:
        assert origin.first is not None
        assert options.fps is not None
        height, width = origin.first.image.shape[:2]
        pictures = layout_of("gbrp" if origin.bits == 8 else "gbrp10le")
        writer = VideoWriter(
            target, width=width * scale, height=height * scale, rate=options.fps, source_format=pictures, **asked
        )
        return VideoSink(writer, keeps_times=False)
    info = origin.reader.info
    writer = VideoWriter(
        target,
        width=info.width * scale,
        height=info.height * scale,
        rate=info.rate,
        time_base=info.time_base,
        colour=info.colour,
        source_format=layout_of(info.pix_fmt),
        sample_aspect_ratio=info.sample_aspect_ratio,
        display_matrix=info.display_matrix,
        hdr=info.hdr,
        copy_from=origin.reader,
        **asked,
    )
    return VideoSink(writer, keeps_times=True)


def _identity(
    source: Path, model: nn.Module, options: UpscaleOptions, scale: int, dtype: torch.dtype, device: torch.device
) -> dict[str, object]:
    return {
        "source": source_identity(source),
        "model": model_identity(model),
        "scale": scale,
        "dtype": str(dtype),
        "device": device.type,
        "tile": options.tile,
        "tile_overlap": options.tile_overlap,
        "chunk": options.chunk,
        "lookahead": options.lookahead,
        "scene_cut": options.scene_cut,
        "image_format": options.image_format,
        "keep_going": options.keep_going,
    }
