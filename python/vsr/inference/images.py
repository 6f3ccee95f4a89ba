"""Image files: pixels, transparency and what else is in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vsr.errors import DamagedInputError, UserError
from vsr.files import PendingFile, writing
from vsr.inference.frame import Frame, Picture, StillInfo
from vsr.inference.png16 import encode_png16, is_png16, read_deep

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""File suffixes of images that are read and written."""

_NO_ALPHA = (".jpg", ".jpeg", ".bmp")
_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 258
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"compress_level": 2},
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".webp": {"quality": 95, "method": 4},
    ".tif": {"compression": "tiff_adobe_deflate"},
    ".tiff": {"compression": "tiff_adobe_deflate"},
}
# What each EXIF orientation asks of the stored picture.
_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def is_image(path: Path) -> bool:
    """Whether the suffix is one of :data:`IMAGE_SUFFIXES`."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def takes_alpha(path: Path) -> bool:
    """Whether files of this suffix can hold transparency."""
    return path.suffix.lower() not in _NO_ALPHA


def takes_16_bits(path: Path) -> bool:
    """Whether files of this suffix are written with 16 bits per sample."""
    return path.suffix.lower() == ".png"


def read_image(path: Path, index: int = 0) -> Frame:
    """Read an image, upright.

    Args:
        path: The file.
        index: The number the frame gets.

    Returns:
        A frame without time: uint8, or uint16 for files of 16 bits per sample.

    Raises:
        UserError: The file is missing, damaged or of a kind that is not supported.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with Image.open(path) as image:
            exif = image.getexif()
            pixels = _pixels(image, path)
            info = image.info
            profile = info.get("icc_profile") if image.mode != "CMYK" else None
            dpi = info.get("dpi")
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not an image that can be read; damaged, truncated or another kind of file") from error
    orientation = exif.pop(_ORIENTATION, 1)
    pixels = np.ascontiguousarray(_UPRIGHT.get(orientation, lambda a: a)(pixels))
    channels = pixels.shape[2]
    alpha: Picture | None = np.array(pixels[..., -1]) if channels in (2, 4) else None
    if alpha is not None and alpha.min() == np.iinfo(alpha.dtype).max:
        alpha = None  # present but opaque everywhere
    colour = pixels[..., : channels - 1] if channels in (2, 4) else pixels
    still = StillInfo(
        grey=channels <= 2,
        alpha=alpha,
        icc_profile=profile,
        exif=exif.tobytes() if len(exif) else None,
        dpi=(float(dpi[0]), float(dpi[1])) if dpi else None,
    )
    image = np.array(np.broadcast_to(colour, (*colour.shape[:2], 3)), order="C")  # of its own, so writable
    return Frame(image, index, name=path.stem, still=still)


def write_image(path: Path, image: Picture, still: StillInfo) -> None:
    """Write an image whole: under a temporary name first.

    Args:
        path: The file; its suffix picks the format.
        image: (H, W, 3), uint8, or uint16 where :func:`takes_16_bits` says so.
        still: What goes into the file beside the pixels. Grey files get the mean of the three channels.

    Raises:
        UserError: The file cannot be written.
    """
    pixels: Picture = image
    if still.grey:
        pixels = np.rint(image.mean(axis=-1, keepdims=True)).astype(image.dtype)
    if still.alpha is not None:
        pixels = np.concatenate([pixels, still.alpha[..., None]], axis=-1)
    pending = PendingFile(path)
    try:
        with writing(path):
            if pixels.dtype == np.uint16:
                deep = pixels.astype(np.uint16, copy=False)
                data = encode_png16(deep, icc_profile=still.icc_profile, exif=still.exif, dpi=still.dpi)
                pending.temporary.write_bytes(data)
            else:
                _save(pending.temporary, pixels, still, path.suffix.lower())
        pending.commit()
    except BaseException:
        pending.discard()
        raise


def _save(path: Path, pixels: NDArray[Any], still: StillInfo, suffix: str) -> None:
    options = dict(_SAVE_OPTIONS.get(suffix, {}))
    for name in ("icc_profile", "exif", "dpi"):
        value = getattr(still, name)
        if value and suffix != ".bmp":
            options[name] = value
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.save(path, Image.registered_extensions()[suffix], **options)


def _pixels(image: Image.Image, path: Path) -> NDArray[Any]:
    """(H, W, C), C = 1 grey, 2 grey and alpha, 3 R'G'B', 4 R'G'B' and alpha; uint8 or uint16."""
    depth = image.tag_v2.get(_BITS_PER_SAMPLE, (8,)) if image.format == "TIFF" else (8,)  # type: ignore[attr-defined]
    if is_png16(path) or depth[0] == 16:
        return read_deep(path)
    if image.mode in ("I", "F", "I;16", "I;16B"):
        raise ValueError("32-bit samples")
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return np.asarray(image.convert("L"))[..., None]
    if image.mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("LA"))
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


class FrameFolder:
    """The images of a folder as a sequence, in the natural order of their names (``f2`` before ``f10``).

    Args:
        path: The folder. Files that are no images, and hidden ones, are not looked at.
        keep_going: Leave out images that cannot be read, and count them in ``damage``, instead of raising.

    Attributes:
        files: The images.
        damage: One sentence per image that was passed over.

    Raises:
        UserError: There is no such folder, it holds no image, or two of its images differ in their suffix only.
    """

    def __init__(self, path: str | Path, *, keep_going: bool = False) -> None:
        self.path = Path(path)
        self.damage: list[str] = []
        self._keep_going = keep_going
        if not self.path.is_dir():
            raise UserError(f"{self.path}: no such folder")
        found = [p for p in self.path.iterdir() if is_image(p) and p.is_file() and not p.name.startswith(".")]
        self.files = sorted(found, key=_natural_order)
        if not self.files:
            raise UserError(f"{self.path}: no images in this folder (looked for {', '.join(IMAGE_SUFFIXES)})")
        names: dict[str, Path] = {}
        for file in self.files:
            other = names.setdefault(file.stem, file)
            if other is not file:
                raise UserError(f"{self.path}: {other.name} and {file.name} would both become {file.stem}")

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Frame]:
        for index, file in enumerate(self.files):
            try:
                frame = read_image(file, index)
            except UserError as error:
                if not self._keep_going:
                    raise DamagedInputError(str(error)) from error
                self.damage.append(str(error))
                continue
            yield frame


def _natural_order(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.name.casefold())
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]
