"""Triton is the reference compiler for fragment layouts and software pipelines."""

# ruff: noqa: N803, N806  (names of matrices and their sizes)

from __future__ import annotations

import numpy as np
import pytest

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

import ptxvm.triton as vm  # noqa: E402
from ptxvm import floats  # noqa: E402

RNG = np.random.default_rng(0)


@triton.jit
def matmul(
    a,
    b,
    c,
    M,
    N,
    K,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    ACC: tl.constexpr,
    TF32: tl.constexpr,
    ZERO: tl.constexpr,
):
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rn = tl.program_id(1) * BN + tl.arange(0, BN)
    rk = tl.arange(0, BK)
    acc = tl.zeros((BM, BN), ACC)
    for k in range(0, K, BK):
        x = tl.load(
            a + rm[:, None] * K + (k + rk)[None, :], mask=(rm[:, None] < M) & ((k + rk)[None, :] < K), other=ZERO
        )
        y = tl.load(
            b + (k + rk)[:, None] * N + rn[None, :], mask=(rn[None, :] < N) & ((k + rk)[:, None] < K), other=ZERO
        )
        acc = tl.dot(x, y, acc, input_precision="tf32" if TF32 else "ieee", out_dtype=ACC)
    tl.store(c + rm[:, None] * N + rn[None, :], acc, mask=(rm[:, None] < M) & (rn[None, :] < N))


def bf16(x):
    return floats.f32_to_bf16(np.ascontiguousarray(x, np.float32))


ENCODE = {
    "fp16": (lambda x: x.astype(np.float16), lambda r: r.astype(np.float64)),
    "bf16": (bf16, lambda r: floats.bf16_to_f32(r).astype(np.float64)),
    "fp32": (lambda x: x.astype(np.float32), lambda r: r.astype(np.float64)),
    "fp8e4nv": (lambda x: floats.f32_to_fp8(x, "e4m3"), lambda r: floats.fp8_to_f32(r, "e4m3").astype(np.float64)),
    "fp8e5": (lambda x: floats.f32_to_fp8(x, "e5m2"), lambda r: floats.fp8_to_f32(r, "e5m2").astype(np.float64)),
    "i8": (lambda x: np.clip(np.round(x * 40), -128, 127).astype(np.int8), lambda r: r.astype(np.float64)),
}


