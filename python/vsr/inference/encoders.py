"""Which encoder, with which settings and pixel format, for which container."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import av

from vsr.errors import UserError
from vsr.inference.pixels import PixelLayout, is_native, layout_of

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""File suffixes of video that can be written, and FFmpeg's name of the container."""

_PLANAR_TWINS = {"bgr0": "gbrp"}  # FFV1 takes 8-bit R'G'B' packed only
_X26X_PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)


@dataclass(frozen=True)
class Encoder:
    """An encoder and how quality and speed are set.

    Attributes:
        library: FFmpeg's name of the encoder.
        containers: FFmpeg names of the containers that take its stream.
        crf: Default constant rate factor, None if the codec has none.
        crf_range: Least and greatest constant rate factor.
        presets: Accepted speed settings, the default one first.
        preset_option: The encoder's name for that setting.
        options: Further fixed settings.
        tag: Sample entry in MP4 and MOV where FFmpeg's default does not play everywhere.
    """

    library: str
    containers: frozenset[str]
    crf: int | None = None
    crf_range: tuple[int, int] = (0, 0)
    presets: tuple[str, ...] = ()
    preset_option: str = "preset"
    options: dict[str, str] = field(default_factory=dict)
    tag: str | None = None


def _levels(first: int, last: int) -> tuple[str, ...]:
    return tuple(str(level) for level in (first, *(n for n in range(last + 1) if n != first)))


def _default_first(default: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return (default, *(name for name in names if name != default))


ENCODERS = {
    "h264": Encoder(
        "libx264",
        frozenset({"mp4", "mov", "matroska"}),
        crf=17,
        crf_range=(0, 51),
        presets=_default_first("medium", _X26X_PRESETS),
    ),
    "hevc": Encoder(
        "libx265",
        frozenset({"mp4", "mov", "matroska"}),
        crf=18,
        crf_range=(0, 51),
        presets=_default_first("medium", _X26X_PRESETS),
        tag="hvc1",
    ),
    "av1": Encoder(
        "libsvtav1", frozenset({"mp4", "matroska", "webm"}), crf=22, crf_range=(0, 63), presets=_levels(8, 13)
    ),
    "vp9": Encoder(
        "libvpx-vp9",
        frozenset({"mp4", "matroska", "webm"}),
        crf=20,
        crf_range=(0, 63),
        presets=_levels(4, 8),
        preset_option="cpu-used",
        options={"deadline": "good", "row-mt": "1", "b": "0"},
    ),
    "ffv1": Encoder("ffv1", frozenset({"matroska"}), options={"level": "3", "slicecrc": "1"}),
    "prores": Encoder("prores_ks", frozenset({"mov", "matroska"}), options={"profile": "3", "vendor": "apl0"}),
}
"""The codecs that can be asked for by name."""


def container_of(path: Path) -> str:
    """FFmpeg's name of the container for a file name.

    Raises:
        UserError: The suffix is not one of :data:`CONTAINERS`.
    """
    if path.suffix.lower() not in CONTAINERS:
        raise UserError(f"{path}: cannot write {path.suffix or 'no suffix'}; expected one of {', '.join(CONTAINERS)}")
    return CONTAINERS[path.suffix.lower()]


def choose_codec(name: str | None, container: str, bits: int) -> str:
    """The codec to use: the one asked for, or one that plays widely.

    More than 8 bits go to HEVC (AV1 in WebM), because hardware decoders do not take 10-bit H.264.

    Args:
        name: A key of :data:`ENCODERS`, or None.
        container: FFmpeg's name of the container.
        bits: Bits per sample of the source.

    Raises:
        UserError: There is no such codec, or the container does not take it.
    """
    if name is None:
        if container == "webm":
            return "vp9" if bits == 8 else "av1"
        return "h264" if bits == 8 else "hevc"
    if name not in ENCODERS:
        raise UserError(f"--codec: expected one of {', '.join(ENCODERS)}, got {name!r}")
    encoder = ENCODERS[name]
    if container not in encoder.containers:
        takes = [suffix for suffix, known in CONTAINERS.items() if known in encoder.containers]
        raise UserError(f"--codec {name} does not go into this kind of file; it goes into {', '.join(takes)}")
    return name


def encoder_options(name: str, crf: int | None, preset: str | None) -> dict[str, str]:
    """Settings of a codec's encoder.

    Args:
        name: A key of :data:`ENCODERS`.
        crf: Constant rate factor, smaller is better; None for the codec's default.
        preset: Speed, in the encoder's own terms; None for the codec's default.

    Raises:
        UserError: A value is out of range.
    """
    encoder = ENCODERS[name]
    options = dict(encoder.options)
    if encoder.crf is None:
        if crf is not None:
            raise UserError(f"--crf: {name} has no such setting (its quality is fixed)")
    else:
        least, greatest = encoder.crf_range
        if crf is not None and not least <= crf <= greatest:
            raise UserError(f"--crf: expected {least} to {greatest} for {name}, got {crf}")
        options["crf"] = str(encoder.crf if crf is None else crf)
    if encoder.presets:
        if preset is not None and preset not in encoder.presets:
            raise UserError(f"--preset: expected one of {', '.join(encoder.presets)} for {name}, got {preset!r}")
        options[encoder.preset_option] = preset or encoder.presets[0]
    elif preset is not None:
        raise UserError(f"--preset: {name} has no such setting")
    return options


def choose_format(codec: str, source: PixelLayout, pixel_format: str | None) -> tuple[PixelLayout, str]:
    """The pixel format to encode: that of the source as far as the encoder has it.

    R'G'B' and grey sources become 4:2:0, which plays everywhere, unless the codec is the lossless FFV1.

    Args:
        codec: A key of :data:`ENCODERS`.
        source: Pixel format of the source.
        pixel_format: FFmpeg's name of a format asked for, or None.

    Returns:
        The planar format to convert to, and the name of the format the encoder is given: the same, or one with the
        same samples in another order.

    Raises:
        UserError: The encoder does not have the format asked for.
    """
    formats = av.Codec(ENCODERS[codec].library, "w").video_formats or []
    names = [f.name for f in formats if not f.name.startswith("yuvj")]
    layouts = {name: layout_of(_PLANAR_TWINS.get(name, name)) for name in names}
    layouts = {name: layout for name, layout in layouts.items() if is_native(layout) and not layout.alpha}
    if pixel_format is not None:
        if pixel_format not in layouts:
            raise UserError(f"--pixel-format: {codec} takes {', '.join(layouts)}; got {pixel_format!r}")
        return layouts[pixel_format], pixel_format
    lossless = codec == "ffv1"
    family = source.family if lossless else "yuv"
    grid = (source.sub_x, source.sub_y) if source.family == "yuv" else (1, 1)

    def misfit(name: str) -> tuple[bool, int, bool, int]:
        """Worst first: lost bits, then surplus bits, then lost chroma, then surplus chroma."""
        layout = layouts[name]
        lost = layout.sub_x > grid[0] or layout.sub_y > grid[1]
        surplus = grid[0] + grid[1] - layout.sub_x - layout.sub_y
        missing = max(source.bits - layout.bits, 0)
        return missing > 0, missing or layout.bits - source.bits, lost, abs(surplus)

    best = min((name for name, layout in layouts.items() if layout.family == family), key=misfit)
    return layouts[best], best
