"""Plain networks in int8: how close they come, their files, and ``vsr quantize``."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from vsr.cli import app
from vsr.errors import UserError
from vsr.models import EDSR, BasicVSR, PrunedSRVGGNet, QuantizedSRVGGNet, SRVGGNet, load_model, save_model
from vsr.models.units import units_of
from vsr.quantization import _fit, _grid, _rounded, psnr_between, quantize
from vsr.training.config import CheckpointConfig
from vsr.training.trainer import build_model
from vsr_kernels import plan


def picture(height: int, width: int, phase: float = 0.0) -> Tensor:
    """Waves of several lengths, which neighbouring pixels share as they do in real pictures."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [0.5 + 0.45 * np.sin(x * f + y * g + phase) for f, g in ((0.5, 0.1), (0.2, 0.4), (0.7, 0.3))]
    return torch.from_numpy(np.stack(waves)[None].astype(np.float32))


def network(act_type: str = "prelu", scale: int = 2, convs: int = 3, seed: int = 0) -> SRVGGNet:
    torch.manual_seed(seed)
    model = SRVGGNet(12, convs, scale, act_type)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.2, 0.2)
            elif parameter.dim() == 1:
                parameter.uniform_(-0.1, 0.5)
            elif name.startswith("body.0"):
                parameter.mul_(torch.logspace(-1, 1, 12)[:, None, None, None])  # channels of very different ranges
            else:
                parameter.mul_(1.5)
    return model.eval()


PATCHES = [picture(40, 48, phase) for phase in (0.0, 1.0, 2.0)]


@pytest.mark.parametrize(
    ("act_type", "scale", "convs"), [("prelu", 2, 3), ("relu", 4, 2), ("leakyrelu", 1, 1), ("prelu", 3, 0)]
)
def test_close_to_float(act_type: str, scale: int, convs: int) -> None:
    """On a picture that it has not seen, in every dtype of the first layer; the same when planned, and in tiles."""
    model = network(act_type, scale, convs)
    made = quantize(model, PATCHES)
    assert not made.training and (made.scale, made.receptive_field) == (scale, model.receptive_field)
    seen, other = picture(41, 47, 0.5), picture(33, 50, 4.0)
    scores = psnr_between(made, model, [seen, other])
    assert min(scores) > 45, scores
    assert psnr_between(made.to(torch.bfloat16), model, [seen])[0] > 42
    with torch.inference_mode():
        expected, planned = made(other), plan(made)
        for _ in range(3):
            assert torch.equal(planned(other), expected)
    assert planned.obstacle is None and planned.replays[0].allocating == {}
    assert expected.dtype == torch.float32


def test_fitting_beats_rounding_to_the_nearest() -> None:
    """Of sums of a convolution, whose inputs are rounded pictures seen through some filters."""
    torch.manual_seed(0)
    filters, weight = torch.randn(12, 3, 3, 3), torch.randn(8, 12, 3, 3) / 10
    exact = [F.conv2d(x, filters, padding=1).relu() * 30 for x in PATCHES]
    inputs = [x.round().clamp(max=255) for x in exact]
    sums = [F.conv2d(x, weight, padding=1) for x in exact]
    fitted = _fit(inputs, sums, weight)
    scale = weight.abs().amax((1, 2, 3), keepdim=True) / 127

    def error(kernel: Tensor, bias: Tensor | None = None) -> float:
        pairs = zip(inputs, sums, strict=True)
        return sum(float((F.conv2d(x, kernel, bias, padding=1) - y).square().mean()) for x, y in pairs)

    nearest = error((weight / scale).round() * scale)
    assert fitted.weight.dtype == torch.int8
    assert error(fitted.weight * fitted.scale[:, None, None, None], fitted.bias) < 0.5 * nearest


def test_rounding_as_a_whole() -> None:
    """The error seen through correlated inputs is less than that of each weight to its nearest integer; without
    correlation they are the same."""
    torch.manual_seed(0)
    inputs = torch.randn(200, 6, dtype=torch.float64) @ torch.randn(6, 24, dtype=torch.float64)
    square = inputs.T @ inputs / 200 + 0.01 * torch.eye(24, dtype=torch.float64)
    weights = torch.randn(5, 24, dtype=torch.float64) * 30

    def error(rounded: Tensor) -> float:
        return float(((rounded - weights) @ square * (rounded - weights)).sum())

    found = _rounded(weights, square)
    assert torch.equal(found, found.round()) and found.abs().max() <= 127
    assert error(found) < 0.5 * error(weights.round())
    assert torch.equal(_rounded(weights, torch.diag(square.diagonal())), weights.round())


