"""Code from the CUDA toolkit's own headers: CUB, cooperative groups, libcu++, math, half precision."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from ptxvm import floats

KERNELS = Path(__file__).with_name("kernels")

RNG = np.random.default_rng(6)
CANDIDATES = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")), *Path("/usr/local").glob("cuda*")]
CCCL = next((c / "include/cccl" for c in CANDIDATES if (c / "include/cccl").is_dir()), None)
ARCHS = ["sm_80", "sm_90", "sm_100"]
needs_cccl = pytest.mark.skipif(CCCL is None, reason="no CCCL headers")


@needs_cccl
@pytest.mark.parametrize("arch", ARCHS)
def test_groups(cuda, arch):
    module = cuda(KERNELS / "groups.cu", arch, ("-I", str(CCCL)))
    x, y = RNG.integers(-50, 50, 256).astype(np.int32), np.zeros(256, np.int32)
    module.launch("block_sort", 1, 64, [x, y])
    assert (y == np.sort(x)).all()
    x, y = x[:128].copy(), np.zeros(128, np.int32)
    module.launch("block_scan", 1, 128, [x, y])
    assert (y == np.concatenate(([0], np.cumsum(x)[:-1]))).all()
    module.launch("tiles(", 1, 128, [x, y])
    assert (
        y
        == x.reshape(4, 32).sum(1).repeat(32) * 100
        + x.reshape(16, 8).max(1).repeat(8)
        + np.cumsum(x.reshape(16, 8), 1).ravel()
    ).all()
    count = np.zeros(1, np.int32)
    module.launch("coalesced", 1, 128, [x, y, count])
    assert count[0] == (x & 1).sum() and sorted(y[: count[0]]) == sorted(x[x & 1 == 1])
    f, g = RNG.standard_normal((5, 128)).astype(np.float32), np.zeros(128, np.float32)
    module.launch("arrive_wait", 1, 128, [f, g])
    assert (g == f[0, ::-1]).all()
    module.launch("pipeline", 1, 128, [f, g, 5])
    np.testing.assert_allclose(g, f.sum(0)[::-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("arch", ARCHS)
def test_math_calls_and_printf(cuda, arch):
    module = cuda(KERNELS / "math.cu", arch)
    x = RNG.random(64) * 4 - 0.9
    y = np.zeros(64)
    module.launch("in_double", 1, 64, [x, y])
    expected = [
        math.sin(d)
        + math.exp(d)
        + math.log(d + 2)
        + abs(d) ** 1.7
        + math.sqrt(d + 2)
        + 1 / (d + 3)
        + math.erf(d)
        + math.fmod(d, 0.3)
        + math.lgamma(d + 3)
        + np.cbrt(d)
        + math.sin(d * 1e7)
        for d in x
    ]
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    a, b = x.astype(np.float32), np.zeros(64, np.float32)
    module.launch("in_float", 1, 64, [a, b])
    expected = [
        math.sin(d)
        + math.tan(d)
        + math.log(d + 2)
        + abs(d) ** 1.3
        + math.erf(d)
        + math.atan2(d, 2)
        + np.cbrt(d)
        + (d + 2) ** -0.5
        + 2**d
        + math.log1p(d * d)
        + 8 * d
        + math.copysign(math.floor(abs(d) + 0.5), d)
        + math.floor(d)
        for d in a.astype(float)
    ]
    np.testing.assert_allclose(b, expected, rtol=1e-5, atol=1e-5)
    y = np.zeros(8, np.float32)
    module.launch("virtual_call", 1, 8, [y])
    assert y.tolist() == [1, 2, 3, 6, 5, 10, 7, 14]
    module.launch("through_pointer", 1, 8, [y])
    assert y.tolist() == [0, -2, 6, 0, 12, 2, 18, 4]
    stats = module.launch("print", 1, 8, [np.zeros(8, np.int32)])
    assert stats.printed == ["thread 0 ok 0.00 1099511627776\n", "thread 1 ok 1.50 1099511627776\n"]


@pytest.mark.parametrize("arch", ARCHS)
def test_half_precision_functions(cuda, arch):
    x = (RNG.random(32) * 2 + 0.1).astype(np.float16)
    b = floats.f32_to_bf16(x.astype(np.float32))
    y, z, f = np.zeros((32, 8), np.float32), np.zeros((32, 4), np.float32), np.zeros(32, np.uint8)
    cuda(KERNELS / "half.cu", arch).launch("functions", 1, 32, [x, y, b, z, f])
    v, w = x.astype(float), floats.bf16_to_f32(b).astype(float)
    np.testing.assert_allclose(
        y,
        np.stack([np.exp(v), np.sin(v), np.log(v), np.sqrt(v), 1 / v, np.trunc(v), np.maximum(v, 0.5), np.exp(v)], 1),
        rtol=1.5e-3,
        atol=1e-3,
    )
    np.testing.assert_allclose(
        z, np.stack([np.exp(w), np.sqrt(w), np.maximum(w * w - w, 0), np.minimum(w, 0.5)], 1), rtol=8e-3, atol=1e-3
    )
    np.testing.assert_allclose(floats.fp8_to_f32(f, "e4m3"), v, rtol=0.07)
