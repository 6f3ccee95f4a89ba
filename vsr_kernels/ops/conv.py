"""conv3x3 and residual_block: checks, dispatch, fake kernels, gradients and autocast."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backend, reference
from ..registration import (
    COMPILED,
    NVRTC,
    TRITON,
    no_double_backward,
    on_load,
    operators,
    register_autocast,
    register_into,
    under_autocast,
)
from . import _check
from .packing import PackedWeights
from .precision import exact_float32


def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    slope: float | Tensor | None = None,
    residual: Tensor | None = None,
    pixel_shuffle: int = 1,
    packed: PackedWeights | None = None,
    slot: int = 0,
) -> Tensor:
    """3x3 convolution with its epilogue: ``pixel_shuffle(act(conv2d(x, weight, bias, padding=1)), r) + residual``.

    Args:
        x: (N, C_in, H, W), float32, float16, bfloat16 or float64, any strides; channels_last is the fast path.
        weight: (C_out, C_in, 3, 3), dtype of ``x``.
        bias: (C_out,) or None.
        activation: ``none``, ``relu``, ``leaky_relu`` or ``prelu``.
        slope: a float for ``leaky_relu``; a tensor (1,) or (C_out,) for ``prelu``; otherwise None.
        residual: (N, C_out / r^2, r * H, r * W), added last, or None.
        pixel_shuffle: r >= 1; ``C_out`` must be divisible by r^2.
        packed: where to keep packed weights between calls; None packs them in every call.
        slot: which of the convolutions that share ``packed`` this is.

    Returns:
        (N, C_out / r^2, r * H, r * W), channels_last, dtype of ``x`` (of autocast where it is enabled). Accumulation is
        float32 or better. Differentiable in every tensor argument. float32 is exact unless torch's settings allow less:
        ``torch.backends.cuda.matmul.fp32_precision`` on a GPU (TF32 operands),
        ``torch.backends.mkldnn.conv.fp32_precision`` on the CPU (``tf32`` or ``bf16``: Winograd F(4x4), relative L2
        error 1.7e-6, in about 3/4 of the time). So it is in every operator that convolves.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what was given.
    """
    _check.image("conv3x3", "x", x)
    n, c_in, h, w = x.shape
    _check.kernel3x3("conv3x3", "weight", weight, x, c_in, "C_in of x")
    c_out = weight.shape[0]
    _check.optional_vector("conv3x3", "bias", bias, x, c_out, "(C_out,)")
    _check.activation("conv3x3", activation, slope, x, c_out)
    _check.factor("conv3x3", "pixel_shuffle", pixel_shuffle)
    r = pixel_shuffle
    if c_out % (r * r) != 0:
        _check.fail("conv3x3", "weight", f"C_out divisible by r^2 = {r * r}", f"shape {tuple(weight.shape)}")
    if residual is not None:
        _check.like("conv3x3", "residual", residual, x)
        _check.shaped(
            "conv3x3", "residual", residual, (n, c_out // (r * r), h * r, w * r), "(N, C_out / r^2, r H, r W)"
        )
    chosen = backend.choose("conv3x3", x)
    if chosen == "reference":
        return under_autocast(
            reference.conv3x3,
            x,
            weight,
            bias,
            activation=activation,
            slope=slope_of(slope),
            residual=residual,
            pixel_shuffle=r,
        )
    keep = needs_grad(x, weight, bias, slope, residual) and not sign_survives(activation, slope, residual, 1.0)
    slopes = split_slope(slope)
    ops = backend.operators(chosen)
    kept = None if packed is None else packed.get(ops, slot, x, weight, bias, *slopes, activation, r)
    out, _ = ops.conv3x3(x, weight, bias, *slopes, residual, activation, 1.0, r, keep, exact_float32(x), kept)
    return out


def residual_block(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    *,
    activation: str = "relu",
    slope: float | Tensor | None = None,
    scale: float = 1.0,
    packed: PackedWeights | None = None,
) -> Tensor:
    """Residual block without batch norm: ``x + scale * conv3x3(act(conv3x3(x)))``.

    Args:
        x: (N, C, H, W), float32, float16, bfloat16 or float64, any strides; channels_last is the fast path.
        weight1: (C_mid, C, 3, 3); bias1: (C_mid,) or None.
        weight2: (C, C_mid, 3, 3); bias2: (C,) or None.
        activation: ``none``, ``relu``, ``leaky_relu`` or ``prelu``, after the first convolution.
        slope: a float for ``leaky_relu``; a tensor (1,) or (C_mid,) for ``prelu``; otherwise None.
        scale: factor of the residual branch.
        packed: where to keep packed weights between calls; None packs them in every call.

    Returns:
        (N, C, H, W), channels_last, dtype of ``x`` (of autocast where it is enabled). Differentiable in every tensor.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what was given.
    """
    op = "residual_block"
    _check.image(op, "x", x)
    c = x.shape[1]
    _check.kernel3x3(op, "weight1", weight1, x, c, "C of x")
    c_mid = weight1.shape[0]
    _check.optional_vector(op, "bias1", bias1, x, c_mid, "(C_mid,)")
    _check.like(op, "weight2", weight2, x)
    _check.shaped(op, "weight2", weight2, (c, c_mid, 3, 3), "(C, C_mid, 3, 3)")
    _check.optional_vector(op, "bias2", bias2, x, c, "(C,)")
    _check.activation(op, activation, slope, x, c_mid)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        _check.fail(op, "scale", "a number", type(scale).__name__, TypeError)
    chosen = backend.choose(op, x)
    if chosen == "reference":
        return under_autocast(
            reference.residual_block,
            x,
            weight1,
            bias1,
            weight2,
            bias2,
            activation=activation,
            slope=slope_of(slope),
            scale=float(scale),
        )
    keep = needs_grad(x, weight1, bias1, weight2, bias2, slope)
    slopes = split_slope(slope)
    ops = backend.operators(chosen)
    kept = packed_block(packed, ops, x, weight1, bias1, weight2, bias2, slopes, activation)
    out, _ = ops.residual_block(
        x, weight1, bias1, weight2, bias2, *slopes, activation, float(scale), keep, exact_float32(x), *kept
    )
    return out


def packed_block(
    packed: PackedWeights | None,
    ops: Any,
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    slopes: tuple[Tensor | None, float],
    activation: str,
) -> tuple[Tensor | None, Tensor | None]:
    """The packed weights of both convolutions of a block."""
    if packed is None:
        return None, None
    first = packed.get(ops, 0, x, weight1, bias1, *slopes, activation)
    return first, packed.get(ops, 1, x, weight2, bias2)


def slope_of(slope: float | Tensor | None) -> float | Tensor | None:
    """The slope with integers as floats."""
    return slope if slope is None or isinstance(slope, Tensor) else float(slope)


def split_slope(slope: float | Tensor | None) -> tuple[Tensor | None, float]:
    """The two slope arguments of the C++ operators: a tensor for prelu, a number for leaky_relu."""
    return (slope, 0.0) if isinstance(slope, Tensor) else (None, 0.0 if slope is None else float(slope))


def needs_grad(*values: object) -> bool:
    """Whether autograd will ask for a gradient of any of these arguments."""
    return torch.is_grad_enabled() and any(isinstance(v, Tensor) and v.requires_grad for v in values)


def sign_survives(activation: str, slope: float | Tensor | None, residual: Tensor | None, scale: float) -> bool:
    """Whether the sign of the operator's output tells the activation's derivative, so that nothing else is kept."""
    if activation == "none":
        return True
    if residual is not None or scale != 1.0 or activation == "prelu":
        return False
    return activation == "relu" or (isinstance(slope, (int, float)) and slope >= 0)


def need_kept(op: str, argument: str, kept: bool) -> None:
    """Raise where a gradient needs what a direct call of the C++ operator did not ask it to keep.

    Not before the backward: a graph exported without gradients is traced again with them.
    """
    if not kept:
        raise RuntimeError(
            f"vsr_kernels::{op}: {argument}: expected True where this gradient is wanted, got False; "
            f"vsr_kernels.{op} sets it"
        )


def conv_gradients(
    ops: Any,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    need: tuple[bool, bool, bool],
    exact: bool,
    in_channels: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of ``conv2d(x[:, in_channels], weight, bias, padding=1)`` by its input, weight and bias, by ``ops``."""
    if not any(need):
        return None, None, None
    found = ops.conv3x3_backward(grad, x, weight, in_channels, *need, exact)
    by_x, by_weight, by_bias = (gradient if needed else None for gradient, needed in zip(found, need, strict=True))
    return by_x, by_weight, by_bias


