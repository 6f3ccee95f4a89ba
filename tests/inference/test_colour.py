"""Colour: against an independent float64 conversion, and through whole files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from media import Clip, planes, write_clip
from numpy.typing import NDArray
from tiny_models import Nearest

from vsr.errors import UserError
from vsr.inference import UpscaleOptions, upscale
from vsr.inference.colour import Colour, guess_matrix
from vsr.inference.decode_pixels import read_rgb
from vsr.inference.encode_pixels import encoder_planes
from vsr.inference.pixels import layout_of

WEIGHTS = {1: (0.2126, 0.7152, 0.0722), 6: (0.299, 0.587, 0.114), 9: (0.2627, 0.6780, 0.0593)}
FORMATS = ["yuv444p", "yuv422p", "yuv420p", "yuv440p", "yuv420p10le", "yuv444p12le", "nv12", "p010le", "yuyv422"]


def forward_matrix(matrix: int) -> NDArray[np.float64]:
    """R'G'B' to Y', Cb, Cr in units of 1, -0.5..0.5, from the definition: Cb and Cr are scaled colour differences."""
    luma = np.array(WEIGHTS[matrix])
    cb = (np.array([0, 0, 1]) - luma) / (2 * (1 - luma[2]))
    cr = (np.array([1, 0, 0]) - luma) / (2 * (1 - luma[0]))
    return np.stack([luma, cb, cr])


def codes(values: NDArray[np.float64], full: bool, bits: int) -> NDArray[np.float64]:
    """Y', Cb, Cr (3, ...) to code values."""
    if full:
        span, offset = np.full(3, 2**bits - 1), np.array([0, 2 ** (bits - 1), 2 ** (bits - 1)])
    else:
        span, offset = np.array([219, 224, 224]) * 2 ** (bits - 8), np.array([16, 128, 128]) * 2 ** (bits - 8)
    shape = (3,) + (1,) * (values.ndim - 1)
    return values * span.reshape(shape) + offset.reshape(shape)


def scene(height: int = 38, width: int = 54) -> NDArray[np.float64]:
    """(3, H, W) linear ramps: whatever is sampled and interpolated linearly at the right places stays exact."""
    y, x = np.mgrid[0:height, 0:width] / width
    return np.stack([0.15 + 0.5 * x + 0.2 * y, 0.8 - 0.4 * x, 0.3 + 0.1 * x + 0.35 * y])


def chroma_scene(ramps: NDArray[np.float64], layout: Any) -> NDArray[np.float64]:
    """Chroma at the sites of the format: every second column, between two rows."""
    if layout.sub_y:
        ramps = (ramps[:, 0::2] + ramps[:, 1::2]) / 2
    return ramps[:, :, 0::2] if layout.sub_x else ramps


@pytest.mark.parametrize("matrix", sorted(WEIGHTS))
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_decoding(matrix: int, full: bool, name: str) -> None:
    layout = layout_of(name)
    exact = codes(np.tensordot(forward_matrix(matrix), scene(), 1), full, layout.bits)
    luma, chroma = np.rint(exact[0]), np.rint(chroma_scene(exact[1:], layout))
    planar = f"yuv{'420' if layout.sub_y and layout.sub_x else '422' if layout.sub_x else name[3:6]}p"
    frame = av.VideoFrame(54, 38, planar + ("" if layout.bits == 8 else f"{layout.bits}le"))
    dtype = np.uint8 if layout.bits == 8 else np.uint16
    for plane, samples in zip(frame.planes, [luma, *chroma], strict=True):
        memory = np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1)
        memory[:, : plane.width] = samples.astype(dtype)
    frame = frame.reformat(threads=1, format=name, src_color_range=2 if full else 1, dst_color_range=2 if full else 1)
    image = read_rgb(frame, Colour(matrix, full))
    assert image.dtype == dtype
    error = np.abs(image / np.iinfo(image.dtype).max - scene().transpose(1, 2, 0)) * (2**layout.bits - 1)
    # Half a code value of each of the three planes, weighted by the decoding matrix, and half one of the result.
    assert error[2:-2, 2:-2].max() < 2.2
    assert error[2:-2, 2:-2].mean() < 0.6


