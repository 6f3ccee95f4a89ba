"""Makes a plain network int8: ranges from pictures, and weights rounded for what those pictures ask of them.

Quanta. Activations are uint8 with one zero point per layer and a quantum per channel, which costs nothing at run time:
activations commute with positive factors, so a channel's quantum goes into the weights on both sides (Nagel et al.,
"Data-Free Quantization through Weight Equalization and Bias Correction", ICCV 2019). Ranges are the extremes seen.
Leaving out one value in a hundred thousand changed PSNR to float32 on other frames by -1.1 to +0.5 dB, one in
ten thousand by -3.5 to -0.3 dB (RepSR M4C16 and M4C32, animevideov3). The zero point is the one that makes the noise of
rounding least, weighed by the weights that read it.

Weights. int8 with a scale per output channel. A layer is fitted to what the network in floating point computes, on the
inputs that the quantized layers before it give: first by least squares, then rounded one weight at a time, the rest
taking up the error in proportion to how inputs occur together (Frantar et al., "GPTQ", ICLR 2023). Neighbouring pixels
are much alike, so that most of it can be taken up. The bias takes the mean of what is left.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from vsr.models.base import Upscaler
from vsr.models.export import layers_of
from vsr.models.quantized import QuantizedSRVGGNet
from vsr.models.srvgg import SRVGGNet
from vsr_kernels import plan

_LEVELS, _MOST_WEIGHT = 255, 127
_LEAST_QUANTUM = 1e-4  # of the largest: a channel that is zero in all pictures keeps finite weights
_RIDGE, _DAMPING = 1e-4, 1e-2  # of the mean variance of inputs, while fitting and while rounding


@dataclass
class _Grid:
    """How the inputs of a layer are rounded."""

    quantum: Tensor  # (C,)
    zero: int

    def levels(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in quanta, rounded, less the zero point."""
        return x.div(self.quantum[:, None, None]).round_().clamp_(-self.zero, _LEVELS - self.zero)


@torch.no_grad()
def quantize(model: SRVGGNet, patches: Sequence[Tensor]) -> QuantizedSRVGGNet:
    """Quantize a network.

    Args:
        model: The network, on the CPU.
        patches: (1, 3, H, W) float32 RGB in [0, 1] each: parts of pictures such as it will see.

    Returns:
        A network of its own, in eval mode.
    """
    made = QuantizedSRVGGNet(**model.config)  # type: ignore[arg-type]
    convolutions, slopes = layers_of(model)
    last = len(convolutions) - 1
    weight, bias = convolutions[0]
    exact = [F.prelu(F.conv2d(x, weight, bias, padding=1), slopes[0]) for x in patches]
    grid = _grid(exact, convolutions[1][0])
    made.first.weight.copy_(weight / grid.quantum[:, None, None, None])
    cast(Tensor, made.first.bias).copy_(bias / grid.quantum)
    levels = [grid.levels(x) for x in exact]
    for index, layer in enumerate(made.layers, 1):
        weight, bias = convolutions[index]
        sums = [F.conv2d(x, weight, bias, padding=1) for x in exact]
        fitted = _fit(levels, sums, weight * grid.quantum[:, None, None])
        layer.weight.copy_(fitted.weight)
        layer.zero_point.fill_(grid.zero)
        layer.scale.copy_(fitted.scale)
        layer.bias.copy_(fitted.bias)
        if index == last:
            break
        exact = [F.prelu(z, slopes[index]) for z in sums]
        grid = _grid(exact, convolutions[index + 1][0])
        rounded = fitted.weight.float() * fitted.scale[:, None, None, None]
        outputs = (F.conv2d(x, rounded, fitted.bias, padding=1) for x in levels)
        levels = [grid.levels(F.prelu(y, slopes[index])) for y in outputs]
        layer.scale.div_(grid.quantum)
        layer.bias.div_(grid.quantum)
    if model.act_type == "prelu":
        for module, slope in zip(list(made.body)[:last], slopes, strict=True):
            cast(Tensor, module.slope).copy_(slope)
    return made.to(memory_format=torch.channels_last).eval()


def _grid(inputs: Sequence[Tensor], weight: Tensor) -> _Grid:
    """For inputs (N, C, H, W) of a convolution with ``weight`` (C_out, C, 3, 3)."""
    low = torch.stack([x.amin((0, 2, 3)) for x in inputs]).amin(0).clamp(max=0.0)
    high = torch.stack([x.amax((0, 2, 3)) for x in inputs]).amax(0).clamp(min=0.0)
    zeros = torch.arange(_LEVELS + 1)[:, None]
    below, above = -low / zeros, high / (_LEVELS - zeros)  # infinite where there is no level for what was seen
    quanta = torch.maximum(below.nan_to_num(0.0, posinf=math.inf), above.nan_to_num(0.0, posinf=math.inf))
    noise = (quanta.square() * weight.square().sum((0, 2, 3))).nan_to_num(math.inf).sum(1)
    zero = int(noise.argmin())
    quantum = quanta[zero]
    largest = float(quantum.max())
    return _Grid(quantum.clamp(min=_LEAST_QUANTUM * largest) if largest > 0 else torch.ones_like(quantum), zero)


