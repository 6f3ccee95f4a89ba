"""Argument checks shared by the operators: before any launch, naming operator, argument, expected and given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import ACTIVATIONS, distinct_channels, fail, shaped

FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def _shape(t: Tensor) -> str:
    return str(tuple(t.shape))


def image(op: str, name: str, x: object) -> None:
    """Check a floating tensor of shape (N, C, H, W)."""
    if not isinstance(x, Tensor):
        fail(op, name, "a tensor (N, C, H, W)", type(x).__name__, TypeError)
        return
    if x.dtype not in FLOATING:
        fail(op, name, "float32, float16, bfloat16 or float64", x.dtype, TypeError)
    if x.dim() != 4:
        fail(op, name, "4 dimensions (N, C, H, W)", f"shape {_shape(x)}")


def like(op: str, name: str, t: object, x: Tensor, dtypes: Sequence[torch.dtype] | None = None) -> None:
    """Check that ``t`` is a tensor on ``x``'s device and of its dtype (or of one of ``dtypes``)."""
    if not isinstance(t, Tensor):
        fail(op, name, "a tensor", type(t).__name__, TypeError)
        return
    if t.device != x.device:
        fail(op, name, f"device {x.device} as x", t.device)
    allowed = (x.dtype,) if dtypes is None else dtypes
    if t.dtype not in allowed and not torch.is_autocast_enabled(x.device.type):
        fail(op, name, " or ".join(str(d) for d in dict.fromkeys(allowed)), t.dtype, TypeError)


def kernel3x3(op: str, name: str, weight: object, x: Tensor, in_channels: int, source: str) -> None:
    """Check a 3x3 weight (C_out, in_channels, 3, 3); ``source`` says where in_channels comes from."""
    like(op, name, weight, x)
    assert isinstance(weight, Tensor)
    shaped(op, name, weight, (None, in_channels, 3, 3), f"(C_out, {source}, 3, 3)")


def optional_vector(op: str, name: str, t: object, x: Tensor, size: int, meaning: str) -> None:
    """Check an optional vector of ``size`` elements."""
    if t is not None:
        like(op, name, t, x)
        assert isinstance(t, Tensor)
        shaped(op, name, t, (size,), meaning)


def activation(op: str, name: str, slope: object, x: Tensor, channels: int) -> None:
    """Check an activation's name and its slope: a float for leaky_relu, a tensor (1,) or (C,) for prelu, else None."""
    if name not in ACTIVATIONS:
        fail(op, "activation", "one of " + ", ".join(ACTIVATIONS), repr(name))
    if name == "leaky_relu":
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            fail(op, "slope", "a number for leaky_relu", type(slope).__name__, TypeError)
    elif name == "prelu":
        like(op, "slope", slope, x)
        assert isinstance(slope, Tensor)
        if slope.dim() != 1 or slope.shape[0] not in (1, channels):
            fail(op, "slope", f"shape (1,) or ({channels},) for prelu", _shape(slope))
    elif slope is not None:
        fail(op, "slope", f"None for activation {name!r}", type(slope).__name__, TypeError)


def factor(op: str, name: str, r: object) -> None:
    """Check a pixel-shuffle factor."""
    if isinstance(r, bool) or not isinstance(r, (int, torch.SymInt)):
        fail(op, name, "an integer", type(r).__name__, TypeError)
    elif r < 1:
        fail(op, name, "an integer >= 1", r)


def channel_list(op: str, name: str, channels: object, limit: int, device: torch.device) -> Tensor:
    """Check distinct channel numbers in [0, limit) and return them as an int64 tensor.

    A sequence of ints, or an int64 tensor on the CPU or on ``device``. The values of a tensor on a GPU are not
    read, which would wait for the device: :class:`vsr_kernels.nn.SparseConv3x3` checks its lists when it is made and
    keeps them on the device.
    """
    if not isinstance(channels, Tensor):
        if not isinstance(channels, Sequence) or not all(type(c) is int for c in channels):
            fail(op, name, "a sequence of integers or an int64 tensor", type(channels).__name__, TypeError)
        channels = torch.tensor(channels, dtype=torch.int64)
    if channels.dtype != torch.int64:
        fail(op, name, "dtype torch.int64", channels.dtype, TypeError)
    if channels.dim() != 1:
        fail(op, name, "one dimension", f"shape {_shape(channels)}")
    if channels.device.type != "cpu" and channels.device != device:
        fail(op, name, f"device cpu or {device}", channels.device)
    if channels.device.type == "cpu" and not torch.compiler.is_compiling() and type(channels) is Tensor:
        distinct_channels(op, name, channels.tolist(), limit)
    return channels


def on_device(channels: Tensor | None, x: Tensor) -> Tensor | None:
    """A checked list where the kernels want it, on ``x``'s device; a copy to a GPU does not wait for the GPU."""
    return None if channels is None else channels.to(x.device, non_blocking=True)
