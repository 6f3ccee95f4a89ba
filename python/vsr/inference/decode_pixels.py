"""Planes of a decoded frame to R'G'B'.

NumPy on purpose: this runs in the reading thread beside a model that has every core busy, and PyTorch's thread pool
of a second thread would fight with the model's.
"""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from vsr.inference.colour import Colour, code_scale, decoding
from vsr.inference.frame import Picture
from vsr.inference.pixels import PixelLayout, is_native, layout_of, planar_name, plane_array, swscale

_BLOCK_ROWS = 32  # keeps the float intermediates of a block in the processor's cache


def read_rgb(frame: av.VideoFrame, colour: Colour, *, centred_chroma: bool = False) -> Picture:
    """Convert a decoded frame to R'G'B'.

    Chroma is brought to luma size by linear interpolation at the true sample positions.

    Args:
        frame: A frame in system memory, any pixel format.
        colour: How its code values are to be read.
        centred_chroma: Chroma lies between two luma columns (JPEG, MPEG-1) instead of on the left one.

    Returns:
        (H, W, 3), uint8 for sources of up to 8 bits, else uint16 up to 65535.
    """
    layout = layout_of(frame.format.name)
    if not is_native(layout):
        # Same family, depth and range on both sides: only the order of samples changes.
        side = ColorRange.JPEG if colour.full_range or layout.family != "yuv" else ColorRange.MPEG
        frame = swscale(frame, format=planar_name(layout), src_color_range=side, dst_color_range=side)
        layout = layout_of(frame.format.name)
    top = 255 if layout.bits == 8 else 65535
    picture: Picture = np.empty((frame.height, frame.width, 3), np.uint8 if layout.bits == 8 else np.uint16)
    if layout.family == "yuv":
        _read_ycbcr(frame, layout, colour, centred_chroma, picture, top)
    elif layout.family == "grey":
        scale = code_scale(colour.full_range, layout.bits)
        gain = np.float32(top / scale.luma_span)
        grey = plane_array(frame, 0, layout.bits) * gain + np.float32(0.5 - scale.luma_zero * gain)
        picture[...] = grey.clip(0, top)[..., None]
    else:
        gain = np.float32(top / ((1 << layout.bits) - 1))
        for channel, index in enumerate((2, 0, 1)):  # stored as G, B, R
            picture[..., channel] = plane_array(frame, index, layout.bits) * gain + np.float32(0.5)
    return picture


def _read_ycbcr(
    frame: av.VideoFrame, layout: PixelLayout, colour: Colour, centred: bool, picture: Picture, top: int
) -> None:
    bits, (height, width) = layout.bits, picture.shape[:2]
    step = decoding(colour, bits)
    luma, cb, cr = (plane_array(frame, i, bits) for i in range(3))
    gain = np.float32(step.luma * top)
    rows = _BLOCK_ROWS >> layout.sub_y
    for first in range(0, cb.shape[0], rows):
        last = min(first + rows, cb.shape[0])
        above, below = (max(first - 1, 0), min(last + 1, cb.shape[0])) if layout.sub_y else (first, last)
        for channel in range(3):
            # Being linear, the matrix can be applied to chroma before it is interpolated; the half rounds.
            terms = cb[above:below].astype(np.float32)
            terms *= np.float32(step.cb[channel] * top)
            terms += cr[above:below] * np.float32(step.cr[channel] * top)
            terms += np.float32(step.constant[channel] * top + 0.5)
            if layout.sub_y:
                terms = _double_rows(terms, first - above, last - above)
            if layout.sub_x:
                terms = _double_columns(terms, centred)
            start = first << layout.sub_y
            stop = min(start + terms.shape[0], height)
            values = luma[start:stop].astype(np.float32)
            values *= gain
            values += terms[: stop - start, :width]
            np.maximum(values, 0, out=values)
            np.minimum(values, top, out=values)
            picture[start:stop, :, channel] = values


def _double_rows(plane: NDArray[np.float32], first: int, last: int) -> NDArray[np.float32]:
    """Rows ``first`` to ``last`` at twice their number; each lies between two of the new rows."""
    here = plane[first:last]
    before = plane[max(first - 1, 0) : last - 1] if first else np.concatenate([plane[:1], plane[: last - 1]])
    after = plane[first + 1 : last + 1]
    if after.shape[0] < here.shape[0]:
        after = np.concatenate([after, plane[-1:]])
    out = np.empty((2 * here.shape[0], here.shape[1]), np.float32)
    quarter = here * np.float32(0.75)
    np.add(quarter, before * np.float32(0.25), out=out[0::2])
    np.add(quarter, after * np.float32(0.25), out=out[1::2])
    return out


def _double_columns(plane: NDArray[np.float32], centred: bool) -> NDArray[np.float32]:
    """Twice the columns: each old one lies on the even new one, or, if centred, between the two new ones."""
    out = np.empty((plane.shape[0], 2 * plane.shape[1]), np.float32)
    after = np.concatenate([plane[:, 1:], plane[:, -1:]], axis=1)
    if centred:
        before = np.concatenate([plane[:, :1], plane[:, :-1]], axis=1)
        quarter = plane * np.float32(0.75)
        np.add(quarter, before * np.float32(0.25), out=out[:, 0::2])
        np.add(quarter, after * np.float32(0.25), out=out[:, 1::2])
    else:
        out[:, 0::2] = plane
        np.add(plane, after, out=after)
        np.multiply(after, np.float32(0.5), out=out[:, 1::2])
    return out
