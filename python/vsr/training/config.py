"""What a training run is made of, as a validated YAML file."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vsr.errors import UserError
from vsr.training.schedule import MultigridSchedule

#: Shapes that a run compiles its network for at most: three crops with three clip lengths each.
MAX_COMPILED = 9

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SwitchConfig(_Section):
    """How a network with blocks of branches ends its training: on its merged kernels.

    Attributes:
        switch: Share of the run's samples after which batch norms use population statistics.
        statistics_batches: Batches from which those are computed at the switch.
        freeze_affine: Whether the batch norms' scales and shifts stand still from then on.
    """

    switch: Annotated[float, Field(gt=0, le=1)] = 0.8
    statistics_batches: Positive = 50
    freeze_affine: bool = False


class BasicVSRConfig(SwitchConfig):
    """A :class:`vsr.models.BasicVSR`.

    Attributes:
        spynet: Weights of the optical flow network: a name or file for :func:`vsr.models.load_spynet`; None for random.
        rep: Whether RepSR blocks stand in the trunks while it trains
            (:class:`vsr.training.repsr.RepBasicVSR`); what is saved is merged, and plain.
    """

    kind: Literal["basicvsr"]
    scale: Literal[1, 2, 3, 4] = 4
    num_feat: Positive = 64
    num_block: NotNegative = 30
    bidirectional: bool = True
    num_hr_feat: Positive = 64
    spynet: str | None = "basicvsr-vimeo-bi"
    rep: bool = False

    @model_validator(mode="after")
    def _check(self) -> BasicVSRConfig:
        for name, field in SwitchConfig.model_fields.items():
            if not self.rep and getattr(self, name) != field.default:
                raise ValueError(f"{name}: has a meaning with rep: true only")
        return self


class SRVGGConfig(_Section):
    """A :class:`vsr.models.SRVGGNet`."""

    kind: Literal["srvgg"]
    scale: Literal[1, 2, 3, 4] = 4
    num_feat: Positive = 64
    num_conv: NotNegative = 16
    activation: Literal["prelu", "relu", "leakyrelu"] = "prelu"


class EDSRConfig(_Section):
    """A :class:`vsr.models.EDSR`."""

    kind: Literal["edsr"]
    scale: Literal[1, 2, 3, 4] = 4
    num_feat: Positive = 64
    num_block: NotNegative = 16
    res_scale: Annotated[float, Field(gt=0)] = 1.0


class RepSRConfig(SwitchConfig):
    """A :class:`vsr.training.repsr.RepSRTraining`; what is saved is the merged network.

    Attributes:
        num_block, num_feat: M4C16 is 4 blocks of 16 channels.
        block: ``repsr``, or one of those it is compared with.
    """

    kind: Literal["repsr"]
    scale: Literal[1, 2, 3, 4] = 4
    num_feat: Positive = 16
    num_block: Positive = 4
    block: Literal["repsr", "plain", "ecb", "repvgg", "sesr"] = "repsr"


class CheckpointConfig(_Section):
    """A trained network to go on from.

    Attributes:
        weights: A name or file for :func:`vsr.models.load_model`, pruned networks included.
        scale: What it enlarges by.
    """

    kind: Literal["checkpoint"]
    weights: str
    scale: Literal[1, 2, 3, 4] = 4


ModelConfig = BasicVSRConfig | SRVGGConfig | EDSRConfig | RepSRConfig | CheckpointConfig


class ClipsConfig(_Section):
    """Clips from one place.

    Attributes:
        root: A folder or a video file, or ``clip:NAME`` for one of :data:`vsr.data.clips.CLIPS`.
        lr_root, annotation: See :func:`vsr.training.catalog.find_clips`.
        only, leave_out: Names of the clips that count, or that do not; empty for all, or none.
        frames: First and last frame of each clip that count, both included; None for all.
    """

    root: str
    lr_root: Path | None = None
    annotation: Path | None = None
    only: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    frames: tuple[NotNegative, NotNegative] | None = None

    @model_validator(mode="after")
    def _check(self) -> ClipsConfig:
        if self.frames is not None and self.frames[1] < self.frames[0]:
            raise ValueError(f"frames: expected the first not after the last, got {list(self.frames)}")
        return self


class DataConfig(_Section):
    """What is trained and validated on.

    Attributes:
        train, validation: Clips; validation runs over whole clips and may be empty.
        degradation: How LR is made of HR.
        mirror: Train on each clip followed by its reverse.
        flip: Flip, transpose and reverse at random.
        keep_images: Decode folders of images once and keep the frames in the user's cache folder, three bytes a pixel;
            videos always are.
        workers: Processes that read samples; 0 reads in the training process.
    """

    train: Annotated[tuple[ClipsConfig, ...], Field(min_length=1)]
    validation: tuple[ClipsConfig, ...] = ()
    degradation: Literal["bicubic", "bd", "bd-duf"] = "bicubic"
    mirror: bool = False
    flip: bool = True
    keep_images: bool = False
    workers: NotNegative = 4


class OptimizerConfig(_Section):
    """How the weights move. Learning rates are the schedule's.

    Attributes:
        betas: Of Adam.
        loss: ``charbonnier`` (sqrt(d^2 + 1e-12)) or ``l1``, averaged over all values, so that it does not depend on
            the shape.
        flow_factor: Learning rate of SPyNet over that of the rest.
        flow_freeze: Samples for which SPyNet stands still at the start.
        ema: Decay of the averaged weights per 8 samples; 0 for none.
        clip_norm: Bound of the gradient's norm; None for none.
    """

    betas: tuple[float, float] = (0.9, 0.99)
    loss: Literal["charbonnier", "l1"] = "charbonnier"
    flow_factor: Annotated[float, Field(ge=0)] = 0.125
    flow_freeze: NotNegative = 40_000
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    clip_norm: Annotated[float, Field(gt=0)] | None = None


class TrainConfig(_Section):
    """A training run.

    Attributes:
        model, data, schedule, optimizer: Its parts.
        seed: Of the initial weights and the samples.
        dtype: ``float32``, or ``bfloat16`` for autocast.
        accumulate: Parts that a batch is computed in, one after the other, to save memory.
        compile: Compile the network with ``torch.compile``, once for each of the schedule's shapes, of which there may
            be nine; ``reduce-overhead`` replays them as CUDA graphs, which is that function's mode of the name.
        validate_every, save_every: Iterations between validations and between checkpoints.
    """

    model: Annotated[ModelConfig, Field(discriminator="kind")]
    data: DataConfig
    schedule: MultigridSchedule
    optimizer: OptimizerConfig = OptimizerConfig()
    seed: NotNegative = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    accumulate: Positive = 1
    compile: Literal[False, True, "reduce-overhead"] = False
    validate_every: Positive = 5000
    save_every: Positive = 1000

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        shapes = {(phase.crop, phase.frames, phase.batch) for phase in self.schedule.phases}
        if self.compile and len(shapes) > MAX_COMPILED:
            raise ValueError(f"compile: expected a schedule of at most {MAX_COMPILED} shapes, got {len(shapes)}")
        if self.compile == "reduce-overhead" and self.accumulate > 1:
            # A replay writes over the gradients of the one before, which PyTorch does not notice
            # (https://github.com/pytorch/pytorch/issues/96693).
            raise ValueError("compile: reduce-overhead cannot accumulate gradients, expected accumulate 1")
        return self


Config = TypeVar("Config", bound=BaseModel)

PRESETS = Path(__file__).with_name("presets")


def find_config(name: str, presets: Path = PRESETS) -> Path:
    """The file of that name, or the preset.

    Args:
        name: What a user calls it.
        presets: Their folder.

    Raises:
        UserError: Neither exists.
    """
    path, preset = Path(name), presets / f"{name}.yaml"
    if path.is_file() or path.suffix or path.parent != Path():
        return path
    if not preset.is_file():
        known = ", ".join(sorted(p.stem for p in presets.glob("*.yaml")))
        raise UserError(f"{name}: neither a file nor a preset; there are {known}")
    return preset


def read_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration of a training run from a YAML file; see :func:`read_yaml`."""
    return read_yaml(path, overrides, TrainConfig)


