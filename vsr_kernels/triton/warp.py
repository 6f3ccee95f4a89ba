"""flow_warp and its gradients as operators."""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton

from ..layout import empty_like_format, memory_format_of
from .kernels.warp import flow_warp_kernel
from .kernels.warp_gradient import flow_gradient_kernel, largest_kernel, round_kernel, scatter_kernel
from .tiles import autotune, is_wide

#: Values of a program, whose four corners are in flight at once: few leave room for more programs, many share the
#: coordinates of a pixel.
TILES = ({"num_warps": 4, "num_stages": 1}, {"num_warps": 2, "num_stages": 1}, {"num_warps": 8, "num_stages": 1})

_tuned_warp = autotune(TILES, ("C", "NEAREST", "BLOCK_C"))(flow_warp_kernel)
_tuned_flow_gradient = autotune(TILES, ("C", "BLOCK_C"))(flow_gradient_kernel)


def _blocks(x: Tensor) -> tuple[int, int]:
    """Pixels and channels of a program: channels lie side by side in memory, or pixels do."""
    channels = triton.next_power_of_2(max(1, int(x.shape[1])))
    block_c = min(64, channels) if memory_format_of(x) == torch.channels_last else min(4, channels)
    return 2048 // max(8, block_c), block_c


def _warp_into(out: Tensor, x: Tensor, flow: Tensor, interpolation: str, padding: str) -> None:
    n, c, h, w = x.shape
    if x.numel() == 0:
        return
    block_p, block_c = _blocks(out)
    wrap_triton(_tuned_warp)[(n * triton.cdiv(h * w, block_p),)](
        x,
        flow,
        out,
        h * w,
        c,
        h,
        w,
        *x.stride(),
        *flow.stride(),
        *out.stride(),
        NEAREST=interpolation == "nearest",
        BORDER=padding == "border",
        WIDE=is_wide(x, out),
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )


@triton_op("vsr_triton::flow_warp", mutates_args=())
def flow_warp(x: Tensor, flow: Tensor, interpolation: str, padding: str) -> Tensor:
    """x sampled at the pixel grid plus the flow, in the memory format of x."""
    out = empty_like_format(x, x.shape)
    _warp_into(out, x, flow, interpolation, padding)
    return out


@triton_op("vsr_triton::flow_warp_concat", mutates_args=())
def flow_warp_concat(x: Tensor, flow: Tensor, y: Tensor, warp_first: bool, interpolation: str, padding: str) -> Tensor:
    """The same beside y, in one tensor."""
    n, c, h, w = x.shape
    out = empty_like_format(x, (n, c + y.shape[1], h, w))
    _warp_into(out.narrow(1, 0 if warp_first else y.shape[1], c), x, flow, interpolation, padding)
    out.narrow(1, c if warp_first else 0, y.shape[1]).copy_(y)
    return out


@triton_op("vsr_triton::flow_warp_backward", mutates_args=())
def flow_warp_backward(
    grad: Tensor,
    x: Tensor,
    flow: Tensor,
    interpolation: str,
    padding: str,
    need_x: bool,
    need_flow: bool,
    deterministic: bool = False,
) -> tuple[Tensor, Tensor]:
    """Gradients by x and flow, empty where not needed; the same in every run, asked for or not."""
    by_x, by_flow = x.new_empty((0,)), flow.new_empty((0,))
    if need_x:
        by_x = _gradient_by_x(grad, x, flow, interpolation == "nearest", padding == "border")
    if need_flow:
        by_flow = flow.new_zeros(flow.shape)
        if interpolation == "bilinear" and x.numel():
            _gradient_by_flow(by_flow, grad, x, flow, padding == "border")
    return by_x, by_flow


def _gradient_by_flow(by_flow: Tensor, grad: Tensor, x: Tensor, flow: Tensor, border: bool) -> None:
    n, c, h, w = x.shape
    block_p, block_c = _blocks(x)
    wrap_triton(_tuned_flow_gradient)[(n * triton.cdiv(h * w, block_p),)](
        grad,
        x,
        flow,
        by_flow,
        h * w,
        c,
        h,
        w,
        *grad.stride(),
        *x.stride(),
        *flow.stride(),
        BORDER=border,
        WIDE=is_wide(x, grad),
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )


def _gradient_by_x(grad: Tensor, x: Tensor, flow: Tensor, nearest: bool, border: bool) -> Tensor:
    n, c, h, w = x.shape
    by_x = empty_like_format(x, x.shape)
    if x.numel() == 0:
        return by_x
    block_p, block_c = _blocks(x)
    block_p //= 4  # four corners of 64-bit sums, addresses and masks at once: more would spill registers
    grid = (n * triton.cdiv(h * w, block_p),)
    headroom = 24 if h * w <= 2**24 else 31  # logarithm of the largest number of pixels
    largest = torch.zeros(n, dtype=torch.int32, device=x.device)
    sums = torch.zeros_like(by_x, dtype=torch.int64)
    flags = torch.zeros(triton.cdiv(x.numel(), 16), dtype=torch.int32, device=x.device)
    sizes = (h * w, c, h, w)
    wrap_triton(largest_kernel)[grid](grad, largest, *sizes, *grad.stride(), BLOCK_P=block_p, BLOCK_C=block_c)
    wrap_triton(scatter_kernel)[grid](
        grad,
        flow,
        largest,
        sums,
        flags,
        *sizes,
        *grad.stride(),
        *flow.stride(),
        *sums.stride(),
        HEADROOM=headroom,
        NEAREST=nearest,
        BORDER=border,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )
    wrap_triton(round_kernel)[(triton.cdiv(x.numel(), 1024),)](
        sums, flags, largest, by_x, x.numel(), c * h * w, HEADROOM=headroom, BLOCK=1024
    )
    return by_x
