"""Where one shot ends and the next begins."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from vsr.inference.frame import Picture

_ROWS, _COLUMNS = 36, 64
_HISTORY = 8
_LEAST_CHANGE = 6.0  # of 255, mean over the thumbnail
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class SceneDetector:
    """Tells, frame by frame, whether a frame begins a new shot. It never looks ahead.

    Two measures of a 64x36 luma thumbnail against the one before: the mean absolute difference, in relation to its
    median over the last frames of the shot, and the correlation of the two thumbnails. A cut changes the picture far
    more than the frames before it did *and* leaves no structure in common. Fast motion fails the first test or the
    second; flashes and fades fail the second, because correlation does not see brightness.

    The thresholds were set on real clips with cuts (correlation below 0.4 at every one, difference 2.6 to 60 times the
    usual) and without (the fastest motion reaches 0.53 at 2.4 times, or 0.6 at 5 times the usual difference).
    """

    def __init__(self) -> None:
        self._previous: NDArray[np.float32] | None = None
        self._recent: deque[float] = deque(maxlen=_HISTORY)

    def is_cut(self, image: Picture) -> bool:
        """Whether this frame begins a new shot; the first frame does not.

        Args:
            image: (H, W, 3) uint8 or uint16; the size may change, which is a cut too.
        """
        thumbnail = luma_thumbnail(image)
        previous, self._previous = self._previous, thumbnail
        if previous is None:
            return False
        if previous.shape != thumbnail.shape:
            self._recent.clear()
            return True
        change = float(np.abs(thumbnail - previous).mean())
        usual = float(np.median(self._recent)) if self._recent else 0.0
        ratio = change / (usual + 1)
        similarity = _correlation(thumbnail, previous)
        cut = change > _LEAST_CHANGE and ((ratio > 2 and similarity < 0.35) or (ratio > 4 and similarity < 0.7))
        if cut:
            self._recent.clear()
        else:
            self._recent.append(change)
        return cut


def luma_thumbnail(image: Picture) -> NDArray[np.float32]:
    """Mean luma of the cells of a 36 x 64 grid.

    Args:
        image: (H, W, 3) uint8 or uint16.

    Returns:
        (min(36, H), min(64, W)), 0..255.
    """
    height, width = image.shape[:2]
    rows, columns = min(_ROWS, height), min(_COLUMNS, width)
    # At most four samples a cell and direction: enough for a mean, and quick for any size.
    step_y, step_x = max(1, height // (4 * rows)), max(1, width // (4 * columns))
    scale = np.float32(1.0 if image.dtype == np.uint8 else 1 / 257)
    luma = image[::step_y, ::step_x] @ (_LUMA * scale)
    top = np.arange(rows) * luma.shape[0] // rows
    left = np.arange(columns) * luma.shape[1] // columns
    sums = np.add.reduceat(np.add.reduceat(luma, top, axis=0), left, axis=1)
    counts = np.diff(np.append(top, luma.shape[0]))[:, None] * np.diff(np.append(left, luma.shape[1]))
    cells: NDArray[np.float32] = (sums / counts).astype(np.float32)
    return cells


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    a, b = a - a.mean(), b - b.mean()
    # The constant makes two flat thumbnails count as unlike: a cut to or from black.
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-3))
