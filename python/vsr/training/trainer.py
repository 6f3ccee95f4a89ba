"""The training loop: what the schedule says, step by step, resumable at any iteration.

Everything random is a function of the seed and the iteration, so a checkpoint holds the weights, their averages, the
optimizer and a number; a run that was killed goes on as if nothing had happened, bit for bit on a CPU.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from vsr.errors import UserError
from vsr.files import whole_file, writing
from vsr.models import EDSR, BasicVSR, QuantizedSRVGGNet, SRVGGNet, load_model, load_spynet, save_model
from vsr.models.base import Upscaler
from vsr.training.catalog import TrainingClip
from vsr.training.config import (
    CheckpointConfig,
    EDSRConfig,
    ModelConfig,
    OptimizerConfig,
    RepSRConfig,
    SRVGGConfig,
    SwitchConfig,
    TrainConfig,
)
from vsr.training.dataset import ClipDataset, ClipRequest, Sample, low_resolution
from vsr.training.distributed import Group
from vsr.training.extension import Extension
from vsr.training.repsr import (
    Reparameterised,
    RepBasicVSR,
    RepSRTraining,
    recomputed_statistics,
    synchronise_batch_norms,
)
from vsr.training.sampler import MultigridSampler
from vsr.training.schedule import Step
from vsr.training.state import read_state, write_state
from vsr.training.validation import Score, validate

#: Steps in a row without a finite gradient after which a run gives up.
MAX_BAD_STEPS = 20

_STATISTICS_EPOCH = 1 << 30  # no run gets there

STATE, BEST, FINAL, LOG = "state.pt", "best.safetensors", "final.safetensors", "log.jsonl"


class Progress(NamedTuple):
    """One finished step.

    Attributes:
        iteration: Its number, from 0.
        step: Shape and learning rate.
        loss: Mean over all ranks; NaN where the step was left out.
        share: Of the run's predicted cost that is done.
        left: Predicted seconds to the end of the run, from what this process has taken so far.
        took: Seconds of this step alone, waiting for its samples among them, validation and checkpoints not.
        scores: Of the validation after this step, by clip; empty where there was none.
    """

    iteration: int
    step: Step
    loss: float
    share: float
    left: float
    took: float
    scores: dict[str, Score]


def build_model(config: ModelConfig) -> Upscaler:
    """The network of a configuration: with fresh weights from torch's global random generator, or a checkpoint's."""
    if isinstance(config, CheckpointConfig):
        loaded = load_model(config.weights)
        if isinstance(loaded, QuantizedSRVGGNet):
            raise UserError(f"model.weights: {config.weights} is quantized, and cannot be trained")
        if loaded.scale != config.scale:
            raise UserError(f"model.scale: {config.weights} enlarges by {loaded.scale}, got {config.scale}")
        return loaded
    if isinstance(config, RepSRConfig):
        return RepSRTraining(config.num_block, config.num_feat, config.scale, config.block)
    if isinstance(config, SRVGGConfig):
        return SRVGGNet(config.num_feat, config.num_conv, config.scale, config.activation)
    if isinstance(config, EDSRConfig):
        return EDSR(config.num_feat, config.num_block, config.scale, config.res_scale)
    model = (RepBasicVSR if config.rep else BasicVSR)(
        config.num_feat,
        config.num_block,
        scale=config.scale,
        bidirectional=config.bidirectional,
        num_hr_feat=config.num_hr_feat,
    )
    if config.spynet is not None:
        model.spynet.load_state_dict(load_spynet(config.spynet).state_dict())
    return model


def reconstruction_loss(output: Tensor, target: Tensor, kind: str) -> Tensor:
    """Charbonnier or L1 distance, the mean over all values, in float32.

    Args:
        output, target: One shape, any.
        kind: ``charbonnier`` or ``l1``.
    """
    difference = output.float() - target.float()
    return (difference.square() + 1e-12).sqrt().mean() if kind == "charbonnier" else difference.abs().mean()


@dataclass
class _Parts:
    """What a checkpoint holds of a run."""

    iteration: int = 0
    best: float = -math.inf
    bad_steps: int = 0


class Trainer:
    """One training run.

    Args:
        config: The run.
        clips, validation: What :attr:`TrainConfig.data` names, opened.
        folder: Where checkpoints, weights and the log go; made if missing.
        group: This process among the others.
        extension: What the run does besides.

    Raises:
        UserError: The data do not fit the schedule, or the folder holds a run with another configuration.
    """

    def __init__(
        self,
        config: TrainConfig,
        clips: Sequence[TrainingClip],
        validation: Sequence[TrainingClip],
        folder: Path,
        group: Group,
        extension: Extension | None = None,
    ) -> None:
        self.config, self.group, self.folder = config, group, folder
        self._extension = extension or Extension()
        self._validation = list(validation)
        schedule, model = config.schedule, config.model
        for phase in schedule.phases:
            if phase.batch % (group.size * config.accumulate):
                raise UserError(
                    f"schedule: expected batches that {group.size} processes with accumulate {config.accumulate} "
                    f"share evenly, got one of {phase.batch}; schedule.batch_multiple sees to it"
                )
        self.dataset = ClipDataset(
            clips,
            scale=model.scale,
            frames=schedule.frames,
            crop=schedule.stages[-1].crop,
            degradation=config.data.degradation,
            mirror=config.data.mirror,
            flip=config.data.flip,
            seed=config.seed,
        )
        torch.manual_seed(config.seed)
        made = self._extension.prepare(build_model(model))
        self.model = made.to(group.device).to(memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        if group.size > 1:
            synchronise_batch_norms(self.model)
        groups = _groups(self.model, config.optimizer, self._extension)
        self.optimizer = torch.optim.Adam(groups, lr=0.0, betas=config.optimizer.betas, fused=True)
        self._parts = _Parts()
        self._network: nn.Module | None = None
        self._flow_moves: bool | None = None
        if group.leads:
            folder.mkdir(parents=True, exist_ok=True)
        group.wait()
        if (folder / STATE).exists():
            self._resume(folder / STATE)

    @property
    def iteration(self) -> int:
        """Iterations that are done."""
        return self._parts.iteration

    def run(self, on_step: Callable[[Progress], None] | None = None) -> None:
        """Train to the end of the schedule, from wherever the folder's checkpoint stands.

        Raises:
            UserError: The loss stays without a finite gradient, a sample cannot be read, or the disk is full; the last
                checkpoint stays whole.
        """
        schedule = self.config.schedule
        begin, done = time.monotonic(), schedule.cost_before(self.iteration)
        with ExitStack() as stack:
            ready = time.monotonic()
            for batch, step in zip(self._batches(stack), schedule.steps(self.iteration), strict=True):
                loss = self._step(batch, step)
                took = time.monotonic() - ready
                self._parts.iteration += 1
                scores = self._validate() if self._due(self.config.validate_every) else {}
                if self._due(self.config.save_every) or scores:
                    self._save()
                cost = schedule.cost_before(self.iteration)
                left = (time.monotonic() - begin) * (schedule.cost - cost) / (cost - done)
                progress = Progress(self.iteration - 1, step, loss, cost / schedule.cost, left, took, scores)
                self._log(progress)
                if on_step is not None:
                    on_step(progress)
                ready = time.monotonic()
        if self.group.leads:
            save_model(self._shipped(), self.folder / FINAL)

    def _due(self, every: int) -> bool:
        return self.iteration % every == 0 or self.iteration == self.config.schedule.length

    def _batches(self, stack: ExitStack) -> Iterator[Sample]:
        sampler = MultigridSampler(
            len(self.dataset),
            self.config.schedule,
            seed=self.config.seed,
            first=self.iteration,
            rank=self.group.rank,
            ranks=self.group.size,
        )
        loader = DataLoader(
            self.dataset,
            batch_sampler=sampler,
            num_workers=self.config.data.workers,
            pin_memory=self.group.device.type == "cuda",
        )
        return plain_errors(loader)

    # One step ---------------------------------------------------------------------------------------------------------

    def _step(self, batch: Sample, step: Step) -> float:
        """Loss of the step, the mean over all ranks; NaN where it was left out."""
        optimizer = self.config.optimizer
        self._switch_if_due(step)
        self._extension.before_step(self.model, self.iteration, step)
        network = self._network_for(step)
        lr, hr = low_resolution(batch, self.config.model.scale, self.config.data.degradation, self.group.device)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.group.device)
        parts = self.config.accumulate
        for i, (small, large) in enumerate(zip(lr.chunk(parts), hr.chunk(parts), strict=True)):
            with ExitStack() as stack:
                if isinstance(network, DistributedDataParallel) and i < parts - 1:
                    stack.enter_context(network.no_sync())
                half = self.config.dtype == "bfloat16"
                with torch.autocast(self.group.device.type, torch.bfloat16, enabled=half):
                    output = self._forward(network, small)
                fidelity = reconstruction_loss(output, self._as_output(large), optimizer.loss)
                loss = (fidelity + self._extension.penalty(self.model, small)) / parts
                loss.backward()
                total += loss.detach()
        if self.group.size > 1:
            torch.distributed.all_reduce(total)
            total /= self.group.size
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), optimizer.clip_norm or math.inf)
        if not torch.isfinite(norm + total):  # the same on all ranks, whose gradients and loss are averages
            return self._leave_out(step)
        self._parts.bad_steps = 0
        for group in self.optimizer.param_groups:
            group["lr"] = step.lr * group["factor"]
        self.optimizer.step()
        self._update_average(step.batch)
        return float(total)

    def _forward(self, network: nn.Module, lr: Tensor) -> Tensor:
        if self.model.recurrent:
            return cast(Tensor, network(lr))
        return cast(Tensor, network(lr.flatten(0, 1).contiguous(memory_format=torch.channels_last)))

    def _as_output(self, hr: Tensor) -> Tensor:
        return hr if self.model.recurrent else hr.flatten(0, 1)

    def _switch_if_due(self, step: Step) -> None:
        """The late switch to population statistics, which are computed anew for it."""
        model, config = self.model, self.config.model
        if not isinstance(model, Reparameterised) or model.population:
            return
        assert isinstance(config, SwitchConfig)
        if step.first_sample < config.switch * self.config.schedule.samples:
            return
        with torch.no_grad(), recomputed_statistics(model):
            for number in range(config.statistics_batches):
                self._forward(model, self._statistics_batch(number, step))
        self._count_with_population(model)
        self._network = None  # other parameters may have a gradient now

    def _count_with_population(self, model: Reparameterised) -> None:
        model.use_population(freeze_affine=cast(SwitchConfig, self.config.model).freeze_affine)
        average = cast(Reparameterised, self.average)
        average.use_population()
        average.requires_grad_(False)

    def _statistics_batch(self, number: int, step: Step) -> Tensor:
        """LR clips in the shape of the step, which no step trains on in just this cut; this rank's part."""
        rng = np.random.default_rng([self.config.seed, number])
        items = rng.integers(len(self.dataset), size=step.batch)[self.group.rank :: self.group.size]
        epoch = _STATISTICS_EPOCH + number
        requests = [ClipRequest(int(item), epoch, step.crop, step.frames) for item in items]
        batch = Sample(*(torch.stack(parts) for parts in zip(*map(self.dataset.__getitem__, requests), strict=True)))
        return low_resolution(batch, self.config.model.scale, self.config.data.degradation, self.group.device)[0]

    def _network_for(self, step: Step) -> nn.Module:
        """The model, ready for the step: SPyNet moves or not, compiled and distributed as configured."""
        moves = step.first_sample >= self.config.optimizer.flow_freeze
        if self._network is not None and moves == self._flow_moves:
            return self._network
        self._flow_moves = moves
        if isinstance(self.model, BasicVSR):
            self.model.spynet.requires_grad_(moves and self.config.optimizer.flow_factor > 0)
        network: nn.Module = self.model
        if self.config.compile:
            phases = len(self.config.schedule.phases)
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * phases)
            mode = self.config.compile if isinstance(self.config.compile, str) else None
            network = torch.compile(network, dynamic=False, mode=mode)  # type: ignore[assignment]
        if self.group.size > 1:
            # Made anew where parameters begin to move, so that it never looks for gradients that do not come.
            devices = [self.group.device] if self.group.device.type == "cuda" else None
            network = DistributedDataParallel(network, device_ids=devices)
        self._network = network
        return network

    def _leave_out(self, step: Step) -> float:
        self._parts.bad_steps += 1
        if self._parts.bad_steps >= MAX_BAD_STEPS:
            raise UserError(
                f"iteration {self.iteration}: no finite loss or gradient in {MAX_BAD_STEPS} steps (learning rate "
                f"{step.lr:.2g}); the last checkpoint is {self.folder / STATE}; lower schedule.lr, or set "
                "optimizer.clip_norm"
            )
        return math.nan

    @torch.no_grad()
    def _update_average(self, batch: int) -> None:
        # Per sample, so that the average reaches equally far back whatever the batch is.
        decay = self.config.optimizer.ema ** (batch / 8)
        for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
        for kept, buffer in zip(self.average.buffers(), self.model.buffers(), strict=True):
            kept.copy_(buffer)

    def _shipped(self) -> Upscaler:
        """The network that users get: the averaged weights, merged where there is something to merge."""
        if isinstance(self.average, Reparameterised):
            return self.average.merged()
        return self._extension.ship(self.average)

    # What is kept -----------------------------------------------------------------------------------------------------

    def _validate(self) -> dict[str, Score]:
        """Scores of the averaged weights; the best ones are kept. Every rank waits for the first."""
        scores: dict[str, Score] = {}
        if self.group.leads and self._validation:
            half = self.config.dtype == "bfloat16"
            model = self._shipped()
            scores = validate(model, self._validation, self.config.data.degradation, self.group.device, half=half)
            mean = sum(score.psnr for score in scores.values()) / len(scores)
            if mean > self._parts.best:
                self._parts.best = mean
                save_model(model, self.folder / BEST)
        self.group.wait()
        return scores

    def _save(self) -> None:
        if not self.group.leads:
            return
        write_state(
            self.folder / STATE,
            {
                "config": self.config.model_dump_json(),
                "extension": json.dumps(self._extension.settings()),
                "iteration": self.iteration,
                "best": self._parts.best,
                "bad_steps": self._parts.bad_steps,
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
        )

    def _resume(self, path: Path) -> None:
        state = read_state(path)
        old = json.loads(state["config"])
        with suppress(ValidationError):  # else the comparison says what this version does not know
            # Settings that came later have their defaults.
            old = TrainConfig.model_validate(old).model_dump(mode="json")
        check_same(old, self.config.model_dump(mode="json"), self.folder)
        check_same(json.loads(state.get("extension", "{}")), self._extension.settings(), self.folder)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if isinstance(self.model, Reparameterised) and self.model.population:
            self._count_with_population(self.model)
        self._parts = _Parts(state["iteration"], state["best"], state["bad_steps"])
        self._forget_lost_steps()

    def _forget_lost_steps(self) -> None:
        """Take out of the log what came after the checkpoint, and comes again."""
        path = self.folder / LOG
        if not (self.group.leads and path.exists()):
            return
        lines = [line for line in path.read_text().splitlines() if line.endswith("}")]  # the last one may be cut off
        kept = [line for line in lines if json.loads(line)["iteration"] < self.iteration]
        with whole_file(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))

    def _log(self, progress: Progress) -> None:
        if not self.group.leads:
            return
        line: dict[str, Any] = {"iteration": progress.iteration, **progress.step._asdict(), "loss": progress.loss}
        for name, score in progress.scores.items():
            line |= {f"psnr/{name}": score.psnr, f"ssim/{name}": score.ssim}
        path = self.folder / LOG
        with writing(path), path.open("a") as log:
            log.write(json.dumps(line) + "\n")


