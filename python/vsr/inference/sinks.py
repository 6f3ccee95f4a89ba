"""Where enlarged pictures go: a video, an image, or a folder of images that can be continued."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

from av.packet import Packet
from av.stream import Stream
from torch import Tensor

from vsr.errors import UserError
from vsr.files import check_folder
from vsr.inference.alpha import enlarge_alpha
from vsr.inference.encode_pixels import quantise_rgb
from vsr.inference.frame import Frame, Picture, StillInfo
from vsr.inference.images import takes_16_bits, takes_alpha, write_image
from vsr.inference.pixels import Planes
from vsr.inference.resume import Checkpoint, FolderJob
from vsr.inference.video_writer import VideoWriter


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A picture in the form its file takes, off the device.

    Attributes:
        frame: The frame it was made of.
        planes: For a video: the encoder's planes.
        image: For an image: the pixels, and what goes into the file beside them.
    """

    frame: Frame
    planes: Planes | None = None
    image: tuple[Picture, StillInfo] | None = None


class Sink(Protocol):
    """A target. :meth:`prepare` is called where the model runs, everything else in the writing thread or at the end."""

    notes: list[str]

    def prepare(self, rgb: Tensor, frame: Frame) -> Prepared:
        """Convert a picture, (3, H, W) R'G'B' in [0, 1], to whole numbers."""

    def write(self, prepared: Prepared) -> None:
        """Write one picture."""

    def pass_on(self, packet: Packet[Stream]) -> None:
        """Write a packet of another stream of the source."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Note how far the job is."""

    def finish(self) -> None:
        """Let the target appear."""

    def discard(self) -> None:
        """Leave nothing half-done."""


class VideoSink:
    """A video file.

    Args:
        writer: Open, for frames of the enlarged size.
        keeps_times: Whether the frames' times are in the writer's time base; else they are counted.
    """

    def __init__(self, writer: VideoWriter, *, keeps_times: bool) -> None:
        self._writer = writer
        self._keeps_times = keeps_times
        self._size: tuple[int, ...] | None = None
        self.notes: list[str] = writer.notes

    def prepare(self, rgb: Tensor, frame: Frame) -> Prepared:
        """Convert to the encoder's planes."""
        size = tuple(frame.image.shape[:2])
        self._size = self._size or size
        if size != self._size:
            raise UserError(
                f"{frame.name}: {size[1]}x{size[0]}, but the first image is {self._size[1]}x{self._size[0]}; "
                "a video has frames of one size"
            )
        return Prepared(frame, planes=self._writer.planes(rgb))

    def write(self, prepared: Prepared) -> None:
        """Encode one picture."""
        assert prepared.planes is not None
        frame = prepared.frame
        times = (frame.pts, frame.duration) if self._keeps_times else (None, None)
        self._writer.write_planes(prepared.planes, *times)

    def pass_on(self, packet: Packet[Stream]) -> None:
        """Write a packet of another stream of the source."""
        self._writer.write_packet(packet)

    def save(self, checkpoint: Checkpoint) -> None:
        """A video cannot be continued."""

    def finish(self) -> None:
        """Complete the file."""
        self._writer.finish()

    def discard(self) -> None:
        """Remove the file."""
        self._writer.discard()


def prepare_image(rgb: Tensor, frame: Frame, scale: int, file: Path) -> Prepared:
    """Convert a picture for an image file.

    Args:
        rgb: (3, scale * H, scale * W) R'G'B' in [0, 1].
        frame: The frame it was made of.
        scale: Enlargement.
        file: The file's name or one like it; the suffix decides about depth and transparency.

    Raises:
        UserError: The frame is transparent in places, and the format has no transparency.
    """
    bits = 16 if frame.image.dtype.itemsize == 2 and takes_16_bits(file) else 8
    still = frame.still
    if still.alpha is not None:
        if not takes_alpha(file):
            raise UserError(f"{frame.name}: it is transparent in places, {file.suffix} cannot be; use .png or .webp")
        still = dataclasses.replace(still, alpha=enlarge_alpha(still.alpha, scale, bits))
    return Prepared(frame, image=(quantise_rgb(rgb, 16 if bits == 16 else 8), still))


class ImageSink:
    """One image file.

    Args:
        path: The file.
        scale: Enlargement of the output.
    """

    def __init__(self, path: Path, scale: int) -> None:
        check_folder(path.parent)
        self._path = path
        self._scale = scale
        self.notes: list[str] = []

    def prepare(self, rgb: Tensor, frame: Frame) -> Prepared:
        """Convert to the depth of the file."""
        if frame.image.dtype.itemsize == 2 and not takes_16_bits(self._path):
            self.notes.append(f"16 bits become 8: {self._path.suffix} files are written with 8")
        return prepare_image(rgb, frame, self._scale, self._path)

    def write(self, prepared: Prepared) -> None:
        """Write the image, whole."""
        assert prepared.image is not None
        write_image(self._path, *prepared.image)

    def pass_on(self, packet: Packet[Stream]) -> None:
        """An image has no other streams."""

    def save(self, checkpoint: Checkpoint) -> None:
        """One image is not continued."""

    def finish(self) -> None:
        """The image is in place."""

    def discard(self) -> None:
        """Nothing is left behind by :meth:`write`."""


class FolderSink:
    """A folder of images.

    Args:
        job: Where they are collected.
        image_format: Their suffix without the dot.
        scale: Enlargement of the output.
    """

    def __init__(self, job: FolderJob, image_format: str, scale: int) -> None:
        self._job = job
        self._scale = scale
        self._suffix = "." + image_format
        self.notes: list[str] = []

    def prepare(self, rgb: Tensor, frame: Frame) -> Prepared:
        """Convert to the depth of the files."""
        return prepare_image(rgb, frame, self._scale, Path(frame_name(frame)).with_suffix(self._suffix))

    def write(self, prepared: Prepared) -> None:
        """Write one image, whole."""
        assert prepared.image is not None
        write_image(self._job.partial / (frame_name(prepared.frame) + self._suffix), *prepared.image)

    def pass_on(self, packet: Packet[Stream]) -> None:
        """A folder has no other streams."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Note how far the job is."""
        self._job.save(checkpoint)

    def finish(self) -> None:
        """Let the folder appear."""
        self._job.finish()

    def discard(self) -> None:
        """Keep whole frames for ``--resume``; remove an empty job."""
        self._job.discard()


def frame_name(frame: Frame) -> str:
    """Name of a frame's image, without suffix: that of its source image, or its number."""
    return frame.name if frame.name is not None else f"{frame.index:08d}"
