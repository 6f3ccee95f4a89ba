"""The convolution compiled at run time for one layer: NVRTC's PTX on the CPU, against a float64 reference.

The generic kernel runs the same call beside it, in ptxvm too and with the same packed weights: it must take more
instructions, and its output must be the same to the bit.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from operands import image, pixels, poisoned
from test_conv3x3 import Case, Inputs, launch, pack, strided
from torch import Tensor

import ptxvm
from ptxvm.cudart import Library
from ptxvm.stats import Stats
from vsr_kernels import nvrtc
from vsr_kernels.nvrtc import compiler

CHECKS: dict[str, Any] = {"check_uninitialized": True, "check_equal_stores": True}

#: Layers of pruned networks. Products of the arithmetic are the same; what is around them is not.
CASES = [
    Case(37, 29, h=11, w=19, height=8, picked=64, activation="relu"),
    Case(29, 41, h=11, w=19, height=8, picked=48, total=64, residual=True, activation="prelu", ordered=False),
    Case(41, 37, h=9, w=16, height=8, activation="leaky_relu", residual=True),
    Case(67, 53, h=8, w=16, n=2, height=8, picked=72, total=72, residual=True, dtype=torch.float16),
    Case(11, 5, h=9, w=33, height=8, picked=13, total=7, residual=True, activation="relu"),
]


def specialised(case: Case, inputs: Inputs) -> nvrtc.SparseConv:
    """The constants of a case, as its memory allows."""
    x, vector = inputs.x, 16 // inputs.x.element_size()
    neighbours = x.stride(1) == 1
    aligned = neighbours and x.storage_offset() % vector == 0 and x.shape[1] % vector == 0
    lists = [None if t is None else tuple(t.tolist()) for t in (inputs.in_channels, inputs.out_channels)]
    return nvrtc.SparseConv(
        dtype=str(case.dtype).removeprefix("torch."),
        c_in=case.c_in,
        c_out=case.c_out,
        in_channels=lists[0],
        out_channels=lists[1],
        c_total=case.total,
        activation=case.activation,
        residual=case.residual,
        rows=case.height,
        neighbours=neighbours,
        x_on_vectors=aligned and all(s % vector == 0 for s in (x.stride(0), x.stride(2), x.stride(3))),
    )


def run(conv: nvrtc.SparseConv, library: Library, inputs: Inputs) -> tuple[Tensor, Stats]:
    """NVRTC's PTX in ptxvm: the output and what was counted."""
    case = inputs.case
    module = ptxvm.Module.from_ptx(nvrtc.compile_kernel(conv, "compute_80").decode().rstrip("\0"))
    shape = (case.n, case.h, case.w, case.total or case.c_out)
    out = poisoned(shape, case.dtype)
    residual = np.zeros(1, np.uint16) if inputs.residual is None else pixels(inputs.residual)
    strides = [np.int64(s * inputs.x.element_size()) for s in inputs.x.stride()]
    arrays = [strided(inputs.x), pack(library, inputs), residual, out]
    arguments = [*arrays, *strides, np.int32(case.h), np.int32(case.w)]
    grid = conv.grid(case.n, case.h, case.w)
    stats = module.launch(nvrtc.KERNEL, grid, 128, arguments, conv.shared_bytes, **CHECKS)
    assert stats.unwritten(out) == 0
    return image(out, shape, case.dtype), stats


@pytest.fixture(scope="module")
def convolution(library: Callable[[str], Library]) -> Library:
    reason = nvrtc.obstacle()
    if reason is not None:
        pytest.skip(reason)
    return library("conv3x3_call")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VSR_KERNELS_CACHE_DIR", str(tmp_path))
    return tmp_path / "nvrtc"


@dataclass(frozen=True)
class Found:
    ours: Stats
    generic: Stats


