"""The operators on tensors, as ``vsr_nvrtc::*``: launches through CuPy on torch's current stream and memory.

Importing this module defines them; :mod:`vsr_kernels.backend` does that where kernels can be compiled at run time. They
take the arguments of ``vsr_kernels::*``. Forced by ``use_backend("nvrtc")`` they wait for their kernels; else the
operators on listed channels run the generic kernel until theirs is compiled, which a thread does meanwhile. Only
shuffles have gradients, which are shuffles.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .. import backend
from ..checks import distinct_channels
from ..layout import empty_like_format, memory_format_of
from ..registration import NVRTC
from . import calls, shuffle, warp
from .conv import fits_one_launch
from .device import Device, cupy, device
from .launch import Launch, View
from .layout import Layout

_library = torch.library.Library(NVRTC, "DEF")


class _Tensors:
    """Tensors, for :mod:`vsr_kernels.nvrtc.calls`."""

    def view(self, array: Tensor) -> View:
        """Where it lies."""
        name = str(array.dtype).removeprefix("torch.")
        return View(array.data_ptr(), tuple(array.shape), tuple(array.stride()), name, array)

    def bytes_beside(self, array: Tensor, count: int) -> Tensor:
        """An uninitialised buffer."""
        return torch.empty(count, dtype=torch.uint8, device=array.device)

    def dense_on_vectors(self, array: Tensor) -> Tensor:
        """Dense channels_last and from a multiple of 16 bytes on; ``array`` itself where it is."""
        packed = array.contiguous(memory_format=torch.channels_last)
        return packed if packed.data_ptr() % 16 == 0 else packed.clone(memory_format=torch.channels_last)

    def vector(self, array: Tensor) -> Tensor:
        """Dense; ``array`` itself where it is."""
        return array.contiguous()


TENSORS = _Tensors()


class _Stream:
    """A stream of torch, by the protocol that CuPy takes streams by."""

    def __init__(self, pointer: int) -> None:
        self.pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


@contextmanager
def _gpu_of(x: Tensor) -> Iterator[Device]:
    """The GPU of a tensor; launches go to torch's current stream there."""
    with torch.cuda.device(x.device):
        stream = _Stream(torch.cuda.current_stream().cuda_stream)
        with cupy().cuda.Stream.from_external(stream):
            yield device(torch.cuda.current_device())


def _capturing(x: Tensor) -> bool:
    """Whether a CUDA graph is being captured."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


class _Read:
    """The values of lists of channels, read once, since that waits for a GPU that they are on."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], int, tuple[int, ...]]] = {}

    def get(self, channels: Tensor) -> tuple[int, ...] | None:
        """The values of a list, or None where they would have to be read now."""
        known = self._known.get(id(channels))
        if known is None or known[0]() is not channels or channels.is_inference() or known[1] != channels._version:
            return None
        return known[2]

    def read(self, channels: Tensor) -> tuple[int, ...]:
        """The values of a list."""
        values = self.get(channels)
        if values is None:
            values = tuple(channels.tolist())
            if not channels.is_inference():  # whose version nobody counts
                key = id(channels)
                forget = weakref.ref(channels, lambda _: self._known.pop(key, None))
                self._known[key] = (forget, channels._version, values)
        return values


_lists = _Read()


def _operator(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: define an operator."""
    name = function.__name__
    _library.define(name + torch.library.infer_schema(function, mutates_args=()))
    _library.impl(name, function, "CUDA")
    return function


def _forward_operator(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: define an operator that refuses to be differentiated, before it launches anything."""
    name = _operator(function).__name__
    packet = getattr(getattr(torch.ops, NVRTC), name).default

    def forward_only(*args: Any) -> Any:
        if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args):
            raise RuntimeError(
                f"{name}: use_backend('nvrtc'): no kernel: gradients are not compiled at run time; "
                "call it under torch.no_grad(), or with another backend"
            )
        with torch._C._AutoDispatchBelowAutograd():
            return packet(*args)

    _library.impl(name, forward_only, "Autograd")
    return function


