"""Windows of recurrent models: which frames are seen together, and what that does to the result."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import MeanBothWays, RunningMean
from torch import Tensor, nn

from vsr.inference import Frame, Runner, Window, windows
from vsr.models import BasicVSR


class Script:
    """A detector that is told where the cuts are."""

    def __init__(self, *cuts: int) -> None:
        self.cuts = cuts
        self.asked = -1

    def is_cut(self, image: Any) -> bool:
        self.asked += 1
        return self.asked in self.cuts


def clip(count: int, height: int = 6, width: int = 8) -> list[Frame]:
    rng = np.random.default_rng(5)
    return [Frame(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), i) for i in range(count)]


def grouped(frames: list[Frame], chunk: int, lookahead: int, *cuts: int, start: int = 0) -> list[Window]:
    detector: Any = Script(*cuts) if cuts else None
    found = list(windows(frames, chunk=chunk, lookahead=lookahead, detector=detector, start=start))
    assert all(isinstance(window, Window) for window in found)
    return found


@pytest.mark.parametrize(
    ("count", "chunk", "lookahead"), list(itertools.product([0, 1, 5, 16, 23], [1, 4, 16], [0, 3, 8]))
)
def test_every_frame_is_wanted_once(count: int, chunk: int, lookahead: int) -> None:
    found = grouped(clip(count), chunk, lookahead)
    wanted = [frame.index for window in found for frame in window.frames[: window.keep]]
    assert wanted == list(range(count))
    for window in found:
        assert [f.index for f in window.frames] == list(range(window.frames[0].index, window.frames[-1].index + 1))
        assert len(window.frames) <= chunk + lookahead
    for window in found[:-1]:  # all but the last see a full look-ahead
        assert (window.keep, len(window.frames)) == (chunk, chunk + lookahead)
    assert [window.fresh for window in found] == [True] + [False] * (len(found) - 1) if found else True
    assert not any(window.cut for window in found)


@pytest.mark.parametrize("cuts", [(1,), (7,), (3, 4), (4, 8, 12), (19,)])
def test_no_window_reaches_across_a_cut(cuts: tuple[int, ...]) -> None:
    found = grouped(clip(20), 4, 3, *cuts)
    assert [f.index for w in found for f in w.frames[: w.keep]] == list(range(20))
    for window in found:
        inside = [f.index for f in window.frames[1:]]
        assert not set(inside) & set(cuts)
        assert window.cut == (window.frames[0].index in cuts)
        assert window.fresh == (window.cut or window.frames[0].index == 0)


def test_a_new_size_ends_a_window() -> None:
    frames = clip(4) + [Frame(np.zeros((9, 9, 3), np.uint8), 4), Frame(np.zeros((9, 9, 3), np.uint8), 5)]
    found = grouped(frames, 8, 8)
    assert [[f.index for f in w.frames] for w in found] == [[0, 1, 2, 3], [4, 5]]
    assert [w.cut for w in found] == [False, True]


def test_other_things_pass_at_once() -> None:
    items: list[Any] = [*clip(1), "a", *clip(3)[1:], "b"]
    found = list(windows(items, chunk=4, lookahead=4, detector=None))
    assert found[:2] == ["a", "b"]
    assert isinstance(found[2], Window)


def test_frames_before_the_start_only_reach_the_detector() -> None:
    found = grouped(clip(12), 4, 0, 2, 6, start=5)
    assert [[f.index for f in w.frames] for w in found] == [[5], [6, 7, 8, 9], [10, 11]]
    assert [w.cut for w in found] == [False, True, False]


def run(model: nn.Module, frames: Tensor, chunk: int, lookahead: int) -> Tensor:
    """The whole clip through windows; (T, 3, H, W) float in, (T, 3, sH, sW) out."""
    runner = Runner(model, device=torch.device("cpu"), dtype=torch.float32)
    handles = [Frame(np.zeros((frames.shape[2], frames.shape[3], 3), np.uint8), i) for i in range(len(frames))]
    out = []
    for window in windows(handles, chunk=chunk, lookahead=lookahead, detector=None):
        assert isinstance(window, Window)
        if window.fresh:
            runner.reset()
        first = window.frames[0].index
        out.append(runner.run(frames[first : first + len(window.frames)], window.keep))
    return torch.cat(out)


@pytest.mark.parametrize("chunk", [1, 3, 7, 16])
@pytest.mark.parametrize("lookahead", [0, 2])
def test_forward_direction_does_not_notice_chunks(chunk: int, lookahead: int) -> None:
    frames = torch.rand(17, 3, 6, 8)
    model = RunningMean()
    expected, _ = model.step(frames[None])
    assert torch.equal(run(model, frames, chunk, lookahead), expected[0])


@pytest.mark.parametrize("chunk", [1, 4])
def test_forward_direction_of_basicvsr_does_not_notice_chunks(chunk: int) -> None:
    torch.manual_seed(0)
    model = BasicVSR(8, 1, bidirectional=False, num_hr_feat=8).eval()
    frames = torch.rand(6, 3, 32, 40)
    with torch.inference_mode():
        expected = model(frames[None])[0]
    assert torch.allclose(run(model, frames, chunk, 0), expected, rtol=0, atol=1e-5)


def test_backward_direction_gains_by_lookahead() -> None:
    frames = torch.rand(40, 3, 6, 8)
    model = MeanBothWays()
    with torch.inference_mode():
        expected, _ = model.step(frames[None])
    errors = [float((run(model, frames, 4, lookahead) - expected[0]).abs().max()) for lookahead in (0, 2, 4, 8, 40)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0
    # What is missing of a running mean with decay 3/4 after n more frames.
    for lookahead, error in zip((2, 4, 8), errors[1:4], strict=True):
        assert 0 < error < 0.75**lookahead
