"""The same jobs on a CUDA device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from media import Clip, planes, smooth, write_clip
from tiny_models import Nearest, Overflowing, RunningMean, SmallConv
from torch import nn

from vsr.inference import Runner, UpscaleOptions, upscale

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("model", [Nearest(), SmallConv(), RunningMean()], ids=["nearest", "conv", "recurrent"])
def test_a_video_is_that_of_the_cpu(tmp_path: Path, pix_fmt: str, model: nn.Module) -> None:
    depth = 1 if pix_fmt == "yuv420p" else 4
    clip = Clip(codec="ffv1", options=(), pix_fmt=pix_fmt, matrix=1)
    pictures = [[p.astype(np.uint8 if depth == 1 else np.uint16) * depth for p in picture] for picture in smooth(8)]
    source = write_clip(tmp_path / "in.mkv", clip, pictures)
    for device in ("cpu", "cuda"):
        options = UpscaleOptions(device=device, dtype="float32", codec="ffv1", chunk=3, lookahead=1)
        upscale(source, tmp_path / f"{device}.mkv", model=model, options=options)
    for cpu, cuda in zip(planes(tmp_path / "cpu.mkv"), planes(tmp_path / "cuda.mkv"), strict=True):
        for a, b in zip(cpu, cuda, strict=True):
            assert np.abs(a.astype(int) - b).max() <= depth


def test_float16_is_the_default_and_overflow_is_caught(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", Clip(), smooth(6))
    report = upscale(source, tmp_path / "out.mp4", model=Overflowing(), options=UpscaleOptions(device="cuda"))
    assert report.overflows > 0
    assert report.frames == 6


def test_images_of_sixteen_bits(tmp_path: Path) -> None:
    from vsr.inference import StillInfo, read_image, write_image

    picture = np.random.default_rng(0).integers(0, 65536, (10, 12, 3), dtype=np.uint16)
    write_image(tmp_path / "in.png", picture, StillInfo())
    options = UpscaleOptions(device="cuda", dtype="float32")
    upscale(tmp_path / "in.png", tmp_path / "out.png", model=Nearest(), options=options)
    np.testing.assert_array_equal(read_image(tmp_path / "out.png").image, picture.repeat(2, axis=0).repeat(2, axis=1))


def test_tiles_when_the_devices_memory_runs_out() -> None:
    """With the memory that PyTorch may take limited to what is needed for a part of the picture."""
    device = torch.device("cuda")
    x = torch.rand(1, 3, 1024, 1024)
    expected = Runner(SmallConv(), device=torch.device("cpu"), dtype=torch.float32, tile=0).run(x)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + 80 * 2**20) / total))
    try:
        runner = Runner(SmallConv(), device=device, dtype=torch.float32)
        out = runner.run(x)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert runner.shortages >= 1
    assert torch.allclose(out.cpu(), expected, rtol=0, atol=1e-3)
