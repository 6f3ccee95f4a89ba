"""Every kind of fault is reported with its place, and correct kernels raise none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ptxvm

KERNELS = Path(__file__).with_name("kernels")


@pytest.fixture(scope="module")
def faults(cuda):
    return cuda(KERNELS / "faults.cu")


def ints(n=64):
    return np.zeros(n, np.int32)


def test_out_of_bounds_names_the_place(faults):
    x, y = np.zeros(1000, np.float32), np.zeros(999, np.float32)
    with pytest.raises(ptxvm.OutOfBounds) as caught:
        faults.launch("copy", 4, 256, [y, x, 1000])
    fault = caught.value
    assert fault.block == (3, 0, 0) and fault.thread == (231, 0, 0)
    assert "argument 0" in str(fault) and fault.line > 0
    name, line = fault.source.rsplit(":", 1)
    assert Path(name).name == "faults.cu"
    assert "y[i] = x[i]" in (KERNELS / "faults.cu").read_text().splitlines()[int(line) - 1]


def test_misaligned(faults):
    with pytest.raises(ptxvm.Misaligned):
        faults.launch("misaligned", 1, 4, [np.zeros(100, np.uint8), np.zeros((4, 4), np.float32)])


def test_shared_bounds(faults):
    faults.launch("shared_bounds", 1, 64, [ints(), 0])
    with pytest.raises(ptxvm.OutOfBounds):
        faults.launch("shared_bounds", 1, 64, [ints(), 1])


def test_races(faults):
    faults.launch("race", 2, 64, [ints(), 2])
    for bar in (0, 1):
        with pytest.raises(ptxvm.SharedRace):
            faults.launch("race", 2, 64, [ints(), bar])
    with pytest.raises(ptxvm.SharedRace):
        faults.launch("write_race", 1, 64, [ints()])
    faults.launch("write_race", 1, 64, [ints()], check_races=False)


def test_race_messages_name_the_warps(faults):
    with pytest.raises(ptxvm.SharedRace, match=r"read by warp [01] and written by warp [01] with no barrier"):
        faults.launch("race", 2, 64, [ints(), 0])
    with pytest.raises(ptxvm.SharedRace, match="at 0x0 are written by warp 0 and read by several warps"):
        faults.launch("broadcast_race", 1, 96, [ints(96)])


def test_uninitialized_shared(faults):
    faults.launch("uninitialized", 1, 64, [ints()])
    with pytest.raises(ptxvm.UninitializedRead):
        faults.launch("uninitialized", 1, 64, [ints()], check_uninitialized=True)


def test_deadlock_and_endless_loop(faults):
    with pytest.raises(ptxvm.Deadlock, match="barrier 1 has 32 threads"):
        faults.launch("deadlock", 1, 64, [ints()])
    with pytest.raises(ptxvm.StepLimit):
        faults.launch("forever", 1, 32, [ints()], max_steps=2000)


def test_async_copy_hazards(faults):
    x = np.arange(256, dtype=np.float32).reshape(64, 4)
    for bar, expected in [(0, x), (1, x[::-1])]:
        y = np.zeros_like(x)
        faults.launch("async_copy", 1, 64, [x, y, 1, bar])
        assert (y == expected).all()
        with pytest.raises(ptxvm.AsyncCopyHazard, match=r"bytes at 0x[0-9a-f]+ are read while"):
            faults.launch("async_copy", 1, 64, [x, y, 0, bar])


def test_async_pipeline_and_zero_fill(faults):
    x = np.random.default_rng(2).standard_normal((7 * 32, 4)).astype(np.float32)
    y = np.zeros_like(x)
    faults.launch("async_stages", 1, 32, [x, y, 7])
    assert (y == x).all()
    z = np.ones((32, 4), np.float32)
    faults.launch("async_zero_fill", 1, 32, [x[:32].copy(), z, 5])
    expected = x[:32].copy()
    expected[5, 2:] = 0
    expected[6:] = 0
    assert (z == expected).all()


def test_bank_conflicts(faults):
    y = np.zeros(32, np.float32)
    for stride, ways in [(1, 1), (2, 2), (8, 8), (32, 32), (33, 1)]:
        stats = faults.launch("conflicts", 1, 32, [y, stride])
        assert (stats.shared_wavefronts, stats.shared_ideal_wavefronts) == (2 * ways, 2)
    assert stats.worst_conflicts() == []


def test_coalescing(faults):
    x, y = np.zeros(32 * 16, np.float32), np.zeros(32, np.float32)
    for stride, sectors in [(1, 4), (2, 8), (8, 32), (16, 32)]:
        stats = faults.launch("strided", 1, 32, [y, x, stride])
        assert stats.global_load_sectors == sectors and stats.global_store_sectors == 4


def test_shuffle_from_missing_lane(faults):
    faults.launch("shuffle_absent", 1, 32, [ints()])
    with pytest.raises(ptxvm.KernelFault, match="shfl"):
        faults.launch("shuffle_absent", 1, 20, [ints()])


def test_trap_and_incomplete_warp(faults):
    with pytest.raises(ptxvm.Trap) as caught:
        faults.launch("trapped", 1, 32, [ints()])
    assert caught.value.thread == (5, 0, 0)
    with pytest.raises(ptxvm.IncompleteWarp):
        faults.launch("mma_divergent", 1, 32, [np.zeros(32, np.float32)])
    with pytest.raises(ptxvm.IncompleteWarp):
        faults.launch("mma_divergent", 1, 16, [np.zeros(32, np.float32)])


def test_unwritten_bytes(faults):
    x, y = np.zeros(100, np.float32), np.zeros(128, np.float32)
    stats = faults.launch("copy", 1, 128, [y, x, 100])
    assert stats.unwritten(y) == 28 * 4 and stats.unwritten_mask(y).nonzero()[0].tolist() == list(range(100, 128))


def test_launch_limits(faults):
    x = np.zeros(4, np.float32)
    for grid, block, shared, code in [
        (0, 32, 0, "cudaErrorInvalidConfiguration"),
        (1, 1056, 0, "cudaErrorInvalidConfiguration"),
        (1, (8, 8, 65), 0, "cudaErrorInvalidConfiguration"),
        (1, 32, 200_000, "cudaErrorInvalidValue"),
    ]:
        with pytest.raises(ptxvm.LaunchError) as caught:
            faults.launch("copy", grid, block, [x, x, 1], shared_bytes=shared)
        assert caught.value.code == code
    with pytest.raises(ptxvm.LaunchError):
        faults.launch("copy", 1, 32, [x, x, 1], shared_bytes=50_000, strict_shared=True)
    faults.allow_shared("copy", 50_000)
    faults.launch("copy", 1, 32, [x, x, 1], shared_bytes=50_000, strict_shared=True)


def test_equal_writes_are_no_race(cuda):
    y = ints(96)
    cuda(KERNELS / "faults.cu").launch("same_value", 1, 96, [y])
    assert (y == 7).all()