@pytest.mark.parametrize("matrix", sorted(WEIGHTS))
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", ["yuv444p", "yuv422p", "yuv420p", "yuv420p10le", "yuv444p12le", "gbrp", "gray"])
def test_encoding(matrix: int, full: bool, name: str) -> None:
    layout = layout_of(name)
    result = encoder_planes(torch.from_numpy(scene()).float(), layout, Colour(matrix, full))
    exact = codes(np.tensordot(forward_matrix(matrix), scene(), 1), full, layout.bits)
    if layout.family == "rgb":
        expected = [scene()[c] * (2**layout.bits - 1) for c in (1, 2, 0)]
    else:
        expected = [exact[0], *chroma_scene(exact[1:], layout)][: len(result)]
    assert len(result) == (1 if name == "gray" else 3)
    for got, want in zip(result, expected, strict=True):
        assert got.shape == want.shape
        assert np.abs(got - want)[1:-1, 1:-1].max() <= 0.501


def test_grey_of_both_ranges() -> None:
    frame = av.VideoFrame(16, 4, "gray")
    frame.planes[0].update(np.repeat(np.array([[16], [128], [235], [255]], np.uint8), 16, axis=1).tobytes())
    assert read_rgb(frame, Colour(6, True))[:, 0, 1].tolist() == [16, 128, 235, 255]
    assert read_rgb(frame, Colour(6, False))[:, 0, 1].tolist() == [0, 130, 255, 255]


def test_centred_chroma_is_interpolated_between_columns() -> None:
    frame = av.VideoFrame(8, 2, "yuv422p")
    frame.planes[0].update(np.full(frame.planes[0].buffer_size, 100, np.uint8).tobytes())
    for plane in frame.planes[1:]:
        row = np.zeros(plane.line_size, np.uint8)
        row[:4] = [108, 116, 124, 132]
        plane.update(np.tile(row, plane.height).tobytes())
    left = read_rgb(frame, Colour(6, True))[0, :, 2].astype(int)
    centred = read_rgb(frame, Colour(6, True), centred_chroma=True)[0, :, 2].astype(int)
    blue = 100 + 1.772 * (np.array([108.0, 112, 116, 120, 124, 128, 132, 132]) - 128)
    assert np.abs(left - blue).max() <= 1
    between = 100 + 1.772 * (np.array([108.0, 110, 114, 118, 122, 126, 130, 132]) - 128)
    assert np.abs(centred - between).max() <= 1


def patches(bits: int, full: bool) -> list[NDArray[Any]]:
    """4:4:4 planes of 8x8 blocks of one colour each, all of which are inside of the gamut."""
    rng = np.random.default_rng(3)
    unit = 2 ** (bits - 8)
    low, high = (40, 200) if full else (50, 190)
    luma = rng.integers(low * unit, high * unit, (4, 6))
    chroma = [rng.integers(112 * unit, 144 * unit, (4, 6)) for _ in range(2)]
    dtype = np.uint8 if bits == 8 else np.uint16
    return [np.kron(plane, np.ones((8, 8), int)).astype(dtype) for plane in (luma, *chroma)]


@pytest.mark.parametrize(
    ("matrix", "primaries", "transfer"),
    [(1, 1, 1), (5, 5, 6), (6, 6, 6), (9, 9, 16)],
    ids=["709", "625", "525", "2020pq"],
)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv444p10le"])
def test_code_values_and_tags_survive_a_file(
    tmp_path: Path, matrix: int, primaries: int, transfer: int, full: bool, pix_fmt: str
) -> None:
    bits = 8 if pix_fmt == "yuv444p" else 10
    clip = Clip(
        width=48,
        height=32,
        codec="ffv1",
        options=(),
        pix_fmt=pix_fmt,
        matrix=matrix,
        primaries=primaries,
        transfer=transfer,
        full_range=2 if full else 1,
    )
    source = write_clip(tmp_path / "in.mkv", clip, [patches(bits, full)])
    target = tmp_path / "out.mkv"
    upscale(source, target, model=Nearest(), options=UpscaleOptions(codec="ffv1", dtype="float32"))
    with av.open(str(target)) as container:
        frame = next(container.decode(video=0))
        assert frame.format.name == pix_fmt
        tags = frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range
        assert tags == (matrix, primaries, transfer, 2 if full else 1)
    for got, plane in zip(planes(target)[0], patches(bits, full), strict=True):
        want = np.kron(plane.astype(int), np.ones((2, 2), int))
        assert np.abs(got.astype(int) - want).max() <= 1


