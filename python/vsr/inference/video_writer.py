"""Encoding: frames with times to a video file, with the other streams of a source beside them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import av.error
from av.codec.context import Flags
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor, from_numpy

from vsr.errors import UserError
from vsr.files import PendingFile, writing
from vsr.inference.colour import PICTURE_COLOUR, RGB, Colour
from vsr.inference.encode_pixels import encoder_planes, frame_of_planes
from vsr.inference.encoders import ENCODERS, choose_codec, choose_format, container_of, encoder_options
from vsr.inference.frame import Frame
from vsr.inference.hdr import HdrMetadata, x265_parameters
from vsr.inference.orientation import DisplayMatrix
from vsr.inference.pixels import PixelLayout, Planes, layout_of, swscale
from vsr.inference.side_streams import SideStreams
from vsr.inference.video_reader import VideoReader

_PICTURES = layout_of("gbrp")
_MOST_FRAMES_REORDERED = 10_000  # far more than any encoder does


class VideoWriter:
    """A video file that appears when it is complete.

    Use it as a context manager: leaving the block normally finishes the file and moves it into place; leaving it by an
    exception removes what was written.

    Args:
        path: Where the video goes; the suffix picks the container.
        width: Columns of the frames to come.
        height: Rows likewise. Where the pixel format halves chroma, an odd side grows by one repeated column or row.
        rate: Average frames per second; exact times come with the frames.
        time_base: Seconds per tick of the frames' times; one frame per tick at ``rate`` if not given.
        colour: Matrix, range and tags to encode with; that of ordinary HD video if not given.
        source_format: Pixel format whose depth and chroma grid the output keeps, such as ``yuv420p10le``.
        codec: ``h264``, ``hevc``, ``av1``, ``vp9``, ``ffv1`` or ``prores``; chosen by depth and container if None.
        crf: Constant rate factor, smaller is better; the codec's default if None.
        preset: The encoder's speed setting; its default if None.
        pixel_format: FFmpeg's name of the format to encode, instead of one derived from ``source_format``.
        sample_aspect_ratio: Width of a pixel divided by its height.
        display_matrix: Rotation and mirroring for players to apply.
        hdr: Static HDR metadata; written by HEVC, which is what HDR video uses.
        copy_from: A reader whose audio, subtitles, tags and chapters go along; feed it by :meth:`write_packet`.

    Attributes:
        notes: One sentence for everything that could not be kept.

    Raises:
        UserError: The target cannot be written, or a setting does not fit the codec or the container.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        width: int,
        height: int,
        rate: Fraction | int,
        time_base: Fraction | None = None,
        colour: Colour = PICTURE_COLOUR,
        source_format: PixelLayout = _PICTURES,
        codec: str | None = None,
        crf: int | None = None,
        preset: str | None = None,
        pixel_format: str | None = None,
        sample_aspect_ratio: Fraction = Fraction(1),
        display_matrix: DisplayMatrix | None = None,
        hdr: HdrMetadata | None = None,
        copy_from: VideoReader | None = None,
    ) -> None:
        self.path = Path(path)
        self.notes: list[str] = []
        container = container_of(self.path)
        self._codec = choose_codec(codec, container, source_format.bits)
        options = encoder_options(self._codec, crf, preset)
        self._layout, self._pix_fmt = choose_format(self._codec, source_format, pixel_format)
        if self._layout.bits < source_format.bits:
            self.notes.append(f"{source_format.bits} bits become {self._layout.bits}: {self._layout.name} has no more")
        self._colour = Colour(RGB, True, colour.primaries, colour.transfer) if self._layout.family == "rgb" else colour
        if colour.matrix == RGB and self._layout.family != "rgb":
            self._colour = PICTURE_COLOUR
        self._time_base = time_base or 1 / Fraction(rate)
        self._longest_delay = round(_MOST_FRAMES_REORDERED / (rate * self._time_base)) + 1
        self._frames = 0
        self._side: SideStreams | None = None

        self._pending = PendingFile(self.path)
        try:
            self._container = self._open(container, Fraction(rate))
        except BaseException:
            self._pending.discard()
            raise

        def add_video() -> VideoStream:
            stream = self._container.add_stream(
                ENCODERS[self._codec].library, rate=Fraction(rate).limit_denominator(100_000), options=options
            )
            assert isinstance(stream, VideoStream)
            self._configure(stream, width, height, sample_aspect_ratio, display_matrix, hdr)
            self._stream = stream
            return stream

        try:
            if copy_from is None:
                add_video()
            else:
                self._side = SideStreams(copy_from.container, self._container, copy_from.stream, add_video)
                self.notes += self._side.notes
            self._start(width, height)
        except BaseException:
            self.discard()
            raise

    def _open(self, container: str, rate: Fraction) -> OutputContainer:
        # The muxer gives up waiting for a late stream after this many microseconds of the others; an encoder may hold
        # dozens of frames, which is long at low frame rates.
        patience = max(10_000_000, round(200 * 1_000_000 / rate))
        settings = {"max_interleave_delta": str(patience)}
        if container in ("mp4", "mov"):
            settings["movflags"] = "+faststart"
        return av.open(str(self._pending.temporary.resolve()), "w", format=container, container_options=settings)

    def _configure(
        self,
        stream: VideoStream,
        width: int,
        height: int,
        sample_aspect_ratio: Fraction,
        display_matrix: DisplayMatrix | None,
        hdr: HdrMetadata | None,
    ) -> None:
        layout, context = self._layout, stream.codec_context
        context.width = width + (width % 2 if layout.sub_x else 0)
        context.height = height + (height % 2 if layout.sub_y else 0)
        if (context.width, context.height) != (width, height):
            self.notes.append(
                f"{width}x{height} grows to {context.width}x{context.height}: {layout.name} needs even sizes"
            )
        context.pix_fmt = self._pix_fmt
        context.time_base = self._time_base
        context.sample_aspect_ratio = sample_aspect_ratio
        context.color_range = 2 if self._colour.full_range else 1
        context.colorspace = self._colour.matrix
        context.color_primaries = self._colour.primaries
        context.color_trc = self._colour.transfer
        context.flags |= Flags.frame_duration
        context.thread_type = "AUTO"
        if display_matrix is not None:
            stream.set_display_matrix(display_matrix)
        encoder, container = ENCODERS[self._codec], self._container.format.name
        if encoder.tag and container in ("mp4", "mov"):
            context.codec_tag = encoder.tag
        if self._codec == "hevc":
            parameters = ["log-level=none", *(x265_parameters(hdr) if hdr else [])]
            context.options["x265-params"] = ":".join(parameters)
        elif hdr is not None and (hdr.mastering or hdr.light_level):
            self.notes.append(f"HDR mastering metadata are not kept: {self._codec} is not given them; use --codec hevc")
        if hdr is not None and hdr.dynamic:
            self.notes.append("dynamic HDR metadata (Dolby Vision or HDR10+) are not kept")
        if sample_aspect_ratio != 1 and container in ("matroska", "webm") and self._codec in ("vp9", "av1"):
            self.notes.append(f"the pixel aspect ratio {sample_aspect_ratio} is not kept: use .mp4, or another codec")
        if self._codec == "av1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only: the library prints to stderr by itself

    def _start(self, width: int, height: int) -> None:
        try:
            with writing(self.path):
                self._container.start_encoding()
        except av.error.FFmpegError as error:
            raise UserError(
                f"{self.path}: {self._codec} cannot encode {width}x{height} {self._layout.name} ({error.strerror})"
            ) from error

    @property
    def pixel_format(self) -> str:
        """FFmpeg's name of the format that is encoded."""
        return self._pix_fmt

    def planes(self, rgb: Tensor) -> Planes:
        """Convert a picture to the encoder's planes, on the device the picture is on.

        Args:
            rgb: (3, H, W) R'G'B' in [0, 1], any device and float dtype.
        """
        return encoder_planes(rgb, self._layout, self._colour)

    def write_planes(self, planes: Planes, pts: int | None = None, duration: int | None = None) -> None:
        """Encode one frame.

        Args:
            planes: From :meth:`planes`.
            pts: Presentation time in ticks of ``time_base``; the number of the frame if None.
            duration: Time on screen in ticks, if known.
        """
        frame = frame_of_planes(planes, self._layout)
        frame.pts = self._frames if pts is None else pts
        frame.time_base = self._time_base
        frame.duration = duration or 0
        frame.color_range = 2 if self._colour.full_range else 1
        frame.colorspace = self._colour.matrix
        frame.color_primaries = self._colour.primaries
        frame.color_trc = self._colour.transfer
        if self._pix_fmt != self._layout.name:
            frame = swscale(frame, format=self._pix_fmt)
        self._frames += 1
        self._mux(self._encode(frame))

    def write(self, frame: Frame) -> None:
        """Encode one decoded frame; its time must be in this writer's ``time_base``, or None."""
        top = 255 if frame.image.dtype.itemsize == 1 else 65535
        rgb = from_numpy(frame.image).permute(2, 0, 1).float().div_(top)  # (3, H, W)
        self.write_planes(self.planes(rgb), frame.pts, frame.duration)

    def write_packet(self, packet: Packet[Stream]) -> None:
        """Pass on a packet of another stream of ``copy_from``."""
        if self._side is not None:
            self._mux(self._side.convert(packet))

    def finish(self) -> None:
        """Encode what is held back, complete the file and move it into place.

        Raises:
            UserError: The disk is full, or no frame was written.
        """
        if not self._frames:
            self.discard()
            raise UserError(f"{self.path}: no frame to write")
        self._mux(self._encode(None))
        if self._side is not None:
            self._mux(self._side.finish())
        with writing(self.path):
            self._container.close()
        self._pending.commit()

    def discard(self) -> None:
        """Remove what was written."""
        # The trailer may be impossible to write; the file goes away in any case.
        with suppress(OSError, ValueError, av.error.FFmpegError):
            self._container.close()
        self._pending.discard()

    def _encode(self, frame: VideoFrame | None) -> Iterator[Packet[Stream]]:
        for packet in self._stream.encode(frame):
            # libx265 leaves dts uninitialised in clips shorter than its reordering delay, which come in order.
            if packet.pts is not None and (
                packet.dts is None or not 0 <= packet.pts - packet.dts < self._longest_delay
            ):
                packet.dts = packet.pts
            yield packet

    def _mux(self, packets: Iterable[Packet[Stream]]) -> None:
        with writing(self.path):
            for packet in packets:
                self._container.mux(packet)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.discard()
            return
        try:
            self.finish()
        except BaseException:
            self.discard()
            raise