def check(library: Library, case: Case) -> Found:
    inputs = Inputs(case)
    out, stats = run(specialised(case, inputs), library, inputs)
    truth, low = inputs.truth()[0], inputs.low()[0]
    error = (out.double() - truth).abs().max().item()
    allowed = 2 * (low.double() - truth).abs().max().item() + torch.finfo(case.dtype).eps * truth.abs().max().item()
    assert error <= allowed, f"{case}: largest error {error:.3e}, allowed {allowed:.3e}"
    code, generic, _ = launch(library, inputs)
    assert code == 0
    assert torch.equal(out, generic)
    assert library.launches[-1].grid == specialised(case, inputs).grid(case.n, case.h, case.w)
    assert library.launches[-1].shared_bytes == specialised(case, inputs).shared_bytes
    return Found(stats, library.stats)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_odd_shapes(convolution: Library, case: Case) -> None:
    found = check(convolution, case)
    assert found.ours.mma_instructions == found.generic.mma_instructions
    assert found.ours.warp_instructions < found.generic.warp_instructions


def test_a_gathered_tile_takes_two_thirds_of_the_instructions(convolution: Library) -> None:
    found = check(convolution, Case(37, 41, h=8, w=16, height=8, picked=64, total=64, residual=True, activation="relu"))
    assert found.ours.warp_instructions < 0.7 * found.generic.warp_instructions


LAYER = nvrtc.SparseConv("bfloat16", 5, 3)


@pytest.mark.skipif(nvrtc.obstacle() is not None, reason=str(nvrtc.obstacle()))
def test_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = nvrtc.compile_kernel(LAYER, "compute_80")
    assert [file.suffix for file in cache.iterdir()] == [".ptx"]
    compiled: list[str] = []
    monkeypatch.setattr(compiler, "_compile", lambda source, arch: compiled.append(arch) or b"new")
    assert nvrtc.compile_kernel(LAYER, "compute_80") == first
    assert nvrtc.compile_kernel(replace(LAYER, activation="relu"), "compute_80") == b"new"
    assert nvrtc.compile_kernel(LAYER, "compute_90") == b"new"
    assert nvrtc.compile_kernel(LAYER, "sm_90") == b"new"
    assert compiled == ["compute_80", "compute_90", "sm_90"]
    monkeypatch.setattr(compiler, "OPTIONS", (*compiler.OPTIONS, "-lineinfo"))
    assert nvrtc.compile_kernel(LAYER, "compute_80") == b"new"
    assert len(list(cache.iterdir())) == 5


@pytest.mark.skipif(nvrtc.obstacle() is not None, reason=str(nvrtc.obstacle()))
def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VSR_KERNELS_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(compiler, "_compile", lambda source, arch: b"new")
    assert nvrtc.compile_kernel(LAYER, "compute_80") == b"new"


@pytest.mark.skipif(nvrtc.obstacle() is not None, reason=str(nvrtc.obstacle()))
def test_a_failed_compilation_says_why(cache: Path) -> None:
    with pytest.raises(RuntimeError, match=r"nvrtc\.compile_kernel: NVRTC failed for compute_1"):
        nvrtc.compile_kernel(LAYER, "compute_1")
    assert not cache.exists()


def test_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"nvrtc\.compile_kernel: the package cupy is not installed"):
        nvrtc.compile_kernel(LAYER, "compute_80")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float64"}, "dtype: expected one of float16, bfloat16, float32, got 'float64'"),
        ({"activation": "gelu"}, "activation: expected one of none, relu, leaky_relu, prelu, got 'gelu'"),
        ({"c_in": 0}, "c_in: expected at least 1, got 0"),
        ({"rows": 10}, "rows: expected one of 8, 16, got 10"),
        ({"in_channels": (1, 2)}, "in_channels: expected c_in = 5 channel numbers, got 2"),
        ({"in_channels": (1, 2, 3, 4, 4)}, "in_channels: expected distinct channel numbers, got [4]"),
        ({"c_total": 4}, "c_total: expected 0 exactly where out_channels is None, got 4"),
        ({"out_channels": (1, 2, 4), "c_total": 4}, "out_channels: expected channel numbers in [0, 4), got [4]"),
        ({"out_channels": (0, 1, 2), "c_total": 4}, "residual: expected True where out_channels is given, got False"),
        ({"c_out": 8, "out_on_vectors": False}, "out_on_vectors: expected True where pixels of the output are whole"),
    ],
)
def test_bad_constants(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"nvrtc.SparseConv: {message}")):
        replace(LAYER, **change)
