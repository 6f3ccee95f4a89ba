"""sparse_conv3x3 and sparse_residual_block: checks, dispatch, fake kernels, gradients and autocast."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import backend, reference
from ..registration import COMPILED, NVRTC, TRITON, on_load, operators, register_autocast, under_autocast
from . import _check
from .conv import (
    activation_gradients,
    block_gradients,
    conv_gradients,
    empty_channels_last,
    need_kept,
    needs_grad,
    packed_block,
    sign_survives,
    slope_of,
    split_slope,
)
from .packing import PackedWeights
from .precision import exact_float32


def sparse_conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    in_channels: Tensor | Sequence[int] | None = None,
    out_channels: Tensor | Sequence[int] | None = None,
    residual: Tensor | None = None,
    activation: str = "none",
    slope: float | Tensor | None = None,
    packed: PackedWeights | None = None,
) -> Tensor:
    """3x3 convolution of kept channels: gather ``x[:, in_channels]`` while loading, convolve, activate, scatter-add.

    Args:
        x: (N, C, H, W), float32, float16, bfloat16 or float64, any strides; channels_last is the fast path.
        weight: (C_out, len(in_channels), 3, 3), dtype of ``x``; C input channels where ``in_channels`` is None.
        bias: (C_out,) or None.
        in_channels: distinct channel numbers of ``x``, int64 or a sequence of ints; None takes all. Lists and CPU
            tensors are checked, and copied where ``x`` is on a GPU; the values of a tensor on a GPU are not read, which
            would wait for it: numbers out of range there make the kernel read and write outside of its tensors. (Where
            CuPy is installed, a kernel is compiled for the list, which is then read, and checked, once.)
        out_channels: C_out distinct channel numbers of ``residual``, given likewise, or None.
        residual: (N, C_res, H, W). With ``out_channels`` the result is added to those channels and the others are
            copied; without, C_res = C_out and the result is added to all of it.
        activation: ``none``, ``relu``, ``leaky_relu`` or ``prelu``, before the addition.
        slope: a float for ``leaky_relu``; a tensor (1,) or (C_out,) for ``prelu``; otherwise None.
        packed: where to keep packed weights between calls; None packs them in every call.

    Returns:
        (N, C_out or C_res, H, W), channels_last, dtype of ``x`` (of autocast where it is enabled). Differentiable in
        every floating tensor. No input is modified.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what was given.
    """
    op = "sparse_conv3x3"
    _check.image(op, "x", x)
    n, c, h, w = x.shape
    gather = None if in_channels is None else _check.channel_list(op, "in_channels", in_channels, c, x.device)
    c_in = c if gather is None else gather.shape[0]
    _check.kernel3x3(op, "weight", weight, x, c_in, "C of x" if gather is None else "len(in_channels)")
    c_out = weight.shape[0]
    _check.optional_vector(op, "bias", bias, x, c_out, "(C_out,)")
    _check.activation(op, activation, slope, x, c_out)
    scatter = None
    if out_channels is not None:
        if residual is None:
            _check.fail(op, "residual", "a tensor where out_channels is given", None, TypeError)
        _check.image(op, "residual", residual)
        assert residual is not None
        scatter = _check.channel_list(op, "out_channels", out_channels, residual.shape[1], x.device)
        _check.shaped(op, "out_channels", scatter, (c_out,), "(C_out,) of weight")
    if residual is not None:
        _check.like(op, "residual", residual, x)
        _check.shaped(op, "residual", residual, (n, c_out if scatter is None else None, h, w), "(N, C_res, H, W)")
    chosen = backend.choose(op, x)
    if chosen == "reference":
        return under_autocast(
            reference.sparse_conv3x3,
            x,
            weight,
            bias,
            in_channels=gather,
            out_channels=scatter,
            residual=residual,
            activation=activation,
            slope=slope_of(slope),
        )
    differentiated = needs_grad(x, weight, bias, slope, residual)
    pruned = gather is not None or scatter is not None or c_in % 8 != 0 or c_out % 8 != 0
    chosen = backend.specialised(op, chosen, x, pruned=pruned, differentiated=differentiated)
    keep = differentiated and not sign_survives(activation, slope, residual, 1.0)
    slopes = split_slope(slope)
    ops = backend.operators(chosen)
    kept = None if packed is None else packed.get(_packer(op, chosen), 0, x, weight, bias, *slopes, activation)
    lists = _lists(chosen, gather, scatter, x)
    out, _ = ops.sparse_conv3x3(x, weight, bias, *slopes, *lists, residual, activation, keep, exact_float32(x), kept)
    return out


def sparse_residual_block(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    *,
    in_channels: Tensor | Sequence[int],
    out_channels: Tensor | Sequence[int],
    activation: str = "relu",
    slope: float | Tensor | None = None,
    packed: PackedWeights | None = None,
) -> Tensor:
    """Residual Sparsity Connection of SSL: ``y = x; y[:, out_channels] += conv2(act(conv1(x[:, in_channels])))``.

    Source: Xia et al., "Structured Sparsity Learning for Efficient Video Super-Resolution", CVPR 2023.

    Args:
        x: (N, C, H, W), float32, float16, bfloat16 or float64, any strides; channels_last is the fast path.
        weight1: (C_mid, len(in_channels), 3, 3); bias1: (C_mid,) or None.
        weight2: (len(out_channels), C_mid, 3, 3); bias2: (len(out_channels),) or None.
        in_channels, out_channels: distinct channel numbers of ``x``, as in :func:`sparse_conv3x3`.
        activation: ``none``, ``relu``, ``leaky_relu`` or ``prelu``, after the first convolution.
        slope: a float for ``leaky_relu``; a tensor (1,) or (C_mid,) for ``prelu``; otherwise None.
        packed: where to keep packed weights between calls; None packs them in every call.

    Returns:
        (N, C, H, W), channels_last, dtype of ``x`` (of autocast where it is enabled). Differentiable in every floating
        tensor. ``x`` is not modified.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what was given.
    """
    op = "sparse_residual_block"
    _check.image(op, "x", x)
    c = x.shape[1]
    gather = _check.channel_list(op, "in_channels", in_channels, c, x.device)
    scatter = _check.channel_list(op, "out_channels", out_channels, c, x.device)
    _check.kernel3x3(op, "weight1", weight1, x, gather.shape[0], "len(in_channels)")
    c_mid = weight1.shape[0]
    _check.optional_vector(op, "bias1", bias1, x, c_mid, "(C_mid,)")
    _check.like(op, "weight2", weight2, x)
    _check.shaped(op, "weight2", weight2, (scatter.shape[0], c_mid, 3, 3), "(len(out_channels), C_mid, 3, 3)")
    _check.optional_vector(op, "bias2", bias2, x, scatter.shape[0], "(len(out_channels),)")
    _check.activation(op, activation, slope, x, c_mid)
    chosen = backend.choose(op, x)
    if chosen == "reference":
        return under_autocast(
            reference.sparse_residual_block,
            x,
            weight1,
            bias1,
            weight2,
            bias2,
            in_channels=gather,
            out_channels=scatter,
            activation=activation,
            slope=slope_of(slope),
        )
    keep = needs_grad(x, weight1, bias1, weight2, bias2, slope)
    chosen = backend.specialised(op, chosen, x, pruned=True, differentiated=keep)
    slopes = split_slope(slope)
    ops = backend.operators(chosen)
    kept = packed_block(packed, _packer(op, chosen), x, weight1, bias1, weight2, bias2, slopes, activation)
    lists = _lists(chosen, gather, scatter, x)
    out, _ = ops.sparse_residual_block(
        x, weight1, bias1, weight2, bias2, *slopes, *lists, activation, keep, exact_float32(x), *kept
    )
    return out


def _packer(op: str, chosen: str) -> Any:
    """Whose packing serves: a kernel compiled for its layer reads what the compiled kernels read."""
    shared = chosen == "nvrtc" and backend.forced() is None and backend.generic(op) == "cuda"
    return backend.operators("cuda" if shared else chosen)


def _lists(chosen: str, gather: Tensor | None, scatter: Tensor | None, x: Tensor) -> tuple[Tensor | None, ...]:
    """Lists of channels where the kernels want them: those that are compiled with them, where they can be read."""
    if chosen == "nvrtc":
        return gather, scatter
    return _check.on_device(gather, x), _check.on_device(scatter, x)


def _gathered(x: Tensor, channels: Tensor | None) -> Tensor:
    return x if channels is None else x.index_select(1, channels)


def _scattered(grad: Tensor | None, channels: Tensor | None, x: Tensor) -> Tensor | None:
    """Gradient of a channel gather: zeros at x's shape with ``grad`` in the gathered channels."""
    if grad is None or channels is None:
        return grad
    full = torch.zeros(x.shape, dtype=grad.dtype, device=grad.device).to(memory_format=torch.channels_last)
    return full.index_copy(1, channels, grad)


