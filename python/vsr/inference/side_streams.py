"""Everything in a video file that is not its picture: audio, subtitles, cover art, attachments, tags, chapters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import TypeAlias

import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.subtitles.stream import SubtitleStream

# Bitmaps cannot become text.
_BITMAP_SUBTITLES = {"dvdsub", "dvd_subtitle", "pgssub", "hdmv_pgs_subtitle", "dvbsub", "dvb_subtitle", "xsub"}
_TEXT_SUBTITLES = {"mp4": "mov_text", "mov": "mov_text", "matroska": "ass", "webm": "webvtt"}
_AUDIO = {"mp4": "aac", "mov": "aac", "matroska": "aac", "webm": "libopus"}
# What the muxer writes itself, or what described the old file only.
_OWN_TAGS = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration", "vendor_id", "handler_name"}

_Handler: TypeAlias = "Callable[[Packet[Stream]], Iterable[Packet[Stream]]]"  # a string: no Packet[...] at run time


class SideStreams:
    """Carries the other streams of a file over: packets as they are where the container takes them, else converted.

    Args:
        source: The file they come from.
        target: The file being written; streams are added in the order of the source.
        video: The stream of the source that is replaced.
        add_video: Adds the replacement, at the place the old one had.

    Attributes:
        notes: One sentence for each stream that could not be kept as it is.
    """

    def __init__(
        self, source: InputContainer, target: OutputContainer, video: Stream, add_video: Callable[[], Stream]
    ) -> None:
        self.notes: list[str] = []
        self._target = target
        self._handlers: dict[int, _Handler] = {}
        self._flush: list[Callable[[], Iterable[Packet[Stream]]]] = []
        for stream in source.streams:
            if stream is video:
                replacement = add_video()
                replacement.metadata.update(_tags(stream.metadata))
                replacement.disposition = stream.disposition
            else:
                self._add(stream, bool(source.chapters()))
        target.metadata.update(_tags(source.metadata))
        if source.chapters():
            target.set_chapters(source.chapters())

    def convert(self, packet: Packet[Stream]) -> Iterable[Packet[Stream]]:
        """The packets to write for one packet of the source."""
        handler = self._handlers.get(packet.stream.index)
        return handler(packet) if handler else ()

    def finish(self) -> Iterable[Packet[Stream]]:
        """What converters still hold when the source has ended."""
        for flush in self._flush:
            yield from flush()

    def _add(self, stream: Stream, has_chapters: bool) -> None:
        if stream.type == "data" or stream.type == "unknown":
            # MP4 keeps chapter titles in a track of their own, which the muxer writes anew.
            if not has_chapters:
                self.notes.append(f"stream {stream.index} ({stream.type}) is not kept: it is no audio or subtitle")
            return
        try:
            copy = self._target.add_stream_from_template(stream)
        except (ValueError, av.error.FFmpegError):
            self._add_converted(stream)
            return
        copy.metadata.update(_tags(stream.metadata))
        copy.disposition = stream.disposition

        def pass_on(packet: Packet[Stream]) -> Iterable[Packet[Stream]]:
            packet.stream = copy
            return (packet,)

        self._handlers[stream.index] = pass_on

    def _add_converted(self, stream: Stream) -> None:
        container = self._target.format.name
        codec = stream.codec_context.name if stream.codec_context else "unknown"
        if isinstance(stream, AudioStream):
            self._handlers[stream.index] = self._audio_converter(stream, _AUDIO[container])
            self.notes.append(f"audio stream {stream.index} is encoded anew: {container} does not take {codec}")
        elif isinstance(stream, SubtitleStream) and codec not in _BITMAP_SUBTITLES:
            self._handlers[stream.index] = self._subtitle_converter(stream, _TEXT_SUBTITLES[container])
            self.notes.append(f"subtitle stream {stream.index} loses its styles: {container} does not take {codec}")
        else:
            self.notes.append(f"stream {stream.index} ({codec}) is not kept: {container} does not take it")

    def _audio_converter(self, stream: AudioStream, codec: str) -> _Handler:
        rate = 48000 if codec == "libopus" else stream.codec_context.sample_rate
        out: AudioStream = self._target.add_stream(codec, rate=rate, layout=stream.layout.name)  # type: ignore[assignment]
        out.metadata.update(_tags(stream.metadata))
        out.disposition = stream.disposition

        def encode(packet: Packet[Stream]) -> Iterable[Packet[Stream]]:
            try:
                frames = stream.decode(packet)
            except av.error.InvalidDataError:
                return  # a damaged packet leaves a gap, as it does when packets are copied
            for frame in frames:
                yield from out.encode(frame)  # which also resamples

        def flush() -> Iterable[Packet[Stream]]:
            for frame in stream.decode(None):
                yield from out.encode(frame)
            yield from out.encode(None)

        self._flush.append(flush)
        return encode

    def _subtitle_converter(self, stream: SubtitleStream, codec: str) -> _Handler:
        out: SubtitleStream = self._target.add_stream(codec)  # type: ignore[assignment]
        stream.codec_context.open(strict=False)  # only an open decoder knows the header
        out.codec_context.subtitle_header = stream.codec_context.subtitle_header
        out.time_base = Fraction(1, 1000)
        out.metadata.update(_tags(stream.metadata))
        out.disposition = stream.disposition

        def convert(packet: Packet[Stream]) -> Iterable[Packet[Stream]]:
            subtitle = stream.codec_context.decode2(packet)
            if subtitle is None or packet.pts is None:
                return
            encoded = out.codec_context.encode_subtitle(subtitle)
            encoded.stream = out
            encoded.time_base = packet.time_base
            encoded.pts = encoded.dts = packet.pts
            encoded.duration = packet.duration
            yield encoded

        return convert


def _tags(metadata: dict[str, str]) -> dict[str, str]:
    tags = {key: value for key, value in metadata.items() if key.lower() not in _OWN_TAGS}
    if "name" in tags:  # what the MP4 reader calls a track's title, and the MP4 writer does not know
        tags.setdefault("title", tags.pop("name"))
    return tags
