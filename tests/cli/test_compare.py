"""``vsr compare``: what the picture holds, and every message."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from vsr.cli import app
from vsr.metrics.sidebyside import Crop, Picture, side_by_side


def noise(height: int = 60, width: int = 80, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def compare(*arguments: object):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def shown(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"))


def expected(*pictures: Picture, crop: Crop | None = None) -> NDArray[np.uint8]:
    return np.asarray(side_by_side(pictures, crop))


def test_two_images(tmp_path: Path) -> None:
    a, b = noise(seed=1), noise(seed=2)
    first, second = write(tmp_path / "a.png", a), write(tmp_path / "b.png", b)
    result = compare(first, second, tmp_path / "out.png")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"wrote {tmp_path / 'out.png'}\n"
    np.testing.assert_array_equal(shown(tmp_path / "out.png"), expected(Picture("a.png", a), Picture("b.png", b)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "out.png"]


def test_three_inputs_of_two_sizes_with_labels_and_crop(tmp_path: Path) -> None:
    large, other, small = noise(seed=1), noise(seed=2), noise(15, 20, seed=3)
    paths = [write(tmp_path / f"{i}.png", p) for i, p in enumerate((small, large, other))]
    labels = [word for name in ("input", "model", "truth") for word in ("--label", name)]
    result = compare(*paths, tmp_path / "out.png", "--crop", "8,4,16,12", *labels)
    assert result.exit_code == 0, result.output
    pictures = Picture("input", small), Picture("model", large), Picture("truth", other)
    np.testing.assert_array_equal(shown(tmp_path / "out.png"), expected(*pictures, crop=Crop(8, 4, 16, 12)))


def test_a_frame_of_a_folder_beside_an_image(tmp_path: Path) -> None:
    frames = [noise(seed=seed) for seed in range(3)]
    for index, pixels in enumerate(frames):
        write(tmp_path / "clip" / f"{index:04d}.png", pixels)
    still = write(tmp_path / "still.png", noise(seed=9))
    result = compare(tmp_path / "clip", still, tmp_path / "out.png", "--frame", 2)
    assert result.exit_code == 0, result.output
    pictures = Picture("clip", frames[2]), Picture("still.png", noise(seed=9))
    np.testing.assert_array_equal(shown(tmp_path / "out.png"), expected(*pictures))


def test_inputs_of_one_name_are_labelled_with_their_folders(tmp_path: Path) -> None:
    paths = [write(tmp_path / folder / "0.png", noise(seed=seed)) for seed, folder in enumerate(("hr", "sr"))]
    result = compare(*paths, tmp_path / "out.png")
    assert result.exit_code == 0, result.output
    pictures = (Picture(str(path), noise(seed=seed)) for seed, path in enumerate(paths))
    np.testing.assert_array_equal(shown(tmp_path / "out.png"), expected(*pictures))


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    """A forgotten output makes the last input the output."""
    paths = [write(tmp_path / f"{seed}.png", noise(seed=seed)) for seed in range(3)]
    before = paths[2].read_bytes()
    result = compare(*paths)
    assert (result.exit_code, result.stderr) == (2, f"error: {paths[2]}: exists already; --overwrite replaces it\n")
    assert paths[2].read_bytes() == before
    assert compare(*paths, "--overwrite").exit_code == 0
    assert paths[2].read_bytes() != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--crop", "1,2,3"], "--crop: expected four whole numbers X,Y,WIDTH,HEIGHT, got '1,2,3'"),
        (["--crop", "1,2,a,4"], "--crop: expected four whole numbers X,Y,WIDTH,HEIGHT, got '1,2,a,4'"),
        (
            ["--crop", "70,0,20,10"],
            "the crop 70,0,20,10 (x,y,width,height) does not lie inside the 80x60 picture",
        ),
        (["--label", "one"], "--label must be given once for each of the 2 inputs, got 1"),
    ],
)
def test_bad_options(tmp_path: Path, options: list[str], message: str) -> None:
    paths = [write(tmp_path / f"{seed}.png", noise(seed=seed)) for seed in range(2)]
    result = compare(*paths, tmp_path / "out.png", *options)
    assert (result.exit_code, result.stderr) == (2, f"error: {message}\n")
    assert not (tmp_path / "out.png").exists()


def test_bad_inputs(tmp_path: Path) -> None:
    image = write(tmp_path / "a.png", noise())
    folder = write(tmp_path / "clip" / "0.png", noise()).parent
    out = tmp_path / "out.png"

    def fails(message: str, *arguments: object) -> None:
        result = compare(*arguments)
        assert (result.exit_code, result.stderr) == (2, f"error: {message}\n")
        assert not out.exists()

    fails(f"expected two or more inputs and an output, got only {image} and {out}", image, out)
    fails(f"{tmp_path / 'no.png'}: no such file or folder", image, tmp_path / "no.png", out)
    fails(f"{folder}: frame 1 was asked for, but it has 1 frames (they count from 0)", folder, image, out, "--frame", 1)
    fails(
        f"{tmp_path / 'out.jpg'}: the picture is written as PNG: its name must end in .png",
        image,
        image,
        tmp_path / "out.jpg",
    )
    missing = tmp_path / "no" / "out.png"
    fails(f"{missing.parent}: no such folder to write to", image, image, missing)
    small = write(tmp_path / "small.png", noise(15, 21))
    fails(
        "small.png: 21x15 times a whole number does not give 80x60, the size of the largest picture", image, small, out
    )
