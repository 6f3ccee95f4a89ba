"""Every CUDA file compiles for every target, without spills or stack, and within its budget of registers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from resources import Resources, compile_file, parse

from vsr_kernels import build

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CUDA = build.source_root() / "cuda"
FILES = sorted(path.name for path in CUDA.glob("*.cu"))
UNBOUND = {Path(source).name for source in build.UNBOUND}
PARAMETERS = [pytest.param(f, marks=[pytest.mark.slow] if f in UNBOUND else []) for f in FILES]
TARGETS = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
# One target in every run; the rest takes minutes once convolutions are among the files.
CASES = [pytest.param(t, marks=[] if t == "sm_80" else [pytest.mark.slow]) for t in TARGETS]


def budgets() -> dict[str, dict[str, dict[str, int]]]:
    """Registers by file, kernel family and target."""
    return tomllib.loads((CUDA / "budgets.toml").read_text())


def complaints(found: list[Resources], budget: dict[str, dict[str, int]], target: str) -> list[str]:
    """What is wrong with the kernels of one file on one target."""
    most = {family: max(k.registers for k in found if k.family == family) for family in {k.family for k in found}}
    wrong = [
        f"{kernel.name}: {kernel.spill_bytes} bytes spilled, {kernel.stack_bytes} bytes of stack"
        for kernel in found
        if kernel.spill_bytes or kernel.stack_bytes
    ]
    for family, registers in sorted(most.items()):
        allowed = budget.get(family, {}).get(target)
        if allowed is None:
            wrong.append(f"{family}: no budget for {target}; it uses {registers} registers")
        elif registers > allowed:
            wrong.append(f"{family}: {registers} registers, the budget is {allowed}")
    return wrong + [f"{family}: has a budget, but is not in the file" for family in budget if family not in most]


@pytest.mark.parametrize("target", CASES)
@pytest.mark.parametrize("file", PARAMETERS)
def test_within_budget(toolkit: Path, tmp_path: Path, file: str, target: str) -> None:
    found = compile_file(toolkit, CUDA / file, target, tmp_path)
    wrong = complaints(found, budgets().get(file, {}), target)
    assert not wrong, "\n".join([f"{file} on {target} (budgets: csrc/cuda/budgets.toml)", *wrong])


def test_budgets_are_of_files_that_exist() -> None:
    assert set(budgets()) <= set(FILES)
    assert all(set(targets) == set(TARGETS) for families in budgets().values() for targets in families.values())


SPILLING = """
template <int kSize>
__global__ void __launch_bounds__(1024) crowded(const int* x, int* y, int k) {
  int v[kSize];
#pragma unroll
  for (int i = 0; i < kSize; ++i) v[i] = x[i * 1024 + threadIdx.x];
#pragma unroll
  for (int i = 0; i < kSize; ++i) y[i * k + threadIdx.x] = v[i] * v[(i * 7 + 3) % kSize];
}
template __global__ void crowded<4>(const int*, int*, int);
template __global__ void crowded<100>(const int*, int*, int);
"""


def test_spills_and_excess_are_found(toolkit: Path, tmp_path: Path) -> None:
    source = tmp_path / "crowded.cu"
    source.write_text(SPILLING)
    found = compile_file(toolkit, source, "sm_80", tmp_path)
    assert {kernel.name for kernel in found} == {"crowded<4>", "crowded<100>"}
    spilled = complaints(found, {"crowded": {"sm_80": 64}}, "sm_80")
    assert len(spilled) == 1 and spilled[0].startswith("crowded<100>: ") and " bytes spilled" in spilled[0]
    registers = max(kernel.registers for kernel in found)
    narrow: dict[str, Any] = {"crowded": {"sm_80": registers - 1}, "gone": {"sm_80": 8}}
    assert complaints(found, narrow, "sm_80")[1:] == [
        f"crowded: {registers} registers, the budget is {registers - 1}",
        "gone: has a budget, but is not in the file",
    ]
    assert complaints(found, {}, "sm_80")[1:] == [f"crowded: no budget for sm_80; it uses {registers} registers"]


def test_reports_that_are_not_understood_are_refused() -> None:
    assert parse("ptxas info    : 0 bytes gmem\n") == []
    with pytest.raises(AssertionError):
        parse("ptxas info    : Compiling entry function 'f' for 'sm_80'\nptxas info    : used plenty of registers\n")
