"""The rows of gpu_run.py: operators of this package beside the same in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vsr_kernels import conv3x3, conv_chain, flow_warp, pixel_shuffle, residual_block, sparse_conv3x3

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Workload:
    """A row: the same function of the same tensors, by this package and by PyTorch.

    Attributes:
        key: short name.
        title: for readers.
        operator: the operator of this package that it rests on.
        ours: by this package.
        peer: by PyTorch.
        arguments: of both.
        peer_name: what PyTorch runs.
        trained: the arguments with respect to which gradients are computed too; none for inference.
    """

    key: str
    title: str
    operator: str
    ours: Function
    peer: Function
    arguments: tuple[Tensor, ...]
    peer_name: str = "cuDNN"
    trained: tuple[int, ...] = ()

    def run(self, function: Function) -> Sequence[Tensor]:
        """The output; or the gradients of half its squared norm."""
        if not self.trained:
            return [function(*self.arguments)]
        with torch.inference_mode(False), torch.enable_grad():
            out = function(*self.arguments)
            return torch.autograd.grad(out, [self.arguments[i] for i in self.trained], out.detach())


def plain_warp(x: Tensor, flow: Tensor) -> Tensor:
    """The usual way: pixel grid + flow, normalised, permuted, sampled in float32."""
    _, _, h, w = x.shape
    rows, columns = torch.meshgrid(torch.arange(h, device=x.device), torch.arange(w, device=x.device), indexing="ij")
    grid = torch.stack((columns, rows), 2).float() + flow.permute(0, 2, 3, 1)
    grid = torch.stack((2 * grid[..., 0] / (w - 1) - 1, 2 * grid[..., 1] / (h - 1) - 1), dim=3)
    return F.grid_sample(x.float(), grid, mode="bilinear", align_corners=True).to(x.dtype)


def thin_net(x: Tensor, *parameters: Tensor) -> Tensor:
    """RepSR M4C16 x4: weights and biases of six layers in turn, then five PReLU slopes."""
    layers, slopes = parameters[:12], parameters[12:]
    return conv_chain(x, layers[0::2], layers[1::2], activation="prelu", slope=slopes, pixel_shuffle=4)


def plain_thin_net(x: Tensor, *parameters: Tensor) -> Tensor:
    """The same by PyTorch."""
    layers, slopes = parameters[:12], parameters[12:]
    for i, slope in enumerate(slopes):
        x = F.prelu(F.conv2d(x, layers[2 * i], layers[2 * i + 1], padding=1), slope)
    return F.pixel_shuffle(F.conv2d(x, layers[10], layers[11], padding=1), 4)


def workloads(device: str, dtype: torch.dtype, size: tuple[int, int] = (180, 320)) -> list[Workload]:
    """All rows.

    Args:
        device: where the tensors live.
        dtype: of images and weights.
        size: height and width of the 64-channel rows; those of 32 channels have twice that.
    """
    random = torch.Generator().manual_seed(0)

    def image(channels: int, factor: int = 1) -> Tensor:
        x = torch.randn(1, channels, size[0] * factor, size[1] * factor, generator=random)
        return x.to(device, dtype).contiguous(memory_format=torch.channels_last)

    def weights(c_out: int, c_in: int) -> tuple[Tensor, Tensor]:
        weight = torch.randn(c_out, c_in, 3, 3, generator=random) / (9 * c_in) ** 0.5
        bias = torch.randn(c_out, generator=random)
        return weight.to(device, dtype).contiguous(memory_format=torch.channels_last), bias.to(device, dtype)

    def motion() -> Tensor:
        coarse = torch.randn(1, 2, 6, 10, generator=random) * 4
        return F.interpolate(coarse, size=size, mode="bicubic").to(device)

    def trained(arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(argument.detach().clone().requires_grad_() for argument in arguments)

    h, w = size
    thin = [t for c_in, c_out in zip((3, *[16] * 5), (*[16] * 5, 48), strict=True) for t in weights(c_out, c_in)]
    thin += [torch.rand(16, generator=random).to(device, dtype) for _ in range(5)]
    kept = torch.arange(0, 64, 2, device=device)
    slope = torch.rand(64, generator=random).to(device, dtype)
    return [
        Workload(
            "conv64",
            f"conv 64→64 + ReLU, {h}x{w}",
            "conv3x3",
            lambda x, weight, bias: conv3x3(x, weight, bias, activation="relu"),
            lambda x, weight, bias: F.relu(F.conv2d(x, weight, bias, padding=1)),
            (image(64), *weights(64, 64)),
        ),
        Workload(
            "conv64-residual",
            f"conv 64→64 + PReLU + residual, {h}x{w}",
            "conv3x3",
            lambda x, weight, bias, a, y: conv3x3(x, weight, bias, activation="prelu", slope=a, residual=y),
            lambda x, weight, bias, a, y: F.prelu(F.conv2d(x, weight, bias, padding=1), a) + y,
            (image(64), *weights(64, 64), slope, image(64)),
        ),
        Workload(
            "tail",
            f"conv 64→48 + pixel_shuffle(4), {h}x{w}",
            "conv3x3",
            lambda x, weight, bias: conv3x3(x, weight, bias, pixel_shuffle=4),
            lambda x, weight, bias: F.pixel_shuffle(F.conv2d(x, weight, bias, padding=1), 4),
            (image(64), *weights(48, 64)),
        ),
        Workload("thin-net", f"RepSR M4C16 x4, {h}x{w}", "conv3x3", thin_net, plain_thin_net, (image(3), *thin)),
        Workload(
            "conv32",
            f"conv 32→32 + ReLU, {2 * h}x{2 * w}",
            "conv3x3",
            lambda x, weight, bias: conv3x3(x, weight, bias, activation="relu"),
            lambda x, weight, bias: F.relu(F.conv2d(x, weight, bias, padding=1)),
            (image(32, 2), *weights(32, 32)),
        ),
        *(
            Workload(
                f"block{c}",
                f"residual block, {c} channels, {h * factor}x{w * factor}",
                "residual_block",
                residual_block,
                lambda x, w1, b1, w2, b2: x + F.conv2d(F.relu(F.conv2d(x, w1, b1, padding=1)), w2, b2, padding=1),
                (image(c, factor), *weights(c, c), *weights(c, c)),
            )
            for c, factor in ((64, 1), (32, 2))
        ),
        Workload(
            "sparse",
            f"sparse conv, 32 of 64→64 channels, {h}x{w}",
            "sparse_conv3x3",
            lambda x, weight, bias: sparse_conv3x3(x, weight, bias, in_channels=kept, activation="relu"),
            lambda x, weight, bias: F.relu(F.conv2d(x[:, kept], weight, bias, padding=1)),
            (image(64), *weights(64, 32)),
        ),
        Workload(
            "warp",
            f"flow_warp, 64 channels, {h}x{w}",
            "flow_warp",
            flow_warp,
            plain_warp,
            (image(64), motion()),
            "grid_sample",
        ),
        Workload(
            "shuffle",
            f"pixel_shuffle(4), 48 channels, {h}x{w}",
            "pixel_shuffle",
            lambda x: pixel_shuffle(x, 4),
            lambda x: F.pixel_shuffle(x, 4),
            (image(48),),
            "pixel_shuffle",
        ),
        Workload(
            "conv64-training",
            f"conv 64→64 + ReLU, {h}x{w}, forward and backward",
            "conv3x3",
            lambda x, weight, bias: conv3x3(x, weight, bias, activation="relu"),
            lambda x, weight, bias: F.relu(F.conv2d(x, weight, bias, padding=1)),
            trained((image(64), *weights(64, 64))),
            trained=(0, 1, 2),
        ),
        Workload(
            "warp-training",
            f"flow_warp, 64 channels, {h}x{w}, forward and backward",
            "flow_warp",
            flow_warp,
            plain_warp,
            trained((image(64), motion())),
            "grid_sample",
            trained=(0, 1),
        ),
    ]
