"""Registers, spills, stack, shared memory, occupancy and tensor-core instructions of every kernel on every target.

The object that was built is looked at in every run; with ``slow``, each file is compiled by itself for each target,
with the compiler's own report of spills.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from resources import (
    CUDA,
    TARGETS,
    Budget,
    LaunchBudget,
    Resources,
    budgets,
    by_family,
    compile_file,
    family_of,
    installed_resources,
    launch_complaints,
    matrix_instructions,
    parse,
    read_budgets,
)

from ptxvm import DEVICES, occupancy
from ptxvm.cudart import Library
from vsr_kernels import build

FILES = sorted(path.name for path in CUDA.glob("*.cu"))


def complaints(found: list[Resources], budget: dict[str, Budget], target: str) -> list[str]:
    """What is wrong with kernels on one target; sm_89 has the budget of sm_86."""
    key = "sm_86" if target == "sm_89" else target
    wrong = [
        f"{kernel.name}: {kernel.spill_bytes} bytes spilled, {kernel.stack_bytes} bytes of stack"
        for kernel in found
        if kernel.spill_bytes or kernel.stack_bytes
    ]
    for family in sorted({kernel.family for kernel in found}):
        members = [kernel for kernel in found if kernel.family == family]
        registers = max(kernel.registers for kernel in members)
        allowed = budget[family].registers.get(key) if family in budget else None
        if allowed is None:
            wrong.append(f"{family}: no budget for {target}; it uses {registers} registers")
            continue
        if registers > allowed:
            wrong.append(f"{family}: {registers} registers, the budget is {allowed}")
        launch = budget[family].launch
        if launch is None:
            wrong.append(f"{family}: no budget for its launches")
            continue
        static = max(kernel.shared_bytes for kernel in members)
        if static > launch.shared_bytes:
            wrong.append(f"{family}: {static} bytes of static shared memory, the budget is {launch.shared_bytes}")
        if key in launch.blocks:
            device = int(target.removeprefix("sm_"))
            fitting = occupancy(device, launch.threads, registers, launch.shared_bytes)
            if fitting.blocks < launch.blocks[key]:
                wrong.append(
                    f"{family}: {fitting.blocks} blocks per multiprocessor, limited by {fitting.limited_by}; "
                    f"{launch.blocks[key]} are wanted"
                )
    return wrong


def gone(found: list[Resources], budget: dict[str, Budget]) -> list[str]:
    """Budgets of families that do not exist."""
    families = {kernel.family for kernel in found}
    return [f"{family}: has a budget, but is not there" for family in sorted(budget) if family not in families]


@pytest.fixture(scope="module")
def built() -> Path:
    """The object that the installation compiled; skips where there is none, or an old one."""
    path = build.installed_object("_C_cuda")
    if path is None:
        pytest.skip("no CUDA object is installed")
    sources = [file for file in build.source_root().rglob("*") if file.is_file() and file.parent.name != "cpu"]
    newer = [file.name for file in sources if file.stat().st_mtime > path.stat().st_mtime]
    if newer:
        pytest.skip(f"the installed CUDA object is older than {newer[0]}")
    return path


def test_the_built_object_is_within_budget(built: Path) -> None:
    merged = by_family(budgets())
    found = installed_resources(built)
    assert {f"sm_{target.replace('.', '')}" for target in build.CUDA_TARGETS.split("+")[0].split(";")} <= set(found)
    wrong = {target: complaints(kernels, merged, target) for target, kernels in found.items()}
    wrong["sm_80"] += gone(found["sm_80"], merged)
    assert not any(wrong.values()), "\n".join(f"{t}: {line}" for t, lines in wrong.items() for line in lines)


@pytest.mark.parametrize("target", [pytest.param(t, marks=[] if t == "sm_80" else pytest.mark.slow) for t in TARGETS])
def test_tensor_cores_are_used(built: Path, target: str) -> None:
    """Every instance that should use them does: one that does not was compiled to nothing, or to scalar arithmetic."""
    counts = matrix_instructions(built, target)
    assert counts
    for family, budget in by_family(budgets()).items():
        assert budget.launch is not None
        found = {kernel: count for kernel, count in counts.items() if family_of(kernel) == family}
        first = budget.launch.tensor_cores
        if target == "sm_75":  # tensor cores for float16 only
            assert any(found.values()) == (first == 75), f"{family} on {target}: {found}"
        else:
            assert {bool(count) for count in found.values()} == {first > 0}, f"{family} on {target}: {found}"


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("file", FILES)
def test_every_file_by_itself(toolkit: Path, tmp_path: Path, file: str, target: str) -> None:
    found = compile_file(toolkit, CUDA / file, target, tmp_path)
    budget = budgets().get(file, {})
    wrong = complaints(found, budget, target) + gone(found, budget)
    assert not wrong, "\n".join([f"{file} on {target} (budgets: csrc/cuda/budgets.toml)", *wrong])


def test_budgets_are_of_files_that_exist() -> None:
    assert set(budgets()) <= set(FILES)
    for families in budgets().values():
        for budget in families.values():
            assert set(budget.registers) == set(TARGETS)
            assert budget.launch is not None and set(budget.launch.blocks) <= set(TARGETS)


SPILLING = """
template <int kSize>
__global__ void __launch_bounds__(1024) crowded(const int* x, int* y, int k) {
  __shared__ int held[1024];
  int v[kSize];
#pragma unroll
  for (int i = 0; i < kSize; ++i) v[i] = x[i * 1024 + threadIdx.x];
  held[threadIdx.x] = v[0];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kSize; ++i) y[i * k + threadIdx.x] = v[i] * v[(i * 7 + 3) % kSize] + held[k];
}
template __global__ void crowded<4>(const int*, int*, int);
template __global__ void crowded<100>(const int*, int*, int);
"""


def test_spills_and_excess_are_found(toolkit: Path, tmp_path: Path) -> None:
    source = tmp_path / "crowded.cu"
    source.write_text(SPILLING)
    found = compile_file(toolkit, source, "sm_80", tmp_path)
    assert {kernel.name for kernel in found} == {"crowded<4>", "crowded<100>"}
    assert {kernel.shared_bytes for kernel in found} == {4096}
    launch = LaunchBudget(1024, 4096, {"sm_80": 1}, 0)
    spilled = complaints(found, {"crowded": Budget({"sm_80": 64}, launch)}, "sm_80")
    assert len(spilled) == 1 and spilled[0].startswith("crowded<100>: ") and " bytes spilled" in spilled[0]
    registers = max(kernel.registers for kernel in found)
    # A block of 1024 threads with 64 registers each fills a multiprocessor.
    narrow = {"crowded": Budget({"sm_80": registers - 1}, LaunchBudget(1024, 4092, {"sm_80": 2}, 0))}
    assert complaints(found, narrow, "sm_80")[1:] == [
        f"crowded: {registers} registers, the budget is {registers - 1}",
        "crowded: 4096 bytes of static shared memory, the budget is 4092",
        "crowded: 1 blocks per multiprocessor, limited by ['registers']; 2 are wanted",
    ]
    assert complaints(found, {}, "sm_80")[1:] == [f"crowded: no budget for sm_80; it uses {registers} registers"]
    assert complaints(found, {"crowded": Budget({"sm_80": 64})}, "sm_80")[1:] == ["crowded: no budget for its launches"]
    assert gone(found, {"crowded": narrow["crowded"], "left": narrow["crowded"]}) == [
        "left: has a budget, but is not there"
    ]


PRODUCT = """
__global__ void product(const unsigned* a, float* c) {
  float s[4] = {};
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]));
  for (int i = 0; i < 4; ++i) c[4 * threadIdx.x + i] = s[i];
}
"""


def test_objects_are_read_like_reports(toolkit: Path, tmp_path: Path) -> None:
    """The same kernels from the compiler's report and from an object for two targets; tensor cores where they are."""
    source, both = tmp_path / "crowded.cu", tmp_path / "crowded.fatbin"
    source.write_text(SPILLING + PRODUCT)
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in (80, 90)]
    subprocess.run([toolkit / "bin" / "nvcc", *targets, "-fatbin", source, "-o", both], check=True)
    found = installed_resources(both)
    assert sorted(found) == ["sm_80", "sm_90"]
    reported = compile_file(toolkit, source, "sm_80", tmp_path)
    for kernels in (reported, found["sm_80"]):
        kernels.sort(key=lambda kernel: kernel.name)
    numbers = [[(k.name, k.registers, k.stack_bytes, k.shared_bytes) for k in ks] for ks in (reported, found["sm_80"])]
    assert numbers[0] == numbers[1]
    assert [bool(k.stack_bytes) for k in reported] == [True, False, False]
    counts = matrix_instructions(both, "sm_80")
    assert counts.pop("product") > 0
    assert counts == {"crowded<4>": 0, "crowded<100>": 0}


