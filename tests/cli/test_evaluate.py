"""``vsr evaluate``: scores, tables, JSON, plots and messages, on real files and with a network that is known."""

from __future__ import annotations

import builtins
import errno
import json
import math
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
from vsr.cli import app, evaluate
from vsr.data.degrade import DEGRADATIONS, bicubic_upscale_frame, degrade_frame
from vsr.metrics import PRESETS, psnr_rgb, psnr_y, ssim_rgb, ssim_y

Pixels = NDArray[np.uint8]


def frames(count: int, height: int = 32, width: int = 48, seed: int = 0) -> list[Pixels]:
    coarse = torch.rand(count, 3, 6, 8, generator=torch.Generator().manual_seed(seed)) * 255
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic").round().clamp(0, 255).to(torch.uint8)
    return list(smooth.permute(0, 2, 3, 1).contiguous().numpy())


def folder(path: Path, pictures: list[Pixels]) -> Path:
    path.mkdir(parents=True)
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(path / f"{index:08d}.png")
    return path


def video(path: Path, pictures: list[Pixels]) -> Path:
    """A lossless video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = pictures[0].shape[1], pictures[0].shape[0], "bgr0"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    return path


def run(*arguments: object, **environment: str):
    return CliRunner(env={"COLUMNS": "160", **environment}).invoke(app, ["evaluate", *map(str, arguments)])


def scores(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    target = tmp_path / "scores.json"
    result = run(*arguments, "--json", target)
    assert result.exit_code == 0, result.output
    assert f"wrote {target}" in result.stdout
    return json.loads(target.read_text())


def fails(message: str, *arguments: object) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (2, f"error: {message}\n")


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Every model name stands for nearest neighbours, x2; says how it was loaded."""
    loaded: dict[str, Any] = {}

    class Blocks(torch.nn.Module):
        scale, recurrent, receptive_field = 2, True, 0

        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, clip: Tensor) -> Tensor:
            loaded.setdefault("lengths", []).append(clip.shape[1])
            return clip.repeat_interleave(2, -1).repeat_interleave(2, -2)

    def load_model(name: str, *, device: torch.device, dtype: torch.dtype) -> Blocks:
        loaded.update(name=name, device=device, dtype=dtype)
        return Blocks().to(device, dtype)

    monkeypatch.setattr(vsr.models, "load_model", load_model)
    return loaded


def test_two_folders(tmp_path: Path) -> None:
    a, b = frames(4), frames(4, seed=1)
    got = scores(tmp_path, folder(tmp_path / "hr", a), folder(tmp_path / "sr", b))
    assert got["protocol"] == {"channel": "y", "crop": 0, "centre_only": False, "mirrored": False}
    assert (got["frames"], got["model"]) == ("0:", None)
    (clip,) = got["methods"]["output"]["clips"]
    assert clip["name"] == "sr"
    expected = [
        {"frame": i, "psnr": psnr_y(p, q), "ssim": ssim_y(p, q)} for i, (p, q) in enumerate(zip(a, b, strict=True))
    ]
    assert clip["per_frame"] == expected
    assert clip["psnr"] == pytest.approx(np.mean([e["psnr"] for e in expected]))
    assert clip["ssim"] == pytest.approx(np.mean([e["ssim"] for e in expected]))
    average = got["methods"]["output"]["average"]
    assert average == {"psnr": clip["psnr"], "ssim": clip["ssim"], "frames": 4, "identical": 0}


def test_a_video_against_a_folder_in_rgb_with_crop_and_range(tmp_path: Path) -> None:
    a, b = frames(5), frames(5, seed=1)
    got = scores(
        tmp_path,
        *(video(tmp_path / "hr.mkv", a), folder(tmp_path / "sr", b)),
        *("--channel", "rgb", "--crop", 2, "--frames", "1:4"),
    )
    (clip,) = got["methods"]["output"]["clips"]
    expected = [{"frame": i, "psnr": psnr_rgb(a[i], b[i], 2), "ssim": ssim_rgb(a[i], b[i], 2)} for i in range(1, 4)]
    assert clip["per_frame"] == expected
    assert got["frames"] == "1:4"


def test_folders_of_clips_are_matched_by_name_and_weigh_the_same(tmp_path: Path) -> None:
    first, second = frames(2, seed=2), frames(6, seed=3)
    folder(tmp_path / "hr" / "000", first)
    folder(tmp_path / "hr" / "011", second)
    video_of_first, folder_of_second = frames(2, seed=4), frames(6, seed=5)
    folder(tmp_path / "sr" / "011", folder_of_second)
    video(tmp_path / "sr" / "000.mkv", video_of_first)
    got = scores(tmp_path, tmp_path / "hr", tmp_path / "sr", "--preset", "reds4")
    assert got["protocol"]["channel"] == "rgb"
    clips = got["methods"]["output"]["clips"]
    assert [clip["name"] for clip in clips] == ["000", "011"]
    means = [
        np.mean([psnr_rgb(p, q) for p, q in zip(a, b, strict=True)])
        for a, b in ((first, video_of_first), (second, folder_of_second))
    ]
    assert [clip["psnr"] for clip in clips] == pytest.approx(means)
    assert got["methods"]["output"]["average"]["psnr"] == pytest.approx(np.mean(means))
    assert got["methods"]["output"]["average"]["frames"] == 8


