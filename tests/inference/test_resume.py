"""Interrupted folder jobs: continued to exactly the frames of an uninterrupted one, or refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from media import Clip, pattern, write_clip
from tiny_models import MeanBothWays, Nearest, RunningMean, SmallConv
from torch import Tensor, nn

from vsr.errors import UserError
from vsr.inference import UpscaleOptions, UpscaleReport, upscale
from vsr.inference.resume import model_identity
from vsr.models import BasicVSR

FRAMES = 40


class PowerCutError(Exception):
    """Stands for whatever ends a job."""


def cut_after(count: int) -> Callable[[int, int | None], None]:
    def on_progress(done: int, _total: int | None) -> None:
        if done == count:
            raise PowerCutError

    return on_progress


@pytest.fixture(name="source")
def clip_with_a_cut(tmp_path: Path) -> Path:
    """Forty frames with a cut at frame 22."""
    first, second = pattern(22, 64, 48), pattern(18, 64, 48)
    flipped = [frame.to_ndarray(format="rgb24", threads=1)[::-1, ::-1] // 3 for frame in second]
    pictures = [*first, *(type(first[0]).from_ndarray(image.copy(), format="rgb24") for image in flipped)]
    return write_clip(tmp_path / "in.mp4", Clip(), pictures)


def job(source: Path, target: Path, model: nn.Module, *, stop: int | None = None, **options: Any) -> UpscaleReport:
    settings: dict[str, Any] = {"dtype": "float32", "chunk": 5, "lookahead": 2} | options
    on_progress = None if stop is None else cut_after(stop)
    return upscale(source, target, model=model, options=UpscaleOptions(**settings), on_progress=on_progress)


def digest(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


class Counting(Nearest):
    """Counts the frames it is given, over all copies of it."""

    frames = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).frames += len(x)
        return super().forward(x)


class CountingMean(MeanBothWays):
    """Counts the frames that are wanted of it."""

    frames = 0

    def step(self, frames: Tensor, state: Any = None, *, keep: int | None = None) -> Any:
        type(self).frames += keep or frames.shape[1]
        return super().step(frames, state, keep=keep)


@pytest.mark.parametrize("stop", [1, 7, 22, 39])
def test_frames_of_a_single_image_model_are_not_computed_again(tmp_path: Path, source: Path, stop: int) -> None:
    job(source, tmp_path / "whole", Counting())
    with pytest.raises(PowerCutError):
        job(source, tmp_path / "out", Counting(), stop=stop)
    assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / ".out.partial").glob("*.png"))) == stop
    Counting.frames = 0
    report = job(source, tmp_path / "out", Counting(), resume=True)
    assert (report.resumed, report.frames, Counting.frames) == (stop, FRAMES - stop, FRAMES - stop)
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out", "whole"]


@pytest.mark.parametrize("stop", [3, 16, 21, 22, 23, 38])
@pytest.mark.parametrize("tile", [0, 24])
def test_recurrent_models_go_on_from_the_saved_state(
    tmp_path: Path, source: Path, stop: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vsr.inference.job._CHECKPOINT_SECONDS", 0.0)
    whole = job(source, tmp_path / "whole", CountingMean(), tile=tile)
    assert whole.resets == 1
    with pytest.raises(PowerCutError):
        job(source, tmp_path / "out", CountingMean(), stop=stop, tile=tile)
    CountingMean.frames = 0
    report = job(source, tmp_path / "out", CountingMean(), resume=True, tile=tile)
    # At most the window that was under way is computed again (per tile, and the probe for the state's structure).
    assert stop - 9 < report.resumed <= stop
    assert report.frames == FRAMES - report.resumed
    tiles = 6 if tile else 1
    assert CountingMean.frames == tiles * report.frames + (report.resumed > 0)
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")


def test_recurrent_models_without_a_saved_state_start_again(tmp_path: Path, source: Path) -> None:
    job(source, tmp_path / "whole", RunningMean())
    with pytest.raises(PowerCutError):
        job(source, tmp_path / "out", RunningMean(), stop=30)
    report = job(source, tmp_path / "out", RunningMean(), resume=True)
    assert (report.resumed, report.frames) == (0, FRAMES)
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")


def test_basicvsr_in_half_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsr.inference.job._CHECKPOINT_SECONDS", 0.0)
    torch.manual_seed(0)
    model = BasicVSR(8, 1, scale=2, num_hr_feat=8).eval()
    source = write_clip(tmp_path / "in.mp4", Clip(frames=12, width=40, height=32))
    job(source, tmp_path / "whole", model, dtype="bfloat16", chunk=3)
    with pytest.raises(PowerCutError):
        job(source, tmp_path / "out", model, dtype="bfloat16", chunk=3, stop=8)
    report = job(source, tmp_path / "out", model, dtype="bfloat16", chunk=3, resume=True)
    assert report.resumed == 6
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")


def test_folder_of_images(tmp_path: Path, source: Path) -> None:
    job(source, tmp_path / "frames", Nearest(1))
    job(tmp_path / "frames", tmp_path / "whole", Nearest())
    with pytest.raises(PowerCutError):
        job(tmp_path / "frames", tmp_path / "out", Nearest(), stop=9)
    report = job(tmp_path / "frames", tmp_path / "out", Nearest(), resume=True)
    assert report.resumed == 9
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")


def test_nothing_to_continue_is_a_job_like_any_other(tmp_path: Path, source: Path) -> None:
    report = job(source, tmp_path / "out", Nearest(), resume=True)
    assert (report.resumed, report.frames) == (0, FRAMES)


def test_an_interrupted_job_is_neither_lost_nor_mixed_up(tmp_path: Path, source: Path) -> None:
    with pytest.raises(PowerCutError):
        job(source, tmp_path / "out", SmallConv(), stop=5)
    left = digest(tmp_path / ".out.partial")

    def refused(message: str, model: nn.Module, **options: Any) -> None:
        with pytest.raises(UserError, match=message):
            job(source, tmp_path / "out", model, **options)
        assert digest(tmp_path / ".out.partial") == left

    refused("an interrupted job left frames for it; --resume continues, --overwrite starts afresh", SmallConv())
    refused("the interrupted job had scale 2, this one has 1", SmallConv(), resume=True, scale=1)
    refused("had dtype 'torch.float32', this one has 'torch.bfloat16'", SmallConv(), resume=True, dtype="bfloat16")
    other = SmallConv()
    with torch.no_grad():
        other.first.weight[0, 0, 0, 0] += 1e-3
    refused("the interrupted job had model", other, resume=True)
    source.touch()
    refused("the interrupted job had source", SmallConv(), resume=True)
    report = job(source, tmp_path / "out", SmallConv(), overwrite=True)
    assert report.frames == FRAMES
    assert not (tmp_path / ".out.partial").exists()


def test_damaged_remains(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsr.inference.job._CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(PowerCutError):
        job(source, tmp_path / "out", RunningMean(), stop=12)
    state = tmp_path / ".out.partial" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(UserError, match="the saved state is damaged; --overwrite starts afresh"):
        job(source, tmp_path / "out", RunningMean(), resume=True)
    (tmp_path / ".out.partial" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="its manifest cannot be read; --overwrite starts afresh"):
        job(source, tmp_path / "out", RunningMean(), resume=True)


def test_an_existing_folder_is_replaced_whole(tmp_path: Path, source: Path) -> None:
    job(source, tmp_path / "out", Nearest())
    (tmp_path / "out" / "99999999.png").write_bytes(b"of a longer job")
    with pytest.raises(UserError, match="exists already and is not empty; --overwrite replaces it"):
        job(source, tmp_path / "out", Nearest())
    before = digest(tmp_path / "out")
    with pytest.raises(PowerCutError):
        job(source, tmp_path / "out", Nearest(), stop=3, overwrite=True)
    assert digest(tmp_path / "out") == before  # still there until the new one is complete
    job(source, tmp_path / "out", Nearest(), overwrite=True)
    assert len(digest(tmp_path / "out")) == FRAMES
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out"]


def test_a_job_that_fails_before_its_first_frame_leaves_nothing(tmp_path: Path, source: Path) -> None:
    class Failing(Nearest):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("at once")

    with pytest.raises(RuntimeError, match="at once"):
        job(source, tmp_path / "out", Failing())
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_identity_of_models() -> None:
    assert model_identity(SmallConv()) == model_identity(SmallConv())
    assert model_identity(SmallConv()) != model_identity(SmallConv().bfloat16())
    assert model_identity(Nearest()) != model_identity(Counting())
