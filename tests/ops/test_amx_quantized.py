"""The AMX convolutions of bytes, whatever the CPU: their source on tile registers in software (python/amxvm).

Sums are integers and what follows has one order: the bits are those of every other instruction set.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import amxvm
import vsr_kernels
from ops.accuracy import assert_same_bits
from ops.quantized_calls import Call, check, draw

SIDES = (1, 2, 3, 5, 16, 17, 33)
C_IN = (1, 3, 5, 8, 17, 21, 22, 32, 37, 64, 100)  # 21 and 22: one step to a line, and two
C_OUT = (1, 3, 16, 17, 37, 48, 64)
HERE = Path(__file__).resolve().parent

needs_vectors = pytest.mark.skipif(not vsr_kernels.backends()["cpu"].available, reason="no compiled operators")


def run(library: amxvm.Library, call: Call, **how: Any) -> torch.Tensor:
    return library.quantized_conv3x3(**call.arguments, **how)


@needs_vectors
@pytest.mark.parametrize("part", range(4))
def test_values(library: amxvm.Library, part: int) -> None:
    """All that a call may ask for, drawn: near the truth, and the bits of this CPU's own kernels."""
    for seed in range(50 * part, 50 * part + 50):
        call = draw(seed)
        got = run(library, call, at_end=seed % 2 == 0, bands=1 + seed % 3)
        check(call, got)
        assert_same_bits(got, call.run(), f"seed {seed}")


