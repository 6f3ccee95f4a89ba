"""Image files and folders of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from media import times
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps
from tiny_models import Nearest, RunningMean

from vsr.data.degrade import imresize
from vsr.errors import DamagedInputError, UserError
from vsr.inference import FrameFolder, StillInfo, UpscaleOptions, read_image, upscale, write_image
from vsr.inference.alpha import fill_transparent
from vsr.inference.png16 import encode_png16


def waves(height: int = 20, width: int = 30, channels: int = 3, top: int = 255) -> NDArray[Any]:
    y, x = np.mgrid[0:height, 0:width]
    planes = [0.5 + 0.45 * np.sin(x / (4 + c) + y / (6 - c)) for c in range(channels)]
    return np.rint(np.stack(planes, -1) * top).astype(np.uint8 if top == 255 else np.uint16)


def twice(image: NDArray[Any]) -> NDArray[Any]:
    return image.repeat(2, axis=0).repeat(2, axis=1)


def enlarge(source: Path, target: Path, **options: Any) -> list[str]:
    settings: dict[str, Any] = {"dtype": "float32"} | options
    return upscale(source, target, model=Nearest(), options=UpscaleOptions(**settings)).warnings


def deep_pixels(path: Path) -> NDArray[np.uint16]:
    """A 16-bit PNG as FFmpeg decodes it."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert frame.format.components[0].bits == 16
        return (
            frame.reformat(format="rgba64le", threads=1).to_ndarray()
            if len(frame.format.components) in (2, 4)
            else frame.to_ndarray()
        )


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".jpg"])
def test_colour_images(tmp_path: Path, suffix: str) -> None:
    picture = waves()
    Image.fromarray(picture).save(tmp_path / "in.png")
    assert enlarge(tmp_path / "in.png", tmp_path / f"out{suffix}") == []
    with Image.open(tmp_path / f"out{suffix}") as image:
        assert image.mode == "RGB"
        result = np.asarray(image)
    if suffix in (".jpg", ".webp"):
        assert np.abs(result.astype(int) - twice(picture)).mean() < 3
    else:
        np.testing.assert_array_equal(result, twice(picture))


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGBA", "CMYK", "P-transparent"])
def test_modes(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(waves(channels=1)[..., 0])
    if mode == "P-transparent":
        image: Any = Image.fromarray(waves()).quantize(8)
        image.save(tmp_path / "in.png", transparency=3)
    elif mode == "LA":
        image = Image.merge("LA", [grey, Image.fromarray(waves()[..., 1])])
        image.save(tmp_path / "in.png")
    else:
        image = (grey if mode in "L1" else Image.fromarray(waves())).convert(mode)
        if mode == "RGBA":
            image.putalpha(Image.fromarray(waves()[..., 1]))
        image.save(tmp_path / ("in.tif" if mode == "CMYK" else "in.png"))
    source = tmp_path / ("in.tif" if mode == "CMYK" else "in.png")
    enlarge(source, tmp_path / "out.png")
    kept = {"1": "L", "P": "RGB", "CMYK": "RGB", "P-transparent": "RGBA"}.get(mode, mode)
    with Image.open(source) as before, Image.open(tmp_path / "out.png") as after:
        assert after.mode == kept
        wanted, result = np.asarray(before.convert(kept)), np.asarray(after)
    if kept in ("RGBA", "LA"):
        visible = twice(wanted[..., -1]) > 0
        np.testing.assert_array_equal(result[visible][:, :-1], twice(wanted)[visible][:, :-1])
    else:
        np.testing.assert_array_equal(result, twice(wanted))


def test_transparency_is_enlarged_by_bicubic(tmp_path: Path) -> None:
    alpha = waves(channels=1)[..., 0]
    Image.fromarray(np.dstack([waves(), alpha])).save(tmp_path / "in.png")
    enlarge(tmp_path / "in.png", tmp_path / "out.png")
    wanted = imresize(torch.from_numpy(alpha).double()[None], 2)[0].round().clamp(0, 255).numpy()
    result = np.asarray(Image.open(tmp_path / "out.png"))[..., 3]
    assert np.abs(result - wanted).max() <= 1


def test_opaque_transparency_is_dropped_and_jpeg_refuses_the_rest(tmp_path: Path) -> None:
    opaque = np.dstack([waves(), np.full((20, 30), 255, np.uint8)])
    Image.fromarray(opaque).save(tmp_path / "opaque.png")
    enlarge(tmp_path / "opaque.png", tmp_path / "opaque.jpg")
    assert (tmp_path / "opaque.jpg").exists()
    Image.fromarray(np.dstack([waves(), waves()[..., 0]])).save(tmp_path / "clear.png")
    with pytest.raises(UserError, match=r"transparent in places, \.jpg cannot be"):
        enlarge(tmp_path / "clear.png", tmp_path / "clear.jpg")
    assert not (tmp_path / "clear.jpg").exists()


def test_colours_under_transparent_pixels_come_from_their_surroundings() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    alpha = np.zeros((16, 16), np.uint8)
    image[4:12, 4:8], alpha[4:12, 4:8] = [200, 100, 50], 255
    image[4:12, 8:12], alpha[4:12, 8:12] = [40, 220, 90], 1
    filled = fill_transparent(image, alpha)
    np.testing.assert_array_equal(filled[4:12, 4:12], image[4:12, 4:12])
    np.testing.assert_array_equal(filled[6, 3], [200, 100, 50])
    np.testing.assert_array_equal(filled[6, 12], [40, 220, 90])
    assert filled[0, 0].min() > 0  # however far away: no black is left
    np.testing.assert_array_equal(fill_transparent(image, np.zeros_like(alpha)), np.zeros_like(image))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits(tmp_path: Path, channels: int) -> None:
    picture = waves(channels=channels, top=65535)
    (tmp_path / "in.png").write_bytes(encode_png16(picture))
    first = deep_pixels(tmp_path / "in.png")  # the encoder itself, against FFmpeg's decoder
    if channels in (1, 3):
        np.testing.assert_array_equal(first.reshape(picture.shape), picture)
    else:
        np.testing.assert_array_equal(first[..., [0, 3] if channels == 2 else [0, 1, 2, 3]], picture)
    with Image.open(tmp_path / "in.png") as image:
        image.verify()  # Pillow checks the checksums
    assert enlarge(tmp_path / "in.png", tmp_path / "out.png") == []
    result = deep_pixels(tmp_path / "out.png")
    if channels in (1, 3):
        np.testing.assert_array_equal(result.reshape(40, 60, channels), twice(picture))
    else:
        colours = [0] if channels == 2 else [0, 1, 2]
        np.testing.assert_array_equal(result[..., colours], twice(picture)[..., : channels - 1])


def test_sixteen_bit_tiff_and_formats_of_eight(tmp_path: Path) -> None:
    picture = waves(top=65535)
    with av.open(str(tmp_path / "in.tif"), "w", format="image2") as out:
        stream = out.add_stream("tiff", rate=1)
        stream.width, stream.height, stream.pix_fmt = 30, 20, "rgb48le"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb48le")))
    np.testing.assert_array_equal(read_image(tmp_path / "in.tif").image, picture)
    assert enlarge(tmp_path / "in.tif", tmp_path / "out.png") == []
    np.testing.assert_array_equal(deep_pixels(tmp_path / "out.png"), twice(picture))
    warnings = enlarge(tmp_path / "in.tif", tmp_path / "out.jpg")
    assert warnings == ["16 bits become 8: .jpg files are written with 8"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(waves())
    exif = image.getexif()
    exif[0x0112] = orientation
    exif[0x010F] = "A maker"
    image.save(tmp_path / "in.png", exif=exif)
    enlarge(tmp_path / "in.png", tmp_path / "out.png")
    with Image.open(tmp_path / "in.png") as before, Image.open(tmp_path / "out.png") as after:
        np.testing.assert_array_equal(np.asarray(after), twice(np.asarray(ImageOps.exif_transpose(before))))
        assert 0x0112 not in after.getexif()
        assert after.getexif()[0x010F] == "A maker"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_profile_and_resolution(tmp_path: Path, suffix: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(waves()).save(tmp_path / "in.png", icc_profile=profile, dpi=(300, 300))
    enlarge(tmp_path / "in.png", tmp_path / f"out{suffix}")
    with Image.open(tmp_path / f"out{suffix}") as image:
        assert image.info["icc_profile"] == profile
        if suffix != ".webp":
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_sixteen_bit_png_keeps_profile_and_resolution(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F] = "A maker"
    still = StillInfo(icc_profile=profile, dpi=(300.0, 150.0), exif=exif.tobytes())
    write_image(tmp_path / "a.png", waves(top=65535), still)
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["icc_profile"] == profile
        assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)
        assert image.getexif()[0x010F] == "A maker"


def folder_of(path: Path, names: list[str]) -> Path:
    path.mkdir()
    for index, name in enumerate(names):
        Image.fromarray(np.full((12, 16, 3), 20 * index, np.uint8)).save(path / name)
    return path


def test_folder_to_folder_keeps_names_and_order(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", ["f1.png", "f2.png", "f10.bmp", "f09.png"])
    (source / "notes.txt").write_text("no image")
    (source / ".hidden.png").write_bytes(b"junk")
    assert [file.name for file in FrameFolder(source).files] == ["f1.png", "f2.png", "f09.png", "f10.bmp"]
    enlarge(source, tmp_path / "out")
    result = {p.name: np.asarray(Image.open(p))[0, 0, 0] for p in sorted((tmp_path / "out").iterdir())}
    assert result == {"f1.png": 0, "f2.png": 20, "f10.png": 40, "f09.png": 60}


def test_folder_order_reaches_recurrent_models(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", [f"f{i}.png" for i in range(12)])
    options = UpscaleOptions(dtype="float32", scene_cut=False, chunk=5)
    upscale(source, tmp_path / "out", model=RunningMean(), options=options)
    mean, values = 0.0, []
    for index in range(12):
        mean = 0.75 * mean + 0.25 * 20 * index
        values.append(round(mean))
    got = [int(np.asarray(Image.open(tmp_path / "out" / f"f{i}.png"))[0, 0, 0]) for i in range(12)]
    assert np.abs(np.subtract(got, values)).max() <= 1


def test_folder_to_video(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", [f"{i}.png" for i in range(6)])
    options = UpscaleOptions(fps=Fraction(30000, 1001), dtype="float32", preset="ultrafast", crf=1)
    report = upscale(source, tmp_path / "out.mp4", model=Nearest(), options=options)
    assert report.frames == 6
    assert times(tmp_path / "out.mp4") == [Fraction(1001 * i, 30000) for i in range(6)]
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = list(container.decode(video=0))
        values = [int(f.to_ndarray(format="rgb24", src_colorspace="ITU709", threads=1)[0, 0, 0]) for f in frames]
        assert (frames[0].colorspace, frames[0].color_range, frames[0].format.name) == (1, 1, "yuv420p")
    assert np.abs(np.subtract(values, [0, 20, 40, 60, 80, 100])).max() <= 2


def test_images_of_two_sizes(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", ["a.png", "b.png"])
    Image.fromarray(np.full((10, 10, 3), 7, np.uint8)).save(source / "c.png")
    options = UpscaleOptions(dtype="float32", scene_cut=False)
    report = upscale(source, tmp_path / "out", model=RunningMean(), options=options)
    assert report.resets == 1  # a recurrent model cannot carry its state to another size
    assert Image.open(tmp_path / "out" / "c.png").size == (20, 20)
    with pytest.raises(UserError, match="c: 10x10, but the first image is 16x12; a video has frames of one size"):
        enlarge(source, tmp_path / "out.mp4", fps=Fraction(25))
    assert not (tmp_path / "out.mp4").exists()


def test_damaged_image_in_a_folder(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", ["a.png", "b.png", "c.png"])
    (source / "b.png").write_bytes((source / "b.png").read_bytes()[:50])
    with pytest.raises(DamagedInputError, match=r"b\.png: not an image that can be read; .*"):
        enlarge(source, tmp_path / "out")
    warnings = enlarge(source, tmp_path / "out", keep_going=True, overwrite=True)
    assert len(warnings) == 1
    assert "b.png: not an image" in warnings[0]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


def test_names_that_would_collide(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", ["a.png", "a.bmp"])
    with pytest.raises(UserError, match=r"a\.\w+ and a\.\w+ would both become a"):
        enlarge(source, tmp_path / "out")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
def test_formats_of_a_folder(tmp_path: Path, suffix: str) -> None:
    source = folder_of(tmp_path / "in", ["a.png"])
    enlarge(source, tmp_path / "out", image_format=suffix)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [f"a.{suffix}"]
