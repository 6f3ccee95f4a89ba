"""One picture on its way through readers, models and writers."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.unsignedinteger[Any]]
"""Pixels as uint8, or as uint16 up to 65535."""


@dataclass(frozen=True)
class StillInfo:
    """What an image file says beside its pixels, kept for the image that is made of it.

    Attributes:
        grey: The file has one colour channel; the three of :attr:`Frame.image` are equal.
        alpha: (H, W) transparency in the dtype of the image (0 is transparent), or None.
        icc_profile: The embedded colour profile.
        exif: The EXIF block, its orientation tag already applied and removed.
        dpi: Horizontal and vertical dots per inch.
    """

    grey: bool = False
    alpha: Picture | None = None
    icc_profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None


@dataclass(frozen=True)
class Frame:
    """A decoded picture.

    Attributes:
        image: (H, W, 3) R'G'B', full range: uint8, or uint16 up to 65535 for sources of more than 8 bits.
        index: Position in the sequence, from 0.
        pts: Presentation time in units of ``time_base``, strictly increasing; None in a folder of images.
        duration: Time on screen in the same units, None if unknown.
        time_base: Seconds per unit of ``pts``.
        name: File name in a folder of images, without its suffix.
        still: What an image file says beside its pixels.
    """

    image: Picture
    index: int
    pts: int | None = None
    duration: int | None = None
    time_base: Fraction | None = None
    name: str | None = None
    still: StillInfo = field(default_factory=StillInfo)

    @property
    def time(self) -> float | None:
        """Presentation time in seconds."""
        if self.pts is None or self.time_base is None:
            return None
        return float(self.pts * self.time_base)