def _empty(x: Tensor, c: int, r: int = 1) -> Tensor:
    """Room for what a convolution of x returns, of c channels."""
    n, _, h, w = x.shape
    return torch.empty((n, c, h * r, w * r), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _convolve(gpu: Device, out: Tensor, x: Tensor, call: calls.Convolution) -> list[Launch]:
    return calls.convolution(TENSORS, gpu.limits, out, x, call)


def _none_kept(op: str, keep: bool) -> None:
    if keep:
        raise RuntimeError(f"{NVRTC}::{op}: expected nothing to be kept for gradients, which are not compiled here")


@_forward_operator
def conv3x3_pack(
    weight: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    negative_slope: float,
    activation: str,
    pixel_shuffle: int,
    exact: bool,
    transposed: bool,
) -> Tensor:
    """The argument ``packed`` of the convolutions, in the order of the compiled kernels."""
    if transposed:
        raise RuntimeError(f"{NVRTC}::conv3x3_pack: transposed: expected False, gradients are not compiled here")
    call = calls.Convolution(weight, bias, slope, negative_slope, activation, r=pixel_shuffle, exact=exact)
    if weight.shape[0] == 0:
        return TENSORS.bytes_beside(weight, 0)
    with _gpu_of(weight) as gpu:
        packed, launch = calls.packing(TENSORS, call)
        gpu.launch([launch])
    return packed


@torch.library.register_fake(f"{NVRTC}::conv3x3_pack", lib=_library)
def _pack_fake(
    weight: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    negative_slope: float,
    activation: str,
    pixel_shuffle: int,
    exact: bool,
    transposed: bool,
) -> Tensor:
    c_out, c_in = weight.shape[:2]
    name = str(weight.dtype).removeprefix("torch.")
    size = Layout.of(c_in, c_out, pixel_shuffle, name, exact).packed_bytes if c_out else 0
    return weight.new_empty((size,), dtype=torch.uint8)


@_forward_operator
def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    negative_slope: float,
    residual: Tensor | None,
    activation: str,
    scale: float,
    pixel_shuffle: int,
    keep_preactivation: bool,
    exact: bool,
    packed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``residual + scale * pixel_shuffle(act(conv(x)))``, and an empty tensor."""
    _none_kept("conv3x3", keep_preactivation)
    r = pixel_shuffle
    out = _empty(x, weight.shape[0] // (r * r), r)
    if out.numel():
        call = calls.Convolution(
            weight,
            bias,
            slope,
            negative_slope,
            activation,
            residual,
            scale=scale,
            r=r,
            exact=exact,
            packed=packed,
        )
        with _gpu_of(x) as gpu:
            gpu.launch(_convolve(gpu, out, x, call))
    return out, x.new_empty((0,))


@_forward_operator
def residual_block(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    slope: Tensor | None,
    negative_slope: float,
    activation: str,
    scale: float,
    keep_hidden: bool,
    exact: bool,
    packed1: Tensor | None,
    packed2: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``x + scale * conv(act(conv(x)))`` in two launches, and an empty tensor."""
    _none_kept("residual_block", keep_hidden)
    out = _empty(x, x.shape[1])
    if weight1.shape[0] == 0 and out.numel():
        bias = 0.0 if bias2 is None else bias2[:, None, None]
        out.copy_(x + scale * bias)
    elif out.numel():
        hidden = _empty(x, weight1.shape[0])
        first = calls.Convolution(weight1, bias1, slope, negative_slope, activation, exact=exact, packed=packed1)
        second = calls.Convolution(weight2, bias2, residual=x, scale=scale, exact=exact, packed=packed2)
        with _gpu_of(x) as gpu:
            gpu.launch(_convolve(gpu, hidden, x, first) + _convolve(gpu, out, hidden, second))
    return out, x.new_empty((0,))


def _generic(op: str) -> tuple[Any, bool]:
    """The operator that runs while the kernel of a layer is compiled, and whether it takes the same packed weights."""
    name = backend.generic(op)
    return getattr(backend.operators(name), op), name == "cuda"


def _listed(
    op: str, x: Tensor, lists: tuple[tuple[str, Tensor | None, int], ...], prepare: Callable[..., list[Launch]]
) -> bool:
    """Launch what ``prepare`` makes of lists of channels; False where the generic kernel has to run instead.

    Args:
        op: the operator.
        x: its input.
        lists: names, lists of channels, and what their numbers are below.
        prepare: from a GPU and the lists' values to launches.

    Raises:
        ValueError: channel numbers on a GPU, which nobody has read before, are not distinct or not below.
    """
    waits = backend.forced() == "nvrtc"
    if not waits and not fits_one_launch(x.shape):
        return False
    values: list[tuple[int, ...] | None] = []
    for name, channels, limit in lists:
        if channels is None:
            values.append(None)
            continue
        known = _lists.get(channels)
        if known is None:
            if channels.is_cuda and _capturing(x) and not waits:
                return False
            known = _lists.read(channels)
            distinct_channels(op, name, known, limit)
        values.append(known)
    with _gpu_of(x) as gpu:
        launches = prepare(gpu, *values)
        if not waits and not (gpu.loaded(launches) if _capturing(x) else gpu.ready(launches)):
            return False
        gpu.launch(launches)
    return True


@_forward_operator
def sparse_conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    negative_slope: float,
    in_channels: Tensor | None,
    out_channels: Tensor | None,
    residual: Tensor | None,
    activation: str,
    keep_preactivation: bool,
    exact: bool,
    packed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``act(conv(x[:, in_channels]))``, added to the residual or to its ``out_channels``, and an empty tensor."""
    _none_kept("sparse_conv3x3", keep_preactivation)
    out = _empty(x, weight.shape[0] if residual is None else residual.shape[1])
    nothing = x.new_empty((0,))
    if out.numel() == 0:
        return out, nothing
    if weight.shape[0] == 0:
        assert residual is not None  # else the output had no channels
        return out.copy_(residual), nothing

    def prepare(gpu: Device, gather: tuple[int, ...] | None, scatter: tuple[int, ...] | None) -> list[Launch]:
        call = calls.Convolution(
            weight,
            bias,
            slope,
            negative_slope,
            activation,
            residual,
            gather,
            scatter,
            exact=exact,
            packed=packed,
        )
        return _convolve(gpu, out, x, call)

    lists = (("in_channels", in_channels, x.shape[1]), ("out_channels", out_channels, out.shape[1]))
    if _listed("sparse_conv3x3", x, lists, prepare):
        return out, nothing
    generic, shares = _generic("sparse_conv3x3")
    moved = (None if t is None else t.to(x.device, non_blocking=True) for t in (in_channels, out_channels))
    kept = packed if shares else None
    return generic(x, weight, bias, slope, negative_slope, *moved, residual, activation, False, exact, kept)


@_forward_operator
def sparse_residual_block(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    slope: Tensor | None,
    negative_slope: float,
    in_channels: Tensor,
    out_channels: Tensor,
    activation: str,
    keep_hidden: bool,
    exact: bool,
    packed1: Tensor | None,
    packed2: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``x`` with ``conv(act(conv(x[:, in_channels])))`` added to its ``out_channels``, and an empty tensor."""
    _none_kept("sparse_residual_block", keep_hidden)
    out, nothing = _empty(x, x.shape[1]), x.new_empty((0,))
    if out.numel() == 0:
        return out, nothing
    if weight2.shape[0] == 0:
        return out.copy_(x), nothing
    hidden = _empty(x, weight1.shape[0])

    def prepare(gpu: Device, gather: tuple[int, ...], scatter: tuple[int, ...]) -> list[Launch]:
        first = calls.Convolution(
            weight1,
            bias1,
            slope,
            negative_slope,
            activation,
            in_channels=gather,
            exact=exact,
            packed=packed1,
        )
        second = calls.Convolution(weight2, bias2, residual=x, out_channels=scatter, exact=exact, packed=packed2)
        launches = [] if hidden.numel() == 0 else _convolve(gpu, hidden, x, first)
        return launches + _convolve(gpu, out, hidden, second)

    lists = (("in_channels", in_channels, x.shape[1]), ("out_channels", out_channels, x.shape[1]))
    if _listed("sparse_residual_block", x, lists, prepare):
        return out, nothing
    generic, shares = _generic("sparse_residual_block")
    moved = (t.to(x.device, non_blocking=True) for t in (in_channels, out_channels))
    kept = (packed1, packed2) if shares else (None, None)
    return generic(x, weight1, bias1, weight2, bias2, slope, negative_slope, *moved, activation, False, exact, *kept)


def _warp_into(out: Tensor, x: Tensor, flow: Tensor, interpolation: str, padding: str) -> None:
    if out.numel():
        views = (TENSORS.view(t) for t in (x, flow, out))
        launch = warp.flow_warp(*views, nearest=interpolation == "nearest", border=padding == "border")
        with _gpu_of(x) as gpu:
            gpu.launch([launch])


@_forward_operator
def flow_warp(x: Tensor, flow: Tensor, interpolation: str, padding: str) -> Tensor:
    """x sampled at the pixel grid plus the flow, in the memory format of x."""
    out = empty_like_format(x, x.shape)
    _warp_into(out, x, flow, interpolation, padding)
    return out


@_forward_operator
def flow_warp_concat(x: Tensor, flow: Tensor, y: Tensor, warp_first: bool, interpolation: str, padding: str) -> Tensor:
    """The same beside y, in one tensor."""
    n, c, h, w = x.shape
    beside = y.shape[1]
    out = empty_like_format(x, (n, c + beside, h, w))
    _warp_into(out.narrow(1, 0 if warp_first else beside, c), x, flow, interpolation, padding)
    out.narrow(1, c if warp_first else 0, beside).copy_(y)
    return out


def _shuffled(x: Tensor, shape: tuple[int, ...], r: int, inverse: bool) -> Tensor:
    out = empty_like_format(x, shape)
    if out.numel():
        last = memory_format_of(x) == torch.channels_last
        dense = x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        launch = shuffle.pixel_shuffle(TENSORS.view(dense), TENSORS.view(out), r, channels_last=last, inverse=inverse)
        with _gpu_of(x) as gpu:
            gpu.launch([launch])
    return out


@_operator
def pixel_shuffle(x: Tensor, r: int) -> Tensor:
    """(N, C r^2, H, W) -> (N, C, r H, r W)."""
    n, c, h, w = x.shape
    return _shuffled(x, (n, c // (r * r), h * r, w * r), r, False)


@_operator
def pixel_unshuffle(x: Tensor, r: int) -> Tensor:
    """(N, C, r H, r W) -> (N, C r^2, H, W)."""
    n, c, h, w = x.shape
    return _shuffled(x, (n, c * r * r, h // r, w // r), r, True)
