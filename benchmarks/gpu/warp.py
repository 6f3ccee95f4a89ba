"""Cases of the flow warp, forward and backward, at 64 channels."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vsr_kernels import reference

from .case import Bits, Case, bits, ceil_div, image, pixels, poisoned, random, require_close
from .in_triton import launched_by
from .machine import Launched, Machine

CHANNELS = 64
PIXELS_PER_UNIT = 4  # of 128 bytes: what a warp holds in one register of 16 bytes per lane
BFLOAT16, FLOAT32 = 2, 0  # as numbered in csrc/core/dtype.h


def motion(h: int, w: int) -> Tensor:
    """Flow as between frames: smooth, a few pixels."""
    coarse = torch.randn(1, 2, 6, 10, generator=torch.Generator().manual_seed(2))
    return F.interpolate(coarse, size=(h, w), mode="bicubic").mul(4).contiguous()


def strides(*tensors: Tensor) -> Bits:
    """Of all tensors, one after the other."""
    return np.array([stride for t in tensors for stride in t.stride()], np.int64)


def operands(h: int, w: int) -> tuple[Tensor, Tensor]:
    """An image in channels_last memory, and a flow."""
    return random(1, 1, CHANNELS, h, w).contiguous(memory_format=torch.channels_last), motion(h, w)


def gradients(grad: Tensor, x: Tensor, flow: Tensor) -> tuple[Tensor, ...]:
    """By x and flow in float32."""
    leaves = x.float().requires_grad_(), flow.clone().requires_grad_()
    return torch.autograd.grad(reference.flow_warp(*leaves), leaves, grad.float())


def run_ours(h: int, w: int, machine: Machine) -> Sequence[Launched]:
    """By csrc/cuda/flow_warp.cu."""
    x, flow = operands(h, w)
    out = poisoned((1, h, w, CHANNELS))
    sizes = np.array(x.shape, np.int64)
    arrays = [pixels(x), bits(flow), out, sizes, strides(x, flow, x)]
    launched = machine.call("flow_warp_call", "flow_warp", *arrays, BFLOAT16, FLOAT32, 0, 0)
    require_close(f"flow_warp on sm_{machine.target}", image(out), reference.flow_warp(x.float(), flow))
    return launched


def run_triton(h: int, w: int, machine: Machine) -> Sequence[Launched]:
    """By benchmarks/baselines/flow_warp_triton.py."""
    from baselines.flow_warp_triton import flow_warp

    import ptxvm.triton

    block = 32
    x, flow = operands(h, w)
    out = poisoned((1, h, w, CHANNELS))
    signature = {"x": "*bf16", "flow": "*fp32", "out": "*bf16", "N": "i32", "H": "i32", "W": "i32"}
    kernel = ptxvm.triton.compile(
        flow_warp, signature, {"C": CHANNELS, "BLOCK": block}, machine.target, divisible=("x", "flow", "out")
    )
    launched = machine.launch_triton(kernel, (ceil_div(h * w, block), 1, 1), [pixels(x), bits(flow), out, 1, h, w])
    require_close(f"Triton flow_warp on sm_{machine.target}", image(out), reference.flow_warp(x.float(), flow))
    return [launched]


def run_by_operators(h: int, w: int, machine: Machine) -> Sequence[Launched]:
    """By vsr_kernels/triton."""
    x, flow = operands(h, w)
    expected = reference.flow_warp(x.float(), flow)
    return launched_by(machine, lambda ops: ops.flow_warp(x, flow, "bilinear", "zeros"), expected, "flow_warp")


def run_ours_backward(h: int, w: int, machine: Machine) -> Sequence[Launched]:
    """By csrc/cuda/flow_warp_backward.cu: sums of the scatter, then their rounding to bfloat16."""
    x, flow = operands(h, w)
    grad = x.flip(3)
    sums, grad_x = bits(torch.zeros(x.numel())), poisoned((1, h, w, CHANNELS))
    grad_flow = poisoned((1, 2, h, w), torch.float32)
    arrays = [pixels(grad), pixels(x), bits(flow), grad_x, grad_flow, sums, np.array(x.shape, np.int64)]
    numbers = [BFLOAT16, FLOAT32, 0, 0, 1, 0]
    launched = machine.call("flow_warp_call", "flow_warp_backward", *arrays, strides(x, x, flow), *numbers)
    by_x, by_flow = gradients(grad, x, flow)
    require_close(f"flow_warp's gradient by x on sm_{machine.target}", image(grad_x), by_x)
    require_close(f"flow_warp's gradient by flow on sm_{machine.target}", torch.from_numpy(grad_flow), by_flow)
    return launched


def run_triton_backward(h: int, w: int, machine: Machine) -> Sequence[Launched]:
    """By benchmarks/baselines/flow_warp_triton.py: the scatter, then its sums in bfloat16."""
    from baselines.flow_warp_triton import flow_warp_backward, narrow

    import ptxvm.triton

    block = 32
    x, flow = operands(h, w)
    grad = x.flip(3)
    sums, grad_flow = bits(torch.zeros(1, h, w, CHANNELS)), poisoned((1, 2, h, w), torch.float32)
    pointers = {"grad": "*bf16", "x": "*bf16", "flow": "*fp32", "grad_x": "*fp32", "grad_flow": "*fp32"}
    signature = {**pointers, "N": "i32", "H": "i32", "W": "i32"}
    kernel = ptxvm.triton.compile(
        flow_warp_backward, signature, {"C": CHANNELS, "BLOCK": block}, machine.target, divisible=tuple(pointers)
    )
    arrays = [pixels(grad), pixels(x), bits(flow), sums, grad_flow]
    first = machine.launch_triton(kernel, (ceil_div(h * w, block), 1, 1), [*arrays, 1, h, w])
    grad_x, block = poisoned((1, h, w, CHANNELS)), 1024
    signature = {"source": "*fp32", "out": "*bf16", "count": "i32"}
    kernel = ptxvm.triton.compile(narrow, signature, {"BLOCK": block}, machine.target, divisible=tuple(signature))
    second = machine.launch_triton(kernel, (ceil_div(grad_x.size, block), 1, 1), [sums, grad_x, grad_x.size])
    by_x, by_flow = gradients(grad, x, flow)
    require_close(f"Triton flow_warp's gradient by x on sm_{machine.target}", image(grad_x), by_x)
    require_close(f"Triton flow_warp's gradient by flow on sm_{machine.target}", torch.from_numpy(grad_flow), by_flow)
    return [first, second]


def case(key: str, h: int, w: int, *, gradient: bool) -> Case:
    """Forward: x and flow are read, the output is written; or both gradients, which need grad, x and flow."""
    images, flows = (3, 2) if gradient else (2, 1)
    return Case(
        key,
        f"flow_warp{' backward' * gradient}, {CHANNELS} channels, {h}x{w}",
        (24.0 if gradient else 8.0) * CHANNELS * h * w,
        h * w * (images * 2 * CHANNELS + flows * 8),
        functools.partial(run_ours_backward if gradient else run_ours, h, w),
        functools.partial(run_triton_backward if gradient else run_triton, h, w),
        units=h * w / PIXELS_PER_UNIT,
        unit="4 pixels",
        operators=None if gradient else functools.partial(run_by_operators, h, w),
    )
