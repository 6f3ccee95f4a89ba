"""The side-by-side picture: where everything is, which detail is chosen, and what the labels say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vsr.data.degrade import bicubic_upscale_frame
from vsr.errors import UserError
from vsr.metrics.sidebyside import Crop, Picture, most_different, side_by_side, to_one_size


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def find(sheet: NDArray[np.uint8], part: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Where ``part`` occurs in ``sheet``, as (x, y)."""
    height, width = part.shape[:2]
    found = []
    for y, x in zip(*np.nonzero((sheet == part[0, 0]).all(-1)), strict=True):
        if np.array_equal(sheet[y : y + height, x : x + width], part):
            found.append((int(x), int(y)))
    return found


def test_the_detail_is_shown_pixel_by_pixel() -> None:
    a, b = noise(60, 80, 1), noise(60, 80, 2)
    sheet = np.asarray(side_by_side([Picture("a", a), Picture("b", b)], Crop(10, 20, 24, 12)))
    zoom = 20  # 480 / 24
    details = [np.kron(p[20:32, 10:34], np.ones((zoom, zoom, 1), np.uint8)) for p in (a, b)]
    (left,), (right,) = (find(sheet, detail) for detail in details)
    assert left[1] == right[1]
    assert right[0] >= left[0] + 24 * zoom
    assert sheet.shape[0] >= left[1] + 12 * zoom


def test_the_whole_frame_is_shown_above_with_the_detail_marked() -> None:
    a = np.full((60, 80, 3), (10, 120, 200), dtype=np.uint8)
    sheet = np.asarray(side_by_side([Picture("a", a), Picture("b", a)], Crop(10, 20, 24, 12)))
    marked = np.argwhere((sheet == (255, 64, 64)).all(-1))
    columns = marked[marked[:, 1] < sheet.shape[1] // 2]
    height = columns[:, 0].max() - columns[:, 0].min() + 1
    width = columns[:, 1].max() - columns[:, 1].min() + 1
    # The frame is drawn 480 pixels wide: six times its size.
    assert (width, height) == (24 * 6, 12 * 6)
    assert len(find(sheet[:, : sheet.shape[1] // 2], a[:20, :24])) > 1


def test_labels_are_drawn_and_long_ones_wrap() -> None:
    a = np.zeros((60, 80, 3), dtype=np.uint8)
    crop = Crop(0, 0, 24, 12)

    def first_row_of_frame(label: str) -> int:
        sheet = np.asarray(side_by_side([Picture(label, a), Picture("b", a)], crop))
        return int(np.argwhere((sheet == (255, 64, 64)).all(-1))[:, 0].min())

    plain = np.asarray(side_by_side([Picture("", a), Picture("", a)], crop))
    text = np.asarray(side_by_side([Picture("word", a), Picture("", a)], crop))
    different = np.argwhere((plain != text).any(-1))
    assert len(different) > 20
    assert different[:, 0].max() < first_row_of_frame("word")
    assert different[:, 1].max() < 200
    assert first_row_of_frame("word " * 30) > first_row_of_frame("word")
    assert first_row_of_frame("w" * 200) > first_row_of_frame("word")


def test_most_different_against_a_search() -> None:
    frames = [noise(30, 40, seed) for seed in range(3)]
    spread = (np.max(frames, axis=0).astype(int) - np.min(frames, axis=0)).sum(-1)
    best = max(
        ((spread[y : y + 7, x : x + 9].sum(), x, y) for y in range(30 - 7 + 1) for x in range(40 - 9 + 1)),
        key=lambda item: item[0],
    )
    crop = most_different(frames, 9, 7)
    assert (crop.x, crop.y, crop.width, crop.height) == (best[1], best[2], 9, 7)


def test_most_different_looks_at_the_range_not_at_the_mean() -> None:
    frames = [np.zeros((20, 40, 3), dtype=np.uint8) for _ in range(3)]
    frames[0][4:8, 4:8] = 200  # one of three differs much
    for frame in frames[:2]:
        frame[4:8, 30:34] = 150  # two of three differ less
    assert most_different(frames, 4, 4) == Crop(4, 4, 4, 4)


def test_most_different_finds_the_one_changed_spot() -> None:
    a = noise(90, 120)
    b = a.copy()
    b[70:76, 100:108] ^= 255
    crop = most_different([a, b], 20, 10)
    assert crop.x <= 100
    assert crop.x + 20 >= 108
    assert crop.y <= 70
    assert crop.y + 10 >= 76


def test_equal_frames_show_the_centre() -> None:
    a = noise(50, 60)
    assert most_different([a, a], 20, 10) == Crop(20, 20, 20, 10)


def test_smaller_pictures_are_enlarged_by_matlabs_bicubic_and_say_so() -> None:
    small, large = noise(15, 20), noise(60, 80)
    first, second = to_one_size([Picture("lr.png", small), Picture("sr.png", large)])
    assert first.label == "lr.png (20x15, bicubic x4)"
    expected = bicubic_upscale_frame(torch.from_numpy(small), 4).numpy()
    np.testing.assert_array_equal(first.pixels, expected)
    assert second == Picture("sr.png", large)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="b: 21x15 times a whole number does not give 80x60"):
        side_by_side([Picture("a", noise(60, 80)), Picture("b", noise(15, 21))])


@pytest.mark.parametrize("crop", [Crop(70, 0, 20, 10), Crop(0, 55, 20, 10), Crop(-1, 0, 4, 4), Crop(0, 0, 0, 5)])
def test_crops_outside_are_refused(crop: Crop) -> None:
    a = noise(60, 80)
    with pytest.raises(UserError, match=r"\(x,y,width,height\) does not lie inside the 80x60 picture"):
        side_by_side([Picture("a", a), Picture("b", a)], crop)


def test_tiny_frames_can_be_shown() -> None:
    sheet = side_by_side([Picture("a", noise(2, 3)), Picture("b", noise(2, 3, 1))])
    assert sheet.width > 480
