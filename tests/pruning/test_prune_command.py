"""``vsr prune`` from the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from pruning.small import network
from vsr.cli import app
from vsr.models import Pruned, load_model, save_model


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "120"}).invoke(app, [str(a) for a in arguments], prog_name="vsr")
    return result.exit_code, result.output


@pytest.fixture(autouse=True)
def small_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are not what is tested here."""
    monkeypatch.setattr("vsr.pruning.report.HEIGHT", 16)
    monkeypatch.setattr("vsr.pruning.report.WIDTH", 24)


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    path = tmp_path / "dense.safetensors"
    save_model(network("bidirectional"), path)
    return path


def test_prune_report_and_upscale(dense: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    plot = tmp_path / "report.png"
    code, text = run(
        "prune", dense, out, "--ratio", 0.4, "--align", 2, "--clip", clips / "a", "--frames", "1:4", "--plot", plot
    )
    assert code == 0, text
    model = load_model(out)
    assert isinstance(model, Pruned)
    left = sum(map(len, model.kept.values()))
    total = sum(model.units.sizes.values())
    assert left == pytest.approx(0.6 * total, abs=2)
    assert re.search(rf"units\s+│\s+{total} │\s+{left} │", text)
    for words in ("backward_trunk.main.2.1", "ms per frame of 24x16, measured", "PSNR in dB by frame", str(out)):
        assert words in text
    assert plot.stat().st_size > 10_000
    code, text = run("upscale", clips / "b", tmp_path / "frames", "--model", out, "--quiet")
    assert code == 0, text
    assert len(list((tmp_path / "frames").iterdir())) == 6
    code, text = run("prune", out, tmp_path / "smaller.safetensors", "--align", 1)
    assert code == 0, text
    assert sum(map(len, load_model(tmp_path / "smaller.safetensors").kept.values())) == left // 2  # type: ignore[union-attr]


def test_with_a_recipe(dense: Path, clips: Path, tmp_path: Path) -> None:
    schedule = {
        "iterations": 2,
        "frames": 2,
        "clip_shares": [1.0],
        "stages": [{"crop": 8, "share": 1.0}],
        "batch": 1,
        "reference_batch": 1,
    }
    recipe = tmp_path / "recipe.yaml"
    content = {
        "data": {"train": [{"root": str(clips)}], "workers": 0},
        "finetune": {"schedule": schedule, "temporal": {"weight": 0.1}},
    }
    recipe.write_text(yaml.safe_dump(content))
    out = tmp_path / "small.safetensors"
    arguments = ("prune", dense, out, "finetune.schedule.lr=1.0e-3", "--recipe", recipe, "--align", 2)
    code, text = run(*arguments)
    assert code == 0, text
    first = load_model(out)
    assert (tmp_path / "small" / "finetune" / "final.safetensors").exists()
    out.unlink()
    code, text = run(*arguments)  # there is nothing left to train
    assert code == 0, text
    again = load_model(out).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ratio", "1.5"), "--ratio: Input should be less than 1"),
        (("--ratio", "0.5", "--gmacs", "3"), "expected one of ratio, gmacs and milliseconds, got ratio, gmacs"),
        (("--score", "scale"), "all scales are the same"),
        (("--run", "x"), "--run belong to --recipe"),
        (("--recipe", "nothing"), "neither a file nor a preset; there are basicvsr"),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...], message: str, dense: Path, tmp_path: Path) -> None:
    code, text = run("prune", dense, tmp_path / "small.safetensors", *arguments)
    assert code == 2
    assert message in text
    assert not (tmp_path / "small.safetensors").exists()
