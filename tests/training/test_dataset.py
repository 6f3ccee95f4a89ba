"""Training samples against whole images degraded and cut here, on files made here."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from vsr.data.degrade import DEGRADATIONS, Degradation, degrade_frame
from vsr.errors import UserError
from vsr.training.catalog import TrainingClip, find_clips
from vsr.training.dataset import ClipDataset, ClipRequest, low_resolution
from vsr.training.frames import CachedFrames, ImageFrames, cached_images, cached_video
from vsr.training.sampler import MultigridSampler
from vsr.training.schedule import MultigridSchedule, Stage

HEIGHT, WIDTH = 50, 67  # no multiples of 4: the last rows and columns are never used


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Noise, another one for each number."""
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def folder(path: Path, count: int = 6, height: int = HEIGHT, width: int = WIDTH, pattern: str = "{:08d}.png") -> Path:
    path.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(picture(i, height, width)).save(path / pattern.format(i))
    return path


def video(path: Path, count: int = 9) -> Path:
    """Lossless R'G'B', so that what comes back can be compared with what went in."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", Fraction(25))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for i in range(count):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")))
        out.mux(stream.encode(None))
    return path


def dataset(root: Path, **options: object) -> ClipDataset:
    settings: dict[str, object] = {"scale": 4, "frames": 3, "crop": 8} | options
    return ClipDataset(find_clips(root), **settings)  # type: ignore[arg-type]


# Samples -------------------------------------------------------------------------------------------------------------


def all_turns(frames: torch.Tensor) -> list[torch.Tensor]:
    """The 16 ways to flip, transpose and reverse (T, H, W, 3)."""
    ways = [frames, frames.flip(0)]
    ways += [way.flip(1) for way in ways]
    ways += [way.flip(2) for way in ways]
    return ways + [way.transpose(1, 2) for way in ways]


@pytest.mark.parametrize("degradation", DEGRADATIONS)
def test_samples_are_cut_from_whole_degraded_images(tmp_path: Path, degradation: Degradation) -> None:
    """Every sample lies somewhere in some flipped and degraded whole image, in LR and HR at the same place.

    Crops are most of the image, so that most of them touch its border, where the degradation's own continuation counts.
    """
    data = dataset(folder(tmp_path / "clip"), degradation=degradation, crop=11)
    whole = torch.stack([torch.from_numpy(picture(i)) for i in range(6)])[:, :48, :64]
    ways = all_turns(whole)
    degraded = [degrade_frame(way, 4, degradation) for way in ways]
    found = set()
    for epoch in range(40):
        batch = torch.utils.data.default_collate([data[ClipRequest(epoch % len(data), epoch, 11, 3)]])
        lr, hr = low_resolution(batch, 4, degradation, torch.device("cpu"))
        assert lr.shape == (1, 3, 3, 11, 11)
        assert hr.shape == (1, 3, 3, 44, 44)
        small = (lr[0] * 255).round().to(torch.uint8).movedim(1, -1)
        large = (hr[0] * 255).round().to(torch.uint8).movedim(1, -1)
        found.add(place(small, large, ways, degraded))
    assert len(found) > 20
    assert {way for way, *_ in found} == set(range(16))


def place(
    small: torch.Tensor, large: torch.Tensor, ways: list[torch.Tensor], degraded: list[torch.Tensor]
) -> tuple[int, ...]:
    """Where the sample comes from: which way, frame, top and left."""
    for number, (way, low) in enumerate(zip(ways, degraded, strict=True)):
        rows, columns = low.shape[1] - 10, low.shape[2] - 10
        corners = way[:4, : 4 * rows : 4, : 4 * columns : 4]
        for start, top, left in (corners == large[0, 0, 0]).all(-1).nonzero().tolist():
            window = way[start : start + 3, 4 * top : 4 * top + 44, 4 * left : 4 * left + 44]
            if torch.equal(window, large):
                assert torch.equal(low[start : start + 3, top : top + 11, left : left + 11], small)
                return number, start, top, left
    raise AssertionError("the sample is nowhere in the clip")


def test_pairs_are_cut_at_the_same_place(tmp_path: Path) -> None:
    root, low = folder(tmp_path / "hr" / "a"), tmp_path / "lr" / "a"
    low.mkdir(parents=True)
    whole = torch.stack([torch.from_numpy(picture(i)) for i in range(6)])[:, :48, :64]
    for i, image in enumerate(degrade_frame(whole, 4, "bicubic")):
        Image.fromarray(image.numpy()).save(low / f"{i:08d}.png")
    clips = find_clips(tmp_path / "hr", lr_root=tmp_path / "lr")
    pairs = ClipDataset(clips, scale=4, frames=3, crop=8)
    made = dataset(root)
    for epoch in range(20):
        request = ClipRequest(0, epoch, 8, 3)
        for a, b in zip(
            low_resolution(torch.utils.data.default_collate([pairs[request]]), 4, "bicubic", torch.device("cpu")),
            low_resolution(torch.utils.data.default_collate([made[request]]), 4, "bicubic", torch.device("cpu")),
            strict=True,
        ):
            assert torch.equal(a, b)


def test_mirrored_clips(tmp_path: Path) -> None:
    """Seven frames are trained on as fourteen: there and back."""
    data = dataset(folder(tmp_path / "clip", count=7), frames=14, mirror=True, flip=False)
    sample = data[ClipRequest(0, 0, 8, 14)]
    assert len(data) == 1
    assert torch.equal(sample.hr, sample.hr.flip(0))
    with pytest.raises(UserError, match=r"expected at least 14 frames, got 7 \(mirroring would double them\)"):
        dataset(tmp_path / "clip", frames=14)
    with pytest.raises(UserError, match=r"expected at least 15 frames, got 7$"):
        dataset(tmp_path / "clip", frames=15, mirror=True)


def test_a_sample_depends_on_seed_epoch_and_item_only(tmp_path: Path) -> None:
    data = dataset(folder(tmp_path / "clip"))
    request = ClipRequest(1, 5, 8, 3)
    expected = data[request].hr
    for epoch in range(4):
        _ = data[ClipRequest(0, epoch, 4, 2)]
    assert torch.equal(data[request].hr, expected)
    assert not torch.equal(data[request._replace(epoch=6)].hr, expected)
    assert not torch.equal(dataset(tmp_path / "clip", seed=1)[request].hr, expected)


def test_workers_read_ahead_without_lagging(tmp_path: Path) -> None:
    data = dataset(folder(tmp_path / "clip", count=12), frames=4)
    schedule = MultigridSchedule(
        iterations=12,
        frames=4,
        batch=2,
        reference_batch=2,
        rewarm=0,
        stages=(Stage(crop=4, share=0.5), Stage(crop=8, share=0.5)),
    )
    loader = DataLoader(data, batch_sampler=MultigridSampler(len(data), schedule), num_workers=2)
    shapes = [tuple(batch.hr.shape[:3]) for batch in loader]
    assert shapes == [(2, s.frames, 4 * (s.crop + 6)) for s in schedule.steps()]


# Sampler -------------------------------------------------------------------------------------------------------------


def test_epochs_are_permutations_shared_by_the_ranks() -> None:
    schedule = MultigridSchedule(iterations=60, frames=4, batch_mode="constant_cost", batch_multiple=2)
    alone = [request for batch in MultigridSampler(37, schedule, seed=3) for request in batch]
    for epoch in range(10):
        assert sorted(r.item for r in alone[37 * epoch : 37 * (epoch + 1)]) == list(range(37))
        assert {r.epoch for r in alone[37 * epoch : 37 * (epoch + 1)]} == {epoch}
    together = zip(*(MultigridSampler(37, schedule, seed=3, rank=rank, ranks=2) for rank in range(2)), strict=True)
    for batch, (first, second) in zip(MultigridSampler(37, schedule, seed=3), together, strict=True):
        assert batch[0::2] == first
        assert batch[1::2] == second
    assert [r.item for r in alone[:37]] != [r.item for r in alone[37:74]]
    assert [r.item for b in MultigridSampler(37, schedule, seed=4) for r in b][:37] != [r.item for r in alone[:37]]


def test_a_resumed_run_sees_the_same_samples() -> None:
    schedule = MultigridSchedule(iterations=60, frames=4)
    whole = list(MultigridSampler(37, schedule))
    assert list(MultigridSampler(37, schedule, first=23)) == whole[23:]
    assert len(MultigridSampler(37, schedule, first=23)) == len(whole) - 23


def test_batches_that_ranks_cannot_share() -> None:
    with pytest.raises(ValueError, match="batches that 3 ranks share evenly, got one of 8"):
        MultigridSampler(5, MultigridSchedule(iterations=60), ranks=3)
    with pytest.raises(ValueError, match="rank: expected 0 to 1, got 2"):
        MultigridSampler(5, MultigridSchedule(iterations=60), rank=2, ranks=2)


# Frames and their cache ----------------------------------------------------------------------------------------------


def test_a_video_is_decoded_once_and_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = video(tmp_path / "clip.mkv")
    frames = cached_video(path, tmp_path / "cache")
    assert frames.shape == (9, HEIGHT, WIDTH)
    for i in (0, 4, 8):
        assert np.array_equal(frames.read(i, 3, 5, 20, 30), picture(i)[3:23, 5:35])
    monkeypatch.setattr("vsr.training.frames.VideoReader", None)
    assert np.array_equal(cached_video(path, tmp_path / "cache").read(8, 0, 0, 9, 9), picture(8)[:9, :9])


def test_a_changed_file_is_decoded_again(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mkv")
    assert cached_video(path, tmp_path / "cache").shape[0] == 9
    video(path, count=5)
    assert cached_video(path, tmp_path / "cache").shape[0] == 5


def _decode_together(path: Path, root: Path, barrier: object, results: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    results.put((cached_video(path, root).shape, os.getpid()))  # type: ignore[attr-defined]


def test_processes_that_start_together(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    path = video(tmp_path / "clip.mkv")
    processes = [
        context.Process(target=_decode_together, args=(path, tmp_path / "cache", barrier, results)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    assert {results.get(timeout=120)[0] for _ in processes} == {(9, HEIGHT, WIDTH)}
    for process in processes:
        process.join()
    assert len([p for p in (tmp_path / "cache").iterdir() if p.is_dir()]) == 1


def test_a_damaged_video_leaves_nothing_behind(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mkv", count=60)
    content = bytearray(path.read_bytes())
    del content[len(content) // 2 :]
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"clip\.mkv: "):
        cached_video(path, tmp_path / "cache")
    assert [p for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"] == []
    skipped: list[str] = []
    folder(tmp_path / "good")
    clips = find_clips(tmp_path, cache=tmp_path / "cache", on_skip=skipped.append)
    assert [clip.name for clip in clips] == ["good"]
    assert len(skipped) == 1
    assert "clip.mkv" in skipped[0]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = video(tmp_path / "clip.mkv")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    message = r"cannot keep the frames of .*clip\.mkv in .*cache: No space left on device"
    with pytest.raises(UserError, match=message):
        cached_video(path, tmp_path / "cache")
    with pytest.raises(UserError, match=message):  # it is not the clip that is to be left out
        find_clips(tmp_path, cache=tmp_path / "cache", on_skip=lambda _: None)
    monkeypatch.undo()
    assert [p for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"] == []
    assert cached_video(path, tmp_path / "cache").shape[0] == 9


def test_frames_of_another_size(tmp_path: Path) -> None:
    place = folder(tmp_path / "clip")
    Image.fromarray(picture(1, 20, 20)).save(place / "00000003.png")
    frames = ImageFrames("clip", sorted(place.iterdir()))
    assert np.array_equal(frames.read(2, 1, 2, 10, 11), picture(2)[1:11, 2:13])
    with pytest.raises(UserError, match=r"00000003\.png: expected 67x50 as the clip's first frame, got 20x20"):
        frames.read(3, 0, 0, 4, 4)


def test_another_sample_stands_in_for_a_damaged_one(tmp_path: Path) -> None:
    """The same one every time, so that runs stay reproducible."""
    folder(tmp_path / "set" / "a")
    for path in folder(tmp_path / "set" / "b").iterdir():
        if path.name > "00000000.png":  # of the first one the size is read when the clip is opened
            path.write_bytes(path.read_bytes()[:-2000])
    data = dataset(tmp_path / "set")
    good = [ClipRequest(item, epoch, 8, 3) for item in (0, 1) for epoch in range(3)]
    expected = [dataset(tmp_path / "set" / "a")[request].hr for request in good]
    for request, hr in zip(good, expected, strict=True):
        assert torch.equal(data[request].hr, hr)
    with pytest.warns(UserWarning, match=r"0000000\d\.png: not an image .*; another sample stands in"):
        stand_in = data[ClipRequest(2, 7, 8, 3)].hr
    with pytest.warns(UserWarning, match="another sample stands in"):
        again = dataset(tmp_path / "set")[ClipRequest(2, 7, 8, 3)].hr
    assert torch.equal(again, stand_in)
    assert any(torch.equal(data._sample(ClipRequest(item, 7, 8, 3)).hr, stand_in) for item in (0, 1))


@pytest.mark.filterwarnings("ignore:.*stands in")
@pytest.mark.parametrize("workers", [0, 1])
def test_clips_that_are_all_damaged(tmp_path: Path, workers: int) -> None:
    from vsr.training.trainer import plain_errors  # here, since processes of other tests import this file

    for path in folder(tmp_path / "a").iterdir():
        path.write_bytes(path.read_bytes()[:-2000])
    data = dataset(tmp_path / "a")
    requests = [[ClipRequest(0, 0, 8, 3)]]
    with pytest.raises(UserError, match=r"^\S*/0000000\d\.png: not an image that can be read; [\w, ]*$"):
        next(plain_errors(DataLoader(data, batch_sampler=requests, num_workers=workers)))


# Layouts -------------------------------------------------------------------------------------------------------------


def test_reds(tmp_path: Path) -> None:
    for name in ("train_sharp/000", "train_sharp/001", "train_sharp/011"):
        folder(tmp_path / name)
    clips = find_clips(tmp_path)
    assert [(c.name, c.hr.shape) for c in clips] == [(n, (6, HEIGHT, WIDTH)) for n in ("000", "001", "011")]
    (tmp_path / "meta.txt").write_text("001 100 (720,1280,3)\n000 100 (720,1280,3)\n")  # BasicSR's
    assert [c.name for c in find_clips(tmp_path, annotation=tmp_path / "meta.txt")] == ["001", "000"]
    (tmp_path / "meta.txt").write_text("000/00000000.png (720, 1280, 3)\n000/00000001.png (720, 1280, 3)\n")  # mmagic's
    assert [c.name for c in find_clips(tmp_path, annotation=tmp_path / "meta.txt")] == ["000"]


def test_vimeo(tmp_path: Path) -> None:
    for name in ("00001/0001", "00001/0002", "00002/0001"):
        folder(tmp_path / "sequences" / name, count=12, pattern="im{}.png")
    assert len(find_clips(tmp_path)) == 3
    (tmp_path / "sep_trainlist.txt").write_text("00001/0002\n00002/0001\n")
    clips = find_clips(tmp_path)
    assert [c.name for c in clips] == ["00001/0002", "00002/0001"]
    assert np.array_equal(clips[0].hr.read(11, 0, 0, HEIGHT, WIDTH), picture(11))  # im10 comes after im9
    (tmp_path / "meta.txt").write_text("00001/0001 7 (256,448,3)\n")  # BasicSR's
    assert [c.name for c in find_clips(tmp_path, annotation=tmp_path / "meta.txt")] == ["00001/0001"]


def test_pairs_in_folders_of_a_set(tmp_path: Path) -> None:
    """Vid4 and UDM10: GT and BIx4 beside each other."""
    for name in ("calendar", "city"):
        folder(tmp_path / "GT" / name)
        folder(tmp_path / "BIx4" / name, height=12, width=16)
    clips = find_clips(tmp_path, lr_root=tmp_path / "BIx4")
    assert [(c.name, c.lr and c.lr.shape) for c in clips] == [("calendar", (6, 12, 16)), ("city", (6, 12, 16))]
    shutil.rmtree(tmp_path / "BIx4" / "city")
    with pytest.raises(UserError, match=r"BIx4/city: no such clip"):
        find_clips(tmp_path, lr_root=tmp_path / "BIx4")


def test_videos_and_folders_together(tmp_path: Path) -> None:
    folder(tmp_path / "set" / "b")
    video(tmp_path / "set" / "a.mkv")
    clips = find_clips(tmp_path / "set", cache=tmp_path / "cache")
    assert [(c.name, type(c.hr)) for c in clips] == [("a.mkv", CachedFrames), ("b", ImageFrames)]
    alone = find_clips(tmp_path / "set" / "a.mkv", cache=tmp_path / "cache")
    assert [c.name for c in alone] == ["a.mkv"]


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing: no such file or folder"):
        find_clips(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no clips \(looked for folders of images and for \.mp4"):
        find_clips(tmp_path / "empty")
    root = folder(tmp_path / "set" / "a").parent
    (tmp_path / "list.txt").write_text("../../etc\n")
    with pytest.raises(UserError, match=r"expected names of clips inside the data set, got '\.\./\.\./etc'"):
        find_clips(root, annotation=tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("b\n")
    with pytest.raises(UserError, match="set/b: no such clip"):
        find_clips(root, annotation=tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(UserError, match=r"list\.txt: the annotation names no clip"):
        find_clips(root, annotation=tmp_path / "list.txt")
    clip = find_clips(root)[0]
    with pytest.raises(UserError, match=r"a: expected at least 64x64 pixels for LR crops of 16 at x4, got 67x50"):
        ClipDataset([clip], scale=4, frames=3, crop=16)
    with pytest.raises(UserError, match="degradation: expected one of bicubic, bd, bd-duf, got 'blur'"):
        ClipDataset([clip], scale=4, frames=3, crop=8, degradation="blur")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="a: expected frames within 0 to 5, got 4 to 6"):
        TrainingClip("a", clip.hr, None, 4, 3)
    small = ImageFrames("s", sorted(folder(tmp_path / "small", height=12, width=17).iterdir()))
    with pytest.raises(UserError, match="a: expected 16x12 pixels at low resolution for 67x50 at x4, got 17x12"):
        ClipDataset([TrainingClip("a", clip.hr, small, 0, 6)], scale=4, frames=3, crop=8)
    pair = TrainingClip("a", clip.hr, ImageFrames("l", sorted(folder(tmp_path / "l", 6, 12, 16).iterdir())), 0, 6)
    with pytest.raises(UserError, match="low resolution for all of them or for none"):
        ClipDataset([clip, pair], scale=4, frames=3, crop=8)


def test_images_are_decoded_once_and_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "clip")
    images = ImageFrames("clip", sorted((tmp_path / "clip").iterdir()))
    window = (2, 3, 5, 20, 30)
    expected = images.read(*window)
    kept = cached_images(images, tmp_path / "cache")
    assert (kept.name, kept.shape) == (images.name, images.shape)
    assert np.array_equal(kept.read(*window), expected)
    monkeypatch.setattr(ImageFrames, "read", None)
    found = find_clips(tmp_path / "clip", cache=tmp_path / "cache", keep_images=True)
    assert np.array_equal(found[0].hr.read(*window), expected)


def test_a_damaged_image_is_not_kept(tmp_path: Path) -> None:
    folder(tmp_path / "clips/good")
    folder(tmp_path / "clips/bad")
    last = sorted((tmp_path / "clips/bad").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:60])
    skipped: list[str] = []
    clips = find_clips(tmp_path / "clips", cache=tmp_path / "cache", keep_images=True, on_skip=skipped.append)
    assert [clip.name for clip in clips] == ["good"]
    assert len(skipped) == 1
    assert last.name in skipped[0]
    assert len([p for p in (tmp_path / "cache").iterdir() if p.is_dir()]) == 1
