"""Which frames a recurrent model sees together.

The forward direction carries its state through a whole shot, so it does not notice how the shot is cut up. The
backward direction starts anew in every window: it needs frames *behind* the ones that are wanted, the look-ahead, which
costs computing time. A window never reaches across a cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from vsr.inference.frame import Frame
from vsr.inference.scenes import SceneDetector

T = TypeVar("T")


@dataclass(frozen=True)
class Window:
    """Frames for one call of the model.

    Attributes:
        frames: Consecutive frames of one shot and one size.
        keep: How many of them, from the first, are wanted; the others are look-ahead.
        fresh: The first frame begins a shot: what the model remembers does not apply.
        cut: It does so because of a cut, not because the video begins.
    """

    frames: tuple[Frame, ...]
    keep: int
    fresh: bool
    cut: bool


def windows(
    items: Iterable[Frame | T], *, chunk: int, lookahead: int, detector: SceneDetector | None, start: int = 0
) -> Iterator[Window | T]:
    """Group frames; anything else passes through at once.

    Args:
        items: Frames in order, and other things between them.
        chunk: Frames wanted from each window, at least 1; the last window of a shot gives what is left.
        lookahead: Frames each window has beyond those.
        detector: Finds cuts; None takes everything for one shot (but for changes of size).
        start: Index of the first frame that is wanted. Those before it are only shown to the detector.

    Yields:
        Windows whose wanted frames are all frames from ``start``, once each and in order.
    """
    held: list[Frame] = []
    fresh, cut = True, False
    previous: Frame | None = None
    for item in items:
        if not isinstance(item, Frame):
            yield item
            continue
        resized = previous is not None and previous.image.shape != item.image.shape
        is_cut = (detector is not None and detector.is_cut(item.image)) or resized
        previous = item
        if item.index < start:
            continue
        if is_cut:
            if held:
                yield Window(tuple(held), len(held), fresh, cut)
                held = []
            fresh = cut = True
        held.append(item)
        if len(held) == chunk + lookahead:
            yield Window(tuple(held), chunk, fresh, cut)
            held = held[chunk:]
            fresh = cut = False
    if held:
        yield Window(tuple(held), len(held), fresh, cut)
