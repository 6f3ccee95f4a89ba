"""What a job reads and writes: an image, a video or a folder of images."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from vsr.errors import UserError
from vsr.inference.encoders import CONTAINERS
from vsr.inference.images import IMAGE_SUFFIXES, is_image


class Kind(Enum):
    """The kinds of sources and targets."""

    IMAGE = "image"
    VIDEO = "video"
    FOLDER = "folder"


# What can be made of what, and what to say otherwise.
_REFUSED = {
    (Kind.IMAGE, Kind.VIDEO): "an image cannot become a video; give an image file as output",
    (Kind.IMAGE, Kind.FOLDER): "one image cannot become a folder; give an image file as output",
    (Kind.VIDEO, Kind.IMAGE): "a video cannot become one image; give a video file or a folder as output",
    (Kind.FOLDER, Kind.IMAGE): "a folder cannot become one image; give a folder or a video file as output",
}


def check_paths(source: Path, target: Path, *, overwrite: bool) -> tuple[Kind, Kind]:
    """Find out what a job reads and writes, and refuse what cannot work or would destroy something.

    Args:
        source: A file or folder that exists.
        target: A file name with a suffix for an image or a video, anything without a suffix for a folder.
        overwrite: Whether an existing target may be replaced.

    Returns:
        The kinds of source and target.

    Raises:
        UserError: The source is missing, the target exists, they are the same, or they do not fit together.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    kinds = _source_kind(source), _target_kind(target)
    if kinds in _REFUSED:
        raise UserError(f"{source} to {target}: {_REFUSED[kinds]}")
    if target.exists() and target.samefile(source):
        raise UserError(f"{target}: output and input are the same")
    if kinds[1] is Kind.FOLDER:
        if source.resolve().is_relative_to(target.resolve()):
            raise UserError(f"{target}: the input lies inside of the output folder")
        _check_target_folder(target, overwrite)
    elif target.exists() and not overwrite:
        raise UserError(f"{target}: exists already; --overwrite replaces it")
    return kinds


def _source_kind(path: Path) -> Kind:
    if path.is_dir():
        return Kind.FOLDER
    return Kind.IMAGE if is_image(path) else Kind.VIDEO


def _target_kind(path: Path) -> Kind:
    if path.is_dir():
        return Kind.FOLDER
    suffix = path.suffix.lower()
    if suffix in CONTAINERS:
        return Kind.VIDEO
    if suffix in IMAGE_SUFFIXES:
        return Kind.IMAGE
    if not suffix:
        return Kind.FOLDER
    known = ", ".join((*CONTAINERS, *IMAGE_SUFFIXES))
    raise UserError(f"{path}: cannot write {suffix}; expected one of {known}, or a folder name without a suffix")


def _check_target_folder(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    present = sorted(target.iterdir())
    if present and not overwrite:
        raise UserError(f"{target}: exists already and is not empty; --overwrite replaces it")
    strangers = [p.name for p in present if not (p.is_file() and is_image(p))]
    if strangers:
        raise UserError(f"{target}: --overwrite replaces folders of images only; this one also holds {strangers[0]!r}")
