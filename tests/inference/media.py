"""Clips for the tests, made with PyAV directly: nothing here uses the code under test."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.subtitles.subtitle import SubtitleSet
from numpy.typing import NDArray

ASS_HEADER = (
    b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize, PrimaryColour, "
    b"SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, "
    b"BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding\nStyle: Default,Arial,16,&Hffffff,"
    b"&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1\n\n[Events]\nFormat: Layer, Start, End, Style, Name, "
    b"MarginL, MarginR, MarginV, Effect, Text\n"
)


def pattern(count: int, width: int = 64, height: int = 48, rate: int = 25) -> list[av.VideoFrame]:
    """The moving test picture of FFmpeg's testsrc2."""
    graph = av.filter.Graph()
    source = graph.add("testsrc2", f"size={width}x{height}:rate={rate}")
    source.link_to(graph.add("buffersink"))
    graph.configure()
    return [graph.vpull() for _ in range(count)]


def smooth(count: int, width: int = 64, height: int = 48) -> list[list[NDArray[np.uint8]]]:
    """Planes of yuv420p with slow, asymmetric waves: survives compression and the resampling of chroma."""
    y, x = np.mgrid[0:height, 0:width]
    pictures = []
    for t in range(count):
        luma = 120 + 60 * np.sin((x + 2 * t) / 11 + 0.4) * np.cos(y / 17 - 0.7) + x / 4 - y / 3
        cb = 128 + 25 * np.sin((x + y / 2 + t) / 23)
        cr = 128 + 25 * np.cos((y - x / 3 - t) / 19)
        pictures.append([np.rint(plane).astype(np.uint8) for plane in (luma, cb[::2, ::2], cr[::2, ::2])])
    return pictures


@dataclass(frozen=True)
class Clip:
    """How to write a clip; see :func:`write_clip`."""

    frames: int = 12
    width: int = 64
    height: int = 48
    rate: Fraction = Fraction(25)
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    options: tuple[tuple[str, str], ...] = (("crf", "10"), ("preset", "ultrafast"))
    matrix: int = 2
    primaries: int = 2
    transfer: int = 2
    full_range: int = 1
    sample_aspect_ratio: Fraction = Fraction(1)
    rotation: tuple[float, bool] | None = None
    times: tuple[int, ...] | None = None
    time_base: Fraction | None = None
    last_duration: int | None = None
    audio: str | None = None
    subtitles: str | None = None
    chapters: bool = False
    metadata: tuple[tuple[str, str], ...] = ()
    container_options: tuple[tuple[str, str], ...] = ()


def write_clip(path: Path, clip: Clip = Clip(), pictures: list[Any] | None = None) -> Path:  # noqa: B008
    """Write a clip.

    Args:
        path: The file.
        clip: How.
        pictures: Frames instead of the test pattern, or lists of planes in ``clip.pix_fmt``.
    """
    with av.open(str(path), "w", container_options=dict(clip.container_options)) as out:
        video = out.add_stream(clip.codec, rate=clip.rate, options=dict(clip.options))
        context = video.codec_context
        pictures = pattern(clip.frames, clip.width, clip.height) if pictures is None else pictures
        context.width, context.height, context.pix_fmt = clip.width, clip.height, clip.pix_fmt
        context.time_base = clip.time_base or 1 / clip.rate
        context.colorspace, context.color_range = clip.matrix, clip.full_range
        context.color_primaries, context.color_trc = clip.primaries, clip.transfer
        context.sample_aspect_ratio = clip.sample_aspect_ratio
        if clip.last_duration is not None:
            context.flags |= Flags.frame_duration
        if clip.rotation is not None:
            video.set_display_rotation(clip.rotation[0], hflip=clip.rotation[1])
        audio = out.add_stream(clip.audio, rate=48000, layout="stereo") if clip.audio else None
        subtitles = out.add_stream(clip.subtitles) if clip.subtitles else None
        if subtitles is not None:
            subtitles.codec_context.subtitle_header = ASS_HEADER
            subtitles.time_base = Fraction(1, 1000)
        out.metadata.update(clip.metadata)
        if clip.chapters:
            out.set_chapters([chapter(0, 200, "one"), chapter(200, 480, "two")])
        out.start_encoding()
        for index, picture in enumerate(pictures):
            frame = frame_of(picture, clip)
            frame.pts = clip.times[index] if clip.times else index
            frame.time_base = context.time_base
            if clip.last_duration is not None and index == len(pictures) - 1:
                frame.duration = clip.last_duration
            frame.colorspace, frame.color_range = clip.matrix, clip.full_range
            out.mux(video.encode(frame))
            if audio is not None:
                out.mux(audio.encode(tone(index, audio.codec_context.format.name)))
            if subtitles is not None and index in (0, 5):
                out.mux(subtitle(subtitles, index * 40))
        out.mux(video.encode(None))
        if audio is not None:
            out.mux(audio.encode(None))
    return path


def frame_of(picture: Any, clip: Clip) -> av.VideoFrame:
    if isinstance(picture, av.VideoFrame):
        return picture.reformat(
            threads=1, format=clip.pix_fmt, dst_colorspace=clip.matrix if clip.matrix in (1, 5, 9) else None
        )
    frame = av.VideoFrame(clip.width, clip.height, clip.pix_fmt)
    for plane, samples in zip(frame.planes, picture, strict=True):
        memory = np.frombuffer(memoryview(plane), samples.dtype).reshape(plane.height, -1)
        memory[:, : plane.width] = samples
    return frame


def tone(index: int, sample_format: str) -> av.AudioFrame:
    """40 ms of a 440 Hz tone."""
    time = (np.arange(1920) + index * 1920) / 48000
    wave = 0.4 * np.sin(2 * np.pi * 440 * time)
    samples = np.stack([wave, wave / 2]).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = 48000, index * 1920, Fraction(1, 48000)
    return frame


def subtitle(stream: Any, start: int) -> Any:
    text = f"{start},0,Default,,0,0,0,,Words at {start}".encode()
    packet = stream.codec_context.encode_subtitle(SubtitleSet.create(text, 0, 120, pts=start * 1000))
    packet.stream, packet.time_base = stream, Fraction(1, 1000)
    packet.pts = packet.dts = start
    packet.duration = 120
    return packet


def chapter(start: int, end: int, title: str) -> Any:
    return {"id": start, "start": start, "end": end, "time_base": Fraction(1, 1000), "metadata": {"title": title}}


def times(path: Path) -> list[Fraction]:
    """Presentation times of the video's frames in seconds, as PyAV decodes them."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def packets(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    """Time and content of the packets of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(stream) if p.size]


def planes(path: Path) -> list[list[NDArray[Any]]]:
    """The planes of every frame, as stored."""
    result = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
            result.append(
                [np.frombuffer(memoryview(p), dtype).reshape(p.height, -1)[:, : p.width].copy() for p in frame.planes]
            )
    return result


def rgb(path: Path) -> list[NDArray[np.uint8]]:
    """Every frame as 8-bit R'G'B', by swscale."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)]
