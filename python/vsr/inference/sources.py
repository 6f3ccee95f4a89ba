"""What is enlarged: a video, an image, or a folder of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from av.packet import Packet
from av.stream import Stream

from vsr.errors import UserError
from vsr.inference.frame import Frame
from vsr.inference.images import FrameFolder, read_image
from vsr.inference.orientation import is_right_angled
from vsr.inference.video_reader import VideoReader


@dataclass
class Source:
    """A source that is open.

    Attributes:
        items: Frames, and the packets of other streams between them.
        bits: Bits per sample.
        total: Number of frames, None if unknown.
        reader: The video, if it is one.
        first: The first image, if it is images.
        names: Names of the images of a folder, without suffix.
        damage: What was left out so far, one sentence each.
        notes: What is not kept, one sentence each.
    """

    items: Iterable[Frame | Packet[Stream]]
    bits: int
    total: int | None
    reader: VideoReader | None = None
    first: Frame | None = None
    names: list[str] | None = None
    damage: Callable[[], list[str]] = list
    notes: list[str] = field(default_factory=list)


def video_source(reader: VideoReader, *, to_images: bool) -> Source:
    """The frames of a video, and the packets of its other streams."""
    info, notes = reader.info, []
    if info.alpha:
        notes.append("the video's transparency is not kept")
    if info.interlaced:
        notes.append("the video is interlaced and is treated as progressive; deinterlace it first for good results")
    if to_images and info.display_matrix is not None and not is_right_angled(info.display_matrix):
        notes.append("the video's rotation is no multiple of 90 degrees and is not applied")
    if to_images and reader.container.streams.audio:
        notes.append("audio is not kept: the output is a folder of images")
    return Source(reader.items(), info.bits, info.frames, reader, damage=lambda: reader.damage, notes=notes)


def image_source(path: Path) -> Source:
    """One image."""
    frame = read_image(path)
    return Source([frame], _bits(frame), 1, first=frame)


def folder_source(path: Path, *, to_video: bool, keep_going: bool) -> Source:
    """The images of a folder.

    Raises:
        UserError: None of them can be read.
    """
    folder = FrameFolder(path, keep_going=keep_going)
    first = next(iter(FrameFolder(path, keep_going=keep_going)), None)
    if first is None:
        raise UserError(f"{path}: none of its images can be read")
    notes = []
    if to_video and first.still.alpha is not None:
        notes.append("the images' transparency is not kept")
    names = [file.stem for file in folder.files]
    return Source(
        folder, _bits(first), len(folder), first=first, names=names, damage=lambda: folder.damage, notes=notes
    )


def _bits(frame: Frame) -> int:
    return frame.image.dtype.itemsize * 8
