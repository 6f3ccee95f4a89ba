"""The state of an mbarrier."""

from __future__ import annotations

import numpy as np

from .aliases import Array


class PhaseBarrier:
    """One mbarrier object.

    Args:
        expected: arrivals of a phase.
    """

    def __init__(self, expected: int) -> None:
        self.expected = self.pending = expected
        self.bytes = self.phase = 0
        self.gathered: Array | int = 0  # what those that arrived so far did before, for race detection
        self.history: Array | int = 0  # the same, of completed phases: what a waiter learns

    def settle(self) -> None:
        """Start the next phase once all arrivals and bytes are in."""
        if self.pending == 0 and self.bytes == 0:
            self.phase += 1
            self.pending = self.expected
            self.history = np.maximum(self.history, self.gathered)
