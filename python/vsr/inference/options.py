"""What can be asked of :func:`vsr.inference.upscale`, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from vsr.errors import UserError
from vsr.inference.device import DTYPES

# Measured with basicvsr-vimeo-bi on two clips: the backward direction gains 0.2 to 0.3 dB by the first eight frames it
# sees behind a frame, and nothing that can be measured by more. Eight cost it half as much again per chunk of sixteen.
CHUNK = 16
LOOKAHEAD = 8


@dataclass(frozen=True)
class UpscaleOptions:
    """Settings of an upscaling job.

    Attributes:
        scale: Enlargement; that of the model if None. If smaller than the model's, the model's result is reduced by
            antialiased bicubic interpolation.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``; see :func:`vsr.inference.device.choose_dtype`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        tile: Side of tiles in input pixels; 0 never to tile; None to tile when memory is short.
        tile_overlap: Surroundings of a tile in input pixels; None for what the model needs.
        chunk: Frames a recurrent model returns per call.
        lookahead: Frames behind those that its backward direction sees.
        scene_cut: Find cuts, and let a recurrent model begin anew at each.
        crf: Constant rate factor of the encoder, smaller is better; the codec's default if None.
        codec: ``h264``, ``hevc``, ``av1``, ``vp9``, ``ffv1`` or ``prores``; chosen by bit depth if None.
        preset: Speed setting of the encoder; its default if None.
        pixel_format: FFmpeg's name of the pixel format to encode; like the source if None.
        fps: Frames per second of a video made of images.
        image_format: Suffix of the images written to a folder, without the dot.
        resume: Continue an interrupted job whose output is a folder.
        keep_going: Leave out what cannot be decoded instead of stopping.
        overwrite: Replace an existing output.

    Raises:
        UserError: A value is out of range.
    """

    scale: int | None = None
    dtype: str = "auto"
    device: str = "auto"
    tile: int | None = None
    tile_overlap: int | None = None
    chunk: int = CHUNK
    lookahead: int = LOOKAHEAD
    scene_cut: bool = True
    crf: int | None = None
    codec: str | None = None
    preset: str | None = None
    pixel_format: str | None = None
    fps: Fraction | None = None
    image_format: str = "png"
    resume: bool = False
    keep_going: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check every value that can be checked alone."""
        if self.scale is not None and self.scale < 1:
            raise UserError(f"--scale: expected at least 1, got {self.scale}")
        if self.dtype != "auto" and self.dtype not in DTYPES:
            raise UserError(f"--dtype: expected auto, {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.tile is not None and self.tile != 0 and self.tile < 16:
            raise UserError(f"--tile: expected 0 (never) or at least 16, got {self.tile}")
        if self.tile_overlap is not None and self.tile_overlap < 0:
            raise UserError(f"--tile-overlap: expected at least 0, got {self.tile_overlap}")
        if self.chunk < 1:
            raise UserError(f"--chunk: expected at least 1, got {self.chunk}")
        if self.lookahead < 0:
            raise UserError(f"--lookahead: expected at least 0, got {self.lookahead}")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise UserError(f"--fps: expected more than 0 and at most 1000, got {self.fps}")
        if self.image_format not in ("png", "jpg", "webp", "tif", "bmp"):
            raise UserError(f"--image-format: expected png, jpg, webp, tif or bmp, got {self.image_format!r}")
        if self.resume and self.overwrite:
            raise UserError("--resume continues a job and --overwrite starts afresh: give one of them")


@dataclass(frozen=True)
class UpscaleReport:
    """What an upscaling job did.

    Attributes:
        output: What was written.
        frames: Frames written by this run.
        resumed: Frames an earlier run had written.
        seconds: Time from the first frame to the last.
        resets: Cuts at which a recurrent model began anew.
        overflows: Calls repeated in float32 because half precision overflowed.
        shortages: Calls repeated in smaller tiles because memory ran out.
        tile: Side of the tiles used, None for none.
        dtype: Precision used (at the end, if it had to change).
        device: Where it was computed.
        model_scale: Enlargement of the model.
        scale: Enlargement of the output; where it is smaller, the model's result was reduced by bicubic interpolation.
        warnings: One sentence for everything that is not as asked or not as in the source.
    """

    output: Path
    frames: int
    resumed: int
    seconds: float
    resets: int
    overflows: int
    shortages: int
    tile: int | None
    dtype: str
    device: str
    model_scale: int
    scale: int
    warnings: list[str] = field(default_factory=list)

    @property
    def retries(self) -> int:
        """Calls of the model that had to be repeated."""
        return self.overflows + self.shortages

    @property
    def fps(self) -> float:
        """Frames per second over the whole run."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0