def test_untagged_standard_definition_stays_bt601_when_it_becomes_hd(tmp_path: Path) -> None:
    clip = Clip(width=640, height=48, codec="ffv1", options=(), pix_fmt="yuv444p", full_range=1)
    red = [np.full((48, 640), v, np.uint8) for v in (81, 90, 240)]  # pure red in BT.601
    source = write_clip(tmp_path / "in.mkv", clip, [red])
    upscale(source, tmp_path / "out.mkv", model=Nearest(), options=UpscaleOptions(codec="ffv1", dtype="float32"))
    with av.open(str(tmp_path / "out.mkv")) as container:
        frame = next(container.decode(video=0))
    assert frame.width == 1280  # a size at which players assume BT.709
    assert frame.colorspace == 6
    got = [int(plane[20, 600]) for plane in planes(tmp_path / "out.mkv")[0]]
    assert np.abs(np.subtract(got, [81, 90, 240])).max() <= 1


def test_sizes_decide_about_untagged_video() -> None:
    assert guess_matrix(720, 576) == 6
    assert guess_matrix(1280, 544) == 1
    assert guess_matrix(960, 720) == 1


def test_matrix_without_a_conversion_is_refused(tmp_path: Path) -> None:
    clip = Clip(width=48, height=32, codec="ffv1", options=(), pix_fmt="yuv444p", matrix=8)
    source = write_clip(tmp_path / "in.mkv", clip, [patches(8, False)])
    with pytest.raises(UserError, match=r"in\.mkv: its colour matrix \(H\.273 number 8\) is not supported"):
        upscale(source, tmp_path / "out.mkv", model=Nearest())


@pytest.mark.parametrize("pix_fmt", ["rgb24", "bgr0", "gbrp", "gbrp10le", "rgb48le", "pal8"])
def test_rgb_frames(pix_fmt: str) -> None:
    values = np.random.default_rng(0).integers(0, 4, (10, 12, 3)) * 85
    frame = av.VideoFrame.from_ndarray(values.astype(np.uint8), format="rgb24")
    if pix_fmt == "pal8":
        index = np.zeros((10, 12), np.uint8)
        index[3:] = 1
        palette = np.zeros((256, 4), np.uint8)
        palette[:2] = [[255, 10, 20, 30], [255, 40, 50, 60]]
        frame = av.VideoFrame.from_ndarray((index, palette), format="pal8")
        values = np.where(index[..., None] == 1, [40, 50, 60], [10, 20, 30])
    else:
        frame = frame.reformat(format=pix_fmt, threads=1)
    image = read_rgb(frame, Colour(0, True))
    if image.dtype == np.uint16:
        # swscale makes 10 bits of 8 by shifting; what counts is that the full scale of the format is used.
        top = 1023 if pix_fmt == "gbrp10le" else 65535
        stored = np.stack([plane_of(frame, c) for c in range(3)], -1) if pix_fmt == "gbrp10le" else frame.to_ndarray()
        np.testing.assert_array_equal(image, np.rint(stored / top * 65535))
    else:
        np.testing.assert_array_equal(image, values)


def plane_of(frame: av.VideoFrame, channel: int) -> NDArray[np.uint16]:
    plane = frame.planes[(2, 0, 1)[channel]]
    return np.frombuffer(memoryview(plane), np.uint16).reshape(plane.height, -1)[:, : plane.width]
