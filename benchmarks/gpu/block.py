"""Cases of the residual block, in both of its plans."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from .case import Bits, Case, bits, image, longs, pixels, pointer, poisoned, random, require_close
from .conv import ACTIVATIONS, BFLOAT16, Conv, Operands, convolve, convolve_in_triton, weights
from .in_triton import launched_by
from .machine import Launched, Machine

LIBRARY = "residual_block_call"
FUSED = 0  # in csrc/core/residual_block.h
RELU = ACTIVATIONS.index("relu")


@functools.lru_cache(maxsize=2)
def operands(c: int, h: int, w: int) -> tuple[Operands, Operands, Tensor]:
    """Operands of both convolutions (the hidden layer as x of the second), and the result in float32."""
    first = Operands(random(1, 1, c, h, w), *weights(2, c, c))
    hidden = first.expected(Conv(c, c, h, w)).bfloat16()
    second = Operands(hidden, *weights(7, c, c), residual=first.x)
    return first, second, second.expected(Conv(c, c, h, w, activation="none"))


def pack(machine: Machine, second: int, o: Operands, c: int) -> Bits:
    """Packed weights, which an application makes once."""
    kind = (BFLOAT16, 0, FUSED)
    size = machine.library(LIBRARY).call("block_packed_bytes", second, *longs(c, c), *kind, restype=ctypes.c_int64)
    packed = poisoned((size // 2,))
    arrays = [bits(o.weight), bits(o.bias), pointer(None), packed]
    machine.call(LIBRARY, "block_pack", second, *arrays, *longs(c, c, 0), 0.0, RELU, *kind)
    return packed


def run_fused(c: int, h: int, w: int, height: int, machine: Machine) -> Sequence[Launched]:
    """By csrc/cuda/residual_block.cu."""
    first, second, expected = operands(c, h, w)
    packed = [pack(machine, at, o, c) for at, o in enumerate((first, second))]
    out = poisoned((1, h, w, c))
    arrays = [pixels(first.x), *packed, out, pointer(None), pointer(None)]
    kind = (RELU, BFLOAT16, 0, 0, FUSED, height)
    launched = machine.call(LIBRARY, "residual_block", *arrays, *longs(1, h, w, c, c), 1.0, *kind)
    require_close(f"residual block of {c} channels on sm_{machine.target}", image(out), expected)
    return launched


def run_two(c: int, h: int, w: int, machine: Machine) -> Sequence[Launched]:
    """The plan of two launches is two convolutions."""
    first, second, _ = operands(c, h, w)
    launched, hidden = convolve(machine, first, Conv(c, c, h, w))
    last = Operands(hidden, second.weight, second.bias, residual=first.x)
    return [*launched, *convolve(machine, last, Conv(c, c, h, w, activation="none"))[0]]


def run_triton(c: int, h: int, w: int, machine: Machine) -> Sequence[Launched]:
    """Two launches of the baseline."""
    first, second, _ = operands(c, h, w)
    launched, hidden = convolve_in_triton(machine, first, Conv(c, c, h, w))
    last = Operands(hidden, second.weight, second.bias, residual=first.x)
    return [launched, convolve_in_triton(machine, last, Conv(c, c, h, w, activation="none"))[0]]


def run_by_operators(c: int, h: int, w: int, machine: Machine) -> Sequence[Launched]:
    """By vsr_kernels/triton."""
    first, second, expected = operands(c, h, w)
    x = first.x.contiguous(memory_format=torch.channels_last)
    settings = (None, 0.0, "relu", 1.0, False, True, None, None)
    return launched_by(
        machine,
        lambda ops: ops.residual_block(x, first.weight, first.bias, second.weight, second.bias, *settings)[0],
        expected,
        f"residual block of {c} channels",
    )


def fused_case(key: str, c: int, h: int, w: int, height: int = 0) -> Case:
    """x + conv(relu(conv(x))) in one launch; ``height`` of the tile, 0: what the launcher chooses."""
    ours, triton = functools.partial(run_fused, c, h, w, height), functools.partial(run_triton, c, h, w)
    operators = functools.partial(run_by_operators, c, h, w)
    title = f"residual block, {c} channels, fused, {h}x{w}"
    return Case(key, title, *work(c, h, w), ours, triton, operators=operators)


def two_case(key: str, c: int, h: int, w: int) -> Case:
    """The same in two launches; its baseline is that of the fused form."""
    ours = functools.partial(run_two, c, h, w)
    return Case(key, f"residual block, {c} channels, two launches, {h}x{w}", *work(c, h, w), ours)


def work(c: int, h: int, w: int) -> tuple[float, int]:
    """Operations and compulsory bytes."""
    return 2 * 2.0 * 9 * c * c * h * w, 2 * (2 * c * h * w + 2 * 9 * c * c)
