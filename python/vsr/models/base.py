"""What every upscaler offers, whatever its architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

#: Factors of the pixel shuffles, one after the other, by the scale that they make.
SHUFFLES = {1: (), 2: (2,), 3: (3,), 4: (2, 2)}


class Upscaler(nn.Module, ABC):
    """A video or image super-resolution network.

    Frames are RGB in [0, 1], logical NCHW. A network computes in the dtype of its parameters (or of autocast) and
    answers in the dtype of its input: float32 frames through a bfloat16 network keep a float32 skip connection, which
    matters because bfloat16 cannot tell all 8-bit levels apart.

    Attributes:
        scale: Output height and width over those of the input.
        recurrent: False: ``forward`` takes frames (N, 3, H, W). True: clips (N, T, 3, H, W), and there is ``step``.
        receptive_field: Low-resolution pixels of halo after which the centre of a tile is exact; None: unbounded.
        planned: Paths of the methods that do most of the work per frame, which :func:`vsr_kernels.plan` can replay.
    """

    planned: tuple[str, ...] = ("forward",)
    scale: int
    recurrent: bool
    receptive_field: int | None

    @property
    @abstractmethod
    def config(self) -> dict[str, int | float | bool | str]:
        """The constructor arguments that rebuild this network."""


def add_skip(y: Tensor, skip: Tensor) -> Tensor:
    """``y + skip`` in the dtype of ``skip``, for where the skip could not be fused into the last convolution."""
    return skip + y.to(skip.dtype)


def enlarged(frames: Tensor, factor: int) -> Tensor:
    """Frames (N, C, H, W), channels_last, with every pixel as a block of ``factor`` x ``factor`` of them.

    What ``F.interpolate(..., mode="nearest")`` gives, which takes five times as long for three channels on a CPU: here
    columns are repeated in a small copy, and rows, which then are long, in the large one.
    """
    n, c, h, w = frames.shape
    columns = frames.permute(0, 2, 3, 1).unsqueeze(3).expand(n, h, w, factor, c).reshape(n, h, 1, w * factor * c)
    rows = columns.expand(n, h, factor, w * factor * c).reshape(n, h * factor, w * factor, c)
    return rows.permute(0, 3, 1, 2)


def fuses(skip: Tensor, weight: Tensor) -> bool:
    """Whether a convolution with ``weight`` can add ``skip`` without rounding it to a smaller dtype."""
    return skip.dtype == weight.dtype and not torch.is_autocast_enabled(skip.device.type)


def check_frames(owner: str, frames: Tensor, dims: int) -> None:
    """Refuses anything but non-empty floating (N, 3, H, W) or, with ``dims`` 5, (N, T, 3, H, W).

    Raises:
        TypeError, ValueError: naming what was expected and what was given.
    """
    layout = "(N, 3, H, W)" if dims == 4 else "(N, T, 3, H, W)"
    if not isinstance(frames, Tensor) or not frames.is_floating_point():
        given = frames.dtype if isinstance(frames, Tensor) else type(frames).__name__
        raise TypeError(f"{owner}: frames: expected a floating tensor {layout}, got {given}")
    if frames.dim() != dims or frames.shape[-3] != 3 or frames.numel() == 0:
        raise ValueError(f"{owner}: frames: expected a non-empty {layout}, got shape {tuple(frames.shape)}")
