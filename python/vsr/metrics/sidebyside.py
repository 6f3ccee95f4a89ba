"""One picture that shows several versions of a frame beside each other, with the same detail enlarged below each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vsr.data.degrade import imresize
from vsr.errors import UserError

Pixels = NDArray[np.uint8]

_COLUMN = 480  # pixels, about
_GAP = 8
_TEXT = 16
_BACKGROUND = (24, 24, 24)
_FOREGROUND = (235, 235, 235)
_MARK = (255, 64, 64)


@dataclass(frozen=True)
class Crop:
    """A rectangle in pixels; x and y of its upper left corner."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Picture:
    """A frame, (H, W, 3) uint8 RGB, and what is written above it."""

    label: str
    pixels: Pixels


def to_one_size(pictures: Sequence[Picture]) -> list[Picture]:
    """Enlarge the smaller pictures to the size of the largest by MATLAB's bicubic, and say so in their labels.

    Args:
        pictures: At least one.

    Returns:
        The pictures, all as large as the largest one.

    Raises:
        UserError: A picture is no whole-numbered reduction of the largest one.
    """
    height, width = max((picture.pixels.shape[:2] for picture in pictures), key=lambda size: size[0] * size[1])
    result = []
    for picture in pictures:
        own_height, own_width = picture.pixels.shape[:2]
        scale = round(height / own_height)
        if (own_height, own_width) == (height, width):
            result.append(picture)
            continue
        if (own_height * scale, own_width * scale) != (height, width):
            raise UserError(
                f"{picture.label}: {own_width}x{own_height} times a whole number does not give {width}x{height}, "
                "the size of the largest picture"
            )
        planes = torch.from_numpy(np.require(picture.pixels, requirements=["C", "W"])).permute(2, 0, 1).float()
        large = imresize(planes, scale).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        result.append(Picture(f"{picture.label} ({own_width}x{own_height}, bicubic x{scale})", large))
    return result


def most_different(pixels: Sequence[Pixels], width: int, height: int) -> Crop:
    """The rectangle of the given size where the frames differ most.

    Args:
        pixels: Frames of one size, (H, W, 3) uint8.
        width: Width of the rectangle, at most W.
        height: Height of the rectangle, at most H.

    Returns:
        The rectangle with the largest sum of (highest - lowest value) over its pixels and channels; the
        centre of the frame where all are equal.
    """
    stack = np.stack(list(pixels))
    spread = (stack.max(0).astype(np.int64) - stack.min(0)).sum(-1)  # (H, W)
    sums = np.zeros((spread.shape[0] + 1, spread.shape[1] + 1), dtype=np.int64)
    sums[1:, 1:] = spread.cumsum(0).cumsum(1)
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    if not inside.any():
        return Crop((spread.shape[1] - width) // 2, (spread.shape[0] - height) // 2, width, height)
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    return Crop(int(x), int(y), width, height)


def side_by_side(pictures: Sequence[Picture], crop: Crop | None = None) -> Image.Image:
    """Draw pictures beside each other, each with its label and, below it, a detail enlarged without smoothing.

    Args:
        pictures: Two or more; smaller ones are enlarged (see :func:`to_one_size`).
        crop: The detail, in pixels of the largest picture; where the pictures differ most when not given.

    Returns:
        An RGB image. Pixels of the detail appear as squares of one colour, exactly as they are in the frame.

    Raises:
        UserError: The crop does not lie inside the picture, or a size does not fit.
    """
    same = to_one_size(pictures)
    height, width = same[0].pixels.shape[:2]
    if crop is None:
        side = max(1, min(width, height) // 4)
        crop = most_different([p.pixels for p in same], min(width, 2 * side), side)
    inside = 0 <= crop.x < crop.x + crop.width <= width and 0 <= crop.y < crop.y + crop.height <= height
    if not inside:
        raise UserError(
            f"the crop {crop.x},{crop.y},{crop.width},{crop.height} (x,y,width,height) does not lie inside "
            f"the {width}x{height} picture"
        )
    zoom = max(1, round(_COLUMN / crop.width))
    column = crop.width * zoom
    whole = column, max(1, round(height * column / width))
    font = ImageFont.load_default(size=_TEXT)
    labels = [_wrapped(picture.label, column, font) for picture in same]
    head = max(len(lines) for lines in labels) * (_TEXT + 4) + _GAP
    size = (column + _GAP) * len(same) + _GAP, head + whole[1] + crop.height * zoom + 3 * _GAP
    sheet = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for index, (picture, lines) in enumerate(zip(same, labels, strict=True)):
        left, top = _GAP + index * (column + _GAP), head
        for row, line in enumerate(lines):
            draw.text((left, _GAP // 2 + row * (_TEXT + 4)), line, _FOREGROUND, font)
        image = Image.fromarray(picture.pixels)
        sheet.paste(image.resize(whole, Image.Resampling.LANCZOS), (left, top))
        ratio = column / width
        corners = (crop.x, crop.y, crop.x + crop.width, crop.y + crop.height)
        box = [round(c * ratio) + (left, top)[i % 2] for i, c in enumerate(corners)]
        draw.rectangle((box[0], box[1], max(box[0], box[2] - 1), max(box[1], box[3] - 1)), outline=_MARK)
        detail = image.crop(corners).resize((column, crop.height * zoom), Image.Resampling.NEAREST)
        sheet.paste(detail, (left, top + whole[1] + _GAP))
    return sheet


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break a label into lines no wider than a column; a word that is too long by itself is broken anywhere."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines
