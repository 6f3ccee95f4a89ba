"""The multigrid schedule: crop, clip length, batch and learning rate as a pure function of the iteration.

Space grows between stages, time grows inside a stage, from half the clip to the whole. A run that is resumed needs the
iteration number and nothing else, and every rank of a distributed run computes the same shapes.

Source: Lin, Wang, Qi, Shan, "Accelerating the Training of Video Super-Resolution Models", AAAI 2023 (arXiv 2205.05069):
small to large crops from stage to stage, clips of T/2, 3T/4 and T within a stage, a learning rate that is adapted when
shapes change, large minibatches. Its crop sizes, fractions and exact learning rates are not public; the defaults here
are this package's own.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]

#: What the stage of the full crop needs at least of a run: a recurrent network learns to propagate far there.
LEAST_FINAL_SHARE = 0.1


class Stage(BaseModel):
    """A part of the run in which the crop is fixed.

    Attributes:
        crop: Side of the square LR crop in pixels.
        share: Share of the run's samples.
        peak: Height of this stage's cosine relative to ``lr``, under the preset ``restart``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: Positive
    share: Fraction
    peak: Fraction = 1.0


class Phase(NamedTuple):
    """A part of a stage in which the whole shape is fixed.

    Attributes:
        stage: Number of the stage, from 0.
        crop: Side of the LR crop in pixels.
        frames: Length of the clips.
        batch: Clips per iteration, over all ranks.
        start, stop: First iteration, and the one after the last.
        first_sample: Samples that the run has seen before this phase.
    """

    stage: int
    crop: int
    frames: int
    batch: int
    start: int
    stop: int
    first_sample: int

    @property
    def iterations(self) -> int:
        """How many there are."""
        return self.stop - self.start

    @property
    def cost(self) -> int:
        """LR pixels of all iterations, to which the time of a convolutional network is proportional."""
        return self.iterations * self.batch * self.frames * self.crop**2


class Step(NamedTuple):
    """One iteration: what to train on, and how fast.

    Attributes:
        phase: Number of the phase, from 0.
        crop: Side of the LR crop in pixels.
        frames: Length of the clips.
        batch: Clips, over all ranks.
        lr: Learning rate.
        first_sample: Samples that the run has seen before this iteration.
    """

    phase: int
    crop: int
    frames: int
    batch: int
    lr: float
    first_sample: int


