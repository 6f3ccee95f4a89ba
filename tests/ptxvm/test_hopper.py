"""Features of sm_90: wgmma, mbarrier, bulk and tensor copies, warp specialisation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ptxvm
from ptxvm import tensormap

KERNELS = Path(__file__).with_name("kernels")

RNG = np.random.default_rng(5)


@pytest.mark.parametrize(
    ("kind", "blocks", "tolerance", "warps"),
    [
        ("fp16", (64, 64, 64), 1e-4, 4),
        ("fp16", (128, 128, 32), 1e-4, 8),
        ("bf16", (64, 32, 16), 1e-4, 4),
        ("bf16", (64, 256, 64), 1e-4, 8),
        ("fp32", (64, 64, 32), 0.3, 4),
        ("fp8e4nv", (64, 64, 64), 1e-3, 4),
        ("fp8e5", (128, 64, 128), 1e-3, 8),
        ("i8", (64, 64, 64), 0, 4),
    ],
)
def test_wgmma_matmul(kind, blocks, tolerance, warps):
    triton_tests = pytest.importorskip("test_triton")
    c, expected, stats, _ = triton_tests.run_matmul(kind, 90, (128, 256, 128), blocks, warps=warps)
    assert any(name.startswith("wgmma.mma_async") for name in stats.by_opcode) or kind == "i8"
    assert np.abs(c - expected).max() <= tolerance


@pytest.fixture(scope="module")
def bulk(cuda):
    return cuda(KERNELS / "bulk.cu", "sm_90")


def test_bulk_copy(bulk):
    x, y = RNG.standard_normal(256).astype(np.float32), np.zeros(256, np.float32)
    bulk.launch("bulk", 1, 256, [x, y, 256])
    assert (y == x * 2).all()


def test_warp_specialisation(bulk):
    x, y = RNG.standard_normal((9, 96)).astype(np.float32), np.zeros(96, np.float32)
    bulk.launch("specialised", 2, 128, [x, y, 9])
    np.testing.assert_allclose(y, x.sum(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("swizzle", [16, 128])
def test_tensor_copy(bulk, swizzle):
    memory = bulk.memory
    x, out = RNG.standard_normal((20, 44)).astype(np.float32), np.zeros((20, 44), np.float32)
    copy = np.zeros((8, 32), np.float32)
    source, target = memory.alloc(x.nbytes), memory.alloc(x.nbytes, fill=0)
    memory.copy_in(source, x)
    maps = [tensormap.encode(p, (44, 20), (32, 8), 4, swizzle_bytes=swizzle) for p in (source, target)]
    bulk.launch("tiles", 1, 32, [*maps, copy, 20, 15], shared_bytes=1024)
    memory.copy_out(target, out)
    expected = np.zeros((8, 32), np.float32)
    expected[:5, :24] = x[15:, 20:]
    assert (out[15:, 20:] == expected[:5, :24]).all() and (out[:15] == 0).all() and (out[:, :20] == 0).all()
    if swizzle == 16:
        assert (copy == expected).all()
    else:
        chunks = copy.reshape(8, 8, 4)
        assert all((chunks[r, c ^ r] == expected.reshape(8, 8, 4)[r, c]).all() for r in range(8) for c in range(8))


def test_mbarrier_deadlock(bulk):
    with pytest.raises(ptxvm.Deadlock, match="mbarrier"):
        bulk.launch("stuck", 1, 32, [np.zeros(1, np.float32)])


def test_spinning_on_a_thread_that_waits_for_an_mbarrier(bulk):
    y = np.zeros(2, np.int32)
    bulk.launch("relay", 1, 96, [y])
    assert y[1] == 1