def test_a_grid_has_a_level_for_all_that_was_seen() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(1, 5, 9, 9) * torch.tensor([1.0, 0.01, 5.0, 1.0, 0.0])[:, None, None] for _ in range(2)]
    for x in inputs:
        x[:, 3].clamp_(min=0)
    weight = torch.randn(3, 5, 3, 3)
    grid = _grid(inputs, weight)
    for x in inputs:
        back = grid.levels(x) * grid.quantum[:, None, None]
        assert bool(((back - x).abs() <= 0.5001 * grid.quantum[:, None, None]).all())
    beyond = grid.levels(inputs[0] * 3) + grid.zero
    assert (float(beyond.min()), float(beyond.max())) == (0, 255)
    positive = _grid([x.abs() for x in inputs], weight)
    assert positive.zero == 0
    nothing = _grid([torch.zeros(1, 5, 2, 2)], weight)
    assert bool(nothing.quantum.isfinite().all()) and bool((nothing.quantum > 0).all())


def test_files(tmp_path: Path) -> None:
    """Saved and loaded it computes the same; the file holds tensors and text."""
    for act_type in ("prelu", "leakyrelu"):
        made, path = quantize(network(act_type), PATCHES), tmp_path / f"{act_type}.safetensors"
        save_model(made, path)
        loaded = load_model(path)
        assert isinstance(loaded, QuantizedSRVGGNet)
        x = picture(9, 11)
        with torch.inference_mode():
            assert torch.equal(loaded(x), made(x))
            assert torch.equal(load_model(path, dtype=torch.bfloat16)(x), made.to(torch.bfloat16)(x))
        with safe_open(path, framework="pt") as file:
            assert file.metadata()["quantized_format"] == "1"
            assert file.get_tensor("body.1.weight").dtype == torch.int8


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({"quantized_format": "2"}, {}, "a quantized network in format 2; this version reads format 1"),
        ({"quantized_format": None}, {}, "a quantized network in format None"),
        ({"architecture": "Other"}, {}, "a quantized network of kind 'Other'; known is QuantizedSRVGGNet"),
        ({"num_feat": "many"}, {}, "its metadata do not describe a QuantizedSRVGGNet"),
        ({"num_conv": None}, {}, "its metadata do not describe a QuantizedSRVGGNet"),
        ({"num_conv": "2"}, {}, "does not fit QuantizedSRVGGNet: unexpected: body.3.slope, body.4.bias"),
        ({}, {"body.1.weight": torch.zeros(12, 12, 3, 3)}, "body.1.weight: expected torch.int8, got torch.float32"),
        ({}, {"body.1.zero_point": None}, "missing: body.1.zero_point"),
    ],
)
def test_files_that_are_wrong(
    metadata: dict[str, str | None], tensors: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    made = quantize(network(), PATCHES)
    path = tmp_path / "wrong.safetensors"
    text = {"architecture": "QuantizedSRVGGNet", "quantized_format": "1"} | {k: str(v) for k, v in made.config.items()}
    content = {key: value.contiguous() for key, value in made.state_dict().items()} | tensors
    save_file(
        {key: value for key, value in content.items() if value is not None},
        path,
        {key: value for key, value in (text | metadata).items() if value is not None},
    )
    with pytest.raises(UserError, match=re.escape(message)):
        load_model(path)


def test_other_devices_are_refused() -> None:
    with pytest.raises(UserError, match="runs on the CPU only, not on meta: use --device cpu"):
        QuantizedSRVGGNet(8, 1)(torch.zeros(1, 3, 4, 4, device="meta"))


# the command


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "120"}).invoke(app, [str(a) for a in arguments], prog_name="vsr")
    return result.exit_code, result.output


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Five frames of a moving pattern."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for t in range(5):
        image = (picture(40, 48, 0.3 * t)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{t}.png")
    return folder


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.safetensors"
    save_model(network(), path)
    return path


def test_the_command(plain: Path, clip: Path, tmp_path: Path) -> None:
    """Report and file; the file goes through ``vsr upscale`` like any other, and its pictures are close."""
    out = tmp_path / "int8.safetensors"
    code, text = run("quantize", plain, clip, out, "--frames", 2)
    assert code == 0, text
    found = re.search(r"PSNR to float32 on 2 frames that were not calibrated on: ([\d.]+) dB \(least ([\d.]+)\)", text)
    assert found and float(found[1]) >= float(found[2]) > 40
    times = re.search(r"48x40, \d+ threads, \w+: int8 [\d.]+ ms, (bfloat16 [\d.]+ ms, )?float32 [\d.]+ ms", text)
    assert times and str(out) in text
    for name, model in (("a", plain), ("b", out)):
        code, text = run("upscale", clip, tmp_path / name, "--model", model, "--dtype", "float32")
        assert code == 0, text
        assert ("int8 and float32 on cpu" in text) == (name == "b")
    for t in range(5):
        a, b = (np.asarray(Image.open(tmp_path / name / f"{t}.png")).astype(int) for name in ("a", "b"))
        assert np.abs(a - b).mean() < 1.5


def test_slower_is_said(plain: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for times, said in (({"int8": 2.0, "float32": 1.0}, True), ({"int8": 1.0, "float32": 2.0}, False)):
        monkeypatch.setattr("vsr.quantization.seconds_per_picture", lambda *_, times=times: times)
        code, text = run("quantize", plain, clip, tmp_path / "int8.safetensors", "--frames", 1)
        assert code == 0, text
        assert ("int8 is not faster than float32 on this CPU: use float32 here" in text) == said


def test_networks_that_cannot_be_quantized(plain: Path, clip: Path, tmp_path: Path) -> None:
    names = ("recurrent", "blocks", "pruned", "quantized")
    recurrent, blocks, pruned, quantized = (tmp_path / f"{name}.safetensors" for name in names)
    save_model(EDSR(8, 1), blocks)
    save_model(BasicVSR(8, 1), recurrent)
    save_model(PrunedSRVGGNet(units_of(network()).everything, 12, 3, 2), pruned)
    save_model(quantize(network(), PATCHES[:1]), quantized)
    out = tmp_path / "out.safetensors"
    for path, kind in (
        (recurrent, "recurrent"),
        (blocks, "no chain of convolutions"),
        (pruned, "pruned"),
        (quantized, "quantized already"),
    ):
        code, text = run("quantize", path, clip, out)
        assert code == 2
        assert f"expected a plain network (SRVGG or RepSR, not pruned), got one that is {kind}" in text
    assert not out.exists()


def test_other_commands_refuse_them(tmp_path: Path) -> None:
    path = tmp_path / "int8.safetensors"
    save_model(quantize(network(), PATCHES[:1]), path)
    code, text = run("prune", path, tmp_path / "small.safetensors")
    assert code == 2 and "or a plain network (SRVGG, RepSR), got QuantizedSRVGGNet" in text
    code, text = run("export", path, tmp_path / "net.onnx")
    assert code == 2 and "only plain networks (SRVGG, RepSR) can be exported, not QuantizedSRVGGNet" in text
    with pytest.raises(UserError, match="is quantized, and cannot be trained"):
        build_model(CheckpointConfig(kind="checkpoint", weights=str(path), scale=2))


def test_wrong_arguments(plain: Path, clip: Path, tmp_path: Path) -> None:
    for name in range(1, 5):
        (clip / f"{name}.png").unlink()
    out = tmp_path / "out.safetensors"
    for arguments, message in (
        ((plain, clip, tmp_path / "out.pth"), "expected a name that ends in .safetensors"),
        ((plain, clip, tmp_path / "nowhere" / "out.safetensors"), "no such folder to write to"),
        ((plain, clip, out), "expected at least two frames, one to calibrate on and one to check, got 1"),
        ((plain, tmp_path / "none", out), "no such file or folder"),
    ):
        code, text = run("quantize", *arguments)
        assert code == 2 and message in text, text
    assert not out.exists()
