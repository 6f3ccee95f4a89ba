"""Modules as other projects write them, which ours replace."""

from __future__ import annotations

from torch import Tensor, nn


class ResidualBlockNoBN(nn.Module):
    """BasicSR's residual block, from its description: conv, ReLU, conv, scaled and added."""

    def __init__(self, num_feat: int = 64, res_scale: float = 1, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.relu = nn.ReLU(inplace=True) if activation is None else activation

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.relu(self.conv1(x))) * self.res_scale
