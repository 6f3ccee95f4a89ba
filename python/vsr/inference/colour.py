"""Colour tags of video and the exact arithmetic between Y'CbCr code values and R'G'B'.

The conversions are written out in float32 instead of left to a scaler: on 10-bit material swscale's conversion to
rgb48 and back is off by up to four code values, and a luma bias of two is visible as banding after enlargement.
"""

from __future__ import annotations

from dataclasses import dataclass

from vsr.errors import UserError

# Numbers of ITU-T H.273, which FFmpeg uses for its enumerations.
RGB, BT709, UNSPECIFIED, FCC, BT470BG, SMPTE170M, SMPTE240M, BT2020_NCL = 0, 1, 2, 4, 5, 6, 7, 9

# Luma weights of red and blue (H.273, table 4, equations for KR and KB).
_LUMA_WEIGHTS = {
    BT709: (0.2126, 0.0722),
    FCC: (0.30, 0.11),
    BT470BG: (0.299, 0.114),
    SMPTE170M: (0.299, 0.114),
    SMPTE240M: (0.212, 0.087),
    BT2020_NCL: (0.2627, 0.0593),
}


@dataclass(frozen=True)
class Colour:
    """How code values are to be read, in the numbers of ITU-T H.273.

    Attributes:
        matrix: Matrix coefficients, such as 1 for BT.709; 0 means that the samples are R'G'B'.
        full_range: Whether luma covers 0..255 (at 8 bits) instead of 16..235.
        primaries: Colour primaries; 2 is "unspecified".
        transfer: Transfer characteristics; 2 is "unspecified".
    """

    matrix: int
    full_range: bool
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED


PICTURE_COLOUR = Colour(BT709, False, primaries=1, transfer=1)
"""What a video made of R'G'B' pictures is encoded as: BT.709, limited range, which every player assumes for HD."""


def guess_matrix(width: int, height: int) -> int:
    """The matrix that untagged video of this size is taken to use: BT.709 for HD, BT.601 for anything smaller."""
    return BT709 if width >= 1280 or height >= 720 else SMPTE170M


def check_matrix(matrix: int, path: object) -> int:
    """Return ``matrix`` if its conversion is known here.

    Raises:
        UserError: It is one of the rare others (YCgCo, constant luminance, ICtCp).
    """
    if matrix not in _LUMA_WEIGHTS:
        raise UserError(
            f"{path}: its colour matrix (H.273 number {matrix}) is not supported; expected BT.601, BT.709, "
            "SMPTE 240M, FCC or BT.2020 non-constant luminance"
        )
    return matrix


@dataclass(frozen=True)
class Decoding:
    """R'G'B' in [0, 1] as a linear function of Y'CbCr code values.

    Attributes:
        luma: What one code value of luma adds to each of R', G' and B'.
        cb: What one code value of Cb adds to R', G' and B'.
        cr: What one code value of Cr adds to R', G' and B'.
        constant: What is added besides.
    """

    luma: float
    cb: tuple[float, ...]
    cr: tuple[float, ...]
    constant: tuple[float, ...]


def decoding(colour: Colour, bits: int) -> Decoding:
    """The conversion from Y'CbCr for a colour description.

    Source: ITU-T H.273, section 8.3.
    """
    kr, kb = luma_weights(colour.matrix)
    kg = 1 - kr - kb
    scale = code_scale(colour.full_range, bits)
    blue = 2 * (1 - kb) / scale.chroma_span
    red = 2 * (1 - kr) / scale.chroma_span
    cb = (0.0, -blue * kb / kg, blue)
    cr = (red, -red * kr / kg, 0.0)
    black = -scale.luma_zero / scale.luma_span
    constant = tuple(black - scale.chroma_zero * (b + r) for b, r in zip(cb, cr, strict=True))
    return Decoding(1 / scale.luma_span, cb, cr, constant)


@dataclass(frozen=True)
class CodeScale:
    """Where the code values of luma and chroma lie.

    Attributes:
        luma_zero: Code value of black.
        luma_span: Code values from black to white.
        chroma_zero: Code value of no colour.
        chroma_span: Code values from the least to the greatest chroma.
    """

    luma_zero: int
    luma_span: int
    chroma_zero: int
    chroma_span: int


def code_scale(full_range: bool, bits: int) -> CodeScale:
    """Code values of the limited or the full range at a bit depth (ITU-T H.273, section 8.3)."""
    unit = 1 << (bits - 8)
    if full_range:
        top = (1 << bits) - 1
        return CodeScale(0, top, 128 * unit, top)
    return CodeScale(16 * unit, 219 * unit, 128 * unit, 224 * unit)


def luma_weights(matrix: int) -> tuple[float, float]:
    """What red and blue contribute to luma."""
    return _LUMA_WEIGHTS[matrix]
