"""What users name on the command line as clips: videos, images, folders, sample clips."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vsr.data.clips import fetch_clip
from vsr.errors import UserError
from vsr.inference.frame import Picture
from vsr.inference.images import IMAGE_SUFFIXES, FrameFolder, is_image, read_image
from vsr.inference.video_reader import VideoReader
from vsr.metrics.evaluation import Clip

SAMPLE = "clip:"
_VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".y4m")


def to_8_bit(image: Picture) -> Tensor:
    """A decoded picture as (H, W, 3) uint8, the depth at which published figures compare."""
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return torch.from_numpy(image)


def locate(name: str) -> Path:
    """The file or folder that a user means.

    Args:
        name: A path, or ``clip:NAME`` for a sample clip, which is fetched if needed.

    Raises:
        UserError: There is no such file, folder or sample clip.
    """
    if name.startswith(SAMPLE):
        return fetch_clip(name.removeprefix(SAMPLE))
    path = Path(name).expanduser()
    if not path.exists():
        raise UserError(f"{name}: no such file or folder")
    return path


def find_clips(name: str) -> list[Clip]:
    """The clips behind a name: one for a video, an image or a folder of images, all of a folder of such, sorted.

    Raises:
        UserError: Nothing is there.
    """
    path = locate(name)
    if not path.is_dir() or _holds_images(path):
        return [_clip(path, name)]
    inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith(".") and _is_clip(entry))
    if not inside:
        raise UserError(
            f"{name}: holds neither images ({' '.join(IMAGE_SUFFIXES)}) nor videos ({' '.join(_VIDEO_SUFFIXES)}) "
            "nor folders of images"
        )
    clips = [_clip(entry, str(entry)) for entry in inside]
    for first, second in pairwise(sorted(clips, key=lambda clip: clip.name)):
        if first.name == second.name:
            raise UserError(f"{name}: {first.source} and {second.source} would both be called {first.name}")
    return clips


def frame_at(name: str, number: int) -> Tensor:
    """One frame of a video or a folder, (H, W, 3) uint8; an image is its own frame whatever the number.

    Raises:
        UserError: There is no such input, or it has no such frame.
    """
    path = locate(name)
    if path.is_file() and is_image(path):
        return to_8_bit(read_image(path).image)
    count = 0
    with closing(_frames(path)) as frames:
        for count, frame in enumerate(frames, 1):
            if count > number:
                return frame
    raise UserError(f"{name}: frame {number} was asked for, but it has {count} frames (they count from 0)")


def _holds_images(folder: Path) -> bool:
    return any(is_image(entry) and entry.is_file() for entry in folder.iterdir())


def _is_clip(entry: Path) -> bool:
    return _holds_images(entry) if entry.is_dir() else entry.suffix.lower() in _VIDEO_SUFFIXES


def _clip(path: Path, source: str) -> Clip:
    return Clip(path.name if path.is_dir() else path.stem, source, lambda: _frames(path))


def _frames(path: Path) -> Generator[Tensor, None, None]:
    if path.is_dir():
        for frame in FrameFolder(path):
            yield to_8_bit(frame.image)
    elif is_image(path):
        yield to_8_bit(read_image(path).image)
    else:
        with VideoReader(path) as reader:
            for frame in reader:
                yield to_8_bit(frame.image)
