"""Exported networks, run by the programs that they are for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from vsr.cli import app
from vsr.errors import UserError
from vsr.models import BasicVSR, SRVGGNet, load_model
from vsr.models.export import export_model

KINDS = [("prelu", 4), ("relu", 2), ("leakyrelu", 3), ("prelu", 1)]


def network(act_type: str, scale: int) -> SRVGGNet:
    torch.manual_seed(scale)
    model = SRVGGNet(12, 2, scale, act_type).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and "bias" not in name:
                parameter.uniform_(-0.5, 0.5)
    return model


def run_ncnn(param: Path, x: Tensor) -> Tensor:
    ncnn = pytest.importorskip("ncnn", reason="the ncnn package is not installed")
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    net.opt.num_threads = 1
    assert net.load_param(str(param)) == 0
    assert net.load_model(str(param.with_suffix(".bin"))) == 0
    extractor = net.create_extractor()
    extractor.input("data", ncnn.Mat(x[0].numpy()).clone())
    _, found = extractor.extract("output")
    made = torch.from_numpy(np.array(found).copy())[None]
    del found, extractor, net  # in this order: a Net that goes before its extractor takes the process down
    return made


def run_onnx(path: Path, x: Tensor) -> Tensor:
    runtime = pytest.importorskip("onnxruntime", reason="the onnxruntime package is not installed")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"frames": x.numpy()})
    return torch.from_numpy(made)


@pytest.mark.parametrize(("act_type", "scale"), KINDS)
@pytest.mark.parametrize("suffix", [".onnx", ".param"])
def test_other_programs_compute_the_same(suffix: str, act_type: str, scale: int, tmp_path: Path) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnx", reason="the onnx package is not installed")
    model, path = network(act_type, scale), tmp_path / f"net{suffix}"
    export_model(model, path)
    for size in ((17, 23), (8, 9)):
        x = torch.rand(1, 3, *size)
        with torch.no_grad():
            expected = model(x)
        made = run_onnx(path, x) if suffix == ".onnx" else run_ncnn(path, x)
        assert made.shape == expected.shape
        assert (made - expected).abs().max() < 1e-5


@pytest.mark.network
@pytest.mark.parametrize("suffix", [".onnx", ".param"])
def test_real_weights_on_a_real_frame(
    suffix: str, real_weights: Callable[[str], Path], real_frames: Callable[..., Tensor], tmp_path: Path
) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnx", reason="the onnx package is not installed")
    model = load_model(real_weights("animevideov3"))
    path = tmp_path / f"net{suffix}"
    export_model(model, path)
    x = real_frames("bikes", 150, 1)[..., 100:164, 200:300].contiguous()
    with torch.no_grad():
        expected = model(x)
    made = run_onnx(path, x) if suffix == ".onnx" else run_ncnn(path, x)
    assert (made - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("act_type", "scale"), KINDS)
@pytest.mark.parametrize("suffix", [".pth", ".param"])
def test_read_again(suffix: str, act_type: str, scale: int, tmp_path: Path) -> None:
    """The same outputs to the bit, from networks found by their tensors; ncnn has every activation as a PReLU."""
    if scale == 1 and suffix == ".param":
        pytest.skip("read_ncnn takes a shuffle by 1 for another network")
    model, path = network(act_type, scale), tmp_path / f"net{suffix}"
    export_model(model, path)
    x = torch.rand(1, 3, 9, 11)
    with torch.no_grad():
        if suffix == ".param" or act_type == "prelu":
            assert torch.allclose(load_model(path)(x), model(x), rtol=0, atol=1e-6)
        else:
            params = torch.load(path, weights_only=True)["params"]
            assert all(torch.equal(params[key], value) for key, value in model.state_dict().items())


def test_spandrel_reads_it(tmp_path: Path) -> None:
    spandrel = pytest.importorskip("spandrel", reason="the spandrel package is not installed")
    model, path = network("prelu", 4), tmp_path / "net.pth"
    export_model(model, path)
    loaded = spandrel.ModelLoader(device="cpu").load_from_file(path)
    assert loaded.architecture.id == "Compact" and loaded.scale == 4
    x = torch.rand(1, 3, 12, 10)
    with torch.no_grad():
        assert (loaded.model.eval()(x) - model(x)).abs().max() < 1e-5


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"only plain networks \(SRVGG, RepSR\) can be exported, not BasicVSR"):
        export_model(BasicVSR(4, 1), tmp_path / "net.onnx")
    with pytest.raises(UserError, match=r"expected a name that ends in \.onnx, \.param"):
        export_model(SRVGGNet(4, 1), tmp_path / "net.txt")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        export_model(SRVGGNet(4, 1), tmp_path / "nowhere" / "net.param")
    assert list(tmp_path.iterdir()) == []


def test_commands(tmp_path: Path) -> None:
    export_model(network("prelu", 2), tmp_path / "net.pth")
    done = CliRunner().invoke(app, ["export", str(tmp_path / "net.pth"), str(tmp_path / "net.param")])
    assert done.exit_code == 0 and (tmp_path / "net.bin").stat().st_size > 1000
    done = CliRunner().invoke(app, ["merge", str(tmp_path / "net.param"), str(tmp_path / "again.pth")])
    assert done.exit_code == 0
    first, second = (torch.load(tmp_path / name, weights_only=True)["params"] for name in ("net.pth", "again.pth"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    done = CliRunner().invoke(app, ["merge", str(tmp_path / "net.pth"), str(tmp_path / "again.onnx")])
    assert done.exit_code == 2
