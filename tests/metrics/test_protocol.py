"""Protocols, and how scores of frames and clips are averaged."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vsr.metrics import (
    PRESETS,
    ClipScore,
    FrameScore,
    Protocol,
    average_clips,
    average_frames,
    average_psnr,
    psnr_rgb,
    psnr_y,
    score_frame,
    ssim_rgb,
    ssim_y,
)


def test_presets_are_those_of_the_published_tables() -> None:
    assert PRESETS["reds4"] == Protocol(channel="rgb", crop=0)
    for name in ("vid4", "udm10", "vimeo"):
        assert (PRESETS[name].channel, PRESETS[name].crop) == ("y", 0)
    assert [name for name, protocol in PRESETS.items() if protocol.centre_only or protocol.mirrored] == ["vimeo"]


def test_score_frame_follows_channel_and_crop() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (30, 31, 3), dtype=np.uint8) for _ in range(2))
    assert score_frame(a, b, Protocol("y", 2)) == FrameScore(psnr_y(a, b, 2), ssim_y(a, b, 2))
    assert score_frame(a, b, Protocol("rgb", 0)) == FrameScore(psnr_rgb(a, b), ssim_rgb(a, b))


def test_frames_average_in_decibels_without_the_identical_ones() -> None:
    assert average_psnr([30.0, 34.0]) == 32.0
    assert average_psnr([30.0, math.inf, 34.0]) == 32.0
    assert average_psnr([math.inf, math.inf]) == math.inf
    with pytest.raises(ValueError, match="no frame to average"):
        average_psnr([])
    score = average_frames([FrameScore(30, 0.8), FrameScore(math.inf, 1.0), FrameScore(33, 0.9)])
    assert score == ClipScore(psnr=31.5, ssim=pytest.approx(0.9), frames=3, identical=1)


def test_clips_weigh_the_same_whatever_their_length() -> None:
    long, short = ClipScore(30, 0.8, frames=90, identical=0), ClipScore(40, 0.9, frames=10, identical=2)
    assert average_clips([long, short]) == ClipScore(35, pytest.approx(0.85), frames=100, identical=2)
