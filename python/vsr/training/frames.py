"""Where training frames come from: image files, or a memory-mapped cache of decoded frames."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vsr.errors import UserError
from vsr.fetch import cache_dir
from vsr.inference.video_reader import VideoReader

Pixels = NDArray[np.uint8]


class CacheError(UserError):
    """Decoded frames cannot be kept, whatever the clip: the disk is full, say."""


class Frames(Protocol):
    """The frames of one clip at one resolution.

    Attributes:
        name: For messages.
        shape: (T, H, W).
    """

    name: str
    shape: tuple[int, int, int]

    def read(self, frame: int, top: int, left: int, height: int, width: int) -> Pixels:
        """A window of a frame, (height, width, 3) R'G'B'; it lies inside the frame."""
        ...


class ImageFrames:
    """Frames that are image files of one size.

    Args:
        name: For messages.
        paths: The files in the order of time.

    Raises:
        UserError: No files, or the first one is no image.
    """

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        self.name = name
        self.paths = list(paths)
        if not self.paths:
            raise UserError(f"{name}: no frames")
        with _opened(self.paths[0]) as image:
            self.shape = (len(self.paths), image.height, image.width)

    def read(self, frame: int, top: int, left: int, height: int, width: int) -> Pixels:
        """A window of a frame; the whole file is decoded for it.

        Raises:
            UserError: The file is damaged or of another size than the first one.
        """
        path = self.paths[frame]
        with _opened(path) as image:
            if (image.height, image.width) != self.shape[1:]:
                _, h, w = self.shape
                raise UserError(f"{path}: expected {w}x{h} as the clip's first frame, got {image.width}x{image.height}")
            window = image.convert("RGB").crop((left, top, left + width, top + height))
            return np.asarray(window)


class CachedFrames:
    """Frames of a folder that :func:`_cached` wrote: they are mapped into memory, nothing is decoded.

    An object can be sent to worker processes; each maps the file for itself.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        shape = json.loads((folder / _SHAPE).read_text())["shape"]
        self.shape: tuple[int, int, int] = (shape[0], shape[1], shape[2])
        self._map: Pixels | None = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_map": None}

    def read(self, frame: int, top: int, left: int, height: int, width: int) -> Pixels:
        """A window of a frame."""
        if self._map is None:
            self._map = np.memmap(self.folder / _FRAMES, np.uint8, "r", shape=(*self.shape, 3))
        return np.array(self._map[frame, top : top + height, left : left + width])


_FRAMES, _SHAPE = "frames.u8", "shape.json"


def cached_video(path: Path, root: Path | None = None) -> CachedFrames:
    """The frames of a video file, decoded at the first call and kept; see :func:`_cached`.

    Args:
        path: A video that :class:`vsr.inference.VideoReader` can read; 10-bit samples are rounded to 8.
        root: Folder of the cache; ``training-frames`` in the user's cache folder when not given.

    Raises:
        UserError: The video is missing or damaged.
        CacheError: The cache cannot be written.
    """

    def decode() -> Iterator[Pixels]:
        with VideoReader(path) as reader:
            for frame in reader:
                yield frame.image if frame.image.dtype == np.uint8 else _to_8_bits(frame.image)

    return _cached(path.name, [path], decode, root)


def cached_images(images: ImageFrames, root: Path | None = None) -> CachedFrames:
    """The frames of image files, decoded at the first call and kept; see :func:`_cached`.

    Args:
        images: The files.
        root: As for :func:`cached_video`.

    Raises:
        UserError: A file is missing, damaged or of another size.
        CacheError: The cache cannot be written.
    """
    count, height, width = images.shape
    whole = (0, 0, height, width)
    return _cached(images.name, images.paths, lambda: (images.read(i, *whole) for i in range(count)), root)


def _cached(
    name: str, paths: Sequence[Path], decode: Callable[[], Iterator[Pixels]], root: Path | None
) -> CachedFrames:
    """The frames that ``decode`` makes of ``paths``.

    The cache knows a file by its path, size and time of change. Several processes may ask at once: one decodes, the
    others wait. An entry appears whole or not at all.
    """
    root = cache_dir() / "training-frames" if root is None else root
    source = str(paths[0] if len(paths) == 1 else paths[0].parent)
    folder = root / hashlib.sha256("\0".join(map(_identity, paths)).encode()).hexdigest()[:20]
    if not (folder / _SHAPE).is_file():
        try:
            root.mkdir(parents=True, exist_ok=True)
            with _lock(root / f"{folder.name}.lock"):
                if not (folder / _SHAPE).is_file():
                    _keep(source, decode(), folder)
        except OSError as error:
            raise CacheError(f"cannot keep the frames of {source} in {root}: {error.strerror or error}") from error
    return CachedFrames(name, folder)


def _identity(path: Path) -> str:
    try:
        facts = path.stat()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    return f"{path.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}"


def _keep(source: str, frames: Iterator[Pixels], folder: Path) -> None:
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".decoding-"))
    try:
        shape: tuple[int, ...] = ()
        count = 0
        with (scratch / _FRAMES).open("wb") as out:
            for image in frames:
                if shape and image.shape != shape:
                    raise UserError(f"{source}: expected frames of one size, got {shape} and {image.shape}")
                shape = image.shape
                out.write(image.tobytes())
                count += 1
        (scratch / _SHAPE).write_text(json.dumps({"shape": [count, *shape[:2]], "source": source}))
        scratch.replace(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _to_8_bits(image: NDArray[np.generic]) -> Pixels:
    return np.rint(image.astype(np.float32) * (255 / 65535)).astype(np.uint8)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Only one process at a time is inside; a process that dies lets go."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except OSError as error:
        raise UserError(f"{path}: not an image that can be read; damaged, truncated or another kind of file") from error
