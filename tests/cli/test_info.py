"""``vsr info`` against what the libraries say themselves."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import av
import pytest
import torch
from typer.testing import CliRunner

import vsr_kernels
from vsr.cli import app, info


def facts(monkeypatch: pytest.MonkeyPatch, cache: Path) -> dict:
    monkeypatch.setenv("VSR_CACHE", str(cache))
    result = CliRunner().invoke(app, ["info", "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "weights").write_bytes(b"12345")
    got = facts(monkeypatch, tmp_path)
    assert got["versions"]["vsr_kernels"] == vsr_kernels.__version__
    assert got["versions"]["torch"] == torch.__version__
    assert got["versions"]["cuda"] == torch.version.cuda
    assert got["versions"]["av"] == av.__version__
    assert got["versions"]["python"] == platform.python_version()
    assert got["cache"] == {"folder": str(tmp_path), "bytes": 5}
    assert got["ffmpeg"]["libavcodec"] == ".".join(map(str, av.library_versions["libavcodec"]))
    assert got["cpu"]["cores"] == os.cpu_count()
    assert got["cpu"]["threads"] == torch.get_num_threads()
    assert len(got["gpus"]) == torch.cuda.device_count()


def test_every_backend_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    got = facts(monkeypatch, tmp_path / "not-there")
    assert set(got["backends"]) == set(vsr_kernels.backends())
    for name, state in vsr_kernels.backends().items():
        shown = got["backends"][name]
        assert shown == {
            "available": state.available,
            "operators": list(state.operators),
            "detail": state.detail,
        }
        assert shown["detail"]
    assert got["cache"]["bytes"] == 0


def test_cpu_features_agree_with_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    features = facts(monkeypatch, tmp_path)["cpu"]["features"]
    if not features:
        pytest.skip("this system does not list processor features in /proc/cpuinfo")
    assert features["AVX2"] == torch.cpu._is_avx2_supported()
    assert features["AVX-512"] == torch.cpu._is_avx512_supported()
    assert features["AVX512_VNNI"] == torch.cpu._is_vnni_supported()
    assert features["AVX512_BF16"] == torch.cpu._is_avx512_bf16_supported()


def test_text_holds_the_same_facts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    got = facts(monkeypatch, tmp_path)
    result = CliRunner().invoke(app, ["info"])
    assert result.exit_code == 0
    for value in (got["versions"]["torch"], got["cpu"]["name"], str(tmp_path), got["ffmpeg"]["libavformat"]):
        assert value in result.stdout
    lines = result.stdout[result.stdout.index("backends") :].splitlines()
    for name, state in got["backends"].items():
        line = next(line for line in lines if line.split()[:1] == [name])
        assert line.split()[1] == ("yes" if state["available"] else "no")
        assert state["detail"] in line


def test_text_of_a_machine_with_and_without_gpu() -> None:
    base = {
        "versions": {"cuda": None},
        "backends": {},
        "cpu": {
            "name": "CPU",
            "cores": 2,
            "threads": 1,
            "features": {"AVX2": True, "AMX_TILE": False},
            "kernels_isa": "x",
        },
        "gpus": [],
        "ffmpeg": {"libavcodec": "62.1.2"},
        "cache": {"folder": "/cache", "bytes": 70_400_000},
    }
    lines = info.report(base)
    assert "cuda         none" in lines
    assert "gpu          none that torch can use" in lines
    assert "  has        AVX2" in lines
    assert "  has not    AMX_TILE" in lines
    assert "cache        /cache (70 MB)" in lines
    gpu = {"name": "Big GPU", "compute_capability": "9.0", "memory_bytes": 80 * 2**30}
    assert "gpu          Big GPU, 80.0 GiB, compute capability 9.0" in info.report({**base, "gpus": [gpu]})
