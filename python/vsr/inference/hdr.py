"""Static HDR metadata (mastering display, content light level): read from frames, written through encoder settings."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

from av.sidedata.sidedata import SideData
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame


@dataclass(frozen=True)
class HdrMetadata:
    """Static HDR metadata of SMPTE ST 2086 and CTA-861.3.

    Attributes:
        mastering: x and y of red, green, blue and white, then the least and the greatest luminance in cd/m2; or None.
        light_level: Greatest content and greatest frame-average light level in cd/m2; or None.
        dynamic: Whether the source also has per-frame metadata (Dolby Vision, HDR10+), which no encoder here takes.
    """

    mastering: tuple[Fraction, ...] | None = None
    light_level: tuple[int, int] | None = None
    dynamic: bool = False


def side_data(frame: VideoFrame) -> dict[SideDataType, bytes]:
    """The side data of a decoded frame by kind."""
    items = cast("Iterable[SideData]", frame.side_data)  # which PyAV declares as a mapping by strings
    try:
        return {item.type: bytes(item) for item in items}
    except ValueError:  # one of a kind that PyAV has no name for, such as the EXIF block of a JPEG: none can be listed
        return {}


def read_hdr_metadata(frame: VideoFrame) -> HdrMetadata:
    """Read what FFmpeg attached to a decoded frame."""
    data = side_data(frame)
    mastering = light_level = None
    if SideDataType.MASTERING_DISPLAY_METADATA in data:
        numbers = struct.unpack("=20i2i", data[SideDataType.MASTERING_DISPLAY_METADATA][:88])
        fractions, present = numbers[:20], numbers[20:]
        if all(present) and all(fractions[1::2]):
            mastering = tuple(Fraction(n, d) for n, d in zip(fractions[::2], fractions[1::2], strict=True))
    if SideDataType.CONTENT_LIGHT_LEVEL in data:
        light_level = struct.unpack("=2I", data[SideDataType.CONTENT_LIGHT_LEVEL][:8])
    dynamic = {SideDataType.DYNAMIC_HDR_PLUS, SideDataType.DOVI_METADATA, SideDataType.DOVI_RPU_BUFFER}
    return HdrMetadata(mastering, light_level, not dynamic.isdisjoint(data))


def x265_parameters(hdr: HdrMetadata) -> list[str]:
    """Settings that make libx265 write the metadata (chromaticities in 1/50000, luminances in 1/10000 cd/m2)."""
    parameters = []
    if hdr.mastering:
        red_x, red_y, green_x, green_y, blue_x, blue_y, white_x, white_y = (round(v * 50000) for v in hdr.mastering[:8])
        least, greatest = (round(v * 10000) for v in hdr.mastering[8:])
        parameters.append(
            f"master-display=G({green_x},{green_y})B({blue_x},{blue_y})R({red_x},{red_y})"
            f"WP({white_x},{white_y})L({greatest},{least})"
        )
    if hdr.light_level:
        parameters.append(f"max-cll={hdr.light_level[0]},{hdr.light_level[1]}")
    return ["hdr10=1", *parameters] if parameters else []
