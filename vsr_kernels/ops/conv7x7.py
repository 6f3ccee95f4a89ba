"""conv7x7: checks, dispatch, fake kernels and autocast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import backend, reference
from ..registration import COMPILED, on_load, register_autocast, register_into, under_autocast
from . import _check
from .conv import empty_channels_last, needs_grad
from .packing import PackedWeights
from .precision import exact_float32

_OP = "conv7x7"
_ACTIVATIONS = ("none", "relu")


def conv7x7(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    packed: PackedWeights | None = None,
) -> Tensor:
    """7x7 convolution, as optical flow networks have it: ``act(conv2d(x, weight, bias, padding=3))``.

    Args:
        x: (N, C_in, H, W), float32, float16, bfloat16 or float64, any strides; channels_last is the fast path.
        weight: (C_out, C_in, 7, 7), dtype of ``x``.
        bias: (C_out,) or None.
        activation: ``none`` or ``relu``.
        packed: where to keep packed weights between calls; None packs them in every call.

    Returns:
        (N, C_out, H, W), dtype of ``x`` (of autocast where it is enabled). Accumulation is float32 or better. On the
        CPU, channels_last: four 4x4 convolutions in Winograd's domain, F(2x2) for float32, F(4x4) for 16 bits and for
        float32 where ``torch.backends.mkldnn.conv.fp32_precision`` allows less than exact (relative L2 error 1e-6).
        Where a gradient will be asked for (frozen weights of a network that trains need none), for images less than 7
        pixels high or wide, and on a GPU, it is PyTorch's convolution. Differentiable in every tensor.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what was given.
    """
    _check.image(_OP, "x", x)
    _check.like(_OP, "weight", weight, x)
    _check.shaped(_OP, "weight", weight, (None, x.shape[1], 7, 7), "(C_out, C_in of x, 7, 7)")
    _check.optional_vector(_OP, "bias", bias, x, weight.shape[0], "(C_out,)")
    if activation not in _ACTIVATIONS:
        _check.fail(_OP, "activation", " or ".join(_ACTIVATIONS), repr(activation))
    # An image smaller than the kernel is a few taps wide: a tile would be zeros, and round what those taps do not.
    ours = min(x.shape[2:]) >= 7 and x.device.type == "cpu" and not needs_grad(x, weight, bias)
    ours = ours and backend.forced() in (None, "cpu")
    if not ours or backend.choose(_OP, x) != "cpu":
        return under_autocast(reference.conv7x7, x, weight, bias, activation=activation)
    kept = None if packed is None else packed.get_7x7(x, weight, bias)
    return torch.ops.vsr_kernels.conv7x7(x, weight, bias, activation == "relu", exact_float32(x), kept)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, exact: bool, packed: Tensor | None) -> Tensor:
    return empty_channels_last(x, (x.shape[0], weight.shape[0], *x.shape[2:]))


def _pack_fake(weight: Tensor, bias: Tensor | None, exact: bool) -> Tensor:
    size = torch.ops.vsr_kernels.conv7x7_packed_bytes(weight.shape[1], weight.shape[0], weight.dtype, exact)
    return weight.new_empty((size,), dtype=torch.uint8)


def _backward(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError(f"vsr_kernels::{_OP} is not differentiable; vsr_kernels.{_OP} runs PyTorch's instead")


@on_load(COMPILED)
def _register(namespace: str) -> None:
    torch.library.register_fake(f"{namespace}::conv7x7", _fake)
    torch.library.register_autograd(f"{namespace}::conv7x7", _backward)
    register_autocast(namespace, "conv7x7")
    torch.library.register_fake(f"{namespace}::conv7x7_pack", _pack_fake)
    register_into(namespace, "conv7x7_into")
