"""quantized_conv3x3: checks, dispatch and fake kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import backend, reference
from ..checks import fail, shaped
from ..registration import COMPILED, on_load, register_into
from . import _check
from .conv import slope_of, split_slope
from .packing import PackedWeights

_OP = "quantized_conv3x3"
_FLOATING = (torch.float32, torch.float16, torch.bfloat16)
_MOST_CHANNELS = 7000  # of the input: sums stay within 32 bits


def quantized_conv3x3(
    x: Tensor,
    weight: Tensor,
    zero_point: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    slope: float | Tensor | None = None,
    out_zero_point: Tensor | None = None,
    base: Tensor | None = None,
    pixel_shuffle: int = 1,
    dtype: torch.dtype = torch.float32,
    packed: PackedWeights | None = None,
) -> Tensor:
    """3x3 convolution of uint8 with int8, and what follows it:
    ``pixel_shuffle(act(scale * conv2d(x - zero_point, weight, padding=1) + bias), r)``.

    Every activation commutes with positive factors. So the quantum of the result, which may differ from channel to
    channel, belongs into ``scale`` and ``bias``: divide both by it, and ``out_zero_point`` rounds the result to uint8.

    Args:
        x: (N, C_in, H, W), any strides; channels_last is the fast path. uint8, or float32, float16 or bfloat16 in
            quanta: rounded, plus ``zero_point``, clamped to 0 ... 255.
        weight: (C_out, C_in, 3, 3) int8, C_in <= 7000.
        zero_point: (1,) uint8, what stands for zero in ``x``.
        scale: (C_out,) float32, factors of the sums.
        bias: (C_out,) float32 or None.
        activation: ``none``, ``relu``, ``leaky_relu`` or ``prelu``.
        slope: a float for ``leaky_relu``; a float32 tensor (1,) or (C_out,) for ``prelu``; otherwise None.
        out_zero_point: (1,) uint8: the result is rounded, plus this, clamped, uint8. Without base and shuffle.
        base: (N, C_out / r^2, H, W) of ``dtype``, enlarged by nearest neighbour and added last, or None.
        pixel_shuffle: r >= 1; ``C_out`` must be divisible by r^2.
        dtype: of the result without ``out_zero_point``: float32, float16 or bfloat16.
        packed: where to keep packed weights between calls; None packs them in every call.

    Returns:
        (N, C_out / r^2, r * H, r * W), channels_last. Sums are exact, and the rest is computed in float32 in one order:
        uint8 and float32 results are the same bit for bit on every instruction set and for any number of threads. Not
        differentiable. There are CPU kernels only.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what was given.
    """
    _check_image(x)
    n, c_in, h, w = x.shape
    _typed("weight", weight, x, torch.int8)
    shaped(_OP, "weight", weight, (None, c_in, 3, 3), "(C_out, C_in of x, 3, 3)")
    c_out = weight.shape[0]
    if c_in > _MOST_CHANNELS:
        fail(_OP, "weight", f"at most {_MOST_CHANNELS} input channels", c_in)
    _vector("zero_point", zero_point, x, torch.uint8, 1, "(1,)")
    _vector("scale", scale, x, torch.float32, c_out, "(C_out,)")
    if bias is not None:
        _vector("bias", bias, x, torch.float32, c_out, "(C_out,)")
    _check.activation(_OP, activation, slope, scale, c_out)
    _check.factor(_OP, "pixel_shuffle", pixel_shuffle)
    r = pixel_shuffle
    if c_out % (r * r) != 0:
        fail(_OP, "weight", f"C_out divisible by r^2 = {r * r}", f"shape {tuple(weight.shape)}")
    if dtype not in _FLOATING:
        fail(_OP, "dtype", "float32, float16 or bfloat16", dtype, TypeError)
    if out_zero_point is not None:
        _vector("out_zero_point", out_zero_point, x, torch.uint8, 1, "(1,)")
        if base is not None or r != 1:
            fail(_OP, "out_zero_point", "None with a base or a shuffle", "a tensor")
    if base is not None:
        _typed("base", base, x, dtype)
        shaped(_OP, "base", base, (n, c_out // (r * r), h, w), "(N, C_out / r^2, H, W)")
    if backend.choose(_OP, x) == "reference":
        return reference.quantized_conv3x3(
            x,
            weight,
            zero_point,
            scale,
            bias,
            activation=activation,
            slope=slope_of(slope),
            out_zero_point=out_zero_point,
            base=base,
            pixel_shuffle=r,
            dtype=dtype,
        )
    ops = torch.ops.vsr_kernels
    vectors = (zero_point, scale, bias, *split_slope(slope))
    kept = None
    if packed is not None and not torch.compiler.is_compiling():
        with torch.no_grad():
            kept = packed.lookup(
                0,
                (weight, *vectors[:4]),
                (vectors[4], activation, r),
                lambda: ops.quantized_conv3x3_pack(weight, *vectors, activation, r),
            )
    kind = dtype if out_zero_point is None else torch.uint8
    return ops.quantized_conv3x3(x, weight, *vectors, out_zero_point, base, activation, r, kind, kept)


def _check_image(x: object) -> None:
    if not isinstance(x, Tensor):
        fail(_OP, "x", "a tensor (N, C, H, W)", type(x).__name__, TypeError)
        return
    if x.dtype not in (torch.uint8, *_FLOATING):
        fail(_OP, "x", "uint8, float32, float16 or bfloat16", x.dtype, TypeError)
    if x.dim() != 4:
        fail(_OP, "x", "4 dimensions (N, C, H, W)", f"shape {tuple(x.shape)}")


def _typed(name: str, t: object, x: Tensor, dtype: torch.dtype) -> None:
    """Check a tensor on the device of x, of a dtype of its own."""
    if not isinstance(t, Tensor):
        fail(_OP, name, "a tensor", type(t).__name__, TypeError)
        return
    if t.device != x.device:
        fail(_OP, name, f"device {x.device} as x", t.device)
    if t.dtype != dtype:
        fail(_OP, name, str(dtype), t.dtype, TypeError)


def _vector(name: str, t: object, x: Tensor, dtype: torch.dtype, size: int, meaning: str) -> None:
    _typed(name, t, x, dtype)
    assert isinstance(t, Tensor)
    shaped(_OP, name, t, (size,), meaning)


def _fake(
    x: Tensor,
    weight: Tensor,
    zero_point: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    number: float,
    out_zero_point: Tensor | None,
    base: Tensor | None,
    activation: str,
    r: int,
    dtype: torch.dtype,
    packed: Tensor | None,
) -> Tensor:
    n, _, h, w = x.shape
    shape = (n, weight.shape[0] // (r * r), h * r, w * r)
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)


def _pack_fake(
    weight: Tensor,
    zero_point: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    number: float,
    activation: str,
    r: int,
) -> Tensor:
    size = torch.ops.vsr_kernels.quantized_conv3x3_packed_bytes(weight.shape[1], weight.shape[0])
    return weight.new_empty((size,), dtype=torch.uint8)


def _backward(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError(f"vsr_kernels::{_OP} is not differentiable: its values are rounded; train before quantizing")


@on_load(COMPILED)
def _register(namespace: str) -> None:
    torch.library.register_fake(f"{namespace}::quantized_conv3x3", _fake)
    torch.library.register_autograd(f"{namespace}::quantized_conv3x3", _backward)
    torch.library.register_fake(f"{namespace}::quantized_conv3x3_pack", _pack_fake)
    register_into(namespace, "quantized_conv3x3_into")
