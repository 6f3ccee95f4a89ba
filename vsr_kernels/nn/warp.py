"""Flow warp as a module."""

from __future__ import annotations

from torch import Tensor, nn

from ..ops import flow_warp


class FlowWarp(nn.Module):
    """:func:`vsr_kernels.flow_warp` with fixed settings.

    Args:
        interpolation: ``bilinear`` or ``nearest``.
        padding: ``zeros`` or ``border``.
    """

    def __init__(self, interpolation: str = "bilinear", padding: str = "zeros") -> None:
        super().__init__()
        self.interpolation = interpolation
        self.padding = padding

    def forward(self, x: Tensor, flow: Tensor) -> Tensor:
        """(N, C, H, W) and flow (N, 2, H, W) in pixels -> (N, C, H, W)."""
        return flow_warp(x, flow, interpolation=self.interpolation, padding=self.padding)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"interpolation={self.interpolation}, padding={self.padding}"
