"""Who is ordered before whom: barriers of groups of warps, mbarriers, and faults between the groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ptxvm

KERNELS = Path(__file__).with_name("kernels")
STEPS = 7
NEVER = -1
BETWEEN_GROUPS = r"read by warp [23] and written by warp [01]|written by warp [01] and read"


@pytest.fixture(scope="module")
def order(cuda):
    return cuda(KERNELS / "order.cu", "sm_90")


@pytest.fixture
def ring():
    """Input of a ring, and what the consumers must find."""
    x = np.random.default_rng(8).integers(0, 1000, (STEPS, 64)).astype(np.int32)
    return x, x.sum(0, dtype=np.int32)[::-1]


def test_a_barrier_of_a_group_orders_only_the_group(order):
    y = np.zeros(128, np.int32)
    order.launch("groups", 3, 128, [y, 0])
    assert (y.reshape(2, 64) == np.arange(128).reshape(2, 64)[:, ::-1]).all()
    with pytest.raises(ptxvm.SharedRace, match=r"read by warp [01] and written by warp [23]"):
        order.launch("groups", 3, 128, [y, 1])
    order.launch("groups", 3, 128, [y, 1], check_races=False)


def test_ring_of_named_barriers(order, ring):
    x, expected = ring
    y = np.zeros(64, np.int32)
    order.launch("ring", 2, 128, [x, y, STEPS, NEVER, NEVER])
    assert (y == expected).all()


@pytest.mark.parametrize("step", range(STEPS))
def test_a_consumer_that_reads_before_it_waits_is_seen(order, ring, step):
    with pytest.raises(ptxvm.SharedRace, match=BETWEEN_GROUPS):
        order.launch("ring", 1, 128, [ring[0], np.zeros(64, np.int32), STEPS, step, NEVER])


@pytest.mark.parametrize("step", range(2, STEPS))
def test_a_producer_that_writes_before_it_waits_is_seen(order, ring, step):
    with pytest.raises(ptxvm.SharedRace, match=BETWEEN_GROUPS):
        order.launch("ring", 1, 128, [ring[0], np.zeros(64, np.int32), STEPS, NEVER, step])


@pytest.mark.parametrize("bulk", [0, 1])
def test_ring_of_mbarriers(order, ring, bulk):
    x, expected = ring
    y = np.zeros(64, np.int32)
    order.launch("mbarrier_ring", 2, 128, [x, y, STEPS, NEVER, NEVER, bulk])
    assert (y == expected).all()
    for step in range(STEPS):
        with pytest.raises(ptxvm.SharedRace):
            order.launch("mbarrier_ring", 1, 128, [x, y, STEPS, step, NEVER, bulk])
    for step in range(2, STEPS):  # a stage filled twice may as well leave its readers waiting
        with pytest.raises((ptxvm.SharedRace, ptxvm.Deadlock)):
            order.launch("mbarrier_ring", 1, 128, [x, y, STEPS, NEVER, step, bulk])


def run_snippet(body, threads):
    text = f""".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k() {{
    .reg .pred %p<4>; .reg .b32 %t, %a, %v, %w; .shared .align 4 .b8 s[512];
    mov.u32 %t, %tid.x; shr.u32 %w, %t, 5; mov.u32 %a, s; {body} ret; }}"""
    return ptxvm.Module.from_ptx(text).launch("k", 1, threads)


PASS_ON = "setp.eq.u32 %p0, %w, 0; setp.eq.u32 %p1, %w, 1; setp.eq.u32 %p2, %w, 2; @%p0 st.shared.u32 [%a], %t;"
FIRST = "@%p0 bar.sync 1, 64; @%p1 bar.sync 1, 64;"
SECOND = "@%p1 bar.sync 2, 64; @%p2 bar.sync 2, 64;"


def test_order_is_passed_on_from_barrier_to_barrier():
    run_snippet(PASS_ON + FIRST + SECOND + "@%p2 ld.shared.u32 %v, [%a];", 96)
    with pytest.raises(ptxvm.SharedRace, match="read by warp 2 and written by warp 0"):
        run_snippet(PASS_ON + FIRST + "@%p2 ld.shared.u32 %v, [%a];", 96)
    with pytest.raises(ptxvm.SharedRace):  # warp 1 told warp 2 before it heard of warp 0
        run_snippet(PASS_ON + SECOND + FIRST + "@%p2 ld.shared.u32 %v, [%a];", 96)


def test_who_only_arrives_learns_nothing():
    told = "@%p0 bar.arrive 1, 64; @%p1 bar.sync 1, 64; "
    run_snippet(PASS_ON + told + "@%p1 ld.shared.u32 %v, [%a];", 64)
    wrong = "@%p1 st.shared.u32 [%a+4], %t;" + told + "@%p0 ld.shared.u32 %v, [%a+4];"
    with pytest.raises(ptxvm.SharedRace, match="read by warp 0 and written by warp 1"):
        run_snippet(PASS_ON + wrong, 64)
    late = told + "@%p0 st.shared.u32 [%a+8], %t; @%p1 ld.shared.u32 %v, [%a+8];"
    with pytest.raises(ptxvm.SharedRace, match="read by warp 1 and written by warp 0"):
        run_snippet(PASS_ON + late, 64)


def test_a_barrier_that_expects_too_few():
    with pytest.raises(ptxvm.KernelFault, match="barrier 1 expects 32 threads, and 64 arrived at once"):
        run_snippet("bar.sync 1, 32;", 64)
    run_snippet("bar.sync 1, 64;", 64)


def test_two_readers_are_both_remembered():
    reads = "bar.sync 0; @%p0 ld.shared.u32 %v, [%a]; @%p1 ld.shared.u32 %v, [%a]; "
    wait_for_one = "@%p1 bar.sync 1, 64; @%p2 bar.sync 1, 64; @%p2 st.shared.u32 [%a], %t;"
    with pytest.raises(ptxvm.SharedRace, match="written by warp 2 and read by warp 0"):
        run_snippet(PASS_ON + reads + wait_for_one, 96)
    wait_for_both = "@%p0 bar.sync 2, 64; @%p1 bar.sync 2, 64; " + wait_for_one
    run_snippet(PASS_ON + reads + wait_for_both, 96)


def test_exited_warps_are_ordered_before_a_barrier_of_the_rest():
    for together in ("bar.sync 0;", "@%p1 bar.sync 0; @%p2 bar.sync 0;"):
        run_snippet(PASS_ON + "@%p0 ret;" + together + "@%p1 ld.shared.u32 %v, [%a];", 96)
