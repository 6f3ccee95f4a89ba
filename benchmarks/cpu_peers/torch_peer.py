"""PyTorch: eager, channels_last; or compiled with frozen weights, the strongest of its settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cases import Array, Case
from .protocol import INT8, Prepared, Setting, UnsupportedError


class TorchOps(nn.Module):
    """The :class:`cpu_peers.networks.Ops` of eager PyTorch. Parameters are those of a module, as compilers expect.

    Args:
        params: By their names in the checkpoint.
        dtype: Of convolutions and features.
        wide: Of flows and coordinates.
    """

    def __init__(self, params: Mapping[str, Array], dtype: torch.dtype, wide: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.wide_dtype = wide
        self.grids: dict[tuple[int, int], Tensor] = {}
        for name, array in params.items():
            value = torch.from_numpy(np.array(array))
            if value.is_floating_point():
                value = channels_last(value.to(dtype))
            self.register_buffer(_key(name), value)

    def param(self, name: str) -> Tensor:
        """By its name in the checkpoint."""
        return self.get_buffer(_key(name))

    def conv(self, x: Tensor, name: str) -> Tensor:
        """conv2d."""
        weight = self.param(f"{name}.weight")
        return F.conv2d(x.to(self.dtype), weight, self.param(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def rounded(self, x: Tensor, name: str) -> Tensor:
        """Less the zero point."""
        zero = self.param(f"{name}.zero_point").item()
        return x.round().clamp(-zero, 255 - zero)

    def int8_conv(self, x: Tensor, name: str) -> Tensor:
        """conv2d in floating point."""
        weight = self.param(f"{name}.weight").to(x.dtype) * self.param(f"{name}.scale")[:, None, None, None]
        return F.conv2d(x, weight, self.param(f"{name}.bias"), padding=1)

    def relu(self, x: Tensor) -> Tensor:
        """In place."""
        return F.relu_(x)

    def leaky_relu(self, x: Tensor, slope: float) -> Tensor:
        """In place."""
        return F.leaky_relu_(x, slope)

    def prelu(self, x: Tensor, name: str) -> Tensor:
        """prelu."""
        return F.prelu(x, self.param(f"{name}.weight"))

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum."""
        return x + y

    def affine(self, x: Tensor, scale: Sequence[float], shift: Sequence[float]) -> Tensor:
        """Product and sum by channel."""
        if len(set(scale)) == 1 and not any(shift):
            return x * scale[0]
        factors, offsets = (torch.tensor(v, dtype=x.dtype).view(1, -1, 1, 1) for v in (scale, shift))
        return x * factors + offsets

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        """cat."""
        return torch.cat(list(parts), 1)

    def pixel_shuffle(self, x: Tensor, r: int) -> Tensor:
        """pixel_shuffle."""
        return F.pixel_shuffle(x, r)

    def nearest(self, x: Tensor, factor: int) -> Tensor:
        """interpolate."""
        return F.interpolate(x, scale_factor=factor, mode="nearest")

    def bilinear(self, x: Tensor, factor: int, align_corners: bool) -> Tensor:
        """interpolate."""
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=align_corners)

    def halve(self, x: Tensor) -> Tensor:
        """avg_pool2d."""
        return F.avg_pool2d(x, 2)

    def warp(self, x: Tensor, flow: Tensor, padding: str) -> Tensor:
        """grid_sample, never in bfloat16: with such a grid torch 2.15 reads outside the image."""
        grid = flow.permute(0, 2, 3, 1) * self._pixel(x) + self._grid(x)
        y = F.grid_sample(x.to(self.wide_dtype), grid, mode="bilinear", padding_mode=padding, align_corners=True)
        return y.to(x.dtype)

    def _pixel(self, x: Tensor) -> Tensor:
        _, _, h, w = x.shape
        return torch.tensor([2 / (w - 1), 2 / (h - 1)], dtype=self.wide_dtype)

    def _grid(self, x: Tensor) -> Tensor:
        """The pixel grid (1, H, W, 2) in grid_sample's coordinates; made once per size."""
        _, _, h, w = x.shape
        if (h, w) not in self.grids:
            rows, cols = (torch.linspace(-1, 1, size, dtype=self.wide_dtype) for size in (h, w))
            rows, cols = torch.meshgrid(rows, cols, indexing="ij")
            self.grids[h, w] = torch.stack((cols, rows), -1)[None]
        return self.grids[h, w]

    def zeros(self, channels: int, like: Tensor) -> Tensor:
        """channels_last."""
        _, _, h, w = like.shape
        return channels_last(torch.zeros(1, channels, h, w, dtype=self.dtype))

    def gather(self, x: Tensor, name: str) -> Tensor:
        """index_select."""
        return x.index_select(1, self.param(name))

    def scatter_add(self, x: Tensor, name: str, y: Tensor) -> Tensor:
        """index_add."""
        return x.index_add(1, self.param(name), y)

    def narrow(self, x: Tensor) -> Tensor:
        """In the dtype of the parameters."""
        return x.to(self.dtype)

    def wide(self, x: Tensor) -> Tensor:
        """In the dtype of flows."""
        return x.to(self.wide_dtype)

    def part(self, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """Called in place."""
        return function(self, *arguments)


class _Compiled(TorchOps):
    """Compiles a network's parts, each once; a network without parts is compiled as a whole."""

    def __init__(self, params: Mapping[str, Array], dtype: torch.dtype) -> None:
        super().__init__(params, dtype)
        self.parts: dict[tuple[Any, ...], Callable[..., Tensor]] = {}

    def part(self, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        settings = tuple(a for a in arguments if not isinstance(a, Tensor))
        key = (function, *settings)
        if key not in self.parts:
            self.parts[key] = compile_module(_Part(self, function, settings))
        return self.parts[key](*(a for a in arguments if isinstance(a, Tensor)))


class _Part(nn.Module):
    """A function of :mod:`cpu_peers.networks` as a module."""

    def __init__(self, ops: TorchOps, function: Callable[..., Any], settings: tuple[Any, ...] = ()) -> None:
        super().__init__()
        self.ops, self.function, self.settings = ops, function, settings

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(self.ops, *self.settings, *tensors)


def compile_module(module: nn.Module) -> Callable[..., Any]:
    """With weights frozen into the code, which lets oneDNN pack them once."""
    return torch.compile(module.eval(), dynamic=False, options={"freezing": True})


def channels_last(x: Tensor) -> Tensor:
    """In channels_last memory, where it has four dimensions."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def tensors(inputs: Sequence[Array]) -> list[Tensor]:
    """float32 NCHW."""
    return [torch.from_numpy(np.array(x))[None] for x in inputs]


def arrays(outputs: Sequence[Tensor]) -> list[Array]:
    """float32 (C, H, W)."""
    return [y[0].float().contiguous().numpy() for y in outputs]


def own_layout(given: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Channels_last in ``dtype``; a flow of two channels stays as it is."""
    return [x if x.shape[1] == 2 else channels_last(x.to(dtype)) for x in given]


def plain_layout(outputs: Sequence[Tensor]) -> list[Tensor]:
    """float32 NCHW."""
    return [y.float().contiguous() for y in outputs]


def conversions(inputs: Sequence[Array], outputs: Sequence[Array], dtype: torch.dtype) -> Callable[[], float]:
    """Seconds of ``own_layout`` of the inputs and ``plain_layout`` of such outputs; the best of three."""

    def measure() -> float:
        given, made = tensors(inputs), own_layout(tensors(outputs), dtype)
        times = []
        for _ in range(4):  # the first one touches fresh memory
            start = time.perf_counter()
            own_layout(given, dtype)
            plain_layout(made)
            times.append(time.perf_counter() - start)
        return min(times[1:])

    return measure


def prepare(
    case: Case, inputs: Sequence[Array], params: Mapping[str, Array], setting: Setting, *, compiled: bool = False
) -> Prepared:
    """See :class:`cpu_peers.protocol.Prepare`."""
    if setting.fast:
        raise UnsupportedError("has no such setting")
    if setting.precision == INT8:
        raise UnsupportedError("has no int8 convolution")
    torch.set_num_threads(setting.threads)
    dtype = getattr(torch, setting.precision)
    ops = _Compiled(params, dtype) if compiled else TorchOps(params, dtype)
    run: Callable[..., Sequence[Tensor]] = _Part(ops, case.network)
    if compiled and case.ours != "basicvsr":
        run = compile_module(_Part(ops, case.network))
    given = tensors(inputs)
    if not case.whole:
        given = own_layout(given, dtype)

    @torch.inference_mode()
    def call() -> Sequence[Tensor]:
        if not case.whole:
            return run(*given)
        return plain_layout(run(*(channels_last(x) for x in given)))

    if case.whole:
        return Prepared(call, arrays)
    return Prepared(call, arrays, reorders_apart=lambda: conversions(inputs, arrays(call()), dtype)())


def truth(case: Case, inputs: Sequence[Array], params: Mapping[str, Array]) -> list[Array]:
    """What all peers have to come close to: eager float32 with coordinates in float64.

    Convolutions in float64 would take minutes and gigabytes; coordinates in float32 lose more than any convolution.
    """
    with torch.inference_mode():
        return arrays(case.network(TorchOps(params, torch.float32, torch.float64), *tensors(inputs)))


def _key(name: str) -> str:
    """A buffer's name has no dots."""
    return name.replace(".", "_")
