"""pixel_shuffle and pixel_unshuffle: checks, dispatch, fake kernels and gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import backend, reference
from ..layout import empty_like_format
from ..registration import COMPILED, NVRTC, TRITON, on_load, operators, register_into
from . import _check


def pixel_shuffle(x: Tensor, r: int) -> Tensor:
    """Rearrange (N, C * r^2, H, W) to (N, C, r * H, r * W), as ``torch.nn.functional.pixel_shuffle``.

    Args:
        x: (N, C * r^2, H, W), float32, float16, bfloat16 or float64, any strides.
        r: upscaling factor, >= 1.

    Returns:
        (N, C, r * H, r * W) in the memory format of ``x``:
        ``out[n, c, r*h + i, r*w + j] = x[n, c*r^2 + i*r + j, h, w]``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what was given.
    """
    _check.image("pixel_shuffle", "x", x)
    _check.factor("pixel_shuffle", "r", r)
    if x.shape[1] % (r * r) != 0:
        _check.fail("pixel_shuffle", "x", f"channels divisible by r^2 = {r * r}", f"shape {tuple(x.shape)}")
    chosen = backend.choose("pixel_shuffle", x)
    if chosen == "reference":
        return reference.pixel_shuffle(x, r)
    return backend.operators(chosen).pixel_shuffle(x, r)


def pixel_unshuffle(x: Tensor, r: int) -> Tensor:
    """Rearrange (N, C, r * H, r * W) to (N, C * r^2, H, W), the inverse of :func:`pixel_shuffle`.

    Args:
        x: (N, C, r * H, r * W), float32, float16, bfloat16 or float64, any strides.
        r: downscaling factor, >= 1.

    Returns:
        (N, C * r^2, H, W) in the memory format of ``x``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what was given.
    """
    _check.image("pixel_unshuffle", "x", x)
    _check.factor("pixel_unshuffle", "r", r)
    if x.shape[2] % r != 0 or x.shape[3] % r != 0:
        _check.fail("pixel_unshuffle", "x", f"height and width divisible by r = {r}", f"shape {tuple(x.shape)}")
    chosen = backend.choose("pixel_unshuffle", x)
    if chosen == "reference":
        return reference.pixel_unshuffle(x, r)
    return backend.operators(chosen).pixel_unshuffle(x, r)


def _shuffle_fake(x: Tensor, r: int) -> Tensor:
    n, c, h, w = x.shape
    return empty_like_format(x, (n, c // (r * r), h * r, w * r))


def _unshuffle_fake(x: Tensor, r: int) -> Tensor:
    n, c, h, w = x.shape
    return empty_like_format(x, (n, c * r * r, h // r, w // r))


def _keep_r(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.r = inputs[1]


def _shuffle_backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return ops.pixel_unshuffle(grad, ctx.r), None


def _unshuffle_backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return ops.pixel_shuffle(grad, ctx.r), None


@on_load(COMPILED, TRITON, NVRTC)
def _register(namespace: str) -> None:
    ops = operators(namespace)
    shuffle, unshuffle = f"{namespace}::pixel_shuffle", f"{namespace}::pixel_unshuffle"
    torch.library.register_fake(shuffle, _shuffle_fake)
    torch.library.register_fake(unshuffle, _unshuffle_fake)
    torch.library.register_autograd(shuffle, partial(_shuffle_backward, ops), setup_context=_keep_r)
    torch.library.register_autograd(unshuffle, partial(_unshuffle_backward, ops), setup_context=_keep_r)


@on_load(COMPILED)
def _register_compiled(namespace: str) -> None:
    register_into(namespace, "pixel_shuffle_into")
