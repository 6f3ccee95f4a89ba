"""The network that runs, out of whatever a RepSR training run left."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from vsr.errors import UserError
from vsr.models import load_model
from vsr.models.base import Upscaler
from vsr.training.config import RepSRConfig, TrainConfig
from vsr.training.repsr import RepSRTraining
from vsr.training.state import read_state
from vsr.training.trainer import FINAL, STATE, build_model


def merged_network(path: Path) -> Upscaler:
    """The merged network of a checkpoint.

    Args:
        path: ``state.pt`` of a run, whose averaged weights are merged; its folder, which stands for that file; or any
            file that :func:`vsr.models.load_model` reads, in which nothing is left to merge.

    Returns:
        A network in eval mode.

    Raises:
        UserError: The file cannot be read, or is the state of a run of another kind of network.
    """
    path = path / STATE if path.is_dir() else path
    if path.name != STATE:
        return load_model(path)
    state = read_state(path)
    config = TrainConfig.model_validate_json(state["config"]).model
    if not isinstance(config, RepSRConfig):
        raise UserError(f"{path}: nothing to merge in the state of a {config.kind} network; use {FINAL} beside it")
    model = cast(RepSRTraining, build_model(config))
    model.load_state_dict(state["average"])
    return model.merged()
