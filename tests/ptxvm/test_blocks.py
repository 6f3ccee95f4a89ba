"""Stores of two blocks to the same bytes of global memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ptxvm

KERNELS = Path(__file__).with_name("kernels")


@pytest.fixture(scope="module")
def counts(cuda):
    return cuda(KERNELS / "counts.cu")


@pytest.mark.parametrize("per_chunk", [0, 1, 2])
def test_different_values_are_a_fault(counts, per_chunk):
    y = np.zeros(4 * 64, np.int32)
    counts.launch("overlapping", 4, 64, [y, 0, 0], blocks_per_chunk=per_chunk)
    with pytest.raises(ptxvm.BlockConflict, match="of argument 0 is stored to by two blocks") as caught:
        counts.launch("overlapping", 4, 64, [y, 1, 0], blocks_per_chunk=per_chunk)
    assert caught.value.block is not None and caught.value.thread in ((0, 0, 0), (63, 0, 0))
    counts.launch("overlapping", 4, 64, [y, 1, 0], blocks_per_chunk=per_chunk, check_blocks=False)


@pytest.mark.parametrize("per_chunk", [0, 1])
def test_equal_values_are_a_fault_only_if_asked_for(counts, per_chunk):
    y = np.zeros(4 * 64, np.int32)
    counts.launch("overlapping", 4, 64, [y, 1, 1], blocks_per_chunk=per_chunk)
    with pytest.raises(ptxvm.BlockConflict):
        counts.launch("overlapping", 4, 64, [y, 1, 1], blocks_per_chunk=per_chunk, check_equal_stores=True)
    counts.launch("overlapping", 4, 64, [y, 0, 1], blocks_per_chunk=per_chunk, check_equal_stores=True)


def test_neighbouring_bytes_belong_to_different_blocks(counts):
    y, z = np.zeros(2, np.int16), np.zeros(4, np.int32)
    with pytest.raises(ptxvm.BlockConflict, match=r"byte 0 of argument 1 .* index [01]"):
        counts.launch("halves", 2, 32, [y, z])
    assert y.tolist() == [0, 1]


def test_launches_and_strong_stores_and_atomics_do_not_conflict(counts):
    y = np.zeros(64, np.int32)
    for _ in range(2):
        counts.launch("overlapping", 1, 64, [y, 0, 0])
    counts.launch("last_wins", 4, 32, [y])
    counts.launch("counted", 4, 32, [y])
    assert y[0] == 3 + 128
