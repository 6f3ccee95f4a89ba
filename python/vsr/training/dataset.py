"""Samples for training: windows of clips, cut and turned at random, whose shape comes with the request."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vsr.data.degrade import DEGRADATIONS, Degradation, degrade_frame
from vsr.errors import UserError
from vsr.training.catalog import TrainingClip
from vsr.training.frames import Frames

#: LR pixels around a crop that its degradation can reach.
MARGIN = 3

# How each degradation continues an image beyond its border, in NumPy's words.
_BORDERS = {"bicubic": "symmetric", "bd": "edge", "bd-duf": "reflect"}


class ClipRequest(NamedTuple):
    """One sample: which, and in what shape. Everything random about it follows from ``(seed, epoch, item)``.

    Attributes:
        item: Number of the data set's item.
        epoch: Times that the data set was gone through before.
        crop: Side of the LR crop in pixels.
        frames: Length of the clip.
        tries: How many others may stand in, one after the other, if it cannot be read.
    """

    item: int
    epoch: int
    crop: int
    frames: int
    tries: int = 4


class Sample(NamedTuple):
    """A sample, or a batch of them, on its way to the device.

    Attributes:
        hr: (..., T, s * S, s * S, 3) uint8; with :data:`MARGIN` LR pixels more on each side where ``lr`` is empty.
        lr: (..., T, S, S, 3) uint8; empty where it is made of ``hr``.
    """

    hr: Tensor
    lr: Tensor


class ClipDataset(Dataset[Sample]):
    """Windows of clips.

    A clip counts as many items as it holds disjoint windows of ``frames`` frames, at least one; an item's window
    begins anywhere in its clip. For a sample that cannot be read another one stands in, with a warning.

    Args:
        clips: See :func:`vsr.training.catalog.find_clips`.
        scale: HR over LR.
        frames: Length of the longest window that will be asked for.
        crop: Side of the largest LR crop that will be asked for, in pixels.
        degradation: How LR is made of HR, on the device by :func:`low_resolution`; unused where clips come with LR.
        mirror: Follow each clip by itself in reverse, as short clips (Vimeo-90K's 7 frames) are trained on.
        flip: Flip horizontally and vertically, transpose, and reverse in time, each in half of the samples; LR is made
            of the result.
        seed: Of everything random.

    Raises:
        UserError: A clip is too small or too short, LR and HR do not fit, or some clips come with LR and others do not.
    """

    def __init__(
        self,
        clips: Sequence[TrainingClip],
        *,
        scale: int,
        frames: int,
        crop: int,
        degradation: Degradation = "bicubic",
        mirror: bool = False,
        flip: bool = True,
        seed: int = 0,
    ) -> None:
        if degradation not in DEGRADATIONS:
            raise UserError(f"degradation: expected one of {', '.join(DEGRADATIONS)}, got {degradation!r}")
        if not clips:
            raise UserError("clips: expected at least one, got none")
        self.clips = list(clips)
        self.scale = scale
        self.degradation: Degradation = degradation
        self.mirror = mirror
        self.flip = flip
        self.seed = seed
        for clip in self.clips:
            self._check(clip, frames, crop)
        if len({clip.lr is None for clip in self.clips}) > 1:
            raise UserError("clips: expected low resolution for all of them or for none, got some of each")
        self._items = [i for i, clip in enumerate(self.clips) for _ in range(max(1, clip.count // frames))]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, request: ClipRequest) -> Sample:
        try:
            return self._sample(request)
        except UserError as error:
            if request.tries == 0:
                raise
            warnings.warn(f"{error}; another sample stands in", stacklevel=1)
        another = np.random.default_rng([self.seed, *request]).integers(len(self))
        return self[request._replace(item=int(another), tries=request.tries - 1)]

    def _sample(self, request: ClipRequest) -> Sample:
        rng = np.random.default_rng([self.seed, request.epoch, request.item])
        clip = self.clips[self._items[request.item]]
        order = self._window(clip, request.frames, rng)
        lr_height, lr_width = clip.hr.shape[1] // self.scale, clip.hr.shape[2] // self.scale
        top = int(rng.integers(lr_height - request.crop + 1))
        left = int(rng.integers(lr_width - request.crop + 1))
        turns = rng.random(3) < 0.5 if self.flip else np.zeros(3, bool)
        margin = MARGIN if clip.lr is None else 0
        hr = self._read(clip.hr, order, top, left, request.crop, margin, self.scale)
        lr = np.zeros((0,), np.uint8)
        if clip.lr is not None:
            lr = _turn(self._read(clip.lr, order, top, left, request.crop, 0, 1), turns)
        return Sample(torch.from_numpy(_turn(hr, turns)), torch.from_numpy(lr))

    def _check(self, clip: TrainingClip, frames: int, crop: int) -> None:
        _, height, width = clip.hr.shape
        if min(height, width) < crop * self.scale:
            side = crop * self.scale
            raise UserError(f"{clip.name}: expected at least {side}x{side} pixels for LR crops of {crop} at "
                            f"x{self.scale}, got {width}x{height}")  # fmt: skip
        if clip.count * (1 + self.mirror) < frames:
            hint = "" if self.mirror or 2 * clip.count < frames else " (mirroring would double them)"
            raise UserError(f"{clip.name}: expected at least {frames} frames, got {clip.count}{hint}")
        if clip.lr is not None and clip.lr.shape[1:] != (height // self.scale, width // self.scale):
            _, h, w = clip.lr.shape
            raise UserError(f"{clip.name}: expected {width // self.scale}x{height // self.scale} pixels at low "
                            f"resolution for {width}x{height} at x{self.scale}, got {w}x{h}")  # fmt: skip

    def _window(self, clip: TrainingClip, frames: int, rng: np.random.Generator) -> list[int]:
        """Numbers of the frames to read, in the order of the sample."""
        order = list(range(clip.first, clip.first + clip.count))
        if self.mirror:
            order += order[::-1]
        start = int(rng.integers(len(order) - frames + 1))
        window = order[start : start + frames]
        return window[::-1] if self.flip and rng.random() < 0.5 else window

    def _read(
        self, source: Frames, order: Sequence[int], top: int, left: int, crop: int, margin: int, scale: int
    ) -> NDArray[np.uint8]:
        """A crop of LR pixels (top, left) and size ``crop``, at ``scale`` pixels each, with ``margin`` around it.

        What the margin needs beyond the image continues it as the degradation would.
        """
        height, width = source.shape[1] // scale * scale, source.shape[2] // scale * scale
        y0, y1 = (top - margin) * scale, (top + crop + margin) * scale
        x0, x1 = (left - margin) * scale, (left + crop + margin) * scale
        inside = (max(y0, 0), max(x0, 0), min(y1, height) - max(y0, 0), min(x1, width) - max(x0, 0))
        frames = np.stack([source.read(frame, *inside) for frame in order])
        beyond = [(0, 0), (max(-y0, 0), max(y1 - height, 0)), (max(-x0, 0), max(x1 - width, 0)), (0, 0)]
        return np.pad(frames, beyond, mode=_BORDERS[self.degradation])  # type: ignore[call-overload]


def _turn(frames: NDArray[np.uint8], turns: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(T, S, S, 3), flipped left to right, upside down, and transposed, as ``turns`` says."""
    if turns[0]:
        frames = frames[:, :, ::-1]
    if turns[1]:
        frames = frames[:, ::-1]
    if turns[2]:
        frames = frames.transpose(0, 2, 1, 3)
    return np.ascontiguousarray(frames)


def low_resolution(batch: Sample, scale: int, degradation: Degradation, device: torch.device) -> tuple[Tensor, Tensor]:
    """What the network is trained on, made on the device: LR of HR, to 8 bits as data sets store it.

    Args:
        batch: Samples stacked along a new first dimension.
        scale, degradation: Those of the data set.
        device: Where the result shall be.

    Returns:
        LR (N, T, 3, S, S) and HR (N, T, 3, s * S, s * S), float32 in [0, 1].
    """
    hr, lr = batch.hr.to(device, non_blocking=True), batch.lr.to(device, non_blocking=True)
    if lr.shape[-1] == 0:
        lr = degrade_frame(hr, scale, degradation, margin=MARGIN)
        m = MARGIN * scale
        hr = hr[..., m:-m, m:-m, :]
    return _planes(lr), _planes(hr)


def _planes(frames: Tensor) -> Tensor:
    return frames.movedim(-1, -3).to(torch.float32) / 255
