"""Pruning with training: press, cut and finetune, as a validated YAML file; resumable at any iteration."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vsr.errors import UserError
from vsr.files import whole_file
from vsr.models import load_model, save_model
from vsr.models.base import Upscaler
from vsr.models.units import units_of
from vsr.pruning.cut import cut, dense_form, unscaled
from vsr.pruning.press import Press, PressConfig
from vsr.pruning.selection import SelectionConfig, choose
from vsr.pruning.temporal import TemporalConfig, TemporalGuide
from vsr.training.config import CheckpointConfig, DataConfig, OptimizerConfig, TrainConfig, find_config, read_yaml
from vsr.training.extension import Extension
from vsr.training.run import train
from vsr.training.schedule import MultigridSchedule
from vsr.training.trainer import FINAL, Progress, check_same

PRESETS = Path(__file__).with_name("presets")
#: What a folder is for, and the network between the stages.
RUN, _CUT = "run.json", "cut.safetensors"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PressStage(_Section):
    """Training with scales before the cut.

    Attributes:
        schedule, optimizer: As in :class:`vsr.training.config.TrainConfig`.
        pressure: See :class:`vsr.pruning.press.PressConfig`.
    """

    schedule: MultigridSchedule
    optimizer: OptimizerConfig = OptimizerConfig()
    pressure: PressConfig = PressConfig()


class FinetuneStage(_Section):
    """Training of the pruned network.

    Attributes:
        schedule, optimizer: As in :class:`vsr.training.config.TrainConfig`.
        temporal: Temporal Finetuning; None for the frames' loss alone.
    """

    schedule: MultigridSchedule
    optimizer: OptimizerConfig = OptimizerConfig()
    temporal: TemporalConfig | None = None


class Recipe(_Section):
    """How a network is trained while and after it is pruned.

    Attributes:
        data: Clips.
        press: Stage before the cut; None cuts the network as it is.
        finetune: Stage after the cut; None ships what was cut.
        seed, dtype, accumulate, validate_every, save_every: As in :class:`vsr.training.config.TrainConfig`.
    """

    data: DataConfig
    press: PressStage | None = None
    finetune: FinetuneStage | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    accumulate: Annotated[int, Field(gt=0)] = 1
    validate_every: Annotated[int, Field(gt=0)] = 5000
    save_every: Annotated[int, Field(gt=0)] = 1000

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.press is None and self.finetune is None:
            raise ValueError("expected press, finetune or both")
        return self

    def stage(self, stage: PressStage | FinetuneStage, weights: str, scale: int) -> TrainConfig:
        """The training run of a stage that begins with a checkpoint."""
        own = {"press", "finetune"}
        model = CheckpointConfig.model_validate({"kind": "checkpoint", "weights": weights, "scale": scale})
        shared = {name: getattr(self, name) for name in type(self).model_fields if name not in own}
        return TrainConfig(model=model, schedule=stage.schedule, optimizer=stage.optimizer, **shared)


def read_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a YAML file, or a preset by name.

    Args:
        name: A file, or one of the package's presets.
        overrides: As for :func:`vsr.training.config.read_config`.

    Raises:
        UserError: The file cannot be read, or a key or value is wrong.
    """
    return read_yaml(find_config(name, PRESETS), overrides, Recipe)


def prune(model: Upscaler, selection: SelectionConfig) -> Upscaler:
    """A network cut down as it is, without training.

    Raises:
        UserError: A network that cannot be pruned, or so far.
    """
    dense, present = dense_form(model)
    units = units_of(dense)
    return cut(dense, choose(units, dense.state_dict(), unscaled(units), selection, present))


def prune_and_train(
    name: str,
    selection: SelectionConfig,
    recipe: Recipe,
    folder: Path,
    *,
    device: torch.device | None = None,
    on_step: Callable[[str, Progress], None] | None = None,
) -> Upscaler:
    """A network pruned and trained; a folder that holds a run of the same settings is continued.

    Args:
        name: The dense network, for :func:`vsr.models.load_model`.
        selection: What is to be left.
        recipe: How it is trained.
        folder: Where the stages keep their checkpoints; made if missing.
        device: Where to compute; None for a GPU, or the CPU where there is none.
        on_step: Called with the name of the stage after every step.

    Raises:
        UserError: The folder holds another run, a stage fails (see :func:`vsr.training.run.train`), or torchrun started
            several processes: stages follow each other in one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("pruning runs in one process: start it without torchrun")
    _claim(folder, {"model": name, "selection": selection.model_dump(), **recipe.model_dump(mode="json")})
    teacher = load_model(name)

    def run(stage: str, config: TrainConfig, extension: Extension) -> Path:
        report = None if on_step is None else lambda progress: on_step(stage, progress)
        train(config, folder / stage, device=device, on_step=report, extension=extension)
        return folder / stage / FINAL

    start = folder / _CUT
    if recipe.press is not None:
        config = recipe.stage(recipe.press, name, teacher.scale)
        start = run("press", config, Press(recipe.press.pressure, selection, config.schedule.length))
    elif not start.exists():
        save_model(prune(teacher, selection), start)
    if recipe.finetune is None:
        return load_model(start)
    config = recipe.stage(recipe.finetune, str(start), teacher.scale)
    guide = recipe.finetune.temporal
    extension = Extension() if guide is None else TemporalGuide(teacher, guide, config.schedule.samples)
    return load_model(run("finetune", config, extension))


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Note what a folder is for, or make sure that it is for this."""
    path = folder / RUN
    if path.is_file():
        check_same(json.loads(path.read_text()), json.loads(json.dumps(settings)), folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=2))
