"""What a network of some widths costs: units, multiplications, parameters, or time on this machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from vsr.models.units import Kept, UnitConv, Units
from vsr.pruning.latency import TimeTable

#: Kept units of each group.
Counts = Mapping[str, int]

#: The frame that figures are given for: 320x180, enlarged to 1280x720 by x4.
FRAME_PIXELS = 320 * 180


def counts_of(kept: Kept) -> dict[str, int]:
    """How many units of each group are kept."""
    return {group: len(numbers) for group, numbers in kept.items()}


class Cost(ABC):
    """A sum over the convolutions of a network, each a function of its widths.

    Args:
        units: The network's.
    """

    def __init__(self, units: Units) -> None:
        self.units = units
        self._touching: dict[str, list[UnitConv]] = {group: [] for group in units.sizes}
        for conv in units.convs:
            for group in (conv.inputs, conv.outputs):
                if group is not None:
                    self._touching[group].append(conv)

    @abstractmethod
    def of_conv(self, conv: UnitConv, inputs: int, outputs: int) -> float:
        """The part of one convolution with so many input channels and output units, both positive."""

    def total(self, counts: Counts) -> float:
        """The whole network's."""
        return sum(self._at(conv, counts) for conv in self.units.convs)

    def change(self, counts: Counts, group: str, count: int) -> float:
        """What the total changes by if a group gets another number of units."""
        after = {**counts, group: count}
        return sum(self._at(conv, after) - self._at(conv, counts) for conv in self._touching[group])

    def _at(self, conv: UnitConv, counts: Counts) -> float:
        inputs = conv.width_in if conv.inputs is None else counts[conv.inputs]
        outputs = conv.width_out if conv.outputs is None else counts[conv.outputs]
        return self.of_conv(conv, inputs, outputs) if inputs and outputs else 0.0


class UnitCount(Cost):
    """Kept units."""

    def of_conv(self, conv: UnitConv, inputs: int, outputs: int) -> float:
        """Those whose scales would belong to the convolution."""
        owns = conv.inputs is not None and self.units.owners[conv.inputs] is conv
        return (inputs if owns else 0) + (0 if conv.outputs is None else outputs)


class GigaMacs(Cost):
    """Billions of multiplications per frame of 320x180, without those of the optical flow."""

    def of_conv(self, conv: UnitConv, inputs: int, outputs: int) -> float:
        """Taps times widths times pixels."""
        return conv.taps * inputs * outputs * conv.repeat * conv.area * FRAME_PIXELS / 1e9


class Parameters(Cost):
    """Weights and biases, without those of the optical flow and of activations."""

    def of_conv(self, conv: UnitConv, inputs: int, outputs: int) -> float:
        """Its weights and biases."""
        return (conv.taps * inputs + 1) * outputs * conv.repeat


class Milliseconds(Cost):
    """Time of all convolutions per frame of 320x180 on this machine, without those of the optical flow.

    Args:
        units: The network's.
        table: Measured times.
    """

    def __init__(self, units: Units, table: TimeTable) -> None:
        super().__init__(units)
        self.table = table

    def of_conv(self, conv: UnitConv, inputs: int, outputs: int) -> float:
        """Measured for a picture of another size, in proportion to the pixels."""
        block = conv.path.rpartition(".")[0] in self.units.blocks
        kind = "point" if conv.taps == 1 else "shuffle" if conv.repeat > 1 else "conv"
        if block:
            kind = "gather" if conv.path.endswith("conv1") else "scatter"
        full = conv.width_in if kind == "gather" else conv.width_out
        pixels = FRAME_PIXELS * conv.area
        return self.table.seconds_per_pixel(kind, full, inputs, outputs, conv.repeat) * pixels * 1e3
