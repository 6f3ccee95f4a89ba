"""The panorama's camera against geometry, and the data sets on small sources made here."""

from __future__ import annotations

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from test_dataset import HEIGHT, WIDTH, picture, video

from vsr.data.clips import CLIPS
from vsr.errors import UserError
from vsr.training import prepare as module
from vsr.training.panorama import Panorama
from vsr.training.prepare import CUTS, Cut, prepare


def colour(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """A smooth colour of every direction (right, down, ahead), without a seam."""
    x, y, z = np.moveaxis(direction / np.linalg.norm(direction, axis=-1, keepdims=True), -1, 0)
    return 128 + 100 * np.stack([np.sin(3 * x), np.sin(3 * y + z), np.cos(2 * z + x)], -1)


@pytest.fixture(scope="module")
def sphere() -> NDArray[np.uint8]:
    longitude = ((np.arange(1024) + 0.5) / 1024 - 0.5) * 2 * math.pi
    latitude = ((np.arange(512) + 0.5) / 512 - 0.5) * math.pi
    lat, lon = np.meshgrid(latitude, longitude, indexing="ij")
    directions = np.stack([np.cos(lat) * np.sin(lon), np.sin(lat), np.cos(lat) * np.cos(lon)], -1)
    return np.rint(colour(directions)).astype(np.uint8)


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (1.0, 0.3, -0.2), (3.1, -0.4, 0.1), (-3.1, 0.0, 0.0)])
def test_view(sphere: NDArray[np.uint8], angles: tuple[float, float, float]) -> None:
    """Pixels show the directions that a camera turned by yaw, pitch and roll looks in; the seam is invisible."""
    yaw, pitch, roll = angles
    fov, height, width = 1.2, 24, 40
    focal = width / 2 / math.tan(fov / 2)
    y, x = np.mgrid[0:height, 0:width] + 0.5
    right, down, ahead = x - width / 2, y - height / 2, np.full((height, width), focal)
    right, down = right * math.cos(roll) - down * math.sin(roll), right * math.sin(roll) + down * math.cos(roll)
    down, ahead = down * math.cos(pitch) - ahead * math.sin(pitch), down * math.sin(pitch) + ahead * math.cos(pitch)
    right, ahead = right * math.cos(yaw) + ahead * math.sin(yaw), -right * math.sin(yaw) + ahead * math.cos(yaw)
    seen = Panorama(sphere).view(yaw, pitch, roll, fov, height, width)
    assert np.abs(seen - colour(np.stack([right, down, ahead], -1))).max() < 1.5


def test_clips_move_smoothly(sphere: NDArray[np.uint8]) -> None:
    first = list(Panorama(sphere).clip(3, 5, 20, 32))
    assert len(first) == 5
    assert all(a.shape == (20, 32, 3) for a in first)
    changes = [np.abs(a.astype(int) - b).mean() for a, b in pairwise(first)]
    assert all(0 < change < 10 for change in changes)
    again = list(Panorama(sphere).clip(3, 5, 20, 32))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], next(iter(Panorama(sphere).clip(4, 1, 20, 32))))
    with pytest.raises(ValueError, match=r"expected \(H, 2 H, 3\), got \(512, 512, 3\)"):
        Panorama(sphere[:, :512])


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sphere: NDArray[np.uint8]) -> None:
    clip = video(tmp_path / "clip.mkv")
    Image.fromarray(sphere).save(tmp_path / "sphere.png")
    monkeypatch.setattr(module, "fetch_clip", lambda name: tmp_path / "sphere.png" if name == "panorama" else clip)


SMALL = (
    Cut("train", "panorama", 1, 2, 12, 16),
    Cut("train", "bikes", 2, 4, 48, 64, 2),
    Cut("test", "city", 0, 8, 40, 50),
)


@pytest.mark.usefixtures("sources")
def test_sets(tmp_path: Path) -> None:
    made: list[Cut] = []
    manifest = prepare(tmp_path / "sets", SMALL, on_clip=made.append)
    assert made == list(SMALL)
    entries = json.loads(manifest.read_text())
    assert list(entries) == ["test/city-0000", "train/bikes-0002", "train/panorama-0001"]
    assert entries["train/bikes-0002"]["source_sha256"] == CLIPS["bikes"].sha256
    assert entries["train/bikes-0002"]["licence"] == CLIPS["bikes"].licence
    files = sorted((tmp_path / "sets" / "test" / "city-0000").iterdir())
    assert [f.name for f in files] == [f"{i:08}.png" for i in range(9)]
    assert np.array_equal(np.asarray(Image.open(files[8])), picture(8)[:40, :50])
    halved = np.asarray(Image.open(tmp_path / "sets" / "train" / "bikes-0002" / "00000001.png"))
    blocks = picture(3)[:48, :64].reshape(24, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(halved - blocks).max() <= 0.5
    assert halved.shape[:2] < (HEIGHT, WIDTH)


@pytest.mark.usefixtures("sources")
def test_what_is_whole_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "sets"
    before = prepare(folder, SMALL).read_text()
    made: list[Cut] = []
    prepare(folder, SMALL, on_clip=made.append)
    assert made == []
    Image.fromarray(picture(50)).save(folder / "test" / "city-0000" / "00000003.png")
    (folder / "train" / "panorama-0001" / "00000001.png").unlink()
    assert prepare(folder, SMALL, on_clip=made.append).read_text() == before
    assert made == [SMALL[0], SMALL[2]]
    (folder / "manifest.json").write_text("{")
    assert prepare(folder, SMALL).read_text() == before


@pytest.mark.usefixtures("sources")
def test_an_interrupted_clip_does_not_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: object, factor: int) -> None:
        raise KeyboardInterrupt

    before = prepare(tmp_path / "sets", SMALL).read_text()
    for name in ("train/panorama-0001", "train/bikes-0002"):
        (tmp_path / "sets" / name / "00000000.png").unlink()
    monkeypatch.setattr(module, "_reduced", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "sets", SMALL)
    assert (tmp_path / "sets" / "manifest.json").read_text() == before
    assert len(list((tmp_path / "sets" / "train" / "bikes-0002").iterdir())) == 2  # as it was
    shutil.rmtree(tmp_path / "sets")
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "sets", SMALL)
    assert [p.name for p in (tmp_path / "sets" / "train").iterdir()] == ["panorama-0001"]


@pytest.mark.usefixtures("sources")
def test_frames_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bikes: expected frames 5 to 12, but only 4 of them exist"):
        prepare(tmp_path / "sets", [Cut("train", "bikes", 5, 12, 40, 40)])


def test_parts_do_not_share_a_source() -> None:
    """What is tested on was never trained on: not even other frames of the same clip."""
    parts: dict[str, set[str]] = {}
    for cut in CUTS:
        parts.setdefault(cut.part, set()).add(cut.source)
        assert cut.source in CLIPS
    train, validation, test = parts["train"], parts["validation"], parts["test"]
    assert not (train & validation or train & test or validation & test)
    assert len({(cut.part, cut.name) for cut in CUTS}) == len(CUTS)