def activation_gradients(
    ops: Any,
    grad: Tensor,
    saved: Tensor | None,
    slope: Tensor | None,
    activation: str,
    number: float,
    scale: float,
    r: int,
) -> tuple[Tensor, Tensor | None]:
    """Gradient before the epilogue, (N, C_out, H, W), and the gradient of the prelu slope."""
    if activation == "none" and scale == 1.0 and r == 1:
        return grad, None
    return ops.conv3x3_epilogue_backward(grad, grad if saved is None else saved, slope, activation, number, scale, r)


def empty_channels_last(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What the convolutions return, for the fake kernels."""
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


# conv3x3 -------------------------------------------------------------------------------------------------------------


def _conv_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    number: float,
    residual: Tensor | None,
    activation: str,
    scale: float,
    r: int,
    keep: bool,
    exact: bool,
    packed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    n, _, h, w = x.shape
    shape = (n, weight.shape[0] // (r * r), h * r, w * r)
    return empty_channels_last(x, shape), empty_channels_last(x, shape) if keep else x.new_empty((0,))


def _conv_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, slope, ctx.number, residual, ctx.activation, ctx.scale, ctx.r, ctx.keep, ctx.exact, _ = inputs
    out, saved = output
    ctx.mark_non_differentiable(saved)
    number: float | Tensor = ctx.number if slope is None else slope
    ctx.of_output = sign_survives(ctx.activation, number, residual, ctx.scale)
    kept = None if ctx.activation == "none" else out if ctx.of_output else saved
    ctx.save_for_backward(x, weight, slope, kept)


def _conv_backward(ops: Any, ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, slope, saved = ctx.saved_tensors
    need_kept("conv3x3", "keep_preactivation", ctx.of_output or ctx.keep)
    need = ctx.needs_input_grad
    before, grad_slope = activation_gradients(ops, grad, saved, slope, ctx.activation, ctx.number, ctx.scale, ctx.r)
    grad_x, grad_weight, grad_bias = conv_gradients(ops, before, x, weight, (need[0], need[1], need[2]), ctx.exact)
    return (
        grad_x,
        grad_weight,
        grad_bias,
        grad_slope if need[3] else None,
        None,
        grad if need[5] else None,
        *[None] * 6,
    )


def _backward_fake(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    in_channels: Tensor | None,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
    exact: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    n, _, h, w = x.shape
    return (
        empty_channels_last(x, (n, weight.shape[1], h, w)) if need_x else x.new_empty((0,)),
        x.new_empty(weight.shape if need_weight else (0,)),
        x.new_empty((weight.shape[0],) if need_bias else (0,)),
    )


def _pack_fake(
    weight: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    number: float,
    activation: str,
    r: int,
    exact: bool,
    transposed: bool,
) -> Tensor:
    c_out, c_in = weight.shape[:2]
    channels = (c_out, c_in) if transposed else (c_in, c_out)
    if weight.device.type == "cpu":
        size = torch.ops.vsr_kernels.conv3x3_cpu_packed_bytes(*channels, r, weight.dtype, exact)
        return weight.new_empty((size,), dtype=torch.uint8)
    size = torch.ops.vsr_kernels.conv3x3_packed_bytes(*channels, r, weight.element_size(), exact)
    return weight.new_empty((size,), dtype=torch.uint8)


def _epilogue_backward_fake(
    grad: Tensor,
    saved: Tensor,
    slope: Tensor | None,
    activation: str,
    number: float,
    scale: float,
    r: int,
) -> tuple[Tensor, Tensor]:
    n, c, h, w = grad.shape
    before = empty_channels_last(grad, (n, c * r * r, h // r, w // r))
    return before, grad.new_empty((0,)) if slope is None else slope.new_empty(slope.shape)


# residual_block ------------------------------------------------------------------------------------------------------


def _block_fake(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    slope: Tensor | None,
    number: float,
    activation: str,
    scale: float,
    keep: bool,
    exact: bool,
    packed1: Tensor | None,
    packed2: Tensor | None,
) -> tuple[Tensor, Tensor]:
    n, c, h, w = x.shape
    saved = empty_channels_last(x, (n, weight1.shape[0], h, w)) if keep else x.new_empty((0,))
    return empty_channels_last(x, (n, c, h, w)), saved


def _block_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight1, _, weight2, _, slope, ctx.number, ctx.activation, ctx.scale, ctx.keep, ctx.exact, *_ = inputs
    _, hidden = output
    ctx.mark_non_differentiable(hidden)
    ctx.save_for_backward(x, weight1, weight2, slope, hidden)


def hidden_activation(hidden: Tensor, slope: Tensor | None, activation: str, number: float) -> Tensor:
    """What conv2 of a block saw: the kept tensor, unless that holds the values before activation."""
    if sign_survives(activation, number if slope is None else slope, None, 1.0):
        return hidden
    return F.leaky_relu(hidden, number) if slope is None else F.prelu(hidden, slope)


def block_gradients(
    ops: Any,
    ctx: Any,
    grad: Tensor,
    x: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    slope: Tensor | None,
    hidden: Tensor,
    in_channels: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of ``conv3x3(act(conv3x3(x[:, in_channels])))`` by its input, weight1, bias1, weight2, bias2 and slope.

    ``ctx`` is that of an operator whose first six arguments these are.
    """
    need = ctx.needs_input_grad
    activated = hidden_activation(hidden, slope, ctx.activation, ctx.number)
    inner = need[0] or need[1] or need[2] or need[5]
    grad_hidden, grad_weight2, grad_bias2 = conv_gradients(
        ops, grad, activated, weight2, (inner, need[3], need[4]), ctx.exact
    )
    if not inner:
        return None, None, None, grad_weight2, grad_bias2, None
    assert grad_hidden is not None
    before, grad_slope = activation_gradients(ops, grad_hidden, hidden, slope, ctx.activation, ctx.number, 1.0, 1)
    first = conv_gradients(ops, before, x, weight1, (need[0], need[1], need[2]), ctx.exact, in_channels)
    return *first, grad_weight2, grad_bias2, grad_slope if need[5] else None


def _block_backward(ops: Any, ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight1, weight2, slope, hidden = ctx.saved_tensors
    need_kept("residual_block", "keep_hidden", ctx.keep)
    branch = grad if ctx.scale == 1.0 else grad * ctx.scale
    grad_x, *others = block_gradients(ops, ctx, branch, x, weight1, weight2, slope, hidden)
    return (None if grad_x is None else grad_x + grad), *others, *[None] * 7


@on_load(COMPILED, TRITON, NVRTC)
def _register_forward(namespace: str) -> None:
    torch.library.register_fake(f"{namespace}::conv3x3", _conv_fake)
    torch.library.register_fake(f"{namespace}::residual_block", _block_fake)
    register_autocast(namespace, "conv3x3")
    register_autocast(namespace, "residual_block")


@on_load(COMPILED, TRITON)
def _register(namespace: str) -> None:
    ops = operators(namespace)
    torch.library.register_fake(f"{namespace}::conv3x3_backward", _backward_fake)
    torch.library.register_fake(f"{namespace}::conv3x3_epilogue_backward", _epilogue_backward_fake)
    torch.library.register_autograd(f"{namespace}::conv3x3", partial(_conv_backward, ops), setup_context=_conv_setup)
    torch.library.register_autograd(
        f"{namespace}::residual_block", partial(_block_backward, ops), setup_context=_block_setup
    )
    no_double_backward(namespace, "conv3x3_backward")
    no_double_backward(namespace, "conv3x3_epilogue_backward")


@on_load(COMPILED)
def _register_compiled(namespace: str) -> None:
    torch.library.register_fake(f"{namespace}::conv3x3_pack", _pack_fake)
    register_into(namespace, "conv3x3_into")