def read_yaml(path: Path, overrides: Sequence[str], kind: type[Config]) -> Config:
    """A configuration from a YAML file.

    Args:
        path: The file.
        overrides: ``section.key=value`` with a YAML value, such as ``schedule.batch=16``; applied in order.
        kind: What the file describes.

    Raises:
        UserError: The file cannot be read, or a key or value is wrong; the message names it, and the nearest valid key.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a file that can be read ({error})") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        first, second, third, *_ = kind.model_fields
        raise UserError(f"{path}: expected sections such as {first}, {second} and {third}")
    for override in overrides:
        _override(content, override)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error, content, kind)}") from error


_KINDS: dict[int | str, type[_Section]] = {
    "basicvsr": BasicVSRConfig,
    "srvgg": SRVGGConfig,
    "edsr": EDSRConfig,
    "repsr": RepSRConfig,
    "checkpoint": CheckpointConfig,
}


def _override(content: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"{text}: expected key=value, such as schedule.batch=16")
    *sections, last = key.split(".")
    place: Any = content
    for section in sections:
        place = place.setdefault(section, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise UserError(f"{text}: {'.'.join(sections)} is not a section")
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"{text}: the value is not YAML") from error


def _explain(error: ValidationError, content: dict[str, Any], kind: type[BaseModel]) -> str:
    """The first complaint in one line: where, what was expected, what was given, which key may have been meant."""
    first = error.errors()[0]
    # A tagged union puts the tag into the path.
    parts = [part for part in first["loc"] if part not in _KINDS]
    where = ".".join(str(part) for part in parts)
    if first["type"] == "extra_forbidden":
        valid = _keys(parts[:-1], content, kind)
        near = difflib.get_close_matches(str(parts[-1]), valid, 1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(valid)}"
        return f"{where}: no such key; {hint}"
    if first["type"] == "missing":
        return f"{where}: missing"
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return f"{where}: {message}, got {first['input']!r}" if first["type"] != "value_error" else f"{where}: {message}"


def _keys(sections: Sequence[int | str], content: dict[str, Any], kind: type[BaseModel]) -> list[str]:
    """Valid keys of a section."""
    model: Any = kind
    for section in sections:
        if isinstance(section, int):
            continue
        if section == "model":
            model = _KINDS[content["model"]["kind"]]
            continue
        model = _section_type(model.model_fields[section].annotation)
    return list(model.model_fields)


def _section_type(annotation: Any) -> Any:
    """The model inside tuple[Model, ...] and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(_section_type(part) for part in annotation.__args__ if part is not Ellipsis)