def run_matmul(kind, arch, shape, blocks=(64, 64, 32), stages=3, tf32=True, acc=None, warps=4):
    M, N, K = shape
    encode, decode = ENCODE[kind]
    a, b = encode(RNG.standard_normal((M, K))), encode(RNG.standard_normal((K, N)))
    acc = acc or (tl.int32 if kind == "i8" else tl.float32)
    name = {tl.int32: "i32", tl.float32: "fp32", tl.float16: "fp16"}[acc]
    c = np.empty((M, N), {"i32": np.int32, "fp32": np.float32, "fp16": np.float16}[name])
    divisible = ("a", "b", "c", "N", "K") if N % 16 == 0 and K % 16 == 0 else ("a", "b", "c")
    kernel = vm.compile(
        matmul,
        {"a": f"*{kind}", "b": f"*{kind}", "c": f"*{name}", "M": "i32", "N": "i32", "K": "i32"},
        {
            "BM": blocks[0],
            "BN": blocks[1],
            "BK": blocks[2],
            "ACC": acc,
            "TF32": tf32,
            "ZERO": 0.0 if kind.startswith("f") else 0,
        },
        arch=arch,
        num_stages=stages,
        num_warps=warps,
        divisible=divisible,
    )
    stats = kernel.launch((-(-M // blocks[0]), -(-N // blocks[1])), [a, b, c, M, N, K])
    return c, decode(a) @ decode(b), stats, kernel


@pytest.mark.parametrize(
    ("kind", "arch", "instruction", "tolerance"),
    [
        ("fp16", 80, "mma.sync.aligned.m16n8k16.row.col.f32.f16", 1e-4),
        ("bf16", 80, "mma.sync.aligned.m16n8k16.row.col.f32.bf16", 1e-4),
        ("fp32", 80, "mma.sync.aligned.m16n8k8.row.col.f32.tf32", 0.15),
        ("i8", 80, "mma.sync.aligned.m16n8k32.row.col.", 0),
        ("fp8e4nv", 89, "mma.sync.aligned.m16n8k32.row.col.f32.e4m3", 1e-4),
        ("fp8e5", 89, "mma.sync.aligned.m16n8k32.row.col.f32.e5m2", 1e-4),
    ],
)
def test_matmul(kind, arch, instruction, tolerance):
    c, expected, stats, _ = run_matmul(kind, arch, (100, 80, 96))
    assert any(name.startswith(instruction) for name in stats.by_opcode), sorted(stats.by_opcode)
    assert np.abs(c - expected).max() <= tolerance
    assert stats.mma_flops == 2 * 128 * 128 * 96
    assert stats.unwritten(c) == 0


def test_pipelined_matmul_uses_asynchronous_copies():
    c, expected, stats, _ = run_matmul("fp16", 80, (128, 128, 256), stages=3)
    assert any(name.startswith("cp.async.cg.shared.global") for name in stats.by_opcode)
    assert any(name.startswith("ldmatrix.sync.aligned.m8n8.x4.trans") for name in stats.by_opcode)
    assert np.abs(c - expected).max() < 1e-4


def test_odd_shape_without_alignment():
    c, expected, _, _ = run_matmul("fp16", 80, (37, 51, 43), blocks=(32, 32, 16))
    assert np.abs(c - expected).max() < 1e-4


def test_half_accumulator():
    c, expected, stats, _ = run_matmul("fp16", 80, (64, 64, 32), acc=tl.float16)
    assert any(".f16.f16.f16.f16" in name for name in stats.by_opcode)
    assert np.abs(c - expected).max() < 0.1


def test_ieee_float32_dot():
    c, expected, _, _ = run_matmul("fp32", 80, (64, 64, 32), tf32=False)
    assert np.abs(c - expected).max() < 1e-4


@triton.jit
def softmax(x, y, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    value = tl.load(x + row * columns + at, mask=at < columns, other=-float("inf"))
    value = tl.exp(value - tl.max(value, 0))
    tl.store(y + row * columns + at, value / tl.sum(value, 0), mask=at < columns)


@triton.jit
def layer_norm(x, w, b, y, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < columns
    value = tl.load(x + row * columns + at, mask=inside, other=0).to(tl.float32)
    mean = tl.sum(value, 0) / columns
    centred = tl.where(inside, value - mean, 0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / columns + 1e-5)
    result = centred * scale * tl.load(w + at, mask=inside, other=0) + tl.load(b + at, mask=inside, other=0)
    tl.store(y + row * columns + at, result.to(y.dtype.element_ty), mask=inside)


@pytest.mark.parametrize("arch", [80, 90])
def test_softmax(arch):
    x = RNG.standard_normal((9, 300)).astype(np.float32)
    y = np.empty_like(x)
    kernel = vm.compile(softmax, {"x": "*fp32", "y": "*fp32", "columns": "i32"}, {"BLOCK": 512}, arch=arch)
    kernel.launch(9, [x, y, 300])
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    np.testing.assert_allclose(y, e / e.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(("arch", "kind"), [(80, "bf16"), (90, "bf16"), (80, "fp16")])
def test_layer_norm(arch, kind):
    encode, decode = ENCODE[kind]
    x, w, b = encode(RNG.standard_normal((5, 200))), *(RNG.standard_normal((2, 200)).astype(np.float32))
    y = np.empty_like(x)
    kernel = vm.compile(
        layer_norm,
        {"x": f"*{kind}", "w": "*fp32", "b": "*fp32", "y": f"*{kind}", "columns": "i32"},
        {"BLOCK": 256},
        arch=arch,
    )
    kernel.launch(5, [x, w, b, y, 200])
    v = decode(x)
    expected = (v - v.mean(1, keepdims=True)) / np.sqrt(v.var(1, keepdims=True) + 1e-5) * w + b
    np.testing.assert_allclose(decode(y), expected, atol=2e-2 if kind == "bf16" else 3e-3)


@triton.jit
def attention(q, k, v, out, length, scale, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    d = tl.arange(0, D)
    query = tl.load(q + rows[:, None] * D + d[None, :])
    best = tl.full((BM,), -float("inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, D), tl.float32)
    for start in range(0, length, BN):
        columns = start + tl.arange(0, BN)
        score = tl.dot(query, tl.trans(tl.load(k + columns[:, None] * D + d[None, :]))) * scale
        score = tl.where(rows[:, None] >= columns[None, :], score, -float("inf"))
        peak = tl.maximum(best, tl.max(score, 1))
        weight = tl.exp(score - peak[:, None])
        shrink = tl.exp(best - peak)
        total = total * shrink + tl.sum(weight, 1)
        acc = acc * shrink[:, None]
        acc = tl.dot(weight.to(tl.float16), tl.load(v + columns[:, None] * D + d[None, :]), acc)
        best = peak
    tl.store(out + rows[:, None] * D + d[None, :], acc / total[:, None])


@pytest.mark.parametrize("arch", [80, 90, 120])
def test_attention(arch):
    n, d = 128, 64
    q, k, v = RNG.standard_normal((3, n, d)).astype(np.float16)
    out = np.empty((n, d), np.float32)
    kernel = vm.compile(
        attention,
        {"q": "*fp16", "k": "*fp16", "v": "*fp16", "out": "*fp32", "length": "i32", "scale": "fp32"},
        {"BM": 64, "BN": 64, "D": d},
        arch=arch,
        num_stages=2,
        divisible=("q", "k", "v", "out", "length"),
    )
    kernel.launch(n // 64, [q, k, v, out, n, 0.125])
    score = np.where(np.tri(n, dtype=bool), q.astype(float) @ k.astype(float).T * 0.125, -np.inf)
    weight = np.exp(score - score.max(1, keepdims=True))
    np.testing.assert_allclose(out, weight / weight.sum(1, keepdims=True) @ v.astype(float), atol=3e-3)


@triton.jit
def scan_sort_count(x, y, z, counts, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    value = tl.load(x + at)
    tl.store(y + at, tl.cumsum(value, 0))
    tl.store(z + at, tl.sort(value))
    tl.atomic_add(counts + value % 8, 1)


@pytest.mark.parametrize("arch", [80, 90])
def test_scan_sort_and_atomics(arch):
    x = RNG.integers(0, 100, 256).astype(np.int32)
    y, z, counts = np.zeros_like(x), np.zeros_like(x), np.zeros(8, np.int32)
    kernel = vm.compile(scan_sort_count, dict.fromkeys(("x", "y", "z", "counts"), "*i32"), {"BLOCK": 256}, arch=arch)
    kernel.launch(1, [x, y, z, counts])
    assert (y == np.cumsum(x)).all() and (z == np.sort(x)).all() and (counts == np.bincount(x % 8, minlength=8)).all()
