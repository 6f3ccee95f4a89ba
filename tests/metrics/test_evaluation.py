"""Evaluation of clips and methods, with clips in memory and a network whose output is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vsr.data.degrade import bicubic_upscale_frame, degrade_frame, mod_crop
from vsr.errors import UserError
from vsr.metrics import FrameScore, Protocol, psnr_rgb, psnr_y, ssim_rgb, ssim_y
from vsr.metrics.evaluation import (
    Clip,
    FrameRange,
    bicubic_method,
    compare_clips,
    evaluate_methods,
    model_method,
)
from vsr.models import Upscaler

ALL = FrameRange()


def clip(name: str, count: int, height: int = 34, width: int = 46, seed: int = 0) -> Clip:
    """Smooth random frames."""
    coarse = torch.rand(count, 3, 6, 8, generator=torch.Generator().manual_seed(seed)) * 255
    frames = F.interpolate(coarse, size=(height, width), mode="bicubic").round().clamp(0, 255).to(torch.uint8)
    return of(name, list(frames.permute(0, 2, 3, 1).contiguous()))


def of(name: str, frames: list[Tensor]) -> Clip:
    return Clip(name, f"{name}.mp4", lambda: iter(frames))


def frames_of(source: Clip) -> list[Tensor]:
    return list(source.open())


class Doubler(Upscaler):
    """Enlarges by two with nearest neighbours; where recurrent, adds the frame number over 255 to every value."""

    def __init__(self, recurrent: bool) -> None:
        super().__init__()
        self.scale, self.recurrent, self.receptive_field = 2, recurrent, 0
        self.gain = torch.nn.Parameter(torch.ones(()))

    @property
    def config(self) -> dict[str, int | bool | str]:
        return {"recurrent": self.recurrent}

    def forward(self, frames: Tensor) -> Tensor:
        if not self.recurrent:
            return F.interpolate(frames * self.gain, scale_factor=2.0)
        count = frames.shape[1]
        number = torch.arange(count, dtype=frames.dtype).view(1, count, 1, 1, 1) / 255
        large = frames.repeat_interleave(2, -1).repeat_interleave(2, -2)
        return large * self.gain + number


@pytest.mark.parametrize(
    ("text", "expected"), [("150:165", (150, 165)), (":7", (0, 7)), ("3:", (3, None)), (":", (0, None))]
)
def test_frame_ranges(text: str, expected: tuple[int, int | None]) -> None:
    parsed = FrameRange.parse(text)
    assert (parsed.start, parsed.stop) == expected


@pytest.mark.parametrize("text", ["", "5", "a:b", "5:5", "9:3", "-1:4", "1:2:3", "1.5:2"])
def test_bad_frame_ranges_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--frames: expected FIRST:STOP such as 150:165 .* got "):
        FrameRange.parse(text)


def test_frames_of_a_range_keep_their_numbers() -> None:
    source = clip("c", 6)
    got = list(source.frames(FrameRange(2, 5)))
    assert [index for index, _ in got] == [2, 3, 4]
    assert torch.equal(got[0][1], frames_of(source)[2])
    assert [index for index, _ in source.frames(FrameRange(4))] == [4, 5]


@pytest.mark.parametrize("wanted", [FrameRange(4, 7), FrameRange(6), FrameRange(9, 12)])
def test_a_range_beyond_the_end_is_refused(wanted: FrameRange) -> None:
    with pytest.raises(UserError, match=rf"c\.mp4: frames {wanted} were asked for, but it has 6 frames"):
        list(clip("c", 6).frames(wanted))


def test_an_empty_clip_is_refused() -> None:
    with pytest.raises(UserError, match=r"c\.mp4: frames 0: were asked for, but it has 0 frames"):
        list(of("c", []).frames(ALL))


@pytest.mark.parametrize(("channel", "psnr", "ssim"), [("y", psnr_y, ssim_y), ("rgb", psnr_rgb, ssim_rgb)])
def test_comparing_two_clips(channel, psnr, ssim) -> None:
    reference, output = clip("hr", 5), clip("out", 5, seed=1)
    result = compare_clips(reference, output, Protocol(channel, 3), FrameRange(1, 4))
    assert result.name == "out"
    pairs = list(zip(frames_of(reference), frames_of(output), strict=True))[1:4]
    expected = {i + 1: FrameScore(psnr(a, b, 3), ssim(a, b, 3)) for i, (a, b) in enumerate(pairs)}
    assert result.frames == expected
    assert result.score.psnr == pytest.approx(sum(s.psnr for s in expected.values()) / 3)
    assert result.score.ssim == pytest.approx(sum(s.ssim for s in expected.values()) / 3)
    assert (result.score.frames, result.score.identical) == (3, 0)


def test_identical_frames_are_counted_and_left_out_of_the_mean() -> None:
    frames, others = frames_of(clip("hr", 3)), frames_of(clip("out", 3, seed=1))
    result = compare_clips(of("hr", frames), of("out", [frames[0], *others[1:]]), Protocol(), ALL)
    assert result.score.identical == 1
    assert result.score.psnr == pytest.approx((result.frames[1].psnr + result.frames[2].psnr) / 2)
    assert result.frames[0] == FrameScore(math.inf, pytest.approx(1))


def test_only_the_centre_frame() -> None:
    reference, output = clip("hr", 7), clip("out", 7, seed=1)
    result = compare_clips(reference, output, Protocol(centre_only=True), ALL)
    assert list(result.frames) == [3]
    assert result.frames[3].psnr == psnr_y(frames_of(reference)[3], frames_of(output)[3])


def test_clips_that_cannot_be_compared() -> None:
    with pytest.raises(UserError, match=r"out\.mp4: ends before frame 3, which hr\.mp4 has"):
        compare_clips(clip("hr", 5), clip("out", 3), Protocol(), ALL)
    with pytest.raises(UserError, match=r"out\.mp4: has more frames than hr\.mp4 \(5 were compared\)"):
        compare_clips(clip("hr", 5), clip("out", 6), Protocol(), ALL)
    with pytest.raises(UserError, match=r"frame 0: hr\.mp4 is 46x34 but out\.mp4 is 44x34"):
        compare_clips(clip("hr", 2), clip("out", 2, width=44), Protocol(), ALL)
    with pytest.raises(UserError, match="leave 11 pixels of each side, got 12 for 46x34 frames"):
        compare_clips(clip("hr", 2), clip("out", 2), Protocol(crop=12), ALL)


@pytest.mark.parametrize("degradation", ["bicubic", "bd", "bd-duf"])
def test_methods_see_the_reduced_frames_and_are_scored_on_the_cropped_ones(degradation) -> None:
    source = clip("c", 4, height=34, width=47)
    seen: list[Tensor] = []

    def method(low):
        seen.extend(low)
        return (bicubic_upscale_frame(frame, 4) for frame in low)

    results = evaluate_methods(
        source,
        {"mine": method, "bicubic": bicubic_method(4)},
        scale=4,
        degradation=degradation,
        protocol=Protocol("y", 2),
        wanted=FrameRange(1, 3),
    )
    cropped = [mod_crop(frame, 4) for frame in frames_of(source)[1:3]]
    assert cropped[0].shape == (32, 44, 3)
    low = [degrade_frame(frame, 4, degradation) for frame in cropped]
    assert all(torch.equal(a, b) for a, b in zip(seen, low, strict=True))
    expected = {
        i + 1: FrameScore(psnr_y(a, bicubic_upscale_frame(b, 4), 2), ssim_y(a, bicubic_upscale_frame(b, 4), 2))
        for i, (a, b) in enumerate(zip(cropped, low, strict=True))
    }
    assert results["mine"].frames == expected
    assert results["bicubic"] == results["mine"]


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_model_gets_float_frames_and_gives_rounded_ones(recurrent: bool) -> None:
    low = frames_of(clip("low", 3, 8, 10))
    out = list(model_method(Doubler(recurrent))(low))
    for index, (small, large) in enumerate(zip(low, out, strict=True)):
        plain = small.repeat_interleave(2, 0).repeat_interleave(2, 1).int()
        expected = (plain + index).clamp(max=255) if recurrent else plain
        assert large.dtype == torch.uint8
        assert torch.equal(large.int(), expected)


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_models_output_is_rounded_and_clamped(recurrent: bool) -> None:
    model = Doubler(recurrent)
    model.gain.data.fill_(1.1)
    low = torch.tensor([7, 8, 100, 240], dtype=torch.uint8).view(1, 4, 1).expand(1, 4, 3).contiguous()
    (large,) = model_method(model)([low])
    assert large[0, ::2, 0].tolist() == [8, 9, 110, 255]  # 7.7, 8.8, 110.0, 264.0
    low[0, 0] = 4
    model.gain.data.fill_(-1.1)
    (large,) = model_method(model)([low])
    assert not large.any()


def test_a_mirrored_clip_averages_both_outputs_of_a_frame() -> None:
    low = frames_of(clip("low", 7, 8, 10))
    out = list(model_method(Doubler(True), mirrored=True)(low))
    for small, large in zip(low, out, strict=True):
        # Frame i is seen at positions i and 13 - i: the mean of the two numbers added is 6.5, and .5 may go
        # both ways.
        added = large.int() - small.repeat_interleave(2, 0).repeat_interleave(2, 1).int()
        assert set(added[large < 255].tolist()) <= {6, 7}


def test_frames_too_small_to_reduce() -> None:
    options = {"scale": 8, "degradation": "bicubic", "protocol": Protocol(), "wanted": ALL}
    with pytest.raises(UserError, match=r"c\.mp4: frames of 6x20 cannot be reduced by 8"):
        evaluate_methods(clip("c", 2, 20, 6), {"bicubic": bicubic_method(8)}, **options)


def test_only_the_centre_frame_of_a_model() -> None:
    results = evaluate_methods(
        clip("c", 7),
        {"bicubic": bicubic_method(2)},
        scale=2,
        degradation="bicubic",
        protocol=Protocol(centre_only=True),
        wanted=ALL,
    )
    assert list(results["bicubic"].frames) == [3]
