"""Re-parameterised convolutions: several branches while training, one 3x3 convolution afterwards.

RepSR's own block is :class:`vsr_kernels.nn.RepConv3x3`; here are those that it is compared with, under the same
interface: branches in train mode, the merged kernel in eval mode (differentiable), ``merged_parameters()``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr_kernels import conv3x3
from vsr_kernels.nn import RepConv3x3


class MergingBlock(nn.Module, ABC):
    """What all of them share; ``channels`` in and out, stride 1, zero padding."""

    @abstractmethod
    def branches(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), branch by branch."""

    @abstractmethod
    def _merge(self) -> tuple[Tensor, Tensor]:
        """Weight (C, C, 3, 3) and bias (C,) of the one convolution, differentiable."""

    def merged_parameters(self) -> tuple[Tensor, Tensor]:
        """Weight (C, C, 3, 3) and bias (C,) of the one convolution, differentiable; in float32 under autocast, too."""
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            return self._merge()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return self.branches(x) if self.training else conv3x3(x, *self.merged_parameters())


class PlainBlock(MergingBlock):
    """One 3x3 convolution, which is its own merged form: what re-parameterisation has to beat."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def branches(self, x: Tensor) -> Tensor:
        """The convolution."""
        return conv3x3(x, *self.merged_parameters())

    def _merge(self) -> tuple[Tensor, Tensor]:
        """The convolution's own."""
        return self.conv.weight, cast(Tensor, self.conv.bias)


class _Edge(nn.Module):
    """conv1x1 -> fixed depthwise 3x3 filter with a trained scale and bias per channel."""

    filter: Tensor

    def __init__(self, channels: int, kernel: list[list[float]]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.scale = nn.Parameter(torch.randn(channels) * 1e-3)
        self.bias = nn.Parameter(torch.randn(channels) * 1e-3)
        self.register_buffer("filter", torch.tensor(kernel))

    def kernel(self) -> Tensor:
        """(C, C, 3, 3), zero off the diagonal."""
        return torch.diag_embed(self.scale)[:, :, None, None] * self.filter


class ECB(MergingBlock):
    """Edge-oriented convolution block: a 3x3, an expanding and squeezing pair, and three edge filters.

    Where a 1x1 comes first, what the 3x3 sees beyond the border is the 1x1's bias, so that the merge is exact there.

    Source: Zhang, Zeng, Zhang, "Edge-oriented Convolution Block for Real-time Super Resolution on Mobile Devices",
    ACM MM 2021.
    """

    def __init__(self, channels: int, expansion: int = 2) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1)
        self.expand = nn.Conv2d(channels, expansion * channels, 1)
        self.squeeze = nn.Conv2d(expansion * channels, channels, 3)
        sobel = [[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]
        turned = [list(row) for row in zip(*sobel, strict=True)]
        laplacian = [[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]
        self.edges = nn.ModuleList(_Edge(channels, kernel) for kernel in (sobel, turned, laplacian))

    def branches(self, x: Tensor) -> Tensor:
        """All five."""
        y = conv3x3(x, self.conv3.weight, self.conv3.bias)
        y = y + F.conv2d(_bordered(self.expand, x), self.squeeze.weight, self.squeeze.bias)
        for edge in cast("list[_Edge]", self.edges):
            wide = _bordered(edge.conv1, x)
            kernel = edge.scale[:, None, None, None] * edge.filter
            y = y + F.conv2d(wide, kernel, edge.bias, groups=wide.shape[1])
        return y

    def _merge(self) -> tuple[Tensor, Tensor]:
        """The sum of the merged branches."""
        weight, bias = self.conv3.weight, cast(Tensor, self.conv3.bias)
        pairs = [(self.expand, self.squeeze.weight, cast(Tensor, self.squeeze.bias))]
        pairs += [(edge.conv1, edge.kernel(), edge.bias) for edge in cast("list[_Edge]", self.edges)]
        for first, kernel, last in pairs:
            weight = weight + torch.einsum("omhw,mi->oihw", kernel, first.weight.flatten(1))
            bias = bias + kernel.sum((2, 3)) @ cast(Tensor, first.bias) + last
        return weight, bias


def _bordered(conv1: nn.Conv2d, x: Tensor) -> Tensor:
    """The 1x1's output with one pixel around it, which is what it makes of zeros: its bias."""
    y = conv1(F.pad(x, (1, 1, 1, 1)))
    return cast(Tensor, y)


class RepVGGBlock(MergingBlock):
    """3x3 with batch norm, 1x1 with batch norm, and the identity with batch norm.

    Source: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021 (without its ReLU, which the
    network brings).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(3))

    def branches(self, x: Tensor) -> Tensor:
        """All three."""
        three, one, identity = self.norms
        y = three(conv3x3(x, self.conv3.weight)) + one(self.conv1(x)) + identity(x)
        return cast(Tensor, y)

    def _merge(self) -> tuple[Tensor, Tensor]:
        """The sum of the branches with population statistics folded in."""
        one = F.pad(self.conv1.weight, (1, 1, 1, 1))
        identity = torch.zeros_like(one)
        identity.diagonal(dim1=0, dim2=1)[1, 1] = 1.0
        weight, bias = torch.zeros_like(one), torch.zeros_like(one[:, 0, 0, 0])
        for norm, kernel in zip(
            cast("list[nn.BatchNorm2d]", self.norms), (self.conv3.weight, one, identity), strict=True
        ):
            scale = norm.weight * torch.rsqrt(cast(Tensor, norm.running_var) + norm.eps)
            weight = weight + kernel * scale[:, None, None, None]
            bias = bias + norm.bias - cast(Tensor, norm.running_mean) * scale
        return weight, bias


class SESRBlock(MergingBlock):
    """Collapsible linear block: 3x3 to many channels, 1x1 back, plus the identity; trained on the collapsed kernel.

    Source: Bhardwaj et al., "Collapsible Linear Blocks for Super-Efficient Super Resolution", MLSys 2022.
    """

    def __init__(self, channels: int, expanded: int = 256) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, expanded, 3, padding=1, bias=False)
        self.squeeze = nn.Conv2d(expanded, channels, 1)

    def branches(self, x: Tensor) -> Tensor:
        """The collapsed kernel: the gradients go through the collapse."""
        return conv3x3(x, *self.merged_parameters())

    def _merge(self) -> tuple[Tensor, Tensor]:
        """The product of the two kernels, plus the identity."""
        weight = torch.einsum("om,mihw->oihw", self.squeeze.weight.flatten(1), self.expand.weight)
        identity = torch.zeros_like(weight)
        identity.diagonal(dim1=0, dim2=1)[1, 1] = 1.0
        return weight + identity, cast(Tensor, self.squeeze.bias)


#: Blocks by the names that configurations use.
BLOCKS = {
    "repsr": lambda channels: RepConv3x3(channels, channels),
    "plain": PlainBlock,
    "ecb": ECB,
    "repvgg": RepVGGBlock,
    "sesr": SESRBlock,
}
