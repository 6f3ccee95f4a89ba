"""Tiles: a picture in overlapping parts, and the parts' results as one picture without seams."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """One direction of a tile, in input pixels.

    Attributes:
        start: First pixel of the part of the result that belongs to the tile.
        stop: One behind its last.
        patch_start: First pixel of what the model is given: the part and its surroundings.
        patch_stop: One behind its last.
    """

    start: int
    stop: int
    patch_start: int
    patch_stop: int


@dataclass(frozen=True)
class Tile:
    """A tile: its rows and its columns."""

    rows: Span
    columns: Span

    def patch(self, x: Tensor) -> Tensor:
        """What the model is given: a view of (..., H, W)."""
        rows, columns = self.rows, self.columns
        return x[..., rows.patch_start : rows.patch_stop, columns.patch_start : columns.patch_stop]


def tile_grid(height: int, width: int, tile: int, overlap: int) -> list[Tile]:
    """Cut a picture into tiles of about equal size.

    Args:
        height: Rows of the picture.
        width: Columns of the picture.
        tile: Greatest side of a tile without its surroundings.
        overlap: Pixels of surroundings on each side, where the picture has them.

    Returns:
        The tiles, row by row.
    """
    return [Tile(r, c) for r in _spans(height, tile, overlap) for c in _spans(width, tile, overlap)]


def _spans(size: int, tile: int, overlap: int) -> list[Span]:
    count = -(-size // tile)
    edges = [k * size // count for k in range(count + 1)]
    return [Span(start, stop, max(start - overlap, 0), min(stop + overlap, size)) for start, stop in pairwise(edges)]


def place(out: Tensor, part: Tensor, tile: Tile, scale: int, *, exact: bool) -> None:
    """Put the result of one tile into the result of the picture. Tiles must come in the order of the grid.

    If the surroundings cover the model's receptive field, the tile's own part is exact and is copied. Otherwise the
    whole result is laid over its left and upper neighbours, fading in linearly across the width both tiles know, so
    that the badly informed rim of either has no weight.

    Args:
        out: (..., scale * H, scale * W), written in place.
        part: (..., h, w) of the tile's patch.
        tile: Where it belongs.
        scale: Enlargement of the model.
        exact: Copy instead of fading.
    """
    rows, columns = tile.rows, tile.columns
    if exact:
        top, left = (rows.start - rows.patch_start) * scale, (columns.start - columns.patch_start) * scale
        height, width = (rows.stop - rows.start) * scale, (columns.stop - columns.start) * scale
        own = part[..., top : top + height, left : left + width]
        out[..., rows.start * scale : rows.stop * scale, columns.start * scale : columns.stop * scale] = own
        return
    target = out[
        ...,
        rows.patch_start * scale : rows.patch_stop * scale,
        columns.patch_start * scale : columns.patch_stop * scale,
    ]
    weight = torch.minimum(_fade(rows, scale, part)[:, None], _fade(columns, scale, part)[None, :])  # (h, w)
    # Not torch.lerp: where the weight is 1, what lies below may never have been written, and 0 * NaN is NaN.
    target.copy_(torch.where(weight == 1, part, target + weight * (part - target)))


def _fade(span: Span, scale: int, like: Tensor) -> Tensor:
    """Weights along one direction of a patch: rising from 0 to 1 over the overlap with what lies before it."""
    length = (span.patch_stop - span.patch_start) * scale
    overlap = 2 * (span.start - span.patch_start) * scale
    ramp = (torch.arange(length, device=like.device, dtype=torch.float32) + 0.5) / max(overlap, 1)
    return (ramp.clamp_(max=1) if overlap else torch.ones_like(ramp)).to(like.dtype)
