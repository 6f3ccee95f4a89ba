"""Counters: loops, ratios per matrix instruction, sectors by block, classes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import ptxvm
from ptxvm.loops import find_loops

KERNELS = Path(__file__).with_name("kernels")

# 3 x (2 + 5 x 4 + 2) + entry; the inner loop holds one mma and three others.
NESTED = """.version 8.6
.target sm_80
.address_size 64
.visible .entry k(.param .u64 y) {
.reg .b32 %i, %j, %a, %v; .reg .f32 %c<4>; .reg .pred %p; .shared .align 16 .b8 s[256];
mov.u32 %i, 0;
mov.u32 %a, s;
OUTER:
mov.u32 %j, 0;
ld.shared.u32 %v, [%a];
INNER:
mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%c0,%c1,%c2,%c3}, {%a,%a}, {%a}, {%c0,%c1,%c2,%c3};
add.u32 %j, %j, 1;
setp.lt.u32 %p, %j, 5;
@%p bra INNER;
add.u32 %i, %i, 1;
setp.lt.u32 %p, %i, 3;
@%p bra OUTER;
ret;
}"""


@pytest.fixture(scope="module")
def counts(cuda):
    return cuda(KERNELS / "counts.cu")


def test_loops_are_counted_apart():
    stats = ptxvm.Module.from_ptx(NESTED).launch("k", 2, 64, [None])
    warps = 4
    outer, inner = stats.loops()
    assert (outer.first_line, outer.last_line, outer.depth) == (9, 18, 0)
    assert (inner.first_line, inner.last_line, inner.depth) == (12, 15, 1)
    assert (outer.iterations, inner.iterations) == (3 * warps, 15 * warps)
    assert inner.warp_instructions == 15 * 4 * warps and inner.mma == 15 * warps and inner.other_per_mma == 3
    assert outer.warp_instructions == (15 * 4 + 3 * 5) * warps and outer.other_per_mma == 4
    assert outer.shared_load_bytes == 3 * warps * 128 and inner.shared_load_bytes == 0
    assert outer.by_class == {"mma": 60, "int": 2 * 72, "branch": 72, "ldst shared": 12, "other": 12}


def test_table_names_loops_and_ratios():
    stats = ptxvm.Module.from_ptx(NESTED).launch("k", 1, 32, [None])
    assert stats.mma_instructions == 15 and stats.other_per_mma == (15 * 3 + 3 * 5 + 3) / 15
    table = stats.table()
    assert "loop, lines 12-15" in table and "15 mma, 3.00 others per mma" in table
    assert "4.20 other instructions, 26 B from shared, 0.20 wavefronts" in table


def test_without_mma_there_are_no_ratios(counts):
    stats = counts.launch("rereads", 1, 32, [np.zeros(64, np.float32), np.zeros(32, np.float32), 3])
    assert "mma" not in stats.table() and math.isinf(stats.other_per_mma)


def test_loops_from_branches():
    spans = find_loops([(9, 4), (7, 5), (12, 4), (10, 4), (3, 11), (20, 20)])
    assert [(s.first, s.last, s.depth) for s in spans] == [(4, 12, 0), (5, 7, 1), (20, 20, 0)]


@pytest.mark.parametrize("per_chunk", [0, 1])
def test_distinct_sectors_by_block(counts, per_chunk):
    blocks, times = 3, 10
    x, y = np.zeros(32 * (1 + blocks), np.float32), np.zeros(32 * blocks, np.float32)
    stats = counts.launch("rereads", blocks, 32, [x, y, times], blocks_per_chunk=per_chunk)
    assert stats.global_load_sectors == blocks * 4 * (times + 1)
    assert stats.block_load_sectors == blocks * (4 + 4)
    assert stats.block_store_sectors == stats.global_store_sectors == blocks * 4
    assert stats.unique_read_bytes == 128 * (1 + blocks)


def test_sectors_are_counted_right_when_duplicates_are_thrown_out(counts, monkeypatch):
    monkeypatch.setattr(ptxvm.stats.BlockSectors, "LIMIT", 5)
    x, y = np.zeros(32 * 3, np.float32), np.zeros(64, np.float32)
    assert counts.launch("rereads", 2, 32, [x, y, 9]).block_load_sectors == 16


def test_asynchronous_copies_are_a_class_of_their_own(counts):
    x, y = np.zeros((2, 32, 4), np.float32)
    by_class = counts.launch("copies", 1, 32, [x, y]).by_class
    assert (by_class["async copy"], by_class["ldst global"], by_class["ldst shared"]) == (1, 1, 1)
