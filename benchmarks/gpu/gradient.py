"""Case of the weight gradient of the 3x3 convolution."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from .case import Case, bits, ceil_div, longs, pixels, pointer, poisoned, random, require_close
from .conv import BFLOAT16
from .machine import Launched, Machine

LIBRARY = "conv3x3_wgrad_call"


@functools.lru_cache(maxsize=2)
def operands(c_in: int, c_out: int, h: int, w: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, the gradient of the output, and the gradient of the weight in float32."""
    x, grad = random(1, 1, c_in, h, w), random(2, 1, c_out, h, w)
    padded = torch.nn.functional.pad(x.float(), (1, 1, 1, 1))
    taps = [
        torch.einsum("nohw,nihw->oi", grad.float(), padded[:, :, y : y + h, z : z + w])
        for y in range(3)
        for z in range(3)
    ]
    return x, grad, torch.stack(taps, 2).reshape(c_out, c_in, 3, 3)


def run_ours(c_in: int, c_out: int, h: int, w: int, machine: Machine) -> Sequence[Launched]:
    """By csrc/cuda/conv3x3_wgrad.cu."""
    x, grad, expected = operands(c_in, c_out, h, w)
    sizes, kind = longs(1, h, w, c_in, c_out), (BFLOAT16, 0)
    size = machine.library(LIBRARY).call("conv3x3_wgrad_workspace", *sizes, *kind, restype=ctypes.c_int64)
    workspace, found = poisoned((size // 4,), torch.float32), poisoned((c_out, c_in, 3, 3))
    arrays = [pixels(x), pixels(grad), pointer(None), found, pointer(None), workspace]
    numbers = longs(size, 1, h, w, c_in, c_in, c_out)
    launched = machine.call(LIBRARY, "conv3x3_wgrad", *arrays, *numbers, *kind, *longs(0))
    what = f"weight gradient {c_in}→{c_out} on sm_{machine.target}"
    require_close(what, torch.from_numpy(found).view(torch.bfloat16).float(), expected)
    return launched


def run_triton(c_in: int, c_out: int, h: int, w: int, machine: Machine) -> Sequence[Launched]:
    """The baseline; zeroing its sums and rounding them are not counted."""
    from baselines.conv3x3_triton import conv3x3_weight_gradient

    import ptxvm.triton

    x, grad, expected = operands(c_in, c_out, h, w)
    block, steps = 64, 25
    tensors = {"grad": "*bf16", "x": "*bf16", "grad_weight": "*fp32"}
    kernel = ptxvm.triton.compile(
        conv3x3_weight_gradient,
        {**tensors, "N": "i32", "H": "i32", "W": "i32"},
        {"C_IN": c_in, "C_OUT": c_out, "BLOCK_P": block, "STEPS": steps},
        arch=machine.target,
        num_warps=4,
        num_stages=3,
        divisible=tuple(tensors),
    )
    found = bits(torch.zeros(3, 3, c_in, c_out))
    grid = (9, ceil_div(h * w, block * steps), 1)
    launched = machine.launch_triton(kernel, grid, [pixels(grad), pixels(x), found, 1, h, w])
    what = f"Triton weight gradient {c_in}→{c_out} on sm_{machine.target}"
    require_close(what, torch.from_numpy(found).permute(3, 2, 0, 1), expected)
    return [launched]


def case(key: str, c_in: int, c_out: int, h: int, w: int) -> Case:
    """Of a dense convolution."""
    flops = 2.0 * 9 * c_in * c_out * h * w
    moved = 2 * (h * w * (c_in + c_out) + 9 * c_in * c_out)
    arguments = (c_in, c_out, h, w)
    return Case(
        key,
        f"weight gradient {c_in}→{c_out}, {h}x{w}",
        flops,
        moved,
        functools.partial(run_ours, *arguments),
        functools.partial(run_triton, *arguments),
    )