def test_reports_that_are_not_understood_are_refused() -> None:
    assert parse("ptxas info    : 0 bytes gmem\n") == []
    with pytest.raises(AssertionError):
        parse("ptxas info    : Compiling entry function 'f' for 'sm_80'\nptxas info    : used plenty of registers\n")


def test_launches_are_held_to_their_budget(toolkit: Path, tmp_path: Path) -> None:
    source = tmp_path / "launch.cu"
    source.write_text("""
    __global__ void wide(int* x) { extern __shared__ int s[]; s[threadIdx.x] = 1; x[threadIdx.x] = s[threadIdx.x]; }
    extern "C" int run(int* x, int threads, int bytes) { wide<<<1, threads, bytes>>>(x); return cudaGetLastError(); }
    """)
    library = Library.build([source])
    for threads, shared in ((32, 128), (64, 512)):
        assert library.call("run", np.zeros(64, np.int32), threads, shared) == 0
    launch = LaunchBudget(64, 512, {}, 0)
    assert launch_complaints([library], {"wide": Budget({}, launch)}) == []
    assert launch_complaints([library], {"other": Budget({}, launch)}) == []
    assert launch_complaints([library], {"wide": Budget({}, LaunchBudget(32, 508, {}, 0))}) == [
        "wide: launched with 64 threads and 512 bytes of shared memory; the budget is 32 and 508"
    ]


def test_families_of_several_files_get_the_largest_budget() -> None:
    text = """
    ["a.cu".f]
    sm_80 = 8
    launch = { threads = 64, shared = 100, blocks = { sm_80 = 3 }, tensor_cores = 75 }
    ["b.cu".f]
    sm_80 = 16
    launch = { threads = 32, shared = 50, blocks = { sm_80 = 2 }, tensor_cores = 80 }
    """
    merged = by_family(read_budgets(text))
    assert merged == {"f": Budget({"sm_80": 16}, LaunchBudget(64, 100, {"sm_80": 2}, 75))}
    assert set(DEVICES) >= {int(target.removeprefix("sm_")) for target in TARGETS}
