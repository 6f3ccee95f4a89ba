"""Calls of quantized_conv3x3: sums of NumPy integers, and what follows them in float64."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import vsr_kernels
from vsr_kernels import reference

SIZES = (1, 2, 3, 7, 13, 14, 15, 17, 33)
CHANNELS = (1, 3, 8, 16, 17, 24, 32, 37, 64)
ACTIVATIONS = ("none", "relu", "leaky_relu", "prelu_one", "prelu_each")
KINDS = (torch.uint8, torch.float32, torch.float16, torch.bfloat16)  # of x
RESULTS = (torch.uint8, torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "expanded")

#: Of one result in float32: a float32 product and sum, against numbers of about this size.
ATOL = 1e-6


@dataclass
class Call:
    """The arguments of a call, and what it has to give in float64: a uint8 result before it is rounded."""

    arguments: dict[str, Any]
    exact: np.ndarray
    requantized: bool

    def run(self) -> Tensor:
        return vsr_kernels.quantized_conv3x3(**self.arguments)


def lay_out(values: Tensor, layout: str) -> Tensor:
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        wide = torch.ones([2 * size + 1 for size in values.shape]).to(values.dtype)
        return wide[tuple(slice(1, None, 2) for _ in values.shape)].copy_(values)
    if layout == "transposed":
        return values.transpose(-2, -1).contiguous().transpose(-2, -1)
    return values[:1].expand(values.shape) if layout == "expanded" else values


def draw(seed: int, *, size: tuple[int, int, int] | None = None, channels: tuple[int, int] | None = None) -> Call:
    """A call whose every property depends on the seed; results are spread over the range of uint8."""
    chance, made = random.Random(seed), torch.Generator().manual_seed(seed)
    n, h, w = size or (chance.choice((1, 2, 3)), chance.choice(SIZES), chance.choice(SIZES))
    c_in, c_shuffled = channels or (chance.choice(CHANNELS), chance.choice(CHANNELS))
    kind, result = chance.choice(KINDS), chance.choice(RESULTS)
    r = 1 if result == torch.uint8 or c_shuffled > 17 else chance.choice((1, 2, 3))
    c_out = c_shuffled * r * r
    if kind == torch.uint8:
        x = torch.randint(0, 256, (n, c_in, h, w), generator=made, dtype=torch.uint8)
    else:
        x = (torch.randn(n, c_in, h, w, generator=made) * 90).to(kind)
    x = lay_out(x, chance.choice(LAYOUTS))
    weight = torch.randint(-128, 128, (c_out, c_in, 3, 3), generator=made, dtype=torch.int8)
    weight = lay_out(weight, chance.choice(LAYOUTS[:4]))
    zero = torch.tensor([chance.choice((0, 1, 77, 254, 255))], dtype=torch.uint8)
    scale = (torch.rand(c_out, generator=made) + 0.5) * 60 / (9 * max(1, c_in) * 6000) ** 0.5 / 100
    bias = torch.randn(c_out, generator=made) * 30 if chance.random() < 0.8 else None
    activation = chance.choice(ACTIVATIONS)
    slope: Any = None
    if activation == "leaky_relu":
        slope = chance.choice((0.125, -0.5))
    elif activation.startswith("prelu"):
        slope = torch.rand(c_out if activation.endswith("each") else 1, generator=made) - 0.3
    name = activation.split("_one")[0].split("_each")[0]
    arguments: dict[str, Any] = {"x": x, "weight": weight, "zero_point": zero, "scale": scale, "bias": bias}
    arguments |= {"activation": name, "slope": slope, "pixel_shuffle": r}
    if result == torch.uint8:
        arguments["out_zero_point"] = torch.tensor([chance.choice((0, 3, 128, 255))], dtype=torch.uint8)
    else:
        arguments["dtype"] = result
        if chance.random() < 0.6:
            base = torch.randn(n, c_shuffled, h, w, generator=made) * 10
            arguments["base"] = lay_out(base.to(result), chance.choice(LAYOUTS))
    return Call(arguments, truth(**arguments), result == torch.uint8)


def truth(
    x: Tensor,
    weight: Tensor,
    zero_point: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    activation: str,
    slope: Any,
    pixel_shuffle: int,
    out_zero_point: Tensor | None = None,
    base: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> np.ndarray:
    """Tap by tap, in integers; (N, C_out / r^2, r H, r W) float64."""
    zero, r = int(zero_point), pixel_shuffle
    values = x.double().numpy()
    if x.is_floating_point():
        values = np.clip(np.rint(values) + zero, 0, 255)
    inside = values.astype(np.int64) - zero
    n, _, h, w = inside.shape
    padded = np.pad(inside, ((0, 0), (0, 0), (1, 1), (1, 1)))
    taps = weight.numpy().astype(np.int64)
    sums = np.zeros((n, taps.shape[0], h, w), np.int64)
    for i, j in itertools.product(range(3), range(3)):
        sums += np.einsum("nchw,oc->nohw", padded[:, :, i : i + h, j : j + w], taps[:, :, i, j])
    z = sums * scale.double().numpy()[:, None, None]
    if bias is not None:
        z = z + bias.double().numpy()[:, None, None]
    if activation != "none":
        given = slope.double().numpy()[:, None, None] if isinstance(slope, Tensor) else slope or 0.0
        z = np.where(z > 0, z, z * given)
    c = z.shape[1] // r**2
    shuffled = z.reshape(n, c, r, r, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c, h * r, w * r)
    if out_zero_point is not None:
        return shuffled + int(out_zero_point)
    return shuffled if base is None else shuffled + base.double().numpy().repeat(r, 2).repeat(r, 3)


def plain(call: Call) -> Tensor:
    """PyTorch doing the same in float32, rounded to the dtype of the result."""
    a = dict(call.arguments)
    x, zero = a["x"].float(), a["zero_point"].float()
    q = (x.round() + zero).clamp(0, 255) - zero if a["x"].is_floating_point() else x - zero
    y = reference.conv3x3(
        q,
        a["weight"].float() * a["scale"][:, None, None, None],
        a["bias"],
        activation=a["activation"],
        slope=a["slope"],
        pixel_shuffle=a["pixel_shuffle"],
    )
    if a.get("base") is not None:
        r = a["pixel_shuffle"]
        y = y + a["base"].float().repeat_interleave(r, 2).repeat_interleave(r, 3)
    return y.to(a["dtype"])


def check(call: Call, got: Tensor) -> None:
    """Against the truth: within the error rule, or rounded to a neighbour."""
    found = got.double().numpy()
    assert found.shape == call.exact.shape
    if call.requantized:
        wanted = np.clip(call.exact, 0, 255)
        assert np.abs(found - wanted).max(initial=0) <= 0.5 + 1e-4  # which float32 may take for a tie
        return
    error = np.abs(found - call.exact).max(initial=0)
    theirs = np.abs(plain(call).double().numpy() - call.exact).max(initial=0)
    assert error <= 2 * theirs + ATOL * max(1.0, np.abs(call.exact).max(initial=0))
