"""Clips to train on, found in folders and files as data sets lay them out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vsr.errors import UserError
from vsr.inference.images import FrameFolder, is_image
from vsr.training.frames import CacheError, Frames, ImageFrames, cached_images, cached_video

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".mpg", ".mpeg", ".webm", ".m4v", ".ts", ".y4m")

# Folders of high-resolution clips inside a data set's folder: Vimeo-90K, REDS, and BasicSR's layout of Vid4 and UDM10.
_HR_FOLDERS = ("sequences", "train_sharp", "GT", "HR")
_VIMEO_LIST = "sep_trainlist.txt"  # beside Vimeo-90K's sequences


@dataclass(frozen=True)
class TrainingClip:
    """A run of frames without a cut.

    Attributes:
        name: For messages.
        hr: The frames of the high-resolution file or folder.
        lr: The same at low resolution, or None where it is made of ``hr``.
        first, count: The frames that belong to the clip.
    """

    name: str
    hr: Frames
    lr: Frames | None
    first: int
    count: int

    def __post_init__(self) -> None:
        frames = self.hr.shape[0]
        if self.first < 0 or self.count < 1 or self.first + self.count > frames:
            last = self.first + self.count - 1
            raise UserError(f"{self.name}: expected frames within 0 to {frames - 1}, got {self.first} to {last}")
        if self.lr is not None and self.lr.shape[0] != frames:
            raise UserError(f"{self.name}: {frames} frames at high resolution and {self.lr.shape[0]} at low")


def find_clips(
    root: Path,
    *,
    lr_root: Path | None = None,
    annotation: Path | None = None,
    cache: Path | None = None,
    keep_images: bool = False,
    on_skip: Callable[[str], None] | None = None,
) -> list[TrainingClip]:
    """All clips under ``root``, in the order of their names.

    ``root`` is a video file, or a folder with videos and folders of images at any depth: REDS (``000/00000000.png``),
    Vimeo-90K septuplets (``00001/0001/im1.png``), Vid4 and UDM10 (``GT/<clip>/*.png``) are such folders, and may be
    given by their own top folder too; beside Vimeo-90K's ``sequences`` its ``sep_trainlist.txt`` is then the
    annotation.

    Args:
        root: Where the high-resolution clips are.
        lr_root: A folder with the same clips at low resolution under the same names; None to make it of the frames.
        annotation: A file with a clip (or one of its frames) at the start of each line, as BasicSR's and mmagic's
            ``meta_info`` and Vimeo-90K's lists have it; other clips are left out. None takes all.
        cache: Where decoded frames are kept; see :func:`vsr.training.frames.cached_video`.
        keep_images: Whether folders of images are decoded once and kept there, too, three bytes a pixel: no whole file
            is then decoded for a small crop.
        on_skip: Called with a sentence for every clip that cannot be read; it is left out. Without it the error is
            raised.

    Raises:
        UserError: No clip is found, one that the annotation names is missing, or low and high resolution do not
            belong together.
        CacheError: Decoded videos cannot be kept.
    """
    if not root.exists():
        raise UserError(f"{root}: no such file or folder")
    if annotation is None and (root / "sequences").is_dir() and (root / _VIMEO_LIST).is_file():
        annotation = root / _VIMEO_LIST
    top = next((root / name for name in _HR_FOLDERS if (root / name).is_dir()), root)
    places = _places(top) if annotation is None else [top / name for name in _annotated(annotation)]
    clips = []
    for place in places:
        name = place.name if place == top else place.relative_to(top).as_posix()
        try:
            hr = _open(name, place, cache, keep_images)
            lr = None if lr_root is None else _open(name, lr_root / place.relative_to(top), cache, keep_images)
            clips.append(TrainingClip(name, hr, lr, 0, hr.shape[0]))
        except UserError as error:
            if on_skip is None or isinstance(error, CacheError):
                raise
            on_skip(str(error))
    if not clips:
        raise UserError(f"{root}: no clips (looked for folders of images and for {', '.join(VIDEO_SUFFIXES)})")
    return clips


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()


def _places(top: Path) -> list[Path]:
    """Videos, and folders that hold images, under ``top``."""
    if top.is_file():
        return [top]
    folders = [top, *(path for path in top.rglob("*") if path.is_dir())]
    with_images = [folder for folder in folders if any(is_image(path) for path in folder.iterdir())]
    return sorted([*with_images, *(path for path in top.rglob("*") if _is_video(path))])


def _open(name: str, place: Path, cache: Path | None, keep_images: bool) -> Frames:
    if place.is_dir():
        images = ImageFrames(name, FrameFolder(place).files)
        return cached_images(images, cache) if keep_images else images
    if not place.exists():
        raise UserError(f"{place}: no such clip")
    if not _is_video(place):
        raise UserError(f"{place}: expected a folder of images or one of {', '.join(VIDEO_SUFFIXES)}")
    return cached_video(place, cache)


def _annotated(path: Path) -> list[str]:
    """Names of clips in the order of the file, each once."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not an annotation file that can be read ({error})") from error
    names = list(dict.fromkeys(_names(lines)))
    if not names:
        raise UserError(f"{path}: the annotation names no clip")
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{path}: expected names of clips inside the data set, got {name!r}")
    return names


def _names(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        words = re.split(r"[\s(]", line.strip(), maxsplit=1)
        if words[0]:
            name = Path(words[0])
            yield (name.parent if is_image(name) else name).as_posix()
