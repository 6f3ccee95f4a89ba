"""``vsr demo``: with a stand-in for clip and network, and as users run it."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

import vsr.models
from vsr.cli import _clips, app
from vsr.data.clips import CLIPS
from vsr.data.degrade import bicubic_upscale_frame, degrade_frame
from vsr.errors import UserError
from vsr.fetch import fetch, is_cached
from vsr.metrics import psnr_y, ssim_y
from vsr.models import weights

FIRST, STOP = 150, 165


def fetch_or_skip() -> None:
    """Both packages, or a reason why not."""
    try:
        fetch(CLIPS["bikes"])
        weights.fetch("basicvsr-vimeo-bi")
    except UserError as error:
        pytest.skip(str(error))


def demo(out: Path) -> str:
    result = CliRunner().invoke(app, ["demo", "--out", str(out)])
    assert result.exit_code == 0, result.output
    return result.stdout


def images(folder: Path) -> list[NDArray[np.uint8]]:
    return [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))]


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[NDArray[np.uint8]]:
    """A small lossless clip instead of the fetched one, nearest neighbours instead of BasicVSR; the clip's frames."""
    coarse = torch.rand(STOP, 3, 5, 7, generator=torch.Generator().manual_seed(0)) * 255
    smooth = F.interpolate(coarse, size=(42, 66), mode="bicubic").round().clamp(0, 255).to(torch.uint8)
    pictures = list(smooth.permute(0, 2, 3, 1).contiguous().numpy())
    path = tmp_path / "bikes.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 66, 42, "bgr0"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))

    class Blocks(torch.nn.Module):
        scale, recurrent, receptive_field = 4, True, None

        def step(self, clip: Tensor, state: Any, *, keep: int) -> tuple[Tensor, Tensor]:
            large = clip.repeat_interleave(4, -1).repeat_interleave(4, -2)
            return large[:, :keep], torch.zeros(1, 1, *clip.shape[-2:])

    monkeypatch.setattr(vsr.models, "load_model", lambda name: Blocks())
    monkeypatch.setattr(_clips, "fetch_clip", lambda name: path)
    return pictures


def test_what_it_writes_and_prints(stand_ins: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = demo(out)
    truth = [torch.from_numpy(p[:40, :64].copy()) for p in stand_ins[FIRST:STOP]]
    low = [degrade_frame(p, 4) for p in truth]
    nearest = [p.repeat_interleave(4, 0).repeat_interleave(4, 1) for p in low]
    for written, expected in ((images(out / "bikes-low"), low), (images(out / "bikes-x4"), nearest)):
        assert len(written) == 15
        # bfloat16, the default on some processors, is coarser than 8 bits.
        largest = max(np.abs(a.astype(int) - b.numpy()).max() for a, b in zip(written, expected, strict=True))
        assert largest <= (0 if expected is low else 1)
    written = [torch.from_numpy(p.copy()) for p in images(out / "bikes-x4")]
    smooth = [bicubic_upscale_frame(p, 4) for p in low]
    for label, outputs in (("bicubic", smooth), ("basicvsr-vimeo-bi", written)):
        psnr = np.mean([psnr_y(a, b, 8) for a, b in zip(truth, outputs, strict=True)])
        ssim = np.mean([ssim_y(a, b, 8) for a, b in zip(truth, outputs, strict=True)])
        assert re.search(rf"{label} +PSNR {psnr:.2f} dB +SSIM {ssim:.4f}\n", text)
    assert re.search(r"15 frames, 16x10 to 64x40, b?float\d+ on \w+: \d+\.\d s, \d+\.\d\d frames/s", text)
    for file in (CLIPS["bikes"], *weights.describe("basicvsr-vimeo-bi").files):
        assert file.source in text
        assert file.licence in text
    assert "vsr upscale INPUT.mp4 OUTPUT.mp4" in text


def test_the_video_and_the_picture(stand_ins: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    text = demo(out)
    with av.open(str(out / "bikes-x4.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == Fraction(25)
        shown = [frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(stream)]
    frames = images(out / "bikes-x4")
    assert len(shown) == len(frames) == 15
    assert min(psnr_y(a, b) for a, b in zip(shown, frames, strict=True)) > 28
    with Image.open(out / "bikes-comparison.png") as picture:
        assert picture.width > 3 * 400
    for name in ("bikes-x4.mp4", "bikes-comparison.png", "bikes-low", "bikes-x4"):
        assert str(out / name) in text


def test_it_can_be_run_again(stand_ins: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    out = tmp_path / "out"
    demo(out)
    before = sorted(path.relative_to(out) for path in out.rglob("*"))
    demo(out)
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == before


def test_a_folder_of_something_else_is_left_alone(stand_ins: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    (tmp_path / "bikes-x4").mkdir()
    (tmp_path / "bikes-x4" / "diary.txt").write_text("mine")
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {tmp_path / 'bikes-x4'}: ")
    assert "diary.txt" in result.stderr
    assert (tmp_path / "bikes-x4" / "diary.txt").read_text() == "mine"


def test_the_folder_cannot_be_made(stand_ins: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "file" / "out")])
    assert result.exit_code == 2
    assert result.stderr == f"error: {tmp_path / 'file' / 'out' / 'bikes-low'}: Not a directory\n"


@pytest.mark.network
def test_the_published_network_on_the_real_clip(tmp_path: Path) -> None:
    """The figures that the network's own package reaches with another decoder: 27.30 and 34.48 dB."""
    fetch_or_skip()
    assert is_cached(CLIPS["bikes"])
    text = demo(tmp_path / "out")
    bicubic, model = (
        float(re.search(rf"{label} +PSNR ([\d.]+) dB", text)[1]) for label in ("bicubic", "basicvsr-vimeo-bi")
    )
    assert bicubic == pytest.approx(27.30, abs=0.05)
    assert model == pytest.approx(34.48, abs=0.1)
    assert text.count("here already") == 2
