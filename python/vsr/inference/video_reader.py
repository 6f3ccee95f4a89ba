"""Decoding: the frames of a video as R'G'B' arrays with trusted times, and the packets of its other streams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vsr.errors import DamagedInputError, UserError
from vsr.inference.colour import RGB, UNSPECIFIED, Colour, check_matrix, guess_matrix
from vsr.inference.decode_pixels import read_rgb
from vsr.inference.frame import Frame
from vsr.inference.hdr import HdrMetadata, read_hdr_metadata, side_data
from vsr.inference.orientation import (
    DisplayMatrix,
    apply_display_matrix,
    is_right_angled,
    parse_display_matrix,
    swaps_axes,
)
from vsr.inference.pixels import layout_of, swscale
from vsr.inference.timestamps import PresentationClock

_JPEG_RANGE = 2
_MAX_READ_ERRORS = 100
# Containers whose header tells the true duration; the others' is an estimate from the bit rate.
_DECLARES_DURATION = {"matroska,webm", "avi"}


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video once its first frame is decoded.

    Attributes:
        width: Columns of the frames the reader yields (after rotation, if it applies that).
        height: Rows likewise.
        pix_fmt: Pixel format in the file.
        bits: Bits per sample in the file.
        colour: Tags of the file; where it has none, the ones that apply by custom.
        rate: Average frames per second.
        time_base: Seconds per tick of the frames' times.
        frames: Number of frames as the container tells or implies, None if it does not.
        sample_aspect_ratio: Width of a pixel divided by its height.
        display_matrix: Rotation and mirroring that a player has to apply to the frames yielded; None for none.
        interlaced: Whether the first frame is interlaced.
        alpha: Whether the file has transparency (which the reader leaves out).
        hdr: Mastering display and light level of HDR video.
    """

    width: int
    height: int
    pix_fmt: str
    bits: int
    colour: Colour
    rate: Fraction
    time_base: Fraction
    frames: int | None
    sample_aspect_ratio: Fraction
    display_matrix: DisplayMatrix | None
    interlaced: bool
    alpha: bool
    hdr: HdrMetadata


