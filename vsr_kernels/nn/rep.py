"""RepSR's re-parameterised convolution: branches while training, one 3x3 convolution afterwards."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..ops import conv3x3, merge_rep_branches
from ..types import RepBranch
from .conv import Conv3x3

#: Initial weights of the squeezing 1x1, relative to torch's own. With 1 a network of four blocks is over 1 dB behind
#: after 600 steps (16 channels, x2, Adam at 1e-3).
_SQUEEZE_GAIN = 0.1


class _Branch(nn.Module):
    """conv3x3 (expand) -> batch norm -> conv1x1 (squeeze)."""

    def __init__(self, in_channels: int, out_channels: int, expanded: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(in_channels, expanded, 3, 1, 1)
        self.bn = nn.BatchNorm2d(expanded)
        self.conv1 = nn.Conv2d(expanded, out_channels, 1)
        # What a batch norm lets out has variance one, far more than a residual needs: a block starts near its identity.
        with torch.no_grad():
            self.conv1.weight.mul_(_SQUEEZE_GAIN)
            nn.init.zeros_(cast(Tensor, self.conv1.bias))

    def forward(self, x: Tensor) -> Tensor:
        wide = conv3x3(x, self.conv3.weight, self.conv3.bias)
        return self.conv1(self.bn(wide))

    def as_tuple(self) -> RepBranch:
        bn = self.bn
        assert bn.running_mean is not None and bn.running_var is not None
        assert self.conv3.bias is not None and self.conv1.bias is not None
        return RepBranch(
            self.conv3.weight,
            self.conv3.bias,
            bn.weight,
            bn.bias,
            bn.running_mean,
            bn.running_var,
            bn.eps,
            self.conv1.weight,
            self.conv1.bias,
        )


class RepConv3x3(nn.Module):
    """RepSR block: identity + two expand-and-squeeze branches with batch norm, merged into one 3x3 convolution.

    In train mode the branches run with mini-batch statistics. In eval mode the merged kernel runs, which equals the
    branches with population statistics; gradients flow through the merge. Source: RepSR, ACM MM 2022.

    Args:
        in_channels, out_channels: C_in, C_out; the identity exists where they are equal.
        expansion: width of a branch over C_out.
        branches: number of branches.
        identity: whether the identity exists at all; without it where something around the block already has one.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, expansion: int = 2, branches: int = 2, identity: bool = True
    ) -> None:
        super().__init__()
        self.identity = identity and in_channels == out_channels
        self.branches = nn.ModuleList(
            _Branch(in_channels, out_channels, expansion * out_channels) for _ in range(branches)
        )

    def merged_parameters(self) -> tuple[Tensor, Tensor]:
        """Weight (C_out, C_in, 3, 3) and bias (C_out,) of the merged convolution, differentiable."""
        return merge_rep_branches([b.as_tuple() for b in self.branches], identity=self.identity)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H, W)."""
        if not self.training:
            return conv3x3(x, *self.merged_parameters())
        out = x if self.identity else None
        for branch in self.branches:
            y = branch(x)
            out = y if out is None else out + y
        assert out is not None
        return out

    def merge(self) -> Conv3x3:
        """The merged convolution as a module of its own.

        Raises:
            RuntimeError: in train mode, whose mini-batch statistics no single kernel reproduces.
        """
        if self.training:
            raise RuntimeError("RepConv3x3: merge: expected eval mode, got train mode: call .eval() first")
        weight, bias = self.merged_parameters()
        made = Conv3x3(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
        made.weight.data.copy_(weight.detach())
        assert made.bias is not None
        made.bias.data.copy_(bias.detach())
        return made.eval()