def _conv_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    number: float,
    in_channels: Tensor | None,
    out_channels: Tensor | None,
    residual: Tensor | None,
    activation: str,
    keep: bool,
    exact: bool,
    packed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    n, _, h, w = x.shape
    c = weight.shape[0]
    saved = empty_channels_last(x, (n, c, h, w)) if keep else x.new_empty((0,))
    return empty_channels_last(x, (n, c if residual is None else residual.shape[1], h, w)), saved


def _conv_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, slope, ctx.number, in_channels, out_channels, residual, ctx.activation, ctx.keep, ctx.exact, _ = (
        inputs
    )
    out, saved = output
    ctx.mark_non_differentiable(saved)
    ctx.of_output = sign_survives(ctx.activation, ctx.number if slope is None else slope, residual, 1.0)
    kept = None if ctx.activation == "none" else out if ctx.of_output else saved
    ctx.save_for_backward(x, weight, slope, kept, in_channels, out_channels)


def _conv_backward(ops: Any, ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, slope, saved, in_channels, out_channels = ctx.saved_tensors
    need_kept("sparse_conv3x3", "keep_preactivation", ctx.of_output or ctx.keep)
    need = ctx.needs_input_grad
    before, grad_slope = activation_gradients(
        ops, _gathered(grad, out_channels), saved, slope, ctx.activation, ctx.number, 1.0, 1
    )
    grad_x, grad_weight, grad_bias = conv_gradients(
        ops, before, x, weight, (need[0], need[1], need[2]), ctx.exact, in_channels
    )
    return (
        _scattered(grad_x, in_channels, x),
        grad_weight,
        grad_bias,
        grad_slope if need[3] else None,
        None,
        None,
        None,
        grad if need[7] else None,
        *[None] * 4,
    )


def _block_fake(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    slope: Tensor | None,
    number: float,
    in_channels: Tensor,
    out_channels: Tensor,
    activation: str,
    keep: bool,
    exact: bool,
    packed1: Tensor | None,
    packed2: Tensor | None,
) -> tuple[Tensor, Tensor]:
    n, c, h, w = x.shape
    saved = empty_channels_last(x, (n, weight1.shape[0], h, w)) if keep else x.new_empty((0,))
    return empty_channels_last(x, (n, c, h, w)), saved


def _block_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight1, _, weight2, _, slope, ctx.number, in_channels, out_channels, *others = inputs
    ctx.activation, ctx.keep, ctx.exact = others[:3]
    _, hidden = output
    ctx.mark_non_differentiable(hidden)
    ctx.save_for_backward(x, weight1, weight2, slope, hidden, in_channels, out_channels)


def _block_backward(ops: Any, ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight1, weight2, slope, hidden, in_channels, out_channels = ctx.saved_tensors
    need_kept("sparse_residual_block", "keep_hidden", ctx.keep)
    written = _gathered(grad, out_channels)
    grad_x, *others = block_gradients(ops, ctx, written, x, weight1, weight2, slope, hidden, in_channels)
    return (None if grad_x is None else grad.index_add(1, in_channels, grad_x)), *others, *[None] * 8


@on_load(COMPILED, TRITON, NVRTC)
def _register(namespace: str) -> None:
    ops = operators(namespace)
    conv, block = f"{namespace}::sparse_conv3x3", f"{namespace}::sparse_residual_block"
    torch.library.register_fake(conv, _conv_fake)
    torch.library.register_fake(block, _block_fake)
    register_autocast(namespace, "sparse_conv3x3")
    register_autocast(namespace, "sparse_residual_block")
    if namespace == NVRTC:
        return
    torch.library.register_autograd(conv, partial(_conv_backward, ops), setup_context=_conv_setup)
    torch.library.register_autograd(block, partial(_block_backward, ops), setup_context=_block_setup)
