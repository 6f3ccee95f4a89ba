"""Cases of the 3x3 convolution: dense, and of pruned networks."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .case import Bits, Case, bits, ceil_div, image, longs, pixels, pointer, poisoned, random, require_close
from .in_triton import launched_by
from .machine import Launched, Machine

LIBRARY = "conv3x3_call"
ACTIVATIONS = ("none", "relu", "leaky_relu", "prelu")  # as numbered in csrc/core/activation.h
BFLOAT16 = 2  # in csrc/core/dtype.h


@dataclass(frozen=True)
class Conv:
    """A convolution: channels, size of the image, and what comes behind the sums."""

    c_in: int
    c_out: int
    h: int
    w: int
    r: int = 1
    activation: str = "relu"
    residual: bool = False
    height: int = 0  # of the tile; 0: what the launcher chooses


@dataclass(frozen=True)
class Operands:
    """Operands in bfloat16; the channel lists of a pruned convolution."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    slope: Tensor | None = None
    residual: Tensor | None = None
    in_channels: Tensor | None = None
    out_channels: Tensor | None = None

    def expected(self, conv: Conv) -> Tensor:
        """The result in float32."""
        x = self.x if self.in_channels is None else self.x[:, self.in_channels]
        z = F.conv2d(x.float(), self.weight.float(), self.bias.float(), padding=1)
        if conv.activation == "relu":
            z = F.relu(z)
        elif self.slope is not None:
            z = F.prelu(z, self.slope.float())
        z = F.pixel_shuffle(z, conv.r)
        if self.residual is None:
            return z
        if self.out_channels is None:
            return z + self.residual.float()
        return self.residual.float().index_add(1, self.out_channels, z)


def weights(seed: int, c_out: int, c_in: int) -> tuple[Tensor, Tensor]:
    """Weight and bias, of a size that keeps the values near one."""
    return random(seed, c_out, c_in, 3, 3) / (9 * c_in) ** 0.5, random(seed + 1, c_out)