class MultigridSchedule(BaseModel):
    """Shapes and learning rate of a run.

    The length of a run is a number of samples, ``iterations * reference_batch``: a larger batch takes fewer iterations.

    Attributes:
        iterations: Iterations that the run would take at ``reference_batch``.
        stages: Spatial stages; crops grow, shares add up to 1. One stage with ``clip_shares`` (1,) is the usual
            training with one shape.
        frames: Length of the longest clips.
        clip_shares: Clip lengths within a stage as shares of ``frames`` (rounded up), growing to 1; each takes an equal
            share of the stage.
        batch: Clips per iteration, over all ranks, at the full shape.
        reference_batch: The batch for which ``iterations`` and ``lr`` are meant.
        batch_mode: ``constant``, or ``constant_cost``: smaller shapes take larger batches, so that every iteration
            costs the same (the rule of SlowFast's multigrid training).
        max_batch: Bound of the batch under ``constant_cost`` (memory); None for none.
        batch_multiple: Every batch is a multiple of it (the number of ranks, times micro-batches).
        lr: Learning rate at ``reference_batch``.
        final_lr: Where the cosines end.
        lr_preset: ``cosine``: one cosine over the run, whatever the shapes; ``restart``: a cosine per spatial stage
            with its ``peak``; ``rewarm``: one cosine, with a linear ramp of ``rewarm`` samples at every change of
            shape.
        lr_scaling: How the learning rate follows the batch: ``none``, ``linear`` or ``sqrt`` of batch /
            reference_batch.
        warmup: Samples of the linear ramp from 0 at the start of the run.
        rewarm: Samples of the ramps of the preset ``rewarm``.

    Raises:
        pydantic.ValidationError: a value that makes no schedule, named with the reason.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    iterations: Positive
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] = (
        Stage(crop=32, share=0.5),
        Stage(crop=48, share=0.3, peak=0.75),
        Stage(crop=64, share=0.2, peak=0.5),
    )
    frames: Positive = 15
    clip_shares: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.5, 0.75, 1.0)
    batch: Positive = 8
    reference_batch: Positive = 8
    batch_mode: Literal["constant", "constant_cost"] = "constant"
    max_batch: Positive | None = None
    batch_multiple: Positive = 1
    lr: Annotated[float, Field(gt=0)] = 2e-4
    final_lr: Annotated[float, Field(ge=0)] = 1e-7
    lr_preset: Literal["cosine", "restart", "rewarm"] = "restart"
    lr_scaling: Literal["none", "linear", "sqrt"] = "sqrt"
    warmup: Annotated[int, Field(ge=0)] = 0
    rewarm: Annotated[int, Field(ge=0)] = 4000

    @model_validator(mode="after")
    def _check(self) -> MultigridSchedule:
        total = sum(stage.share for stage in self.stages)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"stages: expected shares that add up to 1, got {total:g}")
        crops = [stage.crop for stage in self.stages]
        if any(b <= a for a, b in pairwise(crops)):
            raise ValueError(f"stages: expected crops that grow from stage to stage, got {crops}")
        shares = list(self.clip_shares)
        if shares[-1] != 1 or any(b <= a for a, b in pairwise(shares)):
            raise ValueError(f"clip_shares: expected shares that grow to 1, got {shares}")
        if self.batch % self.batch_multiple:
            raise ValueError(f"batch: expected a multiple of batch_multiple = {self.batch_multiple}, got {self.batch}")
        if self.max_batch is not None and self.batch_mode == "constant":
            raise ValueError("max_batch: expected none under batch_mode 'constant', which never changes the batch")
        if self.max_batch is not None and self.max_batch < self.batch:
            raise ValueError(f"max_batch: expected at least batch = {self.batch}, got {self.max_batch}")
        if self.final_lr > self.lr:
            raise ValueError(f"final_lr: expected at most lr = {self.lr:g}, got {self.final_lr:g}")
        if self.warmup >= self.samples:
            raise ValueError(f"warmup: expected less than the run's {self.samples} samples, got {self.warmup}")
        final = self.stages[-1].share
        if final < LEAST_FINAL_SHARE:
            raise ValueError(
                f"stages: expected at least {LEAST_FINAL_SHARE:.0%} of the run in the last, got {final:.0%}"
            )
        short = [phase for phase in self.phases if phase.iterations < 1]
        if short:
            raise ValueError(
                f"iterations: expected enough for at least one in every phase, but crop {short[0].crop} with "
                f"{short[0].frames} frames gets none of {self.iterations}"
            )
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> MultigridSchedule:
        """Another schedule, checked: pydantic's own copy would keep the phases of this one."""
        return type(self).model_validate({**self.model_dump(), **(update or {})})

    @property
    def samples(self) -> int:
        """Clips that the run sees."""
        return self.iterations * self.reference_batch

    @property
    def _lengths(self) -> list[int]:
        """Clip lengths of a stage; short clips may fall together."""
        return sorted({math.ceil(self.frames * share) for share in self.clip_shares})

    def _batch(self, crop: int, frames: int) -> int:
        if self.batch_mode == "constant":
            return self.batch
        full = self.batch * self.frames * self.stages[-1].crop ** 2
        bound = full // (frames * crop**2)
        if self.max_batch is not None:
            bound = min(bound, self.max_batch)
        return bound // self.batch_multiple * self.batch_multiple

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """All phases in order."""
        phases: list[Phase] = []
        start, seen, planned = 0, 0, 0.0
        for number, stage in enumerate(self.stages):
            for frames in self._lengths:
                planned += self.samples * stage.share / len(self._lengths)
                batch = self._batch(stage.crop, frames)
                # What rounding left over goes to the next phase.
                iterations = max(0, round((planned - seen) / batch))
                phases.append(Phase(number, stage.crop, frames, batch, start, start + iterations, seen))
                start += iterations
                seen += iterations * batch
        return tuple(phases)

    @property
    def length(self) -> int:
        """Iterations of the run."""
        return self.phases[-1].stop

    @property
    def cost(self) -> int:
        """LR pixels of the run, to which its time is proportional."""
        return sum(phase.cost for phase in self.phases)

    @property
    def speedup(self) -> float:
        """What the cost model predicts against the same samples at the full shape throughout."""
        return self.samples * self.frames * self.stages[-1].crop ** 2 / self.cost

    def cost_before(self, iteration: int) -> int:
        """LR pixels of the iterations before this one."""
        return sum(
            (min(iteration, phase.stop) - phase.start) * phase.batch * phase.frames * phase.crop**2
            for phase in self.phases
            if phase.start < iteration
        )

    def at(self, iteration: int) -> Step:
        """Shape and learning rate of an iteration, 0 to ``length - 1``.

        Raises:
            IndexError: no such iteration.
        """
        if not 0 <= iteration < self.length:
            raise IndexError(f"iteration: expected 0 to {self.length - 1}, got {iteration}")
        number = bisect_right(self._starts, iteration) - 1
        phase = self.phases[number]
        seen = phase.first_sample + (iteration - phase.start) * phase.batch
        return Step(number, phase.crop, phase.frames, phase.batch, self._lr(number, seen), seen)

    def steps(self, first: int = 0) -> Iterator[Step]:
        """The steps from iteration ``first`` to the end, in order."""
        return map(self.at, range(first, self.length))

    @cached_property
    def _starts(self) -> list[int]:
        return [phase.start for phase in self.phases]

    @cached_property
    def _stage_samples(self) -> list[int]:
        """Samples seen before each stage, and at the end."""
        counts = [
            sum(phase.iterations * phase.batch for phase in self.phases if phase.stage == number)
            for number in range(len(self.stages))
        ]
        return list(accumulate(counts, initial=0))

    def _lr(self, number: int, seen: int) -> float:
        phase = self.phases[number]
        begin, end, peak = 0, self._stage_samples[-1], 1.0
        if self.lr_preset == "restart":
            begin, end = self._stage_samples[phase.stage : phase.stage + 2]
            peak = self.stages[phase.stage].peak
        # Progress in samples, so that the curve does not depend on the batch.
        fall = (1 + math.cos(math.pi * (seen - begin) / (end - begin))) / 2
        lr = self.final_lr + (self.lr * peak - self.final_lr) * fall
        ramp = 1.0
        if seen < self.warmup:
            ramp = (seen + phase.batch) / (self.warmup + phase.batch)
        elif self.lr_preset == "rewarm" and number > 0 and seen - phase.first_sample < self.rewarm:
            ramp = (seen - phase.first_sample + phase.batch) / (self.rewarm + phase.batch)
        return lr * ramp * self._lr_factor(phase.batch)

    def _lr_factor(self, batch: int) -> float:
        ratio = batch / self.reference_batch
        return {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[self.lr_scaling]