@dataclass
class _Fitted:
    weight: Tensor  # (C_out, C_in, 3, 3) int8
    scale: Tensor  # (C_out,)
    bias: Tensor  # (C_out,)


def _fit(inputs: Sequence[Tensor], sums: Sequence[Tensor], start: Tensor) -> _Fitted:
    """int8 weights for which the convolution of ``inputs`` comes closest to ``sums``.

    Args:
        inputs: (1, C_in, H, W) in quanta, each.
        sums: (1, C_out, H, W) of the network in floating point.
        start: (C_out, C_in, 3, 3), its weights in quanta, to which what the inputs do not determine returns.
    """
    c_out, taps = start.shape[0], start[0].numel()
    square, mixed = (torch.zeros(rows, taps, dtype=torch.float64) for rows in (taps, c_out))
    mean_x, mean_y = (torch.zeros(rows, dtype=torch.float64) for rows in (taps, c_out))
    pixels = 0
    for x, y in zip(inputs, sums, strict=True):
        columns, rows = F.unfold(x, 3, padding=1)[0], y[0].flatten(1)  # (9 C_in, H W), (C_out, H W)
        square += columns @ columns.T
        mixed += rows @ columns.T
        mean_x += columns.sum(1, dtype=torch.float64)
        mean_y += rows.sum(1, dtype=torch.float64)
        pixels += columns.shape[1]
    mean_x, mean_y = mean_x / pixels, mean_y / pixels
    square = square / pixels - mean_x[:, None] * mean_x
    mixed = mixed / pixels - mean_y[:, None] * mean_x
    unit = square.diagonal().mean().clamp(min=1e-12) * torch.eye(taps, dtype=torch.float64)
    held = _RIDGE * unit
    wanted = torch.linalg.solve(square + held, (mixed + start.flatten(1).double() @ held).T).T
    scale = wanted.abs().amax(1).clamp(min=1e-12) / _MOST_WEIGHT
    rounded = _rounded(wanted / scale[:, None], square + _DAMPING * unit)
    bias = mean_y - scale * (rounded @ mean_x)
    return _Fitted(rounded.to(torch.int8).view(start.shape), scale.float(), bias.float())


def _rounded(weights: Tensor, square: Tensor) -> Tensor:
    """(C_out, K) weights as integers, so that the error seen through the moments (K, K) of the inputs is small.

    The inputs that vary most come first, while there are many left to take up the error.
    """
    order = square.diagonal().argsort(descending=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(square[order][:, order]))
    share = torch.linalg.cholesky(inverse, upper=True)
    left, found = weights[:, order].clone(), torch.empty_like(weights)
    for k in range(len(order)):
        found[:, k] = left[:, k].round().clamp(-_MOST_WEIGHT, _MOST_WEIGHT)
        left[:, k + 1 :] -= ((left[:, k] - found[:, k]) / share[k, k])[:, None] * share[k, k + 1 :]
    return found[:, order.argsort()]


@torch.inference_mode()
def psnr_between(model: Upscaler, exact: Upscaler, pictures: Sequence[Tensor]) -> list[float]:
    """PSNR in decibels of one network's results to another's, both clamped to [0, 1], for pictures (1, 3, H, W)."""
    found = []
    for picture in pictures:
        a, b = (network(picture).clamp(0, 1).double() for network in (model, exact))
        found.append(-10 * math.log10(max(1e-12, (a - b).square().mean().item())))
    return found


@torch.inference_mode()
def seconds_per_picture(networks: dict[str, Upscaler], picture: Tensor, rounds: int = 7) -> dict[str, float]:
    """Median seconds of one picture (1, 3, H, W), planned as ``vsr upscale`` has it; the networks take turns."""
    planned: dict[str, Callable[[Tensor], Tensor]] = {name: plan(network) for name, network in networks.items()}
    for run in planned.values():
        for _ in range(3):  # the second call is recorded, the third replayed
            run(picture)
    taken: dict[str, list[float]] = {name: [] for name in planned}
    for _ in range(rounds):
        for name, run in planned.items():
            start = time.perf_counter()
            run(picture)
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}
