"""Arguments of every registered operator, as its schema takes them, with every activation and optional argument."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ops.cases import ACTIVATIONS
from ops.inputs import Draw

Sample = tuple[Any, ...]
UNPACKED = (True, None)  # the arguments exact and packed of the convolutions


def slope_arguments(activation: str, draw: Draw, channels: int) -> tuple[str, Tensor | None, float]:
    """Name, tensor slope and number as the schemas take them."""
    if activation.startswith("leaky"):
        return "leaky_relu", None, -0.5 if activation.endswith("negative") else 0.125
    if activation.startswith("prelu"):
        return "prelu", draw.slope(1 if activation == "prelu_one" else channels), 0.0
    return activation, None, 0.0


def conv_samples(draw: Draw) -> Iterator[Sample]:
    x, weight, bias = draw.image((2, 3, 5, 4), "sliced"), draw.weight((4, 3, 3, 3)), draw.bias(4)
    for i, activation in enumerate((*ACTIVATIONS, *ACTIVATIONS)):
        r, residual = 1 + i % 2, i >= len(ACTIVATIONS)
        name, slope, number = slope_arguments(activation, draw, 4)
        other = draw.image((2, 4 // r**2, 5 * r, 4 * r)) if residual else None
        rest = (other, name, 0.5 if residual else 1.0, r, True, *UNPACKED)
        yield x, weight, None if residual else bias, slope, number, *rest
    yield x, weight, bias, None, 0.0, None, "relu", 1.0, 1, False, *UNPACKED  # the output's sign is enough
    yield x, weight, bias, None, 0.0, x.new_ones(2, 4, 5, 4), "none", 0.5, 1, False, *UNPACKED


def backward_samples(draw: Draw) -> Iterator[Sample]:
    x, weight, grad = draw.image((2, 5, 4, 3), "sliced"), draw.weight((4, 3, 3, 3)), draw.image((2, 4, 4, 3))
    gather = torch.tensor([4, 0, 2], device=x.device)
    for need in itertools.product((False, True), repeat=3):
        if sum(need) < 2:
            continue  # opcheck takes two empty results for one
        yield grad, x, weight, gather, *need, True
        yield grad, x[:, :3], weight, None, *need, False


def pack_samples(draw: Draw) -> Iterator[Sample]:
    for i, (activation, exact) in enumerate(itertools.product(ACTIVATIONS, (False, True))):
        name, slope, number = slope_arguments(activation, draw, 12)
        weight = draw.weight((12, 5, 3, 3), "channels_last" if i % 3 else "contiguous")
        yield weight, draw.bias(12) if i % 2 else None, slope, number, name, 1 + i % 2, exact, False
    if draw.device != "cpu":
        yield draw.weight((12, 5, 3, 3)), None, None, 0.0, "none", 1, True, True


def chain_operands(draw: Draw, activation: str) -> tuple[Any, ...]:
    """Weights, biases, slopes, number and name of 3 -> 8 -> 5 -> 8 channels."""
    name, slope, number = slope_arguments(activation, draw, 8)
    weights = [draw.weight((8, 3, 3, 3)), draw.weight((5, 8, 3, 3), "channels_last"), draw.weight((8, 5, 3, 3))]
    biases = [draw.bias(8), draw.bias(5), draw.bias(8)] if activation != "relu" else []
    slopes = [] if slope is None else [slope, draw.slope(1 if slope.numel() == 1 else 5)]
    return weights, biases, slopes, number, name


def chain_samples(draw: Draw) -> Iterator[Sample]:
    for i, activation in enumerate(ACTIVATIONS):
        residual = draw.image((2, 2, 10, 8), "transposed") if i % 2 else None
        yield draw.image((2, 3, 5, 4), "sliced"), *chain_operands(draw, activation), residual, 2, *UNPACKED
    weight = draw.weight((3, 3, 3, 3))
    yield draw.image((1, 3, 4, 4), "channels_last"), [weight], [], [], 0.0, "none", None, 1, *UNPACKED


def chain_pack_samples(draw: Draw) -> Iterator[Sample]:
    for activation in ACTIVATIONS:
        yield *chain_operands(draw, activation), 2, True


def epilogue_samples(draw: Draw) -> Iterator[Sample]:
    for activation, r in itertools.product(ACTIVATIONS, (1, 2)):
        name, slope, number = slope_arguments(activation, draw, 8)
        shape = (2, 8 // r**2, 3 * r, 4 * r)
        yield draw.image(shape, "channels_last"), draw.image(shape), slope, name, number, 0.5, r


def block_samples(draw: Draw) -> Iterator[Sample]:
    x, weight1, weight2 = (
        draw.image((2, 3, 5, 4), "channels_last"),
        draw.weight((6, 3, 3, 3)),
        draw.weight((3, 6, 3, 3)),
    )
    for i, activation in enumerate(ACTIVATIONS):
        name, slope, number = slope_arguments(activation, draw, 6)
        bias1, bias2 = (draw.bias(6), draw.bias(3)) if i % 2 else (None, None)
        yield x, weight1, bias1, weight2, bias2, slope, number, name, 1.0 if i % 3 else 0.5, True, *UNPACKED, None


def sparse_conv_samples(draw: Draw) -> Iterator[Sample]:
    x, residual = draw.image((2, 5, 4, 3)), draw.image((2, 6, 4, 3), "transposed")
    gather, scatter = torch.tensor([4, 0, 2], device=x.device), torch.tensor([5, 1], device=x.device)
    for i, activation in enumerate(ACTIVATIONS):
        name, slope, number = slope_arguments(activation, draw, 2)
        weight, all_weight = draw.weight((2, 3, 3, 3)), draw.weight((2, 5, 3, 3))
        yield x, weight, draw.bias(2), slope, number, gather, scatter, residual, name, True, *UNPACKED
        if i % 2:
            yield x, all_weight, None, slope, number, None, None, residual[:, :2], name, True, *UNPACKED
        else:
            yield x, weight, None, slope, number, gather, None, None, name, True, *UNPACKED


def sparse_block_samples(draw: Draw) -> Iterator[Sample]:
    x = draw.image((2, 5, 4, 3))
    gather, scatter = torch.tensor([4, 0], device=x.device), torch.tensor([3, 1, 0], device=x.device)
    for activation in ACTIVATIONS:
        name, slope, number = slope_arguments(activation, draw, 6)
        weight1, weight2 = draw.weight((6, 2, 3, 3)), draw.weight((3, 6, 3, 3))
        rest = (slope, number, gather, scatter, name, True, *UNPACKED, None)
        yield x, weight1, draw.bias(6), weight2, draw.bias(3), *rest


def warp_samples(draw: Draw) -> Iterator[Sample]:
    for interpolation, padding in itertools.product(("bilinear", "nearest"), ("zeros", "border")):
        for layout in ("contiguous", "channels_last"):
            flow = draw.flow((2, 2, 4, 5), 1.0, torch.float32, "sliced")
            yield draw.image((2, 3, 4, 5), layout), flow, interpolation, padding


def warp_concat_samples(draw: Draw) -> Iterator[Sample]:
    for i, (x, flow, interpolation, padding) in enumerate(warp_samples(draw)):
        yield x, flow, draw.image((2, 4, 4, 5), "sliced"), i % 3 == 0, interpolation, padding


def warp_backward_samples(draw: Draw) -> Iterator[Sample]:
    for x, flow, interpolation, padding in warp_samples(draw):
        for need_x, need_flow in ((True, True), (True, False), (False, True)):
            yield draw.image((2, 3, 4, 5), "transposed"), x, flow, interpolation, padding, need_x, need_flow


def shuffle_samples(draw: Draw, *, inverse: bool) -> Iterator[Sample]:
    for r, layout in itertools.product((1, 2, 3), ("contiguous", "channels_last", "sliced")):
        yield draw.image((2, 2, 3 * r, 4 * r) if inverse else (2, 2 * r * r, 3, 4), layout), r


def conv7x7_samples(draw: Draw) -> Iterator[Sample]:
    for i, layout in enumerate(("contiguous", "channels_last", "sliced")):
        bias = None if i == 1 else draw.bias(6)
        yield draw.image((2, 3, 5, 4), layout), draw.weight((6, 3, 7, 7)), bias, i != 0, i == 2, None


def conv7x7_pack_samples(draw: Draw) -> Iterator[Sample]:
    for exact in (False, True):
        yield draw.weight((6, 3, 7, 7), "sliced"), draw.bias(6) if exact else None, exact


def quantized_operands(draw: Draw, activation: str) -> tuple[Any, ...]:
    """All but x of 3 -> 8 channels, up to the number."""
    name, slope, number = slope_arguments(activation, Draw(20, torch.float32, draw.device, exact=True), 8)
    weight = (draw.weight((8, 3, 3, 3)) * 64).to(torch.int8)
    vectors = (torch.tensor([40], dtype=torch.uint8), torch.rand(8) / 64, torch.randn(8) if slope is None else None)
    return name, (weight, *vectors, slope, number)


def quantized_samples(draw: Draw) -> Iterator[Sample]:
    for i, activation in enumerate(ACTIVATIONS):
        name, operands = quantized_operands(draw, activation)
        x = draw.image((2, 3, 5, 4), "channels_last" if i % 2 else "sliced") * 60
        base = draw.image((2, 2, 5, 4), "sliced") if i % 2 else None
        yield x.detach(), *operands, None, base, name, 2, draw.dtype, None
        out_zero = torch.tensor([9], dtype=torch.uint8)
        yield (x + 128).clamp(0, 255).to(torch.uint8), *operands, out_zero, None, name, 1, torch.uint8, None


def quantized_pack_samples(draw: Draw) -> Iterator[Sample]:
    for i, activation in enumerate(ACTIVATIONS):
        name, operands = quantized_operands(draw, activation)
        yield *operands, name, 1 + i % 2


SAMPLES: dict[str, Callable[[Draw], Iterator[Sample]]] = {
    "conv3x3": conv_samples,
    "conv7x7": conv7x7_samples,
    "conv7x7_pack": conv7x7_pack_samples,
    "conv_chain": chain_samples,
    "conv_chain_pack": chain_pack_samples,
    "conv3x3_backward": backward_samples,
    "conv3x3_epilogue_backward": epilogue_samples,
    "conv3x3_pack": pack_samples,
    "flow_warp": warp_samples,
    "flow_warp_backward": warp_backward_samples,
    "flow_warp_concat": warp_concat_samples,
    "pixel_shuffle": lambda draw: shuffle_samples(draw, inverse=False),
    "pixel_unshuffle": lambda draw: shuffle_samples(draw, inverse=True),
    "quantized_conv3x3": quantized_samples,
    "quantized_conv3x3_pack": quantized_pack_samples,
    "residual_block": block_samples,
    "sparse_conv3x3": sparse_conv_samples,
    "sparse_residual_block": sparse_block_samples,
}
