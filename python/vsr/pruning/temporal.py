"""Temporal Finetuning: the unpruned network's propagated features guide the pruned one's.

What pruning loses in a hidden state is carried on from frame to frame and grows. Residuals keep their full width, so
the hidden states of both networks compare channel by channel, without a projection.

Source: Xia et al., "Structured Sparsity Learning for Efficient Video Super-Resolution", CVPR 2023. Its code is not
public; loss, weights and annealing are this package's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vsr.errors import UserError
from vsr.models import BasicVSR
from vsr.models.base import Upscaler
from vsr.pruning.cut import dense_form
from vsr.training.extension import Extension
from vsr.training.schedule import Step
from vsr.training.trainer import reconstruction_loss


class TemporalConfig(BaseModel):
    """How the teacher guides.

    Attributes:
        weight: Of the features' distance beside that of the frames.
        growth: Frames weigh as this power of how far features have travelled to them; 0 for all the same.
        anneal: Share of the run at its end over which the weight falls to zero.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: Annotated[float, Field(gt=0)] = 0.5
    growth: Annotated[float, Field(ge=0)] = 0.5
    anneal: Annotated[float, Field(ge=0, le=1)] = 0.2

    def strength(self, share: float) -> float:
        """The weight when so much of the run is done, 0 to 1."""
        left = 1.0 - share
        return self.weight * (min(1.0, left / self.anneal) if self.anneal else 1.0)


def temporal_distance(student: Sequence[Tensor], teacher: Sequence[Tensor], growth: float) -> Tensor:
    """Charbonnier distance of features, in the order in which they were propagated; later ones weigh more.

    Args:
        student, teacher: T features (N, C, H, W) of one direction.
        growth: Feature k, counted from 1, weighs k^growth; the weights' mean is 1, so clips of any length compare.
    """
    weights = torch.arange(1, len(student) + 1, dtype=torch.float32) ** growth
    weights = weights / weights.mean()
    terms = [reconstruction_loss(a, b, "charbonnier") for a, b in zip(student, teacher, strict=True)]
    return torch.stack([w * term for w, term in zip(weights.tolist(), terms, strict=True)]).mean()


class TemporalGuide(Extension):
    """Adds the distance of propagated features to the loss of a run.

    Args:
        teacher: The unpruned network, frozen here.
        config: How it guides.
        samples: Of the whole run.
    """

    def __init__(self, teacher: Upscaler, config: TemporalConfig, samples: int) -> None:
        if not isinstance(teacher, BasicVSR):
            raise UserError(f"temporal: expected a BasicVSR, which propagates features, got {type(teacher).__name__}")
        dense, _ = dense_form(teacher)
        self._teacher = _Propagation(**dense.config)  # type: ignore[arg-type]
        self._teacher.load_state_dict(dense.state_dict())
        self._teacher.to(memory_format=torch.channels_last).requires_grad_(False).eval()
        self._config, self._samples = config, samples
        self._strength = 0.0
        self._theirs = _Record(self._teacher)
        self._ours: _Record | None = None

    def settings(self) -> dict[str, Any]:
        """How it guides."""
        return {"temporal": self._config.model_dump()}

    def before_step(self, model: Upscaler, iteration: int, step: Step) -> None:
        """Watch the network from the first step on, and take the weight of the step."""
        if self._ours is None:
            self._ours = _Record(_fitting(model, self._teacher))
            self._teacher.to(next(model.parameters()).device)
        self._strength = self._config.strength(step.first_sample / self._samples)
        self._ours.clear()

    def penalty(self, model: Upscaler, lr: Tensor) -> Tensor | float:
        """The distance of the features of both directions."""
        assert self._ours is not None
        if not self._strength:
            self._ours.clear()
            return 0.0
        with torch.no_grad():
            self._teacher(lr)
        pairs = zip(self._ours.clear(), self._theirs.clear(), strict=True)
        terms = [temporal_distance(ours, theirs, self._config.growth) for ours, theirs in pairs]
        return self._strength * torch.stack(terms).mean()


class _Propagation(BasicVSR):
    """A BasicVSR that only propagates: nobody looks at the frames of a teacher."""

    def _reconstruct(self, image: Tensor, features: list[Tensor]) -> Tensor:
        return image


class _Record:
    """What the trunks of a network return, in order."""

    def __init__(self, model: BasicVSR) -> None:
        trunks = [model.backward_trunk] if model.bidirectional else []
        self._features: list[list[Tensor]] = []
        for trunk in (*trunks, model.forward_trunk):
            self._features.append([])
            trunk.register_forward_hook(self._hook(len(self._features) - 1))

    def _hook(self, number: int) -> Any:
        def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
            self._features[number].append(output)

        return keep

    def clear(self) -> list[list[Tensor]]:
        """The features of each direction since the last call."""
        found, self._features = self._features, [[] for _ in self._features]
        return found


def _fitting(model: Upscaler, teacher: BasicVSR) -> BasicVSR:
    if isinstance(model, BasicVSR):
        ours, theirs = (
            {"num_feat": m.num_feat, "bidirectional": m.bidirectional, "scale": m.scale} for m in (model, teacher)
        )
        if ours == theirs:
            return model
        raise UserError(f"temporal: expected a network like the teacher, which has {theirs}, got one with {ours}")
    raise UserError(f"temporal: expected a BasicVSR, which propagates features, got {type(model).__name__}")
