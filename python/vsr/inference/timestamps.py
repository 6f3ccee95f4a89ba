"""Presentation times that can be trusted: one strictly increasing value per frame."""

from __future__ import annotations


class PresentationClock:
    """Chooses between a frame's pts and the dts of its packet, and repairs what is missing or out of order.

    Some files (old AVI, MP4 without composition offsets) carry pts that jump back although the frames come in display
    order. The rule is that of FFmpeg's "best effort timestamp": count how often each of the two series fails to
    increase and believe the better one. Whatever is left out of order is moved one tick after its predecessor, since
    no container takes two frames at one time.

    Args:
        step: Ticks between frames at the stream's average rate, for frames without any time.
    """

    def __init__(self, step: int) -> None:
        self._step = max(step, 1)
        self._last_pts: int | None = None
        self._last_dts: int | None = None
        self._faulty_pts = 0
        self._faulty_dts = 0
        self._last: int | None = None

    def tick(self, pts: int | None, dts: int | None) -> int:
        """The presentation time of the next frame.

        Args:
            pts: The frame's own time, in ticks.
            dts: The decoding time of the packet it came from, in ticks.

        Returns:
            Ticks, greater than every earlier answer.
        """
        if pts is not None:
            self._faulty_pts += self._last_pts is not None and pts <= self._last_pts
            self._last_pts = pts
        if dts is not None:
            self._faulty_dts += self._last_dts is not None and dts <= self._last_dts
            self._last_dts = dts
        trusts_pts = pts is not None and (dts is None or self._faulty_pts <= self._faulty_dts)
        chosen = pts if trusts_pts else dts
        if self._last is None:
            self._last = 0 if chosen is None else chosen
        elif chosen is None:
            self._last += self._step
        else:
            self._last = max(chosen, self._last + 1)
        return self._last
