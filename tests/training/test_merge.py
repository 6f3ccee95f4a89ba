"""Merging what a run left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vsr.errors import UserError
from vsr.models import load_model, save_model
from vsr.training.config import TrainConfig
from vsr.training.merge import merged_network
from vsr.training.repsr import RepSRTraining
from vsr.training.state import write_state
from vsr.training.trainer import build_model


def config(model: dict[str, object]) -> TrainConfig:
    clips = [{"root": "clip:bikes"}]
    schedule = {"iterations": 100}
    return TrainConfig.model_validate({"model": model, "data": {"train": clips}, "schedule": schedule})


def test_state_of_a_run(tmp_path: Path) -> None:
    """The averaged weights, not the current ones."""
    made = config({"kind": "repsr", "num_block": 2, "num_feat": 8, "scale": 2})
    average = build_model(made.model)
    assert isinstance(average, RepSRTraining)
    state = {
        "config": made.model_dump_json(),
        "average": average.state_dict(),
        "model": build_model(made.model).state_dict(),
    }
    write_state(tmp_path / "state.pt", state)
    x = torch.rand(1, 3, 9, 10)
    with torch.no_grad():
        for path in (tmp_path, tmp_path / "state.pt"):
            assert torch.equal(merged_network(path)(x), average.merged()(x))
            assert torch.allclose(merged_network(path)(x), average.eval()(x), rtol=0, atol=1e-5)
    save_model(average.merged(), tmp_path / "final.safetensors")
    assert torch.equal(merged_network(tmp_path / "final.safetensors")(x), load_model(tmp_path / "final.safetensors")(x))


def test_nothing_to_merge(tmp_path: Path) -> None:
    made = config({"kind": "basicvsr", "num_feat": 8, "num_block": 1, "scale": 4})
    write_state(tmp_path / "state.pt", {"config": made.model_dump_json(), "average": {}})
    with pytest.raises(UserError, match="nothing to merge in the state of a basicvsr network"):
        merged_network(tmp_path)
    (tmp_path / "state.pt").write_bytes(b"x")
    with pytest.raises(UserError, match="not a checkpoint"):
        merged_network(tmp_path)
