"""The CPU kernels on each instruction set that this CPU has: the tests marked ``isa``, in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vsr_kernels
from vsr_kernels import build

ISAS = ("portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
#: Names of test modules; where an instruction set differs from the one before in some kernels, those that call them.
ALL_PARTS = ("isa", "values", "exact", "edges", "conv_cpu", "quantized")
PARTS = {"avx512_vnni": ("isa", "quantized"), "amx_int8": ("isa", "quantized")}
HERE = Path(__file__).resolve().parent
#: Set for the inner run, so that it does not start runs of its own.
FORCED = os.environ.get("VSR_KERNELS_CPU_ISA")

pytestmark = pytest.mark.skipif(
    not vsr_kernels.backends()["cpu"].available, reason="no compiled operators: " + vsr_kernels.backends()["cpu"].detail
)


def run(isa: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the instruction set forced."""
    root = Path(vsr_kernels.__file__).resolve().parent.parent
    environment = os.environ | {"VSR_KERNELS_CPU_ISA": isa, "PYTHONPATH": f"{root}{os.pathsep}{root / 'python'}"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=500
    )


def obstacle(isa: str) -> str | None:
    """Why this CPU cannot run an instruction set, as the kernel of the operating system lists it."""
    wide = {"avx512f", "avx512bw", "avx512vl", "avx512dq", "fma", "f16c"}
    needed = {
        "portable": set(),
        "avx2": {"avx2", "fma", "f16c"},
        "avx512": wide,
        "avx512_vnni": wide | {"avx512_vnni"},
        "avx512_bf16": wide | {"avx512_vnni", "avx512_bf16"},
        "amx_bf16": wide | {"avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16"},
        "amx_int8": wide | {"avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"},
    }[isa]
    listed = Path("/proc/cpuinfo")
    flags = set(re.findall(r"\w+", listed.read_text())) if listed.is_file() else set()
    missing = needed - flags
    return f"this CPU does not have {', '.join(sorted(missing))}" if missing else None


@pytest.mark.isa
@pytest.mark.skipif(FORCED is None, reason="VSR_KERNELS_CPU_ISA is not set")
def test_the_forced_instruction_set_is_used() -> None:
    """Part of the inner run."""
    assert vsr_kernels.cpu_isa() == FORCED


@pytest.mark.skipif(FORCED is not None, reason="this is the inner run")
@pytest.mark.parametrize("isa", ISAS)
def test_values(isa: str) -> None:
    """Everything marked ``isa`` passes. What this process runs itself needs no second run."""
    why_not = obstacle(isa)
    if why_not is not None:
        pytest.skip(why_not)
    chosen = ["-m", "isa"] if isa != vsr_kernels.cpu_isa() else ["-k", "test_the_forced_instruction_set_is_used"]
    files = [str(HERE / f"test_{name}.py") for name in PARTS.get(isa, ALL_PARTS)]
    done = run(isa, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *chosen, *files)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = int(re.findall(r"(\d+) passed", done.stdout.splitlines()[-1])[0])
    assert passed > (0 if isa == vsr_kernels.cpu_isa() else 5 if isa in PARTS else 300)


@pytest.mark.skipif(FORCED is not None, reason="this is the inner run")
def test_the_best_instruction_set_is_chosen() -> None:
    best = [isa for isa in ISAS if obstacle(isa) is None][-1]
    assert vsr_kernels.cpu_isa() == best


WARP = "import torch, vsr_kernels; vsr_kernels.flow_warp(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, 2))"


def test_an_unknown_instruction_set_is_an_error() -> None:
    done = run("sse9", "-c", WARP)
    assert done.returncode != 0
    assert (
        "VSR_KERNELS_CPU_ISA: expected portable, avx2, avx512, avx512_vnni, avx512_bf16, amx_bf16 or amx_int8, got sse9"
        in done.stderr
    )


def test_a_missing_instruction_set_is_an_error() -> None:
    missing = [isa for isa in ISAS if obstacle(isa) is not None]
    if not missing:
        pytest.skip("this CPU has all of them")
    done = run(missing[0], "-c", WARP)
    assert done.returncode != 0
    assert f"VSR_KERNELS_CPU_ISA: this CPU does not have {missing[0]}" in done.stderr


def test_instruction_sets_agree(tmp_path: Path) -> None:
    """One network, run on each: rounding aside, and to the bit where sums are of integers."""
    script = (
        "import sys, torch, vsr_kernels as v; torch.manual_seed(0); torch.set_num_threads(1)\n"
        "x, w, f = torch.randn(1, 21, 19, 23), torch.randn(84, 21, 3, 3) / 14, torch.randn(1, 2, 38, 46)\n"
        "y = v.conv3x3(x, w, activation='prelu', slope=torch.rand(84), pixel_shuffle=2)\n"
        "q, z, o = (w * 500).to(torch.int8), torch.tensor([99], dtype=torch.uint8), torch.rand(84) / 50\n"
        "p = {'activation': 'prelu', 'slope': torch.rand(84) - 0.2}\n"
        "bytes = v.quantized_conv3x3(x * 60, q, z, o, out_zero_point=z, **p)\n"
        "wide = v.quantized_conv3x3(x * 60, q, z, o, base=x, pixel_shuffle=2, **p)\n"
        "s = v.conv7x7(x, torch.randn(70, 21, 7, 7) / 32, activation='relu')\n"
        "torch.save([bytes, wide, y, s, v.flow_warp(y, f), v.flow_warp(y.contiguous(), f)], sys.argv[1])\n"
    )
    results = []
    for isa in ISAS:
        if obstacle(isa) is None:
            done = run(isa, "-c", script, str(tmp_path / isa))
            assert done.returncode == 0, done.stderr
            results.append(torch.load(tmp_path / isa, weights_only=True))
    for other in results[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(other[:2], results[0][:2], strict=True))
        for ours, theirs in zip(other[2:], results[0][2:], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_all_instruction_sets_are_built() -> None:
    assert {f"cpu/kernels_{isa}.cpp" for isa in ISAS} <= set(build.SOURCES["_C"])