class VideoReader:
    """The video stream of a file, frame by frame; memory does not grow with its length.

    Use it as a context manager. Times are shifted so that the file starts at zero, as players show it.

    Args:
        path: A file FFmpeg can read.
        apply_rotation: Turn the frames as the file's display matrix asks, instead of passing the matrix on in ``info``.
        keep_going: Leave out what cannot be decoded, and count it in ``damage``, instead of raising.

    Attributes:
        info: See :class:`VideoInfo`.
        damage: One sentence per kind of damage that was passed over.

    Raises:
        UserError: The file is missing, is no video, or its first frame cannot be decoded.
    """

    def __init__(self, path: str | Path, *, apply_rotation: bool = True, keep_going: bool = False) -> None:
        self.path = Path(path)
        self._keep_going = keep_going
        self._damage: dict[str, int] = {}
        self._container = _open(self.path)
        try:
            self._stream = self._choose_stream()
            self._stream.thread_type = "AUTO"
            self._origin = Fraction(max(self._container.start_time or 0, 0), av.time_base)
            self._end = Fraction(0)
            self._check_index()
            self._source = self._decode()
            self._waiting: list[VideoFrame | Packet[Stream]] = []
            first = self._first_frame()
            matrix = _display_matrix(first)
            self._applied = matrix if matrix and apply_rotation and is_right_angled(matrix) else None
            self.info = self._describe(first, None if self._applied else matrix)
            step = 1 / (self.info.rate * self.info.time_base)
            self._clock = PresentationClock(round(step))
        except BaseException:
            self._container.close()
            raise

    @property
    def damage(self) -> list[str]:
        """One sentence per kind of damage that was passed over."""
        return [f"{reason} ({count} times)" if count > 1 else reason for reason, count in self._damage.items()]

    @property
    def container(self) -> InputContainer:
        """The open container, for its metadata, chapters and other streams."""
        return self._container

    @property
    def stream(self) -> VideoStream:
        """The stream that is decoded."""
        return self._stream

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        for item in self.items():
            if isinstance(item, Frame):
                yield item

    def items(self) -> Iterator[Frame | Packet[Stream]]:
        """Frames, and between them the packets of all other streams, in the order of the file.

        A reader can be iterated once.

        Yields:
            Frames with times in ``info.time_base``; packets of other streams with times shifted likewise.

        Raises:
            DamagedInputError: The file is damaged and ``keep_going`` is off.
        """
        index = 0
        shift = round(self._origin / self.info.time_base)
        for item in self._decoded():
            if isinstance(item, VideoFrame):
                pts = self._clock.tick(item.pts, item.dts) - shift
                yield self._convert(item, index, pts)
                index += 1
            else:
                yield self._shifted(item)
        self._check_end()

    def _decoded(self) -> Iterator[VideoFrame | Packet[Stream]]:
        """What was read to find the first frame, then the rest."""
        while self._waiting:
            yield self._waiting.pop(0)
        yield from self._source

    def _choose_stream(self) -> VideoStream:
        candidates = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not candidates:
            kinds = sorted({s.type for s in self._container.streams})
            raise UserError(f"{self.path}: no video stream (the file has: {', '.join(kinds) or 'nothing'})")
        best = self._container.streams.best("video")
        stream = best if best in candidates and isinstance(best, VideoStream) else candidates[0]
        if stream.codec_context is None:
            raise UserError(f"{self.path}: no decoder for its video codec")
        return stream

    def _check_index(self) -> None:
        """Find a truncated MP4 before any work is done: its index then points beyond the end of the file."""
        entries = self._stream.index_entries
        if not self._container.format.name.startswith("mov") or not entries:
            return
        last = max(entry.pos + entry.size for entry in entries)
        if last > self.path.stat().st_size:
            self._damaged("the file is truncated: its index points beyond its end")

    def _first_frame(self) -> VideoFrame:
        for item in self._source:
            self._waiting.append(item)
            if isinstance(item, VideoFrame):
                return item
        duration = self._container.duration
        if not self._damage and not duration:
            raise UserError(f"{self.path}: the video stream is empty (no frame)")
        raise UserError(f"{self.path}: no frame could be decoded; the file is damaged or truncated")

    def _decode(self) -> Iterator[VideoFrame | Packet[Stream]]:
        """Decoded frames and untouched packets in file order, errors dealt with."""
        for packet in self._packets():
            if packet is None:
                yield from self._stream.decode(None)
                return
            if packet.pts is not None:
                end = (packet.pts + (packet.duration or 0)) * packet.time_base
                self._end = max(self._end, Fraction(end))
            if packet.is_corrupt:
                self._damaged("a packet is incomplete", packet)
            if packet.stream is not self._stream:
                if packet.size:
                    yield packet
                continue
            try:
                # A packet without dts at the end is the request to hand out the frames the decoder still holds.
                frames = self._stream.decode(packet)
            except av.error.FFmpegError as error:
                self._damaged(f"a frame cannot be decoded ({error.strerror})", packet)
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self._damaged("a frame is damaged", packet)
                yield frame

    def _packets(self) -> Iterator[Packet[Stream] | None]:
        """Demux to the end; after a read error, go on behind it. None stands for an end that could not be reached."""
        errors = 0
        while errors < _MAX_READ_ERRORS:
            try:
                yield from self._container.demux()
                return
            except av.error.FFmpegError as error:  # noqa: PERF203 - reading goes on after it
                errors += 1
                self._damaged(f"the file cannot be read on ({error.strerror})")
        yield None

    def _damaged(self, reason: str, packet: Packet[Stream] | None = None) -> None:
        if not self._keep_going:
            time = packet and packet.pts is not None and float(packet.pts * packet.time_base)
            where = f" at {time:.2f} s" if isinstance(time, float) else ""
            raise DamagedInputError(f"{self.path}: {reason}{where}")
        self._damage[reason] = self._damage.get(reason, 0) + 1

    def _check_end(self) -> None:
        declared = Fraction(self._container.duration or 0, av.time_base)
        got = self._end - self._origin
        if self._container.format.name in _DECLARES_DURATION and got < declared - max(Fraction(1, 2), declared / 20):
            self._damaged(f"the file is truncated: it ends at {float(got):.2f} s of {float(declared):.2f} s")

    def _describe(self, first: VideoFrame, matrix: DisplayMatrix | None) -> VideoInfo:
        stream, layout = self._stream, layout_of(first.format.name)
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate or Fraction(25)
        time_base = stream.time_base or Fraction(1, 90000)
        frames = stream.frames or None
        if frames is None and self._container.duration:
            frames = max(1, round(Fraction(self._container.duration, av.time_base) * rate))
        ratio = stream.sample_aspect_ratio or Fraction(1)
        width, height = first.width, first.height
        if self._applied and swaps_axes(self._applied):
            width, height, ratio = height, width, 1 / ratio
        return VideoInfo(
            width=width,
            height=height,
            pix_fmt=first.format.name,
            bits=layout.bits,
            colour=self._colour(first),
            rate=rate,
            time_base=time_base,
            frames=frames,
            sample_aspect_ratio=ratio,
            display_matrix=matrix,
            interlaced=first.interlaced_frame,
            alpha=layout.alpha,
            hdr=read_hdr_metadata(first),
        )

    def _colour(self, frame: VideoFrame) -> Colour:
        """The frame's tags, with custom filling the gaps."""
        family = layout_of(frame.format.name).family
        full = frame.color_range == _JPEG_RANGE or frame.format.name.startswith("yuvj")
        matrix = int(frame.colorspace)
        if family == "rgb":
            matrix, full = RGB, True
        elif family == "grey":
            # FFmpeg reads untagged grey as full range.
            matrix, full = guess_matrix(frame.width, frame.height), full or frame.color_range == 0
        elif matrix in (UNSPECIFIED, RGB):
            matrix = guess_matrix(frame.width, frame.height)
        else:
            check_matrix(matrix, self.path)
        return Colour(matrix, full, int(frame.color_primaries), int(frame.color_trc))

    def _convert(self, frame: VideoFrame, index: int, pts: int) -> Frame:
        info = self.info
        width, height = info.width, info.height
        if self._applied and swaps_axes(self._applied):
            width, height = height, width
        if (frame.width, frame.height) != (width, height):
            # A stream may change its size; the rest is brought to the size it began with.
            frame = swscale(frame, width=width, height=height)
        centred = self._stream.codec_context.name in ("mjpeg", "mpeg1video")
        image = read_rgb(frame, self._colour(frame), centred_chroma=centred)
        if self._applied:
            image = apply_display_matrix(image, self._applied)
        return Frame(image, index, pts, frame.duration or None, info.time_base)

    def _shifted(self, packet: Packet[Stream]) -> Packet[Stream]:
        shift = round(self._origin / packet.time_base) if self._origin else 0
        if shift:
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
        return packet


def _open(path: Path) -> InputContainer:
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if path.is_dir():
        raise UserError(f"{path}: expected a video file, got a folder")
    if not path.stat().st_size:
        raise UserError(f"{path}: the file is empty")
    try:
        # Metadata in another encoding than it claims is no reason to refuse the video.
        return av.open(str(path.resolve()), "r", metadata_errors="replace")
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it") from error
    except av.error.FFmpegError as error:
        raise UserError(f"{path}: not a video that can be read; damaged, truncated or another kind of file") from error


def _display_matrix(frame: VideoFrame) -> DisplayMatrix | None:
    data = side_data(frame).get(SideDataType.DISPLAYMATRIX)
    return parse_display_matrix(data) if data else None
