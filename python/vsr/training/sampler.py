"""Which samples, in which shape, an iteration trains on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from vsr.training.dataset import ClipRequest
from vsr.training.schedule import MultigridSchedule, Step


class MultigridSampler(Sampler[list[ClipRequest]]):
    """A batch sampler whose batches carry their shape, so that workers that read ahead never lag behind the schedule.

    The batch of an iteration is a pure function of the iteration, the seed and the number of items: samples are
    counted through the run, and each epoch goes through a permutation of its own. Ranks take turns.

    Args:
        items: Length of the data set.
        schedule: The run.
        seed: Of the permutations.
        first: Iteration to begin at.
        rank, ranks: This process, and how many there are; the schedule's batches must divide evenly among them.

    Raises:
        ValueError: A batch does not divide evenly, or an argument is out of range.
    """

    def __init__(
        self, items: int, schedule: MultigridSchedule, *, seed: int = 0, first: int = 0, rank: int = 0, ranks: int = 1
    ) -> None:
        if items < 1:
            raise ValueError(f"items: expected at least 1, got {items}")
        if not 0 <= rank < ranks:
            raise ValueError(f"rank: expected 0 to {ranks - 1}, got {rank}")
        for phase in schedule.phases:
            if phase.batch % ranks:
                raise ValueError(f"ranks: expected batches that {ranks} ranks share evenly, got one of {phase.batch}")
        self._items, self._schedule, self._seed = items, schedule, seed
        self._first, self._rank, self._ranks = first, rank, ranks
        self._order: tuple[int, NDArray[np.int64]] | None = None  # the last epoch asked for

    def __len__(self) -> int:
        return max(0, self._schedule.length - self._first)

    def __iter__(self) -> Iterator[list[ClipRequest]]:
        return map(self.batch, self._schedule.steps(self._first))

    def batch(self, step: Step) -> list[ClipRequest]:
        """This rank's part of the batch of a step."""
        samples = range(step.first_sample + self._rank, step.first_sample + step.batch, self._ranks)
        return [self._request(sample, step) for sample in samples]

    def _request(self, sample: int, step: Step) -> ClipRequest:
        epoch, place = divmod(sample, self._items)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self._seed, epoch]).permutation(self._items))
        return ClipRequest(int(self._order[1][place]), epoch, step.crop, step.frames)
