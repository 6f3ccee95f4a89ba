"""Pixel formats: what their planes hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import av
import numpy as np

from vsr.inference.frame import Picture

Planes = tuple[Picture, ...]


@dataclass(frozen=True)
class PixelLayout:
    """What matters about a pixel format.

    Attributes:
        name: FFmpeg's name.
        family: ``yuv``, ``grey`` or ``rgb``.
        bits: Bits per sample.
        sub_x: 1 if chroma is halved horizontally.
        sub_y: 1 if chroma is halved vertically.
        alpha: Whether it has a transparency plane.
    """

    name: str
    family: Literal["yuv", "grey", "rgb"]
    bits: int
    sub_x: int
    sub_y: int
    alpha: bool


def layout_of(name: str) -> PixelLayout:
    """Describe an FFmpeg pixel format."""
    pixel_format = av.VideoFormat(name, 64, 64)
    components = pixel_format.components
    alpha = any(c.is_alpha for c in components)
    bits = max(c.bits for c in components)
    if pixel_format.is_rgb or pixel_format.has_palette or pixel_format.is_bayer:
        return PixelLayout(name, "rgb", bits, 0, 0, alpha)
    if len(components) - alpha == 1:
        return PixelLayout(name, "grey", bits, 0, 0, alpha)
    sub_x = int(pixel_format.chroma_width(64) < 64)
    sub_y = int(pixel_format.chroma_height(64) < 64)
    return PixelLayout(name, "yuv", bits, sub_x, sub_y, alpha)


def planar_name(layout: PixelLayout) -> str:
    """The planar little-endian format with the same samples, which the conversions here handle."""
    bits = next(b for b in (8, 9, 10, 12, 14, 16) if b >= min(layout.bits, 16))
    suffix = "" if bits == 8 else f"{bits}le"
    if layout.family == "rgb":
        return "gbrp" + suffix
    if layout.family == "grey":
        return "gray" + suffix
    subsampling = {(0, 0): "444", (1, 0): "422", (0, 1): "440", (1, 1): "420"}[layout.sub_x, layout.sub_y]
    if subsampling == "440" and bits not in (8, 10, 12):
        subsampling = "444"
    return f"yuv{subsampling}p{suffix}"


def is_native(layout: PixelLayout) -> bool:
    """Whether the planes can be handled as they are, without a change of layout by swscale first."""
    name = layout.name.replace("yuvj", "yuv").replace("yuva", "yuv").replace("gbrap", "gbrp")
    return name == planar_name(layout)


def plane_array(frame: av.VideoFrame, index: int, bits: int) -> Picture:
    """The samples of one plane, (height, width), as a view of the frame's memory."""
    plane = frame.planes[index]
    samples: Picture = np.frombuffer(memoryview(plane), np.uint8 if bits == 8 else np.uint16)
    return samples.reshape(plane.height, -1)[:, : plane.width]


def swscale(frame: av.VideoFrame, **changes: Any) -> av.VideoFrame:
    """Change a frame's format or size by libswscale, in one thread.

    With several, it hands slices of the picture to them and writes up to a vector's width beyond the end of a slice:
    now and then the first pixels of the next slice are overwritten (seen with libswscale 9.5, yuv422p to yuyv422).
    """
    return frame.reformat(threads=1, **changes)