def test_16_bit_frames_are_compared_at_8_bit(tmp_path: Path) -> None:
    a = frames(1)[0]
    deep = (a.astype(np.int32) * 257 + np.random.default_rng(0).integers(-128, 129, a.shape)).clip(0, 65535)
    path = tmp_path / "deep.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "gbrp16le"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(deep.astype(np.uint16), "rgb48le")))
        container.mux(stream.encode(None))
    got = scores(tmp_path, folder(tmp_path / "hr", [a]), path)
    assert got["methods"]["output"]["average"] == {"psnr": None, "ssim": pytest.approx(1), "frames": 1, "identical": 1}


def test_the_table(tmp_path: Path) -> None:
    a, b = frames(3), frames(3, seed=1)
    b[1] = a[1]
    result = run(folder(tmp_path / "hr", a), folder(tmp_path / "sr", b), "--crop", 1)
    assert result.exit_code == 0
    psnr = np.mean([psnr_y(a[i], b[i], 1) for i in (0, 2)])
    ssim = np.mean([ssim_y(a[i], b[i], 1) for i in range(3)])
    assert "PSNR (dB) / SSIM on Y, border 1 px" in result.stdout
    row = next(line for line in result.stdout.splitlines() if "sr" in line)
    assert f"{psnr:.2f} / {ssim:.4f} (1 identical)" in row
    assert " 3 " in row


@pytest.mark.parametrize("degradation", DEGRADATIONS)
def test_a_model_beside_bicubic(tmp_path: Path, blocks: dict[str, Any], degradation: str) -> None:
    a = frames(3, height=33, width=49)  # not multiples of 2
    path = video(tmp_path / "clip.mkv", a)
    got = scores(tmp_path, "--model", "folder/net.pth", path, "--crop", 2, "--degradation", degradation)
    assert (blocks["name"], blocks["device"].type, blocks["dtype"]) == ("folder/net.pth", "cpu", torch.float32)
    assert blocks["lengths"] == [3]
    assert (got["scale"], got["degradation"], got["dtype"]) == (2, degradation, "float32")
    truth = [torch.from_numpy(p[:32, :48].copy()) for p in a]
    low = [degrade_frame(p, 2, degradation) for p in truth]  # type: ignore[arg-type]
    nearest = [p.repeat_interleave(2, 0).repeat_interleave(2, 1) for p in low]
    smooth = [bicubic_upscale_frame(p, 2) for p in low]
    assert list(got["methods"]) == ["bicubic", "net.pth"]
    for name, outputs in (("bicubic", smooth), ("net.pth", nearest)):
        (clip,) = got["methods"][name]["clips"]
        expected = [psnr_y(p, q, 2) for p, q in zip(truth, outputs, strict=True)]
        assert [f["psnr"] for f in clip["per_frame"]] == pytest.approx(expected, abs=1e-9)
        assert clip["name"] == "clip"


def test_the_vimeo_preset_mirrors_and_scores_the_centre(tmp_path: Path, blocks: dict[str, Any]) -> None:
    got = scores(tmp_path, "--model", "net", folder(tmp_path / "00001", frames(7)), "--preset", "vimeo")
    assert blocks["lengths"] == [14]
    for method in ("bicubic", "net"):
        (clip,) = got["methods"][method]["clips"]
        assert [f["frame"] for f in clip["per_frame"]] == [3]


def test_several_clips_of_a_model_have_an_average_row(tmp_path: Path, blocks: dict[str, Any]) -> None:
    inputs = [folder(tmp_path / name, frames(2, seed=seed)) for seed, name in enumerate(("one", "two"))]
    result = run("--model", "net", *inputs, "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [sum(word in line for line in lines) for word in ("one", "two", "average")] == [1, 1, 1]
    assert any("bicubic" in line and "net" in line and "clip" in line for line in lines)
    assert "PSNR (dB) / SSIM on Y, border 0 px, x2 bicubic" in result.stdout
    assert blocks["dtype"] == torch.bfloat16


def test_options_agree_with_the_library() -> None:
    assert {preset.value for preset in evaluate.Preset} == set(PRESETS)
    assert tuple(reduction.value for reduction in evaluate.Reduction) == DEGRADATIONS


def test_options_override_a_preset(tmp_path: Path) -> None:
    a = folder(tmp_path / "hr", frames(1))
    got = scores(tmp_path, a, a, "--preset", "reds4", "--channel", "y", "--crop", "3")
    assert got["protocol"] == {"channel": "y", "crop": 3, "centre_only": False, "mirrored": False}


def test_a_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    a, b = folder(tmp_path / "hr", frames(3)), folder(tmp_path / "sr", frames(3, seed=1))
    result = run(a, b, "--plot", tmp_path / "scores.png")
    assert result.exit_code == 0, result.output
    drawn = np.asarray(Image.open(tmp_path / "scores.png").convert("RGB"))
    assert drawn.shape[0] > 200
    assert (drawn != 255).any(-1).sum() > 1000
    assert run(a, b, "--plot", tmp_path / "scores.svg").exit_code == 0
    assert "PSNR in dB" in (tmp_path / "scores.svg").read_text() or (tmp_path / "scores.svg").stat().st_size > 1000
    fails_with = run(a, b, "--plot", tmp_path / "scores.xyz")
    assert fails_with.exit_code == 2
    assert "scores.xyz: a plot can be written as " in fails_with.stderr
    assert ", png, " in fails_with.stderr


def test_a_plot_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *arguments, **options)

    a = folder(tmp_path / "hr", frames(1))
    monkeypatch.setattr(builtins, "__import__", refuse)
    fails("a plot needs matplotlib: pip install matplotlib", a, a, "--plot", tmp_path / "scores.png")