@functools.lru_cache(maxsize=2)
def operands(conv: Conv) -> Operands:
    """Random operands of a dense convolution."""
    slope = random(4, conv.c_out) if conv.activation == "prelu" else None
    shape = (1, conv.c_out // conv.r**2, conv.h * conv.r, conv.w * conv.r)
    residual = random(5, *shape) if conv.residual else None
    return Operands(random(1, 1, conv.c_in, conv.h, conv.w), *weights(2, conv.c_out, conv.c_in), slope, residual)


def pack(machine: Machine, weight: Tensor, bias: Tensor | None, slope: Tensor | None, activation: str, r: int) -> Bits:
    """Packed weights, which an application makes once."""
    c_out, c_in = weight.shape[:2]
    library = machine.library(LIBRARY)
    size = library.call("conv3x3_packed_bytes", *longs(c_in, c_out, r), BFLOAT16, 0, restype=ctypes.c_int64)
    packed = poisoned((size // 2,))
    arrays = [bits(weight), *(pointer(None if t is None else bits(t)) for t in (bias, slope)), packed]
    numbers = longs(c_in, c_out, r, *weight.contiguous().stride(), 0 if slope is None else len(slope))
    machine.call(LIBRARY, "conv3x3_pack", *arrays, *numbers, 0.1, ACTIVATIONS.index(activation), 0, BFLOAT16, 0)
    return packed


def convolve(machine: Machine, o: Operands, conv: Conv) -> tuple[Sequence[Launched], Tensor]:
    """By csrc/cuda/conv3x3.cu: the launches and the result, checked."""
    packed = pack(machine, o.weight, o.bias, o.slope, conv.activation, conv.r)
    residual = None if o.residual is None else pixels(o.residual)
    channels = conv.c_out // conv.r**2 if o.out_channels is None or residual is None else residual.shape[-1]
    out = poisoned((1, conv.h * conv.r, conv.w * conv.r, channels))
    x = pixels(o.x)
    strides = np.array([x[0].size, 1, x[0, 0].size, x.shape[-1]], np.int64)
    lists = [pointer(None if t is None else t.numpy()) for t in (o.in_channels, o.out_channels)]
    sizes = longs(1, conv.h, conv.w, conv.c_in, conv.c_out, channels, conv.r)
    kind = (ACTIVATIONS.index(conv.activation), BFLOAT16, 0, conv.height)
    arrays = [x, packed, pointer(residual), out, pointer(None), *lists, strides]
    launched = machine.call(LIBRARY, "conv3x3", *arrays, *sizes, 1.0, *kind)
    require_close(f"{conv} on sm_{machine.target}", image(out), o.expected(conv))
    return launched, image(out).bfloat16()


def convolve_in_triton(machine: Machine, o: Operands, conv: Conv) -> tuple[Launched, Tensor]:
    """By benchmarks/baselines/conv3x3_triton.py: the launch and the result, checked."""
    from baselines.conv3x3_triton import conv3x3

    import ptxvm.triton

    block_m, block_n = 128, 1 << (conv.c_out - 1).bit_length()
    tensors = dict.fromkeys(("x", "weight", "bias", "slope", "residual", "out"), "*bf16")
    lists = {"in_channels": "*i64", "out_channels": "*i64"}
    constants = {
        "C_IN": conv.c_in,
        "C_X": o.x.shape[1],
        "C_OUT": conv.c_out,
        "C_TOTAL": conv.c_out if o.residual is None else o.residual.shape[1] * conv.r**2,
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": min(conv.c_in, 64),
        "R": conv.r,
        "ACTIVATION": conv.activation,
        "RESIDUAL": o.residual is not None,
        "GATHER": o.in_channels is not None,
        "SCATTER": o.out_channels is not None,
    }
    kernel = ptxvm.triton.compile(
        conv3x3,
        {**tensors, **lists, "N": "i32", "H": "i32", "W": "i32"},
        constants,
        arch=machine.target,
        num_warps=4,
        num_stages=3,
        divisible=(*tensors, *lists),
    )
    expected = o.expected(conv)
    # Scattering leaves the other channels alone: they were copied before.
    out = poisoned(expected.permute(0, 2, 3, 1).shape) if o.out_channels is None else pixels(o.residual)  # type: ignore[arg-type]
    slope = out if o.slope is None else bits(o.slope)  # an unused pointer
    residual = out if o.residual is None else pixels(o.residual)
    none = np.zeros(1, np.int64)
    channels = [none if t is None else t.numpy() for t in (o.in_channels, o.out_channels)]
    arrays = [pixels(o.x), bits(o.weight.permute(2, 3, 1, 0)), bits(o.bias), slope, residual, out, *channels]
    launched = machine.launch_triton(kernel, (ceil_div(conv.h * conv.w, block_m), 1, 1), [*arrays, 1, conv.h, conv.w])
    require_close(f"Triton {conv} on sm_{machine.target}", image(out), expected)
    return launched, image(out).bfloat16()


def convolve_by_operators(machine: Machine, o: Operands, conv: Conv) -> Sequence[Launched]:
    """By vsr_kernels/triton."""
    x = o.x.contiguous(memory_format=torch.channels_last)
    settings = (o.residual, conv.activation, 1.0, conv.r, False, True, None)
    return launched_by(
        machine,
        lambda ops: ops.conv3x3(x, o.weight, o.bias, o.slope, 0.0, *settings)[0],
        o.expected(conv),
        str(conv),
    )


def case(key: str, title: str, conv: Conv, baseline: bool = True) -> Case:
    """A dense convolution."""
    result = conv.h * conv.w * conv.c_out
    moved = 2 * (conv.h * conv.w * conv.c_in + result * (1 + conv.residual) + 9 * conv.c_in * conv.c_out)
    return Case(
        key,
        title,
        2.0 * 9 * conv.c_in * result,
        moved,
        lambda machine: convolve(machine, operands(conv), conv)[0],
        (lambda machine: [convolve_in_triton(machine, operands(conv), conv)[0]]) if baseline else None,
        operators=lambda machine: convolve_by_operators(machine, operands(conv), conv),
    )


# Pruned networks -----------------------------------------------------------------------------------------------------

CHANNELS, KEPT = 64, 32


@functools.lru_cache(maxsize=2)
def pruned(h: int, w: int) -> tuple[Operands, Conv, Conv, Tensor, Tensor]:
    """A residual block of which half of the channels are left: first operands, both convolutions, second weights."""
    x = random(1, 1, CHANNELS, h, w)
    kept = torch.randperm(CHANNELS, generator=torch.Generator().manual_seed(6))[:KEPT].sort().values
    first = Operands(x, *weights(2, KEPT, KEPT), in_channels=kept)
    return first, Conv(KEPT, KEPT, h, w), Conv(KEPT, KEPT, h, w, activation="none"), *weights(7, KEPT, KEPT)


def sparse_by_ours(h: int, w: int, machine: Machine) -> Sequence[Launched]:
    """Gather, convolve, activate; convolve, add to the channels left."""
    first, conv1, conv2, weight, bias = pruned(h, w)
    launched, hidden = convolve(machine, first, conv1)
    second = Operands(hidden, weight, bias, residual=first.x, out_channels=first.in_channels)
    return [*launched, *convolve(machine, second, conv2)[0]]


def sparse_in_triton(h: int, w: int, machine: Machine) -> Sequence[Launched]:
    """The same, and a copy of the channels that stay as they are."""
    from .shuffle import copy_in_triton

    first, conv1, conv2, weight, bias = pruned(h, w)
    launched, hidden = convolve_in_triton(machine, first, conv1)
    copied = copy_in_triton(machine, pixels(first.x), np.zeros_like(pixels(first.x)))
    second = Operands(hidden, weight, bias, residual=first.x, out_channels=first.in_channels)
    return [launched, copied, convolve_in_triton(machine, second, conv2)[0]]


def sparse_by_operators(h: int, w: int, machine: Machine) -> Sequence[Launched]:
    """By vsr_kernels/triton; torch copies the channels that stay as they are."""
    from .shuffle import copy_in_triton

    first, conv1, conv2, weight, bias = pruned(h, w)
    x, kept = first.x.contiguous(memory_format=torch.channels_last), first.in_channels
    hidden = first.expected(conv1).bfloat16()
    second = Operands(hidden, weight, bias, residual=first.x, out_channels=kept)
    copied = copy_in_triton(machine, pixels(first.x), np.zeros_like(pixels(first.x)))
    settings = (None, 0.0, kept, kept, conv1.activation, False, True, None, None)
    launched = launched_by(
        machine,
        lambda ops: ops.sparse_residual_block(x, first.weight, first.bias, weight, bias, *settings)[0],
        second.expected(conv2),
        "sparse residual block",
    )
    return [launched[0], copied, launched[1]]


def sparse_case(key: str, h: int, w: int) -> Case:
    """The residual block of a pruned network: 32 of 64 channels are left."""
    flops = 2 * 2.0 * 9 * KEPT * KEPT * h * w
    moved = 2 * (2 * CHANNELS * h * w + 2 * 9 * KEPT * KEPT)
    title = f"sparse residual block, {KEPT} of {CHANNELS} channels, {h}x{w}"
    ours, triton = functools.partial(sparse_by_ours, h, w), functools.partial(sparse_in_triton, h, w)
    return Case(key, title, flops, moved, ours, triton, operators=functools.partial(sparse_by_operators, h, w))
