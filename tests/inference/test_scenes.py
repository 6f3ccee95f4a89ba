"""Cuts: found where real clips have them, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from media import pattern
from numpy.typing import NDArray

from vsr.data.clips import fetch_clip
from vsr.errors import UserError
from vsr.inference import SceneDetector, VideoReader
from vsr.inference.scenes import luma_thumbnail


def cuts(images: Iterable[NDArray[np.generic]]) -> list[int]:
    detector = SceneDetector()
    return [index for index, image in enumerate(images) if detector.is_cut(image)]  # type: ignore[arg-type]


def texture(seed: int, height: int = 120, width: int = 400) -> NDArray[np.float64]:
    """A picture with structure at all sizes, 0..255."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width))
    for cell in (8, 20, 40):
        coarse = rng.normal(size=(height // cell + 2, width // cell + 2))
        total += np.kron(coarse, np.ones((cell, cell)))[:height, :width] * cell
    total -= total.min()
    return total / total.max() * 255


def colour(luma: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.repeat(np.rint(luma.clip(0, 255)).astype(np.uint8)[..., None], 3, axis=-1)


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bikes", [30, 76, 137, 187, 242]),
        ("city", [116]),
        ("carphone", []),
        ("bbb", []),
        ("portrait", []),
    ],
)
def test_real_clips(name: str, expected: list[int]) -> None:
    try:
        path: Path = fetch_clip(name)
    except UserError as error:
        pytest.skip(str(error))
    with VideoReader(path) as reader:
        assert cuts(frame.image for frame in islice(reader, 250 if expected else 120)) == expected


@pytest.mark.parametrize("step", [0, 1, 4, 8, 12])
def test_a_pan_of_any_speed_is_no_cut(step: int) -> None:
    wide = texture(0, width=1000)
    assert cuts(colour(wide[:, step * t : step * t + 200]) for t in range(30)) == []


def test_a_pan_that_starts_suddenly_is_no_cut() -> None:
    wide = texture(0, width=1000)
    offsets = [0] * 15 + [8 * t for t in range(1, 20)]
    assert cuts(colour(wide[:, x : x + 200]) for x in offsets) == []


def test_flashes_and_fades_are_no_cuts() -> None:
    still = texture(1)
    flash = [still] * 10 + [still * 0.4 + 150] + [still] * 10
    assert cuts(map(colour, flash)) == []
    fade = [still * (1 - t / 20) for t in range(20)]
    assert cuts(map(colour, fade)) == []


def test_noise_and_still_pictures_are_no_cuts() -> None:
    rng = np.random.default_rng(0)
    still = texture(2)
    assert cuts(colour(still + rng.normal(0, 25, still.shape)) for _ in range(20)) == []
    assert cuts([colour(still)] * 20) == []
    assert cuts([np.zeros((48, 64, 3), np.uint8)] * 5) == []
    assert cuts(frame.to_ndarray(format="rgb24", threads=1) for frame in pattern(40, 160, 120)) == []


def test_cuts_between_textures() -> None:
    shots = [texture(seed)[:, :200] for seed in range(4)]
    frames = [colour(shot + t) for shot in shots for t in range(8)]
    assert cuts(frames) == [8, 16, 24]


def test_every_image_of_a_slide_show_is_a_cut() -> None:
    assert cuts(colour(texture(seed)) for seed in range(5)) == [1, 2, 3, 4]


def test_black_and_changes_of_size_are_cuts() -> None:
    black = np.zeros((120, 200, 3), np.uint8)
    picture = colour(texture(3)[:, :200])
    assert cuts([black, black, picture, picture, black]) == [2, 4]
    assert cuts([picture[:30], picture[:30], picture[:20]]) == [2]


def test_sixteen_bits_are_judged_like_eight() -> None:
    shots = [texture(seed)[:, :200] for seed in range(3)]
    frames = [colour(shot).astype(np.uint16) * 257 for shot in shots for _ in range(5)]
    assert cuts(frames) == [5, 10]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (36, 64), (37, 65), (480, 853), (1080, 1920)])
def test_thumbnail(height: int, width: int) -> None:
    y, x = np.mgrid[0:height, 0:width]
    luma = 40 + 150 * (x + 0.5) / width + 40 * (y + 0.5) / height
    small = luma_thumbnail(colour(luma))
    rows, columns = small.shape
    assert (rows, columns) == (min(36, height), min(64, width))
    v, u = np.mgrid[0:rows, 0:columns]
    expected = 40 + 150 * (u + 0.5) / columns + 40 * (v + 0.5) / rows
    # Cells of unequal size, and samples instead of all pixels, move a cell's centre by half a cell at most.
    assert np.abs(small - expected).max() <= 0.5 + 150 / columns * (columns < width) + 40 / rows * (rows < height)