def test_the_bits_of_portable_code(library: amxvm.Library, tmp_path: Path) -> None:
    """Which run in a process of their own."""
    if not vsr_kernels.backends()["cpu"].available:
        pytest.skip("no compiled operators")
    seeds = range(1000, 1060)
    script = (
        "import sys, torch\n"
        "from ops.quantized_calls import draw\n"
        f"torch.save([draw(seed).run() for seed in range({seeds.start}, {seeds.stop})], sys.argv[1])\n"
    )
    root = Path(vsr_kernels.__file__).resolve().parent.parent
    path = os.pathsep.join(map(str, (root, root / "python", HERE.parent)))
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "results")],
        env=os.environ | {"VSR_KERNELS_CPU_ISA": "portable", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for seed, expected in zip(seeds, torch.load(tmp_path / "results", weights_only=True), strict=True):
        assert_same_bits(run(library, draw(seed)), expected, f"seed {seed}")


@needs_vectors
@pytest.mark.parametrize("c_in", C_IN)
def test_channels(library: amxvm.Library, c_in: int) -> None:
    """Steps that are whole and not, whole blocks of columns and not, an odd one among panels of two."""
    for i, c_out in enumerate(C_OUT):
        for height, width in ((1, 1), (2, 33), (5, 16), (9, 50)):
            call = draw(97 * c_in + 10 * i + height, size=(2, height, width), channels=(c_in, c_out))
            assert_same_bits(run(library, call, at_end=i % 2 == 0), call.run(), f"{c_in} to {c_out}, {height}x{width}")


@needs_vectors
@pytest.mark.parametrize("c_in", [3, 21, 64])
@pytest.mark.parametrize("height", SIDES)
def test_sizes(library: amxvm.Library, height: int, c_in: int) -> None:
    """Sizes at which blocks begin and end."""
    for i, width in enumerate(SIDES):
        for seed in (i, i + 100):
            call = draw(seed, size=(1 + i % 3, height, width), channels=(c_in, 12))
            assert_same_bits(run(library, call, at_end=i % 2 == 1), call.run(), f"{height}x{width}")


@pytest.mark.parametrize("seed", range(12))
def test_nothing_but_the_operands_changes_a_bit(library: amxvm.Library, seed: int) -> None:
    """Neither bands, threads, where buffers lie nor what was in memory before."""
    call = draw(seed, size=(2, 13, 53), channels=((2, 5, 32, 37)[seed % 4], (16, 40, 3)[seed % 3]))
    out = run(library, call)
    ways: list[dict[str, Any]] = [{"bands": bands} for bands in (2, 3, 7, 1000)]
    ways += [{"bands": 5, "threads": True}, {"at_end": False}, {"garbage": 0}, {"garbage": 0x4B, "bands": 3}]
    for how in ways:
        assert_same_bits(run(library, call, **how), out, str(how))


@pytest.mark.parametrize("zero", [0, 255])
def test_the_largest_sums_are_exact(library: amxvm.Library, zero: int) -> None:
    """Of 32 bits, and beyond the 24 of float32: only the last step rounds."""
    c = 7000
    x = torch.full((1, c, 3, 3), 255 - zero, dtype=torch.uint8)
    weight = torch.full((2, c, 3, 3), 127, dtype=torch.int8)
    weight[1] = -128
    got = library.quantized_conv3x3(x, weight, torch.tensor([zero], dtype=torch.uint8), torch.ones(2))
    most = 9 * 255 * c * (1 if zero == 0 else -1)
    assert got[0, :, 1, 1].tolist() == [float(np.float32(127 * most)), float(np.float32(-128 * most))]


def test_no_input_channels_are_left_to_vectors(library: amxvm.Library) -> None:
    with pytest.raises(amxvm.AmxError, match="left to avx512_vnni"):
        run(library, draw(0, size=(1, 4, 4), channels=(0, 16)))


# Counts: the plan in figures


def ones(c_in: int, c_out: int, height: int, width: int, *, rounds: bool = False) -> dict[str, Any]:
    x = torch.ones(1, c_in, height, width)
    return {
        "x": x if rounds else x.to(torch.uint8),
        "weight": torch.ones(c_out, c_in, 3, 3, dtype=torch.int8),
        "zero_point": torch.zeros(1, dtype=torch.uint8),
        "scale": torch.ones(c_out),
    }


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize(
    ("c_in", "c_out", "multiplies", "loads"),
    [
        (64, 64, 144, 108 + 16),
        (64, 48, 108, 81 + 12),
        (3, 64, 48, 36 + 16),
        (37, 37, 72, 54 + 12),
        (16, 16, 12, 9 + 4),
    ],
)
def test_instructions_per_block(
    library: amxvm.Library, c_in: int, c_out: int, multiplies: int, loads: int, rounds: bool
) -> None:
    """Per block of 4 rows of 16 pixels; those of what sums begin with behind the plus. One configuration per call."""
    blocks = 3 * 4
    library.quantized_conv3x3(**ones(c_in, c_out, 12, 64, rounds=rounds))
    counts = library.counts()
    assert counts.configurations == 1
    assert counts.multiplies == blocks * multiplies
    assert counts.loads == blocks * loads
    assert counts.stores == blocks * 4 * -(-c_out // 16)
    assert counts.loaded_bytes == 1024 * counts.loads


def test_rows_below_the_image_cost_nothing(library: amxvm.Library) -> None:
    """One row of outputs takes three lines per step."""
    library.quantized_conv3x3(**ones(64, 16, 1, 16))
    counts = library.counts()
    assert (counts.multiplies, counts.loads, counts.stores) == (3 * 3, 3 * (3 + 3) + 1, 1)


@pytest.mark.parametrize("rounds", [False, True])
def test_whole_lines_are_loaded(library: amxvm.Library, rounds: bool) -> None:
    """With whole steps of aligned pixels each row of a tile is one cache line, wherever it lies."""
    library.quantized_conv3x3(**ones(64, 64, 12, 64, rounds=rounds), at_end=False)
    counts = library.counts()
    assert counts.lines == 16 * counts.loads


# What is shipped


def test_compiled_instructions(library: amxvm.Library, shipped: amxvm.Library) -> None:
    """Executed one by one, they give the same bits: no compiler has moved a store behind what reads it."""
    for seed in range(24):
        call = draw(seed, size=(2, (3, 6, 9)[seed % 3], (17, 50)[seed % 2]))
        assert_same_bits(run(shipped, call, bands=1 + seed % 2), run(library, call), f"seed {seed}")
