"""flow_warp: checks, dispatch, fake kernel and gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import backend, reference
from ..checks import warp_mode
from ..layout import empty_like_format
from ..registration import COMPILED, NVRTC, TRITON, no_double_backward, on_load, operators, register_into
from . import _check


def flow_warp(x: Tensor, flow: Tensor, *, interpolation: str = "bilinear", padding: str = "zeros") -> Tensor:
    """Backward warp: ``out[n, :, i, j]`` is ``x[n]`` sampled at row ``i + dy``, column ``j + dx``.

    Equals ``grid_sample(align_corners=True)`` on the pixel grid, without building a grid. In the compiled
    CUDA kernels, the gradient by ``x`` is a sum whose order changes from run to run, unless
    ``torch.use_deterministic_algorithms(True)`` is in force.

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
    _check_arguments("flow_warp", x, flow, interpolation, padding)
    chosen = backend.choose("flow_warp", x)
    if chosen == "reference":
        return reference.flow_warp(x, flow, interpolation=interpolation, padding=padding)
    return backend.operators(chosen).flow_warp(x, flow, interpolation, padding)


def flow_warp_concat(
    x: Tensor,
    flow: Tensor,
    y: Tensor,
    *,
    warp_first: bool = True,
    interpolation: str = "bilinear",
    padding: str = "zeros",
) -> Tensor:
    """``torch.cat([flow_warp(x, flow), y], dim=1)`` without the warped image in between.

    Args:
        x, flow, interpolation, padding: as in :func:`flow_warp`.
        y: (N, C_y, H, W) in the dtype of ``x``, any strides.
        warp_first: whether the warped image comes before ``y``.

    Returns:
        (N, C + C_y, H, W) in the dtype and memory format of ``x``; differentiable in ``x``, ``flow`` and ``y``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what was given.
    """
    op = "flow_warp_concat"
    _check_arguments(op, x, flow, interpolation, padding)
    _check.image(op, "y", y)
    if y.dtype != x.dtype:
        _check.fail(op, "y", str(x.dtype), y.dtype, TypeError)
    _check.like(op, "y", y, x)
    n, _, h, w = x.shape
    _check.shaped(op, "y", y, (n, None, h, w), "(N, C_y, H, W) as x")
    chosen = backend.choose("flow_warp", x)
    if chosen == "reference":
        return reference.flow_warp_concat(
            x, flow, y, warp_first=warp_first, interpolation=interpolation, padding=padding
        )
    ops = backend.operators(chosen)
    return ops.flow_warp_concat(x, flow, y, warp_first, interpolation, padding)


def _check_arguments(op: str, x: Tensor, flow: Tensor, interpolation: str, padding: str) -> None:
    _check.image(op, "x", x)
    _check.like(op, "flow", flow, x, dtypes=(torch.float32, x.dtype))
    n, _, h, w = x.shape
    _check.shaped(op, "flow", flow, (n, 2, h, w), "(N, 2, H, W) as x")
    warp_mode(op, interpolation, padding)


def _fake(x: Tensor, flow: Tensor, interpolation: str, padding: str) -> Tensor:
    return empty_like_format(x, x.shape)


def _concat_fake(x: Tensor, flow: Tensor, y: Tensor, warp_first: bool, interpolation: str, padding: str) -> Tensor:
    n, c, h, w = x.shape
    return empty_like_format(x, (n, c + y.shape[1], h, w))


def _backward_fake(
    grad: Tensor,
    x: Tensor,
    flow: Tensor,
    interpolation: str,
    padding: str,
    need_x: bool,
    need_flow: bool,
    deterministic: bool = False,
) -> tuple[Tensor, Tensor]:
    grad_x = empty_like_format(x, x.shape) if need_x else x.new_empty((0,))
    grad_flow = flow.new_empty(flow.shape if need_flow else (0,))
    return grad_x, grad_flow


def _gradients(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """By x and flow, which come first among the arguments, for the gradient of the warped image."""
    x, flow = ctx.saved_tensors
    need_x, need_flow = ctx.needs_input_grad[:2]
    if not need_x and not need_flow:
        return None, None
    grad_x, grad_flow = ops.flow_warp_backward(
        grad, x, flow, ctx.interpolation, ctx.padding, need_x, need_flow, torch.are_deterministic_algorithms_enabled()
    )
    return grad_x if need_x else None, grad_flow if need_flow else None


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, flow, ctx.interpolation, ctx.padding = inputs
    ctx.save_for_backward(x, flow)


def _backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    return (*_gradients(ops, ctx, grad), None, None)


def _concat_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, flow, _, ctx.warp_first, ctx.interpolation, ctx.padding = inputs
    ctx.save_for_backward(x, flow)


def _concat_backward(
    ops: Any, ctx: Any, grad: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
    channels = ctx.saved_tensors[0].shape[1]
    others = grad.shape[1] - channels
    warped = grad.narrow(1, 0 if ctx.warp_first else others, channels)
    beside = grad.narrow(1, channels if ctx.warp_first else 0, others)
    return (*_gradients(ops, ctx, warped), beside if ctx.needs_input_grad[2] else None, None, None, None)


@on_load(COMPILED, TRITON, NVRTC)
def _register_forward(namespace: str) -> None:
    torch.library.register_fake(f"{namespace}::flow_warp", _fake)
    torch.library.register_fake(f"{namespace}::flow_warp_concat", _concat_fake)


@on_load(COMPILED, TRITON)
def _register(namespace: str) -> None:
    ops = operators(namespace)
    warp, concat = f"{namespace}::flow_warp", f"{namespace}::flow_warp_concat"
    torch.library.register_fake(f"{namespace}::flow_warp_backward", _backward_fake)
    torch.library.register_autograd(warp, partial(_backward, ops), setup_context=_setup)
    torch.library.register_autograd(concat, partial(_concat_backward, ops), setup_context=_concat_setup)
    no_double_backward(namespace, "flow_warp_backward")


@on_load(COMPILED)
def _register_compiled(namespace: str) -> None:
    register_into(namespace, "flow_warp_into")
