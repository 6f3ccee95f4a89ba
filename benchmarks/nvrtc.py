"""Layers of pruned networks by kernels compiled for them, beside the compiled generic kernel, which pads: counted.

    python benchmarks/nvrtc.py                       # 64x96 pixels, for sm_80
    python benchmarks/nvrtc.py --size 180 320 --json nvrtc.json

Both run on the CPU in ptxvm with the same packed weights, and their outputs are the same to the bit, or nothing is
printed. Machine instructions are counted as in gpu_model.py. Compilation is timed, in seconds of the processor, from
the source to machine code, with nothing in the cache. Needs a CUDA toolkit and CuPy, no GPU; nothing was measured on
one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from gpu.case import Bits, image, pixels, poisoned, random
from gpu.conv import LIBRARY, Conv, Operands, convolve, pack, weights
from gpu.counts import Total, total
from gpu.devices import GPUS
from gpu.machine import UNCHECKED, Launched, Machine
from gpu.model import predict_range
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ptxvm import Module
from vsr_kernels import nvrtc
from vsr_kernels.nvrtc import conv
from vsr_kernels.nvrtc.launch import Launch, Limits, View

DTYPE = "bfloat16"
TIMES = 5  # compilations of a kernel


@dataclass(frozen=True)
class Layer:
    """A layer: channels, how many of x's it reads and how many of the residual's it adds to; 0: its own."""

    c_in: int
    c_out: int
    of: int = 0
    onto: int = 0
    r: int = 1
    activation: str = "none"

    def __str__(self) -> str:
        read = f"{self.c_in} of {self.of}" if self.of else str(self.c_in)
        written = f"{self.c_out} of {self.onto}" if self.onto else str(self.c_out)
        return f"{read} → {written}" + (f", shuffled by {self.r}" if self.r > 1 else "")


LAYERS = (
    Layer(37, 29, of=64, activation="relu"),
    Layer(29, 41, onto=64),
    Layer(41, 37),
    Layer(67, 53, of=72, onto=72),
    Layer(11, 5, of=13, onto=7),
    Layer(37, 48, r=4),
    Layer(64, 64, activation="relu"),
)


@dataclass(frozen=True)
class Row:
    """What was found about a layer.

    Attributes:
        layer: the layer.
        seconds: to compile, median, of the processor.
        generic, own: machine instructions of a launch other than matrix products, of both kernels.
        matrix: matrix instructions of a launch, of either.
        registers: of a thread, of both.
        local_bytes: stack and spilled registers of a thread, of the layer's own.
        predicted: microseconds on the A100 by the model of docs/gpu-model.md, best and worst, of both.
    """

    layer: str
    seconds: float
    generic: float
    own: float
    matrix: float
    registers: tuple[int, int]
    local_bytes: int
    predicted: tuple[tuple[float, float], tuple[float, float]]


def operands(layer: Layer, h: int, w: int) -> Operands:
    """Random ones; lists ascend, as pruning leaves them."""

    def listed(seed: int, count: int, of: int) -> Tensor | None:
        if of == 0:
            return None
        return torch.randperm(of, generator=torch.Generator().manual_seed(seed))[:count].sort().values

    return Operands(
        random(1, 1, layer.of or layer.c_in, h, w),
        *weights(2, layer.c_out, layer.c_in),
        residual=random(5, 1, layer.onto, h, w) if layer.onto else None,
        in_channels=listed(6, layer.c_in, layer.of),
        out_channels=listed(7, layer.c_out, layer.onto),
    )


def view(t: Bits) -> View:
    """Of (N, H, W, C) in memory."""
    n, h, w, c = t.shape
    return View(t.ctypes.data, (n, c, h, w), (h * w * c, 1, w * c, c), DTYPE, t)


def prepare(machine: Machine, layer: Layer, o: Operands, h: int, w: int) -> tuple[Launch, Bits]:
    """The launch for a layer, and where its output will be."""
    device = machine.library(LIBRARY).device
    limits = Limits(
        (device.major, device.minor), device.multiprocessors, device.shared_optin, device.shared_per_multiprocessor
    )
    packed = pack(machine, o.weight, o.bias, o.slope, layer.activation, layer.r)
    out = poisoned((1, h * layer.r, w * layer.r, layer.onto or layer.c_out // layer.r**2))
    lists = [None if t is None else tuple(t.tolist()) for t in (o.in_channels, o.out_channels)]
    launch = conv.conv3x3(
        view(pixels(o.x)),
        View(packed.ctypes.data, packed.shape, (1,), "uint16", packed),
        None if o.residual is None else view(pixels(o.residual)),
        view(out),
        limits,
        c_out=layer.c_out,
        in_channels=lists[0],
        out_channels=lists[1],
        activation=layer.activation,
        scale=1.0,
        r=layer.r,
        exact=False,
    )
    return launch, out


def run(machine: Machine, launch: Launch) -> Launched:
    """A launch in ptxvm."""
    compiled = nvrtc.compile_kernel(launch.kernel, f"compute_{machine.target}")
    # The toolkit's assembler may be older than NVRTC; the kernels use nothing that is new in its PTX.
    version = next(
        line for line in machine.library(LIBRARY).modules[0].text.splitlines() if line.startswith(".version")
    )
    text = re.sub(r"^\.version .*$", version, compiled.read_text().rstrip("\0"), count=1, flags=re.MULTILINE)
    module = Module.from_ptx(text)
    arguments = [value.owner if isinstance(value, View) else value for value in launch.arguments]
    stats = module.launch(launch.kernel.entry, launch.grid, launch.block, arguments, launch.shared_bytes, **UNCHECKED)
    blocks, threads = int(np.prod(launch.grid)), int(np.prod(launch.block))
    return Launched(module, launch.kernel.entry, blocks, threads, launch.shared_bytes, stats)


@contextmanager
def empty_cache() -> Iterator[None]:
    """Nothing is compiled yet."""
    before = os.environ.get("VSR_KERNELS_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VSR_KERNELS_CACHE_DIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["VSR_KERNELS_CACHE_DIR"]
            else:
                os.environ["VSR_KERNELS_CACHE_DIR"] = before


def seconds_to_compile(launch: Launch, target: int) -> float:
    """Of the processor; the median."""
    found = []
    for _ in range(TIMES):
        with empty_cache():
            start = time.process_time()
            nvrtc.compile_kernel(launch.kernel, f"sm_{target}")
            found.append(time.process_time() - start)
    return statistics.median(found)


def measure(machine: Machine, layer: Layer, h: int, w: int) -> Row:
    """Run both kernels.

    Raises:
        SystemExit: their outputs differ.
    """
    o = operands(layer, h, w)
    described = Conv(layer.c_in, layer.c_out, h, w, layer.r, layer.activation, bool(layer.onto))
    launched, expected = convolve(machine, o, described)
    launch, out = prepare(machine, layer, o, h, w)
    with empty_cache():
        own = run(machine, launch)
    if not torch.equal(image(out).bfloat16(), expected):
        raise SystemExit(f"{layer}: the outputs differ: no counts")
    gpu = next(gpu for gpu in GPUS if gpu.target == machine.target)
    counted: list[Total] = [total(machine, each, 1) for each in (launched, [own])]
    times = [predict_range(each, gpu) for each in counted]
    return Row(
        str(layer),
        seconds_to_compile(launch, machine.target),
        counted[0].sum("sass"),
        counted[1].sum("sass"),
        counted[1].sum("matrix_sass"),
        (counted[0].registers, counted[1].registers),
        counted[1].local_bytes,
        tuple((best.seconds * 1e6, worst.seconds * 1e6) for best, worst in times),
    )


def show(rows: Sequence[Row], gpu: str) -> None:
    """The table."""
    table = Table(
        "layer",
        "compiled in, s",
        "instructions per product: generic",
        "own",
        "less by",
        "registers",
        f"{gpu}, µs: generic",
        "own",
    )
    for row in rows:
        table.add_row(
            row.layer,
            f"{row.seconds:.2f}",
            f"{row.generic / row.matrix:.2f}",
            f"{row.own / row.matrix:.2f}",
            f"{1 - row.own / row.generic:.0%}",
            "{} → {}".format(*row.registers),
            *("{:.1f}-{:.1f}".format(*each) for each in row.predicted),
        )
    Console(width=130).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 96), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--target", type=int, choices=[gpu.target for gpu in GPUS], default=80)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    reason = nvrtc.obstacle()
    if reason is not None:
        raise SystemExit(reason)
    torch.set_num_threads(1)
    machine, rows = Machine(args.target), []
    for layer in LAYERS:
        rows.append(measure(machine, layer, *args.size))
        print(layer, file=sys.stderr, flush=True)
    show(rows, next(gpu.name for gpu in GPUS if gpu.target == args.target))
    if args.json is not None:
        found = {
            "target": f"sm_{args.target}",
            "size": args.size,
            "dtype": DTYPE,
            "rows": [asdict(row) for row in rows],
        }
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
