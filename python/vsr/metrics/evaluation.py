"""Scores of clips: one video against another, or a model against the frames it has to restore."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from vsr.data.degrade import Degradation, bicubic_upscale_frame, degrade_frame, mod_crop
from vsr.errors import UserError
from vsr.metrics.protocol import ClipScore, FrameScore, Protocol, average_frames, score_frame
from vsr.models import Upscaler

#: Enlarges the frames of one clip: (h, w, 3) uint8 in, (s * h, s * w, 3) uint8 out, one for each.
Method = Callable[[Sequence[Tensor]], Iterable[Tensor]]


@dataclass(frozen=True)
class FrameRange:
    """Frames ``start`` up to but not including ``stop`` of every clip; all frames from ``start`` without ``stop``."""

    start: int = 0
    stop: int | None = None

    @classmethod
    def parse(cls, text: str) -> FrameRange:
        """Read ``150:165``, ``150:`` or ``:15``.

        Raises:
            UserError: The text is something else, or the range is empty.
        """
        start, colon, stop = text.partition(":")
        try:
            result = cls(int(start or 0), int(stop) if stop else None)
        except ValueError:
            colon = ""
        if not colon or result.start < 0 or (result.stop is not None and result.stop <= result.start):
            raise UserError(f"--frames: expected FIRST:STOP such as 150:165 (STOP is left out), got {text!r}")
        return result

    def __str__(self) -> str:
        return f"{self.start}:{'' if self.stop is None else self.stop}"


@dataclass(frozen=True)
class Clip:
    """A sequence of frames.

    Attributes:
        name: Short name, which its scores go under and by which folders of clips are matched.
        source: Where it comes from, for messages.
        open: Starts the sequence anew; yields (H, W, 3) uint8.
    """

    name: str
    source: str
    open: Callable[[], Iterator[Tensor]]

    def frames(self, wanted: FrameRange) -> Iterator[tuple[int, Tensor]]:
        """The wanted frames with their positions in the clip.

        Raises:
            UserError: The clip ends before the wanted frames do.
        """
        index = -1
        for index, frame in enumerate(islice(self.open(), wanted.stop)):
            if index >= wanted.start:
                yield index, frame
        if index + 1 <= wanted.start or (wanted.stop is not None and index + 1 < wanted.stop):
            raise UserError(f"{self.source}: frames {wanted} were asked for, but it has {index + 1} frames")


@dataclass(frozen=True)
class ClipResult:
    """Scores of one clip by one method.

    Attributes:
        name: Name of the clip.
        frames: Score of each scored frame, by its position in the clip.
        score: Their average.
    """

    name: str
    frames: Mapping[int, FrameScore]
    score: ClipScore


def _result(name: str, frames: Mapping[int, FrameScore]) -> ClipResult:
    return ClipResult(name, frames, average_frames(list(frames.values())))


def _scored(indices: Sequence[int], protocol: Protocol) -> Sequence[int]:
    """Which frames the protocol looks at."""
    return [indices[len(indices) // 2]] if protocol.centre_only else indices


def compare_clips(reference: Clip, output: Clip, protocol: Protocol, wanted: FrameRange) -> ClipResult:
    """Score a clip against its reference, frame by frame; both are decoded as they are scored.

    Raises:
        UserError: The clips differ in length or size, or end before the wanted frames do.
    """
    scores: dict[int, FrameScore] = {}
    outputs = output.frames(wanted)
    for index, expected in reference.frames(wanted):
        _, got = next(outputs, (index, None))
        if got is None:
            raise UserError(f"{output.source}: ends before frame {index}, which {reference.source} has")
        if got.shape != expected.shape:
            sizes = [f"{frame.shape[1]}x{frame.shape[0]}" for frame in (expected, got)]
            raise UserError(
                f"frame {index}: {reference.source} is {sizes[0]} but {output.source} is {sizes[1]}: "
                "only frames of one size can be compared"
            )
        scores[index] = _score(expected, got, protocol)
    if next(outputs, None) is not None:
        raise UserError(
            f"{output.source}: has more frames than {reference.source} ({len(scores)} were compared); "
            "--frames picks the same range of both"
        )
    return _result(output.name, {index: scores[index] for index in _scored(list(scores), protocol)})


def _score(expected: Tensor, got: Tensor, protocol: Protocol) -> FrameScore:
    try:
        return score_frame(expected, got, protocol)
    except ValueError as error:  # too small for the crop and the window
        raise UserError(str(error)) from error


def evaluate_methods(
    clip: Clip,
    methods: Mapping[str, Method],
    *,
    scale: int,
    degradation: Degradation,
    protocol: Protocol,
    wanted: FrameRange,
) -> dict[str, ClipResult]:
    """Reduce a high-resolution clip, let every method enlarge it again, and score what comes back.

    Args:
        clip: High-resolution frames, held in memory; rows and columns beyond a multiple of ``scale`` are cut off first.
        methods: By name.
        scale: Factor of reduction and enlargement.
        degradation: How frames are reduced (and rounded to 8 bit).
        protocol: What is compared.
        wanted: Which frames there are, for the methods as for the scores.

    Returns:
        The scores by the names of the methods.

    Raises:
        UserError: The clip is too short or its frames are too small.
    """
    truth: dict[int, Tensor] = {}
    for index, frame in clip.frames(wanted):
        if min(frame.shape[:2]) < scale:
            raise UserError(f"{clip.source}: frames of {frame.shape[1]}x{frame.shape[0]} cannot be reduced by {scale}")
        truth[index] = mod_crop(frame, scale)
    low = [degrade_frame(frame, scale, degradation) for frame in truth.values()]
    scored = _scored(list(truth), protocol)
    results = {}
    for name, method in methods.items():
        outputs = zip(truth.items(), method(low), strict=True)
        scores = {index: _score(frame, got, protocol) for (index, frame), got in outputs if index in scored}
        results[name] = _result(clip.name, scores)
    return results


def bicubic_method(scale: int) -> Method:
    """MATLAB's bicubic, frame by frame: the baseline."""

    def enlarge(frames: Sequence[Tensor]) -> Iterator[Tensor]:
        return (bicubic_upscale_frame(frame, scale) for frame in frames)

    return enlarge


def model_method(model: Upscaler, *, mirrored: bool = False) -> Method:
    """A model over the whole clip at once, as the published figures are made; float32 in, 8 bit out.

    Args:
        model: In eval mode, on its device.
        mirrored: Let a recurrent model see the clip followed by its reverse, and average the two outputs of
            each frame.
    """

    @torch.inference_mode()
    def enlarge(frames: Sequence[Tensor]) -> Iterator[Tensor]:
        device = next(model.parameters()).device
        if not model.recurrent:
            for frame in frames:
                yield _to_8_bit(model(_to_float(frame, device)[None])[0])
            return
        clip = torch.stack([_to_float(frame, device) for frame in frames])[None]  # (1, T, 3, h, w)
        out = model(torch.cat([clip, clip.flip(1)], 1) if mirrored else clip)[0]
        for index in range(len(frames)):
            one = (out[index] + out[2 * len(frames) - 1 - index]) / 2 if mirrored else out[index]
            yield _to_8_bit(one)

    return enlarge


def _to_float(frame: Tensor, device: torch.device) -> Tensor:
    return frame.to(device).permute(2, 0, 1).float() / 255  # (3, h, w)


def _to_8_bit(planes: Tensor) -> Tensor:
    return (planes.float() * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu()