def test_the_plotted_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = pytest.importorskip("matplotlib.figure", reason="plots need matplotlib")
    drawn = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, target, dpi: drawn.append(self))
    a, b = frames(3), frames(3, seed=1)
    b[1] = a[1]
    result = run(folder(tmp_path / "hr", a), folder(tmp_path / "sr", b), "--plot", tmp_path / "p.png")
    assert result.exit_code == 0, result.output
    psnr, ssim = (panel.lines[0].get_xydata() for panel in drawn[0].axes)
    assert psnr[:, 0].tolist() == [0, 1, 2]
    assert psnr[0, 1] == pytest.approx(psnr_y(a[0], b[0]))
    assert math.isnan(psnr[1, 1])  # equal frames have no PSNR to draw
    assert ssim[:, 1].tolist() == pytest.approx([ssim_y(p, q) for p, q in zip(a, b, strict=True)])


def test_bad_inputs(tmp_path: Path, blocks: dict[str, Any]) -> None:
    a, b = folder(tmp_path / "hr", frames(3)), folder(tmp_path / "sr", frames(2))
    fails("without --model, two inputs are compared (REFERENCE OUTPUT), got 1", a)
    fails("without --model, two inputs are compared (REFERENCE OUTPUT), got 3", a, a, b)
    fails(f"{tmp_path / 'no'}: no such file or folder", a, tmp_path / "no")
    fails(f"{b}: ends before frame 2, which {a} has", a, b)
    fails(
        f"{a}: has more frames than {b} (2 were compared); --frames picks the same range of both",
        *(b, a),
    )
    fails(f"{a}: frames 2:9 were asked for, but it has 3 frames", a, a, "--frames", "2:9")
    fails(
        "--frames: expected FIRST:STOP such as 150:165 (STOP is left out), got '5'",
        *(a, a, "--frames", "5"),
    )
    fails(
        "crop must be at least 0 and leave 11 pixels of each side, got 11 for 48x32 frames",
        *(a, a, "--crop", "11"),
    )
    small = folder(tmp_path / "small", frames(3, width=40))
    fails(
        f"frame 0: {a} is 48x32 but {small} is 40x32: only frames of one size can be compared",
        *(a, small),
    )
    fails(f"{tmp_path / 'no'}: no such folder to write to", a, a, "--json", tmp_path / "no" / "scores.json")
    fails("--device: expected auto, cpu, cuda or cuda:N, got 'tpu'", "--model", "net", a, "--device", "tpu")
    fails(
        "--dtype: expected auto, float32, bfloat16, float16, got 'int8'",
        *("--model", "net", a, "--dtype", "int8"),
    )
    assert not (tmp_path / "no").exists()


def test_bad_folders(tmp_path: Path) -> None:
    for name in ("000", "001"):
        folder(tmp_path / "hr" / name, frames(1))
    folder(tmp_path / "sr" / "000", frames(1))
    folder(tmp_path / "sr" / "002", frames(1))
    hr, sr = tmp_path / "hr", tmp_path / "sr"
    fails(f"{hr} and {sr} must hold the same clips; only one holds 001, 002", hr, sr)
    empty = tmp_path / "empty"
    empty.mkdir()
    result = run(empty, hr)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {empty}: holds neither images (.png ")
    video(sr / "002.mkv", frames(1))
    fails(f"{sr}: {sr / '002'} and {sr / '002.mkv'} would both be called 002", hr, sr)


def test_sample_clips_have_names(tmp_path: Path) -> None:
    result = run("clip:no-such", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: no clip is called 'no-such'; there are bbb, ")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = folder(tmp_path / "hr", frames(1))
    target = tmp_path / "out"
    target.mkdir()

    def write_text(self: Path, text: str, encoding: str) -> None:
        self.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", write_text)
    fails(f"{target / 'scores.json'}: no space left on the disk", a, a, "--json", target / "scores.json")
    assert list(target.iterdir()) == []


def test_a_failed_run_leaves_no_file(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "hr", frames(3)), folder(tmp_path / "sr", frames(2))
    target = tmp_path / "out"
    target.mkdir()
    assert run(a, b, "--json", target / "scores.json").exit_code == 2
    assert list(target.iterdir()) == []