def plain_errors(samples: Iterable[Sample]) -> Iterator[Sample]:
    """The samples; what a worker process raises comes with its traceback, of which the sentence is left."""
    try:
        yield from samples
    except UserError as error:
        raise UserError(str(error).rpartition(f"{UserError.__name__}: ")[2].strip()) from error


def _groups(model: Upscaler, config: OptimizerConfig, extension: Extension) -> list[dict[str, Any]]:
    """Parameters with the factors of their learning rates."""
    flow = list(model.spynet.parameters()) if isinstance(model, BasicVSR) else []
    of_flow = {id(parameter) for parameter in flow}
    rest: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in of_flow:
            rest.setdefault(extension.rate(name), []).append(parameter)
    groups = [*rest.items(), *([(config.flow_factor, flow)] if flow else [])]
    return [{"params": parameters, "factor": factor} for factor, parameters in groups]


#: Settings that do not change what a run computes.
_FREE = {
    ("data", "workers"),
    ("validate_every",),
    ("save_every",),
    ("compile",),
    ("data", "validation"),
    ("data", "keep_images"),
}


def check_same(old: dict[str, Any], new: dict[str, Any], folder: Path, path: tuple[str, ...] = ()) -> None:
    """Refuse to continue a run with settings that would have changed what it computed.

    Args:
        old, new: Settings of the run in the folder and of this one, as JSON.
        folder: For the message.
        path: Names of the sections that these are part of.

    Raises:
        UserError: Naming the first setting that differs.
    """
    for key in sorted({*old, *new}):
        place = (*path, key)
        a, b = old.get(key), new.get(key)
        if place in _FREE or a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            check_same(a, b, folder, place)
            continue
        raise UserError(
            f"{folder}: holds a run with another configuration: {'.'.join(place)} was {a!r} and is now {b!r}; "
            "give another folder, or the same configuration to continue"
        )
