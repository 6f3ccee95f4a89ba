"""flow_warp: checks, dispatch, fake kernel and gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import backend, reference
from ..layout import empty_like_format
from ..registration import no_double_backward, on_load
from . import _check

INTERPOLATIONS = ("bilinear", "nearest")
PADDINGS = ("zeros", "border")


def flow_warp(x: Tensor, flow: Tensor, *, interpolation: str = "bilinear", padding: str = "zeros") -> Tensor:
    """Backward warp: ``out[n, :, i, j]`` is ``x[n]`` sampled at row ``i + dy``, column ``j + dx``.

    Equals ``grid_sample(align_corners=True)`` on the pixel grid, without building a grid.

    Args:
        x: (N, C, H, W), float32, float16, bfloat16 or float64, any strides.
        flow: (N, 2, H, W) in pixels, channel 0 = dx, channel 1 = dy; float32 or the dtype of ``x``, any strides.
            Coordinates are computed in float32 (float64 for float64 input).
        interpolation: ``bilinear`` or ``nearest`` (ties to even).
        padding: what lies outside the image: ``zeros``, or ``border`` (the nearest pixel). An infinite displacement is
            outside; NaN counts as minus infinity.

    Returns:
        (N, C, H, W) in the dtype and memory format of ``x``; differentiable in ``x`` and ``flow`` (the gradient of
        ``nearest`` by flow is zero).

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what was given.
    """
    _check.image("flow_warp", "x", x)
    _check.like("flow_warp", "flow", flow, x, dtypes=(torch.float32, x.dtype))
    n, _, h, w = x.shape
    _check.shaped("flow_warp", "flow", flow, (n, 2, h, w), "(N, 2, H, W) as x")
    if interpolation not in INTERPOLATIONS:
        _check.fail("flow_warp", "interpolation", " or ".join(INTERPOLATIONS), repr(interpolation))
    if padding not in PADDINGS:
        _check.fail("flow_warp", "padding", " or ".join(PADDINGS), repr(padding))
    if backend.choose("flow_warp", x) == "reference":
        return reference.flow_warp(x, flow, interpolation=interpolation, padding=padding)
    return torch.ops.vsr_kernels.flow_warp(x, flow, interpolation, padding)


def _fake(x: Tensor, flow: Tensor, interpolation: str, padding: str) -> Tensor:
    return empty_like_format(x, x.shape)


def _backward_fake(
    grad: Tensor, x: Tensor, flow: Tensor, interpolation: str, padding: str, need_x: bool, need_flow: bool
) -> tuple[Tensor, Tensor]:
    grad_x = empty_like_format(x, x.shape) if need_x else x.new_empty((0,))
    grad_flow = flow.new_empty(flow.shape if need_flow else (0,))
    return grad_x, grad_flow


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, flow, ctx.interpolation, ctx.padding = inputs
    ctx.save_for_backward(x, flow)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    x, flow = ctx.saved_tensors
    need_x, need_flow = ctx.needs_input_grad[:2]
    grad_x, grad_flow = torch.ops.vsr_kernels.flow_warp_backward(
        grad, x, flow, ctx.interpolation, ctx.padding, need_x, need_flow
    )
    return grad_x if need_x else None, grad_flow if need_flow else None, None, None


@on_load
def _register() -> None:
    torch.library.register_fake("vsr_kernels::flow_warp", _fake)
    torch.library.register_fake("vsr_kernels::flow_warp_backward", _backward_fake)
    torch.library.register_autograd("vsr_kernels::flow_warp", _backward, setup_context=_setup)
    no_double_backward("flow_warp_backward")
