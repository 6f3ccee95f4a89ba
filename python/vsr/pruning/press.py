"""Growing regularisation: the units that are to go are pressed towards zero while the others take over, then cut.

Source: Wang, Qin, Zhang, Fu, "Neural Pruning via Growing Regularization", ICLR 2021, as Xia et al. use it in
"Structured Sparsity Learning for Efficient Video Super-Resolution", CVPR 2023.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from vsr.errors import UserError
from vsr.models import BasicVSR
from vsr.models.base import Upscaler
from vsr.pruning.cut import cut, dense_form
from vsr.pruning.scales import ScaledNetwork
from vsr.pruning.selection import SelectionConfig, choose
from vsr.training.extension import Extension
from vsr.training.schedule import Step

NotNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]


class PressConfig(BaseModel):
    """When and how hard units are pressed, as a function of the iteration.

    Attributes:
        settle: Iterations before units are picked, in which the scales only learn.
        every: Iterations between increases of the pressure.
        increase: What it grows by.
        limit: Where it stops; the gradient of a pressed scale is this times the scale.
        hold: Iterations at least at the limit, before units are picked anew and cut.
        scale_factor: Learning rate of the scales over that of the weights. Adam moves a scale by its learning rate at
            most, so a short run needs more than one to bring scales from one to zero without shaking trained weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settle: NotNegative = 0
    every: Positive = 5
    increase: Annotated[float, Field(gt=0)] = 1e-4
    limit: Annotated[float, Field(gt=0)] = 0.1
    hold: NotNegative = 0
    scale_factor: Annotated[float, Field(gt=0)] = 1.0

    @property
    def length(self) -> int:
        """Iterations that a run needs at least."""
        return self.settle + self.every * math.ceil(self.limit / self.increase) + self.hold

    def pressure(self, iteration: int) -> float:
        """What the pressed scales are multiplied by in their gradients."""
        if iteration < self.settle:
            return 0.0
        return min(self.limit, self.increase * (1 + (iteration - self.settle) // self.every))


class Press(Extension):
    """Trains a network with scales, and ships it cut.

    SPyNet stands still: flows that moved would hide what is lost.

    Args:
        config: Pressure.
        selection: What is to be left; picked when the pressure begins and again for the cut, as the scales then are.
        length: Iterations of the run.

    Raises:
        UserError: The run is too short.
    """

    def __init__(self, config: PressConfig, selection: SelectionConfig, length: int) -> None:
        if length < config.length:
            raise UserError(
                f"press: expected at least {config.length} iterations (settle, growth to the limit, hold), got {length}"
            )
        self._config, self._selection = config, selection
        self._pressure = 0.0

    def settings(self) -> dict[str, Any]:
        """Pressure and selection."""
        return {"press": self._config.model_dump(), "selection": self._selection.model_dump()}

    def prepare(self, model: Upscaler) -> ScaledNetwork:
        """The network with scales of one."""
        dense, present = dense_form(model)
        if isinstance(dense, BasicVSR):
            dense.spynet.requires_grad_(False)
        return ScaledNetwork(dense, present)

    def rate(self, name: str) -> float:
        """That of the scales is the configuration's."""
        return self._config.scale_factor if name.startswith("scales.") else 1.0

    def before_step(self, model: Upscaler, iteration: int, step: Step) -> None:
        """Pick units when it is time."""
        assert isinstance(model, ScaledNetwork)
        self._pressure = self._config.pressure(iteration)
        if iteration >= self._config.settle and not model.chosen:
            model.press(self._choose(model))

    def penalty(self, model: Upscaler, lr: Tensor) -> Tensor | float:
        """The pressure on the picked units."""
        assert isinstance(model, ScaledNetwork)
        return self._pressure * model.pressure() if self._pressure else 0.0

    def ship(self, average: Upscaler) -> Upscaler:
        """The network cut down to what its scales now say."""
        assert isinstance(average, ScaledNetwork)
        return cut(average.folded(), self._choose(average))

    def _choose(self, model: ScaledNetwork) -> dict[str, list[int]]:
        return choose(model.units, model.dense.state_dict(), model.factors, self._selection, model.kept)
