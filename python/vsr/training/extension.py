"""What a training run can do beyond bringing outputs close to targets."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vsr.models.base import Upscaler
from vsr.training.schedule import Step


class Extension:
    """Hooks of :class:`vsr.training.trainer.Trainer`; this one does nothing.

    Whatever changes during a run belongs into parameters and buffers of the network, which checkpoints hold; all else
    has to be a function of the iteration.
    """

    def settings(self) -> dict[str, Any]:
        """What a run must have in common with the checkpoint that it continues, as JSON."""
        return {}

    def prepare(self, model: Upscaler) -> Upscaler:
        """The network that is trained, made of the one of the configuration."""
        return model

    def rate(self, name: str) -> float:
        """Learning rate of a parameter of that network over the schedule's."""
        return 1.0

    def before_step(self, model: Upscaler, iteration: int, step: Step) -> None:
        """Called with the network before every step."""

    def penalty(self, model: Upscaler, lr: Tensor) -> Tensor | float:
        """What is added to the loss of the clips (N, T, 3, H, W) that the network was just given."""
        return 0.0

    def ship(self, average: Upscaler) -> Upscaler:
        """The network that users get of the averaged weights: in eval mode, for validation and for files."""
        return average
