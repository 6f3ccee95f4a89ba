"""The network that runs, out of whatever a training run with RepSR blocks left."""

from __future__ import annotations

from pathlib import Path

from vsr.errors import UserError
from vsr.models import load_model
from vsr.models.base import Upscaler
from vsr.training.config import BasicVSRConfig, TrainConfig
from vsr.training.repsr import Reparameterised
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
    if isinstance(config, BasicVSRConfig):
        config = config.model_copy(update={"spynet": None})  # the state holds its weights
    model = build_model(config)
    if not isinstance(model, Reparameterised):
        raise UserError(f"{path}: nothing to merge in the state of a {config.kind} network; use {FINAL} beside it")
    model.load_state_dict(state["average"])
    return model.merged()
