"""Occupancy against figures that NVIDIA has published."""

from __future__ import annotations

import pytest

import ptxvm

KIB = 1024


@pytest.mark.parametrize(
    ("device", "threads", "registers", "shared", "blocks"),
    [
        # CUDA C++ Best Practices Guide, "Calculating Occupancy": 64 warps and 65536 registers, as on sm_80 to sm_100.
        (80, 128, 37, 0, 12),
        (80, 320, 37, 0, 4),
        (90, 128, 37, 0, 12),
        (100, 320, 37, 0, 4),
        # The same guide: 32 registers allow full occupancy. One more register does not.
        (80, 256, 32, 0, 8),
        (80, 256, 33, 0, 6),
        (80, 1024, 32, 0, 2),
        (80, 1024, 33, 0, 1),
        (80, 1024, 65, 0, 0),
        # Ampere and Hopper tuning guides, "Occupancy": 64 warps and 32 blocks (sm_80, sm_90), 48 warps and 16 blocks
        # (sm_86). Ada tuning guide: 48 warps and 24 blocks. Turing tuning guide: 32 warps and 16 blocks.
        (80, 32, 16, 0, 32),
        (90, 64, 16, 0, 32),
        (86, 32, 16, 0, 16),
        (86, 1024, 16, 0, 1),
        (89, 32, 16, 0, 24),
        (75, 32, 16, 0, 16),
        (75, 1024, 16, 0, 1),
        (120, 64, 16, 0, 24),
        # The same guides: shared memory of 164 (80), 100 (86, 89), 228 (90) and 64 KiB (75), at most 163, 99, 227 and
        # 64 for one block; 1 KiB of it is reserved for each block from 8.0 on.
        (80, 128, 32, 163 * KIB, 1),
        (80, 128, 32, 163 * KIB + 1, 0),
        (80, 128, 32, 81 * KIB, 2),
        (80, 128, 32, 81 * KIB + 1, 1),
        (86, 128, 32, 49 * KIB, 2),
        (86, 128, 32, 49 * KIB + 1, 1),
        (89, 128, 32, 99 * KIB, 1),
        (90, 128, 32, 227 * KIB, 1),
        (90, 128, 32, 113 * KIB, 2),
        (75, 128, 32, 32 * KIB, 2),
        (75, 128, 32, 64 * KIB, 1),
        (75, 128, 32, 64 * KIB + 1, 0),
        # Units: registers of a warp in 256, so 41 to 48 are alike; shared memory in 128 bytes (256 on sm_75).
        (80, 128, 41, 0, 10),
        (80, 128, 48, 0, 10),
        (80, 128, 40, 0, 12),
        (80, 128, 255, 0, 2),
        (75, 32, 32, 4 * KIB - 255, 16),
        (75, 32, 32, 4 * KIB + 1, 15),
    ],
)
def test_blocks(device, threads, registers, shared, blocks):
    found = ptxvm.occupancy(device, threads, registers, shared)
    assert found.blocks == blocks
    assert found.warps == blocks * -(-threads // 32)


def test_fraction_and_limits():
    found = ptxvm.occupancy(ptxvm.DEVICES[80], 128, 37, 0)
    assert found.fraction == 0.75 and found.limited_by == ["registers"]
    assert ptxvm.occupancy(80, 320, 37, 0).fraction == 0.625
    assert ptxvm.occupancy(86, 128, 32, 49 * KIB).limited_by == ["shared memory"]
    assert ptxvm.occupancy(80, 32, 16, 0).limited_by == ["blocks"]
    assert ptxvm.occupancy(80, 1024, 32, 0).limited_by == ["threads", "registers"]


def test_bad_numbers_are_refused():
    for arguments in [(80, 0, 32, 0), (80, 1025, 32, 0), (80, 32, 256, 0), (80, 32, 0, 0), (80, 32, 32, -1)]:
        with pytest.raises(ValueError, match="occupancy: "):
            ptxvm.occupancy(*arguments)
    with pytest.raises(ValueError, match=r"device: expected one of \[75, 80.*got 70"):
        ptxvm.occupancy(70, 32, 32, 0)
