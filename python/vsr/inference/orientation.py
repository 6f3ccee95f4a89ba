"""Display matrices: the rotation and mirroring that phones write beside the picture instead of applying it."""

from __future__ import annotations

import struct

import numpy as np

from vsr.inference.frame import Picture

DisplayMatrix = tuple[int, int, int, int, int, int, int, int, int]


def parse_display_matrix(data: bytes) -> DisplayMatrix | None:
    """Read FFmpeg's display matrix side data.

    Args:
        data: Nine 32-bit integers, rows of a 3x3 matrix of 16.16 (last column 2.30) fixed point.

    Returns:
        The nine numbers, or None for the identity.
    """
    numbers: DisplayMatrix = struct.unpack("=9i", data[:36])
    a, b, _, c, d = numbers[:5]
    return None if a > 0 and d > 0 and b == 0 and c == 0 else numbers


def is_right_angled(matrix: DisplayMatrix) -> bool:
    """Whether it only turns by multiples of 90 degrees and mirrors, so that no pixel has to be interpolated."""
    a, b, _, c, d = matrix[:5]
    straight = a != 0 and d != 0 and b == 0 and c == 0
    turned = a == 0 and d == 0 and b != 0 and c != 0
    return straight or turned


def swaps_axes(matrix: DisplayMatrix) -> bool:
    """Whether width and height change places."""
    return matrix[0] == 0


def apply_display_matrix(image: Picture, matrix: DisplayMatrix) -> Picture:
    """Turn and mirror a picture as a player would.

    A point at column x and row y is shown at ``(a x + c y, b x + d y)`` for the matrix rows ``(a, b), (c, d)``.

    Args:
        image: (H, W, C).
        matrix: A right-angled matrix (see :func:`is_right_angled`).

    Returns:
        (H, W, C) or (W, H, C), contiguous.
    """
    a, b, _, c, d = matrix[:5]
    if swaps_axes(matrix):
        image = image.swapaxes(0, 1)  # now a column index runs along the old rows
        a, d = c, b
    if a < 0:
        image = image[:, ::-1]
    if d < 0:
        image = image[::-1]
    upright: Picture = np.ascontiguousarray(image)
    return upright
