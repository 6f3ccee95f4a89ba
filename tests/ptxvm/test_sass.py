"""Machine code: its loops, and how often a launch would have executed it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ptxvm
from ptxvm import sass, toolkit

SOURCE = """
#include <cstdint>

// A warp multiplies `steps` times, behind a switch that a launch takes one way.
extern "C" __global__ void products(const uint32_t* a, float* c, int steps, int mode) {
  float sums[4] = {};
  const uint32_t x = a[threadIdx.x], y = a[threadIdx.x + 32];
  if (mode == 1) {
#pragma unroll 1
    for (int i = 0; i < steps; ++i) sums[i & 3] = sqrtf(sums[i & 3] + x) * y + sinf(sums[(i + 1) & 3]);
  }
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
#pragma unroll
    for (int j = 0; j < 6; ++j)
      asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                   : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]) : "r"(x + i), "r"(y), "r"(x));
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i) c[4 * threadIdx.x + i] = sums[i];
}

// The same with a number of turns that the compiler knows.
extern "C" __global__ void turns(const uint32_t* a, float* c) {
  float sums[4] = {};
  const uint32_t x = a[threadIdx.x], y = a[threadIdx.x + 32];
#pragma unroll 1
  for (int i = 0; i < 9; ++i)
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]) : "r"(x + i), "r"(y), "r"(x));
  for (int i = 0; i < 4; ++i) c[4 * threadIdx.x + i] = sums[i];
}

extern "C" __global__ void other(float* c) { c[threadIdx.x] = 1.0f; }
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> ptxvm.Module:
    if toolkit.find_tool("nvcc") is None or toolkit.find_tool("nvdisasm") is None:
        pytest.skip("nvcc and nvdisasm are needed")
    source = tmp_path_factory.mktemp("sass") / "products.cu"
    source.write_text(SOURCE)
    return ptxvm.Module.from_cuda(source)


def launch(module: ptxvm.Module, steps: int, mode: int, blocks: int = 1) -> ptxvm.Stats:
    a, c = np.zeros(64, np.uint32), np.zeros(4 * 64, np.float32)
    return module.launch("products", blocks, 32, [a, c, steps, mode], check_blocks=False)


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_executed_instructions(module: ptxvm.Module, target: str) -> None:
    """Exact for matrix instructions; the rest follows the loops, and the branch that was not taken costs nothing."""
    kernel = sass.assemble(module, "products", target)
    loop = kernel.main_loop()
    assert loop is not None and loop.matrix == 6
    few, many = (kernel.executed(launch(module, steps, 0)) for steps in (3, 1003))
    assert (few.matrix, many.matrix) == (18, 6018)
    assert many.other - few.other == pytest.approx(1000 * (loop.instructions - 6))
    assert few.other < len(kernel.code)
    assert kernel.executed(launch(module, 3, 0, blocks=5)).instructions == pytest.approx(5 * few.instructions)
    slow = kernel.executed(launch(module, 1003, 1))
    assert slow.matrix == many.matrix and slow.other > many.other + 1000 * 20


def test_a_loop_that_the_assembler_unrolls_is_counted_once(module: ptxvm.Module) -> None:
    unrolled = ptxvm.Module(module.text.replace('.pragma "nounroll";', ""))
    kernel = sass.assemble(unrolled, "turns", "sm_80")
    assert sum(i.is_matrix for i in kernel.code) == 9, "it is not unrolled"
    a, c = np.zeros(64, np.uint32), np.zeros(4 * 32, np.float32)
    found = kernel.executed(unrolled.launch("turns", 1, 32, [a, c]))
    assert found.matrix == 9
    assert found.instructions < len(kernel.code)


def test_main_loop_is_the_one_that_ran(module: ptxvm.Module) -> None:
    kernel = sass.assemble(module, "products", "sm_80")
    loops = [loop for loop in kernel.loops() if loop.matrix]
    assert loops == [kernel.main_loop()] == [kernel.main_loop(launch(module, 2, 1))]
    assert len(kernel.loops()) >= 2
    assert loops[0].other_per_matrix == (loops[0].instructions - 6) / 6 < 2
    stats = launch(module, 50, 1)
    inside = kernel.executed(stats, loops[0])
    assert (inside.matrix, inside.other_per_matrix) == (300, loops[0].other_per_matrix)
    assert kernel.executed(stats).other_per_matrix > inside.other_per_matrix


def test_resources_and_other_kernels(module: ptxvm.Module) -> None:
    kernel = sass.assemble(module, "other", "sm_80")
    assert kernel.name == "other"
    assert kernel.main_loop() is None and kernel.loops() == []
    assert 4 <= kernel.registers <= 16
    assert (kernel.stack_bytes, kernel.spill_bytes) == (0, 0)
    assert any(i.name == "STG" for i in kernel.code)


def test_every_instruction_names_the_ptx_it_was_made_from(module: ptxvm.Module) -> None:
    kernel = sass.assemble(module, "products", "sm_80")
    lines = module.text.splitlines()
    made_from = {i.name: lines[i.line - 1] for i in kernel.code if i.line is not None}
    assert "mma.sync" in made_from["HMMA"]
    assert "st.global" in made_from["STG"]
    assert "bar" in made_from["BAR"]
    assert "ret" in made_from["EXIT"]


LISTING = """
.section .text.f,"ax",@progbits
.text.f:
//## File "kernel.ptx", line 5
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
//## File "kernel.ptx", line 7
        /*0010*/                   HMMA.16816.F32.BF16 R4, R4, R8, R4 ;
        /*0020*/                   HFMA2.MMA R7, -RZ, RZ, 0, 0 ;
        /*0030*/                   NOP ;
        /*0040*/              @!P0 BRA `(.L_x_1) ;
        /*0050*/                   EXIT ;
.L_x_2:
        /*0060*/                   BRA `(.L_x_2);
"""


def test_listings() -> None:
    code, labels = sass.parse(LISTING)["f"]
    assert labels == {".L_x_1": 0x10, ".L_x_2": 0x60}
    assert [(i.name, i.line, i.guard) for i in code][:2] == [("MOV", 5, ""), ("HMMA", 7, "")]
    assert [i.is_matrix for i in code] == [False, True, False, False, False, False, False]
    kernel = sass.SassKernel("f", code, labels, 8, 0, 0)
    assert [(b.first, b.last) for b in kernel.blocks()] == [(0, 0), (1, 4), (5, 5), (6, 6)]
    assert kernel.loops() == [sass.SassLoop(0x10, 0x40, 0, 3, 1)]


def test_missing_tools_are_named(module: ptxvm.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sass, "find_tool", lambda name: None)
    with pytest.raises(ptxvm.PtxError, match="ptxas was not found"):
        sass.assemble(module, "other", "sm_80")
    with pytest.raises(ptxvm.PtxError, match="nvdisasm was not found"):
        sass.disassemble(tmp_path / "x.cubin")
