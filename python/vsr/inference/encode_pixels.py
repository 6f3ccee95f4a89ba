"""R'G'B' as a model returns it to whole numbers: planes for an encoder, or pixels of an image.

PyTorch on purpose: the arithmetic runs on the device the picture is on, and only whole numbers leave it.
"""

from __future__ import annotations

from typing import Literal

import av
import torch
from torch import Tensor

from vsr.inference.colour import Colour, code_scale, luma_weights
from vsr.inference.frame import Picture
from vsr.inference.pixels import PixelLayout, Planes, plane_array

_SERIAL_SIZE = 32767  # elements; ATen splits work from 32768 on


def quantise_rgb(rgb: Tensor, bits: Literal[8, 16]) -> Picture:
    """Round R'G'B' to whole numbers.

    Args:
        rgb: (3, H, W) float, any device; values outside [0, 1] are clamped.
        bits: 8 for uint8, 16 for uint16 up to 65535.

    Returns:
        (H, W, 3) in host memory.
    """
    top = (1 << bits) - 1
    picture = torch.empty((*rgb.shape[1:], 3), dtype=_code_dtype(bits), device=rgb.device)
    step = _block_rows(rgb)
    for first in range(0, rgb.shape[1], step):
        block = rgb[:, first : first + step].permute(1, 2, 0).to(torch.float32)
        picture[first : first + step] = block.mul(top).add_(0.5).clamp_(0, top)
    pixels: Picture = picture.cpu().numpy()
    return pixels


def encoder_planes(rgb: Tensor, layout: PixelLayout, colour: Colour) -> Planes:
    """Convert R'G'B' to the planes of a planar encoder format.

    Chroma is reduced to the left-sited grid that MPEG-2 and all later codecs expect.

    Args:
        rgb: (3, H, W) float, any device and dtype; values outside [0, 1] are clamped.
        layout: The encoder's format. Where it halves chroma, an odd picture gets its last column or row repeated once.
        colour: The matrix and range to encode with.

    Returns:
        The planes in the format's order, in host memory, uint8 or uint16.
    """
    height, width = rgb.shape[-2:]
    rows = height + height % 2 * layout.sub_y
    columns = width + width % 2 * layout.sub_x
    shapes = [(rows, columns)]
    if layout.family != "grey":
        shapes += [(rows >> layout.sub_y, columns >> layout.sub_x)] * 2
    planes = [torch.empty(shape, dtype=_code_dtype(layout.bits), device=rgb.device) for shape in shapes]
    step = _block_rows(rgb)
    top = (1 << layout.bits) - 1
    for first in range(0, rows, step):
        block = rgb[:, first : first + step].to(torch.float32).contiguous().clamp(0, 1)
        if columns != width:
            block = torch.cat([block, block[..., -1:]], dim=-1)
        if layout.sub_y and block.shape[-2] % 2:
            block = torch.cat([block, block[..., -1:, :]], dim=-2)
        for plane, values in zip(planes, _samples(block, layout, colour), strict=True):
            start = first * plane.shape[0] // rows
            plane[start : start + values.shape[0]] = values.add_(0.5).clamp_(0, top)
    return tuple(plane.cpu().numpy() for plane in planes)


def frame_of_planes(planes: Planes, layout: PixelLayout) -> av.VideoFrame:
    """A video frame that holds these planes (see :func:`encoder_planes`)."""
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, layout.name)
    for index, samples in enumerate(planes):
        plane_array(frame, index, layout.bits)[...] = samples
    return frame


def _samples(rgb: Tensor, layout: PixelLayout, colour: Colour) -> list[Tensor]:
    """Code values of every plane on its grid, not rounded, in memory of their own."""
    red, green, blue = rgb[0], rgb[1], rgb[2]  # (H, W) each
    if layout.family == "rgb":
        return [plane * ((1 << layout.bits) - 1) for plane in (green, blue, red)]
    kr, kb = luma_weights(colour.matrix)
    scale = code_scale(colour.full_range, layout.bits)
    luma = (red * kr).add_(green, alpha=1 - kr - kb).add_(blue, alpha=kb)
    chroma = []
    if layout.family == "yuv":
        for difference, weight in ((blue - luma, kb), (red - luma, kr)):
            plane = _reduce(difference, layout)
            chroma.append(plane.mul_(scale.chroma_span / (2 * (1 - weight))).add_(scale.chroma_zero))
    return [luma.mul_(scale.luma_span).add_(scale.luma_zero), *chroma]


def _reduce(plane: Tensor, layout: PixelLayout) -> Tensor:
    """Mean of two rows where rows are halved; taps 1/4, 1/2, 1/4 around every even column where columns are."""
    if layout.sub_y:
        plane = (plane[0::2] + plane[1::2]).mul_(0.5)
    if layout.sub_x:
        even, odd = plane[:, 0::2], plane[:, 1::2]
        before = torch.cat([even[:, :1], odd[:, :-1]], dim=1)
        plane = (even * 0.5).add_(before, alpha=0.25).add_(odd, alpha=0.25)
    return plane


def _block_rows(rgb: Tensor) -> int:
    """Rows to convert at a time, an even number.

    On the CPU, few enough to stay in the cache and below the size at which PyTorch wakes its thread pool: at this point
    the cores are busy decoding and encoding, and a pool whose threads cannot all run waits for the last of them.
    """
    if rgb.device.type != "cpu":
        return rgb.shape[1] + rgb.shape[1] % 2
    return max(2, _SERIAL_SIZE // (3 * rgb.shape[2]) // 2 * 2)


def _code_dtype(bits: int) -> torch.dtype:
    return torch.uint8 if bits == 8 else torch.uint16
