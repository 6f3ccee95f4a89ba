"""TensorBoard logs, read back with TensorBoard's own reader."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vsr.cli import app
from vsr.errors import UserError
from vsr.training.config import TrainConfig
from vsr.training.run import train
from vsr.training.trainer import Progress

CPU = torch.device("cpu")


def config(root: Path) -> TrainConfig:
    rng = np.random.default_rng(0)
    (root / "clips" / "a").mkdir(parents=True)
    for t in range(3):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(root / "clips" / "a" / f"{t}.png")
    clips = [{"root": str(root / "clips")}]
    return TrainConfig.model_validate(
        {
            "model": {"kind": "srvgg", "scale": 2, "num_feat": 4, "num_conv": 1},
            "data": {"train": clips, "validation": clips, "workers": 0},
            "schedule": {
                "iterations": 6,
                "frames": 2,
                "clip_shares": (1.0,),
                "stages": [{"crop": 6, "share": 0.5}, {"crop": 8, "share": 0.5}],
                "batch": 2,
                "reference_batch": 2,
            },
            "validate_every": 3,
        }
    )


def test_curves_and_pictures(tmp_path: Path) -> None:
    """Of a run that was interrupted: the step that was lost and came again counts once."""
    pytest.importorskip("tensorboard", reason="TensorBoard is an extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = config(tmp_path)
    steps: list[Progress] = []

    def stop(progress: Progress) -> None:
        steps.append(progress)
        if progress.iteration == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "run", device=CPU, on_step=stop, tensorboard=True)
    del steps[3:]  # after the checkpoint
    train(made, tmp_path / "run", device=CPU, on_step=steps.append, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()

    def curve(label: str) -> list[float]:
        found = events.Scalars(label)
        assert [point.step for point in found] == list(range(6))
        return [point.value for point in found]

    assert curve("loss") == pytest.approx([step.loss for step in steps])
    assert curve("learning rate") == pytest.approx([step.step.lr for step in steps])
    shapes = zip(*(curve(f"shape/{name}") for name in ("crop", "frames", "batch")), strict=True)
    assert list(shapes) == [(step.step.crop, 2, 2) for step in steps]
    assert curve("throughput/clips per second") == pytest.approx([2 / step.took for step in steps], rel=1e-5)
    pixels = [2 * 2 * step.step.crop**2 / 1e6 for step in steps]
    speeds = [size / step.took for size, step in zip(pixels, steps, strict=True)]
    assert curve("throughput/LR megapixels per second") == pytest.approx(speeds, rel=1e-5)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for name in ("psnr", "ssim"):
        scores = events.Scalars(f"{name}/a")
        assert [(score.step, pytest.approx(score.value)) for score in scores] == [
            (i, log[i][f"{name}/a"]) for i in (2, 5)
        ]
    pictures = events.Images("a: bicubic, output, truth")
    assert [picture.step for picture in pictures] == [2, 5]
    image = np.asarray(Image.open(io.BytesIO(pictures[-1].encoded_image_string)))
    assert image.shape == (24, 3 * 32, 3)
    assert np.array_equal(image[:, 64:], np.asarray(Image.open(tmp_path / "clips" / "a" / "1.png")))
    assert torch.equal(torch.from_numpy(image.copy()), steps[-1].scores["a"].picture)


def test_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"^TensorBoard logs need tensorboard: pip install tensorboard$"):
        train(config(tmp_path), tmp_path / "run", device=CPU, tensorboard=True)
    assert not (tmp_path / "run").exists()
    result = CliRunner().invoke(app, ["train", "basicvsr-reds", "--tensorboard"])
    assert (result.exit_code, result.stderr) == (
        2,
        "error: TensorBoard logs need tensorboard: pip install tensorboard\n",
    )
