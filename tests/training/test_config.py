"""Configurations: presets, overrides, and what a wrong key or value is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from vsr.cli import app
from vsr.errors import UserError
from vsr.training.config import PRESETS, TrainConfig, find_config, read_config

SMALL = """
model: {kind: srvgg, scale: 2, num_feat: 8, num_conv: 1}
data:
  train: [{root: clips}]
schedule: {iterations: 100}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize("name", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_presets(name: str) -> None:
    made = read_config(find_config(name))
    assert TrainConfig.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize("name", ["basicvsr-reds", "basicvsr-vimeo"])
def test_multigrid_presets(name: str) -> None:
    """They differ from the published recipe in nothing but shapes, and see as many samples."""
    fixed, multigrid = (read_config(find_config(preset)) for preset in (name, f"{name}-multigrid"))
    assert multigrid.schedule.samples == fixed.schedule.samples
    assert fixed.schedule.speedup == pytest.approx(1.0)
    assert multigrid.schedule.speedup == pytest.approx(2.6, abs=0.1)
    assert (multigrid.model, multigrid.data, multigrid.optimizer) == (fixed.model, fixed.data, fixed.optimizer)


def test_published_baseline() -> None:
    """BasicSR's and mmagic's recipe for BasicVSR on REDS."""
    made = read_config(find_config("basicvsr-reds"))
    first, middle, last = (made.schedule.at(i) for i in (0, 150_000, 299_999))
    assert (first.crop, first.frames, first.batch, first.lr) == (64, 15, 8, 2e-4)
    assert middle.lr == pytest.approx(1e-4, rel=1e-2)
    assert last.lr == pytest.approx(1e-7, rel=1e-2)
    assert made.optimizer.flow_freeze == 5000 * 8
    assert (made.optimizer.flow_factor, made.optimizer.betas, made.optimizer.ema) == (0.125, (0.9, 0.99), 0.999)
    assert made.data.train[0].leave_out == made.data.validation[0].only == ("000", "011", "015", "020")


def test_overrides(small: Path) -> None:
    made = read_config(small, ["schedule.batch=16", "optimizer.clip_norm=0.5", "data.validation=[{root: other}]"])
    assert (made.schedule.batch, made.optimizer.clip_norm, made.data.validation[0].root) == (16, 0.5, "other")
    assert read_config(small, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.bach=16", r"small\.yaml: schedule\.bach: no such key; did you mean batch\?"),
        ("model.num_block=3", r"model\.num_block: no such key; expected one of kind, scale, num_feat"),
        ("learning=1", r"learning: no such key"),
        ("data.train=[{rot: x}]", r"data\.train\.0\.root: missing"),
        ("data.train=[{root: x, only_: []}]", r"data\.train\.0\.only_: no such key; did you mean only\?"),
        ("schedule.batch=three", r"schedule\.batch: should be a valid integer.*, got 'three'"),
        ("schedule.batch=0", r"schedule\.batch: should be greater than 0, got 0"),
        ("schedule.stages=[{crop: 8, share: 0.5}]", r"schedule: stages: expected shares that add up to 1, got 0\.5"),
        ("model.kind=rcan", r"model: .*rcan.*does not match any of the expected tags: 'basicvsr', 'srvgg', 'edsr'"),
        ("data.train=[{root: x, frames: [5, 3]}]", r"frames: expected the first not after the last, got \[5, 3\]"),
        ("schedule.batch", r"schedule\.batch: expected key=value, such as schedule\.batch=16"),
        ("=3", r"=3: expected key=value"),
        ("seed.x=3", r"seed\.x=3: seed is not a section|seed: should be a valid integer"),
        ("seed=[", r"seed=\[: the value is not YAML"),
        ("compile=fast", r"compile: should be False, True or 'reduce-overhead', got 'fast'"),
        ("model={kind: basicvsr, switch: 0.5}", r"model: switch: has a meaning with rep: true only"),
    ],
)
def test_wrong_settings(small: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_config(small, [override])
    assert "\n" not in str(caught.value)


def test_what_is_compiled_is_bounded(small: Path) -> None:
    nine = "schedule={iterations: 1000}"
    assert len(read_config(small, [nine, "compile=true"]).schedule.phases) == 9
    twelve = "schedule={iterations: 1000, clip_shares: [0.4, 0.6, 0.8, 1.0]}"
    read_config(small, [twelve])
    with pytest.raises(UserError, match=r"compile: expected a schedule of at most 9 shapes, got 12"):
        read_config(small, [twelve, "compile=true"])
    with pytest.raises(UserError, match=r"compile: reduce-overhead cannot accumulate gradients, expected accumulate 1"):
        read_config(small, [nine, "compile=reduce-overhead", "accumulate=2"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "not YAML: while parsing"),
        ("- 1", "expected sections such as model, data and schedule"),
        ("", "expected sections such as"),
        ("model: {kind: srvgg}", "data: missing"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=rf"bad\.yaml: {message}"):
        read_config(path)
    with pytest.raises(UserError, match=r"none\.yaml: not a file that can be read"):
        read_config(tmp_path / "none.yaml")


def test_the_command_plans(tmp_path: Path) -> None:
    target = tmp_path / "plan.png"
    result = CliRunner().invoke(app, ["train", "basicvsr-reds-multigrid", "--plan", "--plot", str(target)])
    assert result.exit_code == 0, result.output
    assert "predicted 2.60 times as fast" in " ".join(result.output.split())
    assert target.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "error: nothing: neither a file nor a preset; there are basicvsr-reds, basicvsr-reds-multigrid"),
        (["basicvsr-reds", "schedule.bach=1"], "did you mean batch?"),
        (["basicvsr-reds", "--plot", "x.png"], "error: --plot draws the schedule that --plan shows: give both"),
        (["basicvsr-reds", "data.train=[{root: /nowhere}]"], "error: /nowhere: no such file or folder"),
    ],
)
def test_the_command_refuses(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["train", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_command_trains(small: Path, tmp_path: Path) -> None:
    from test_dataset import folder

    from vsr.models import load_model

    folder(tmp_path / "clips" / "a", 4, 48, 48)
    folder(tmp_path / "clips" / "b", 4, 48, 48)
    settings = [
        f"data.train=[{{root: {tmp_path / 'clips'}, leave_out: [b]}}]",
        f"data.validation=[{{root: {tmp_path / 'clips'}, only: [b], frames: [1, 2]}}]",
        "data.workers=0",
        "schedule={iterations: 2, batch: 2, reference_batch: 2, frames: 2, clip_shares: [1], "
        "stages: [{crop: 8, share: 1}]}",
    ]
    out = tmp_path / "run"
    result = CliRunner().invoke(app, ["train", str(small), *settings, "--out", str(out), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out / "final.safetensors")
    assert "b 1-2: " in result.stderr
    assert load_model(out / "final.safetensors").scale == 2
    wrong = [*settings, f"data.validation=[{{root: {tmp_path / 'clips'}, only: [c]}}]"]
    result = CliRunner().invoke(app, ["train", str(small), *wrong, "--out", str(out), "--device", "cpu"])
    assert "no clip is called 'c'; there are a, b and others" in result.stderr
