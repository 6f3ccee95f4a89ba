"""What the AMX convolutions do, counted on any CPU with AVX-512 BF16: the tile registers are in software.

    python benchmarks/amx_model.py                 # the table
    python benchmarks/amx_model.py --json FILE     # the figures as well

Every figure is modelled, not measured: it counts instructions, and says nothing of time but that a CPU needs 16 cycles
per multiplication of tiles. Outputs are compared with PyTorch's in float32 first.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

import amxvm
from vsr_kernels import build

CYCLES = 16  # of a multiplication of whole tiles
MACS = {torch.bfloat16: 16 * 16 * 32, torch.uint8: 16 * 16 * 64}  # multiplications of numbers in one of tiles
TOLERANCE = {torch.bfloat16: 6e-3, torch.uint8: 1e-4}  # relative L2 distance: rounding to bfloat16 costs 1.7e-3


@dataclass(frozen=True)
class Case:
    """A convolution: channels, height and width, factor of the pixel shuffle, dtype of the image.

    Of uint8, the weight is int8, and so is the result, but float32 after a shuffle.
    """

    c_in: int
    c_out: int
    h: int
    w: int
    r: int = 1
    dtype: torch.dtype = torch.bfloat16

    def __str__(self) -> str:
        kind = "int8" if self.dtype == torch.uint8 else "bf16"
        shuffle = f", shuffle {self.r}" if self.r > 1 else ""
        return f"{kind}, {self.c_in} -> {self.c_out}{shuffle}, {self.h}x{self.w}"


CASES = (
    Case(64, 64, 180, 320),
    Case(3, 64, 180, 320),
    Case(64, 48, 180, 320, 4),
    Case(64, 64, 179, 317),
    Case(32, 32, 180, 320),
    Case(37, 37, 180, 320),
    Case(24, 24, 180, 320),
    Case(64, 3, 180, 320),
    Case(64, 64, 32, 32),
    Case(64, 64, 180, 320, dtype=torch.uint8),
    Case(64, 48, 180, 320, 4, dtype=torch.uint8),
    Case(64, 64, 179, 317, dtype=torch.uint8),
    Case(32, 32, 180, 320, dtype=torch.uint8),
    Case(16, 16, 180, 320, dtype=torch.uint8),
)


@dataclass(frozen=True)
class Row:
    """Counts of a case."""

    case: str
    multiplications: int
    loads_per_multiplication: float
    useful: float  # of the numbers that tiles multiply, those that the convolution asks for
    loaded_bytes: int
    lines_per_load: float  # of 64 bytes, 16 at least
    compulsory_bytes: int  # input, weight and output once
    cycles_per_pixel: float  # that the multiplications alone take


def count(library: amxvm.Library, case: Case) -> Row:
    """Run a case, compare, count.

    Raises:
        SystemExit: the output is wrong.
    """
    generator = torch.Generator().manual_seed(0)
    convolve = convolve_bytes if case.dtype == torch.uint8 else convolve_halves
    x, weight, out, expected = convolve(library, case, generator)
    error = ((out.float() - expected).norm() / expected.norm()).item()
    if not error < TOLERANCE[case.dtype]:
        raise SystemExit(f"{case}: the output is off by {error:.1e}: no figures")
    counts = library.counts()
    pixels = case.h * case.w
    return Row(
        case=str(case),
        multiplications=counts.multiplies,
        loads_per_multiplication=counts.loads / counts.multiplies,
        useful=pixels * 9 * case.c_in * case.c_out / (counts.multiplies * MACS[case.dtype]),
        loaded_bytes=counts.loaded_bytes,
        lines_per_load=counts.lines / counts.loads,
        compulsory_bytes=sum(tensor.numel() * tensor.element_size() for tensor in (x, weight, out)),
        cycles_per_pixel=counts.multiplies * CYCLES / pixels,
    )


def convolve_halves(
    library: amxvm.Library, case: Case, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image, weight, the kernels' result, and PyTorch's."""
    x = torch.randn(1, case.c_in, case.h, case.w, generator=generator).bfloat16()
    weight = (torch.randn(case.c_out, case.c_in, 3, 3, generator=generator) / (9 * case.c_in) ** 0.5).bfloat16()
    bias = torch.randn(case.c_out, generator=generator).bfloat16()
    out, _ = library.conv3x3(x, weight, bias, pixel_shuffle=case.r, at_end=False)
    expected = F.pixel_shuffle(F.conv2d(x.float(), weight.float(), bias.float(), padding=1), case.r)
    return x, weight, out, expected


def convolve_bytes(
    library: amxvm.Library, case: Case, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same of bytes."""
    x = torch.randint(0, 256, (1, case.c_in, case.h, case.w), generator=generator, dtype=torch.uint8)
    weight = torch.randint(-127, 128, (case.c_out, case.c_in, 3, 3), generator=generator, dtype=torch.int8)
    scale = (torch.rand(case.c_out, generator=generator) + 0.5) / (9 * case.c_in) ** 0.5 / 100
    zero = torch.tensor([77], dtype=torch.uint8)
    rounded = None if case.r > 1 else torch.tensor([128], dtype=torch.uint8)
    out = library.quantized_conv3x3(x, weight, zero, scale, out_zero_point=rounded, pixel_shuffle=case.r, at_end=False)
    sums = F.conv2d(x.float() - 77.0, weight.float(), padding=1)
    expected = F.pixel_shuffle(sums * scale[:, None, None], case.r)
    return x, weight, out, expected if rounded is None else (expected.round() + 128.0).clamp(0, 255)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures as well")
    args = parser.parse_args()
    obstacle = amxvm.obstacle()
    if obstacle is not None:
        raise SystemExit(f"amx_model.py: {obstacle}")
    library = amxvm.Library(build.source_root())
    rows = [count(library, case) for case in CASES]
    table = Table(title="AMX convolutions, one call (modelled, not measured)")
    table.add_column("convolution")
    for name in (
        "tile products",
        "loads / product",
        "useful",
        "MB loaded",
        "/ compulsory",
        "lines / load",
        "cycles / pixel, at least",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.case,
            f"{row.multiplications:,}",
            f"{row.loads_per_multiplication:.3f}",
            f"{row.useful:.0%}",
            f"{row.loaded_bytes / 1e6:.1f}",
            f"{row.loaded_bytes / row.compulsory_bytes:.1f}",
            f"{row.lines_per_load:.1f}",
            f"{row.cycles_per_pixel:.1f}",
        )
    Console().print(table)
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
