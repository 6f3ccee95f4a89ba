"""Models small enough to run in milliseconds and simple enough to know their results by hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Nearest(nn.Module):
    """Repeats every pixel: the exact result is known without a model."""

    recurrent = False
    receptive_field = 0

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.scale, mode="nearest")


class SmallConv(nn.Module):
    """Two 3x3 convolutions and a pixel shuffle: a receptive field of two pixels."""

    scale = 2
    recurrent = False
    receptive_field = 2

    def __init__(self, receptive_field: int | None = 2) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.receptive_field = receptive_field
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x.to(self.first.weight.dtype)).relu())
        return F.pixel_shuffle(y, 2).to(x.dtype) + F.interpolate(x, scale_factor=2)


@dataclass
class MeanState:
    """A running mean of the frames."""

    feature: Tensor


class RunningMean(nn.Module):
    """Recurrent in one direction: returns the running mean of the frames, enlarged by repeating pixels."""

    recurrent = True
    receptive_field = None

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.decay = nn.Parameter(torch.tensor(0.75))

    def step(
        self, frames: Tensor, state: MeanState | None = None, *, keep: int | None = None
    ) -> tuple[Tensor, MeanState]:
        feature = torch.zeros_like(frames[:, 0]) if state is None else state.feature
        out = []
        for frame in frames[:, :keep].unbind(1):
            feature = feature * self.decay.to(frame.dtype) + frame * (1 - self.decay.to(frame.dtype))
            out.append(F.interpolate(feature, scale_factor=self.scale))
        return torch.stack(out, 1), MeanState(feature)


class MeanBothWays(RunningMean):
    """Half the running mean from the past, half that from the future as far as it is shown."""

    def step(
        self, frames: Tensor, state: MeanState | None = None, *, keep: int | None = None
    ) -> tuple[Tensor, MeanState]:
        past, state = super().step(frames, state, keep=keep)
        future, _ = super().step(frames.flip(1))
        return (past + future.flip(1)[:, :keep]) / 2, state


class Overflowing(Nearest):
    """Leaves the range of float16 where the picture is bright, and only there."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(60000.0))

    def forward(self, x: Tensor) -> Tensor:
        large = x.to(self.gain.dtype) * 2 * self.gain  # over 65504 from x = 0.55 on
        return super().forward((large / (2 * self.gain.float())).to(x.dtype))


class OverflowingMean(RunningMean):
    """The same for a recurrent model: its state overflows."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(60000.0))

    def step(
        self, frames: Tensor, state: MeanState | None = None, *, keep: int | None = None
    ) -> tuple[Tensor, MeanState]:
        low = None if state is None else MeanState(state.feature.float() / (2 * self.gain.float()))
        out, after = super().step(frames, low, keep=keep)
        return out, MeanState(after.feature.to(self.gain.dtype) * 2 * self.gain)


class Hungry(SmallConv):
    """Says that memory is out for pictures of more than ``limit`` pixels."""

    def __init__(self, limit: int, receptive_field: int | None = 2) -> None:
        super().__init__(receptive_field)
        self.limit = limit
        self.sizes: list[tuple[int, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] * x.shape[-2] > self.limit:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried {x.shape[-1]}x{x.shape[-2]}")
        return super().forward(x)


class HungryMean(RunningMean):
    """The same for a recurrent model, from the ``after``-th call on."""

    def __init__(self, limit: int, after: int) -> None:
        super().__init__()
        self.limit = limit
        self.after = after
        self.calls = 0

    def step(
        self, frames: Tensor, state: MeanState | None = None, *, keep: int | None = None
    ) -> tuple[Tensor, MeanState]:
        self.calls += 1
        if self.calls > self.after and frames.shape[-1] * frames.shape[-2] > self.limit:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")
        return super().step(frames, state, keep=keep)
