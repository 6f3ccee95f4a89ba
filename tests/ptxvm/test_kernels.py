"""Ordinary CUDA kernels compiled by nvcc, compared with NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ptxvm
from ptxvm import floats

KERNELS = Path(__file__).with_name("kernels")

RNG = np.random.default_rng(1)


@pytest.fixture(scope="module")
def basic(cuda):
    return cuda(KERNELS / "basic.cu")


def test_names(basic):
    assert "scale(float*, float const*, int, float)" in basic.kernels
    with pytest.raises(ptxvm.PtxError):
        basic.find("a")


def test_elementwise_and_traffic(basic):
    n = 10_000
    x = RNG.standard_normal(n).astype(np.float32)
    y = np.empty_like(x)
    stats = basic.launch("scale", -(-n // 256), 256, [y, x, n, 2.0])
    np.testing.assert_allclose(y, x * 2 + np.exp(x), rtol=1e-5, atol=1e-6)
    assert stats.unwritten(y) == 0
    assert stats.global_load_bytes == stats.unique_read_bytes == 4 * n
    assert stats.global_load_efficiency == 1.0
    assert "scalar flops" in stats.table()


def test_divergent_loop(basic):
    x = np.arange(1, 1001, dtype=np.int32)
    expected = []
    for v in x.tolist():
        count = 0
        while v != 1:
            v, count = (3 * v + 1 if v & 1 else v // 2), count + 1
        expected.append(count)
    stats = basic.launch("collatz", 4, 256, [x, 1000])
    assert x.tolist() == expected
    assert 0.2 < stats.divergence_efficiency < 0.8


def test_reduction_with_dynamic_shared_memory(basic):
    a = RNG.standard_normal(5000).astype(np.float32)
    out = np.zeros(1, np.float32)
    basic.launch("block_sum", 3, 128, [a, out, 5000], shared_bytes=16)
    assert abs(out[0] - a.sum(dtype=np.float64)) < 1e-3
    with pytest.raises(ptxvm.OutOfBounds):
        basic.launch("block_sum", 3, 128, [a, out, 5000], shared_bytes=8)


def test_transpose(basic):
    x = RNG.standard_normal((70, 50)).astype(np.float32)
    y = np.empty((50, 70), np.float32)
    stats = basic.launch("transpose", (2, 3), (32, 8), [x, y, 70, 50])
    assert (y == x.T).all()
    assert stats.shared_wavefronts == stats.shared_ideal_wavefronts


def test_histogram(basic):
    x = RNG.integers(0, 256, 5000).astype(np.uint8)
    h = np.zeros(256, np.uint32)
    stats = basic.launch("histogram", 3, 256, [x, h, 5000])
    assert (h == np.bincount(x, minlength=256)).all()
    assert stats.atomics == 5000 + 3 * 256


def test_atomics_return_distinct_values(basic):
    counter, slot = np.array([5], np.uint32), np.zeros(300, np.uint32)
    basic.launch("tickets", 3, 128, [counter, slot, 300])
    assert sorted(slot) == list(range(5, 605, 2)) and counter[0] == 605


def test_struct_by_value(basic):
    memory = basic.memory
    bias = RNG.standard_normal(32).astype(np.float32)
    pointer = memory.alloc(bias.nbytes)
    memory.copy_in(pointer, bias)
    layout = np.dtype(
        {
            "names": ["a", "bias", "shift", "gain"],
            "formats": ["4f4", "u8", "i2", "f8"],
            "offsets": [0, 16, 24, 32],
            "itemsize": 40,
        }
    )
    p = np.zeros((), layout)
    p["a"], p["bias"], p["shift"], p["gain"] = [1, 2, 3, 4], pointer, -5, 0.5
    y = np.empty(32, np.float32)
    basic.launch("by_value", 1, 32, [p.tobytes(), y])
    np.testing.assert_allclose(y, np.tile([1, 2, 3, 4], 8) * 0.5 + bias - 5, rtol=1e-6)


def test_device_functions(basic):
    x = RNG.standard_normal(64).astype(np.float32)
    y = np.empty_like(x)
    basic.launch("calls", 1, 64, [x, y])

    def helper(v, k):
        return (v * k if k > 3 else v - k), v + k

    expected = [sum(helper(v, i)) if i % 3 else np.prod(helper(v, 7)) for i, v in enumerate(x)]
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_half_and_bfloat16_pairs(basic):
    a, b = RNG.standard_normal((2, 64)).astype(np.float16)
    c, d = (floats.f32_to_bf16(v.astype(np.float32)) for v in RNG.standard_normal((2, 64)))
    y, z = np.empty_like(a), np.empty_like(c)
    basic.launch("halves", 1, 32, [a, b, y, c, d, z])
    square = (b.astype(np.float64) * b).astype(np.float16)
    total = (a.astype(np.float64) + square).astype(np.float16)
    assert (y == (a.astype(np.float64) * b + total).astype(np.float16)).all()
    wide_c, wide_d = (floats.bf16_to_f32(v).astype(np.float64) for v in (c, d))
    square = floats.bf16_to_f32(floats.f32_to_bf16(wide_d * wide_d))
    difference = floats.bf16_to_f32(floats.f32_to_bf16(wide_c - square))
    assert (z == floats.f32_to_bf16(wide_c * wide_d + difference)).all()


def test_module_variables(basic):
    y, old = np.empty(10, np.float32), np.zeros(1, np.int32)
    basic.launch("constants", 1, 10, [y, old])
    assert y.tolist() == [1.5, -2, 3.25, 4, 0.5] * 2 and old[0] == 41
    now = np.zeros(1, np.int32)
    basic.memory.copy_out(basic.symbol_address("counter"), now)
    assert now[0] == 7


def test_local_memory(basic):
    index = RNG.integers(0, 16, 32).astype(np.int32)
    y = np.empty(32, np.float32)
    basic.launch("locals", 1, 32, [index, y])
    for t in range(32):
        stack = np.arange(16.0) * t
        stack[index[t]] += 100
        assert y[t] == sum(stack[index[(t + k) % 32]] for k in range(16))


def test_switch(basic):
    x = RNG.integers(0, 10, 64).astype(np.int32)
    y = np.empty_like(x)
    basic.launch("choose", 1, 64, [x, y])
    table = [
        lambda i: i * 3,
        lambda i: i + 7,
        lambda i: i ^ 5,
        lambda i: i << 2,
        lambda i: -i,
        lambda i: i * i,
        lambda i: i // 3,
        lambda i: i % 7,
        lambda i: 1,
        lambda i: 1,
    ]
    assert y.tolist() == [table[v](i) for i, v in enumerate(x.tolist())]


def test_spin_lock_makes_progress(basic):
    lock, value = np.zeros(1, np.int32), np.zeros(1, np.int32)
    basic.launch("spin_lock", 2, 40, [lock, value])
    assert value[0] == 80 and lock[0] == 0


def test_barrier_reductions(basic):
    x = RNG.integers(0, 100, 96).astype(np.int32)
    y = np.empty_like(x)
    basic.launch("any_all", 1, 96, [x, y])
    assert (y == (x > 0).sum() * 100 + (10 if (x > 98).any() else 0) + 1).all()


def test_non_contiguous_and_shared_arguments(basic):
    backing = np.zeros((100, 2), np.float32)
    x = RNG.standard_normal(100).astype(np.float32)
    basic.launch("scale", 1, 128, [backing[:, 1], x, 100, 1.0])
    np.testing.assert_allclose(backing[:, 1], x + np.exp(x), rtol=1e-5, atol=1e-6)
    expected = np.exp(x)
    basic.launch("scale", 1, 128, [x, x, 100, 0.0])
    np.testing.assert_allclose(x, expected, rtol=1e-5)
