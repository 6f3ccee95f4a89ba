"""Cases of the pixel shuffle: a copy in another order."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .case import Bits, Case, ceil_div, image, longs, pixels, poisoned, random, require_close
from .in_triton import launched_by
from .machine import Launched, Machine


@dataclass(frozen=True)
class Shuffle:
    """A pixel shuffle of so many channels by r, of an image before it."""

    channels: int
    r: int
    h: int
    w: int

    def operands(self) -> tuple[Bits, Bits, Tensor]:
        """The source, room for the result, and the result in float32."""
        x = random(1, 1, self.channels, self.h, self.w)
        out = poisoned((1, self.h * self.r, self.w * self.r, self.channels // self.r**2))
        return pixels(x), out, F.pixel_shuffle(x.float(), self.r)


def run_ours(p: Shuffle, machine: Machine) -> Sequence[Launched]:
    """By csrc/cuda/pixel_shuffle.cu."""
    x, out, expected = p.operands()
    sizes = longs(1, p.channels // p.r**2, p.h, p.w, p.r, 2)
    launched = machine.call("pixel_shuffle_call", "pixel_shuffle", x, out, *sizes, 1, 0)
    require_close(f"{p} on sm_{machine.target}", image(out), expected)
    return launched


def launch_triton(machine: Machine, x: Bits, out: Bits, h: int, w: int, channels: int, r: int) -> Launched:
    """By benchmarks/baselines/pixel_shuffle_triton.py."""
    from baselines.pixel_shuffle_triton import pixel_shuffle

    import ptxvm.triton

    block = 1024
    signature = {"x": "*bf16", "out": "*bf16", "H": "i32", "W": "i32", "elements": "i32"}
    constants = {"C": channels, "R": r, "BLOCK": block}
    kernel = ptxvm.triton.compile(
        pixel_shuffle, signature, constants, arch=machine.target, num_warps=4, divisible=("x", "out", "elements")
    )
    return machine.launch_triton(kernel, (ceil_div(out.size, block), 1, 1), [x, out, h, w, out.size])


def copy_in_triton(machine: Machine, x: Bits, out: Bits) -> Launched:
    """A copy: a shuffle by one."""
    return launch_triton(machine, x, out, x.shape[1], x.shape[2], x.shape[3], 1)


def run_triton(p: Shuffle, machine: Machine) -> Sequence[Launched]:
    """The baseline, checked."""
    x, out, expected = p.operands()
    launched = launch_triton(machine, x, out, p.h, p.w, p.channels, p.r)
    require_close(f"Triton {p} on sm_{machine.target}", image(out), expected)
    return [launched]


def run_by_operators(p: Shuffle, machine: Machine) -> Sequence[Launched]:
    """By vsr_kernels/triton."""
    x = random(1, 1, p.channels, p.h, p.w).contiguous(memory_format=torch.channels_last)
    return launched_by(machine, lambda ops: ops.pixel_shuffle(x, p.r), F.pixel_shuffle(x.float(), p.r), str(p))


def case(key: str, p: Shuffle) -> Case:
    """A row of the table; instructions are counted by what a warp stores at once with 16 bytes per lane."""
    size = 2 * p.channels * p.h * p.w
    title = f"pixel_shuffle({p.r}), {p.channels} channels, {p.h}x{p.w}"
    ours, triton = functools.partial(run_ours, p), functools.partial(run_triton, p)
    operators = functools.partial(run_by_operators, p)
    return Case(key, title, 0.0, 2 * size, ours, triton, units=size / 512, unit="512 B", operators=operators)
