"""Modules of pruned networks: convolutions that read and write kept channels only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops import sparse_conv3x3, sparse_residual_block
from .conv import _Activated


def _kept(module: str, name: str, channels: Sequence[int] | Tensor, limit: int) -> Tensor:
    """Channel numbers as an int64 tensor, checked once here so that no later call has to read them."""
    kept = torch.as_tensor(channels, dtype=torch.int64, device="cpu")
    values = kept.tolist()
    if kept.dim() != 1 or len(set(values)) != len(values) or any(not 0 <= v < limit for v in values):
        raise ValueError(f"{module}: {name}: expected distinct channel numbers in [0, {limit}), got {values}")
    return kept


class SparseConv3x3(_Activated):
    """3x3 convolution of kept channels: reads ``in_kept`` of its input, adds to ``out_kept`` of a residual.

    Args:
        in_channels: channels C of the input.
        out_channels: channels of the residual, or of the output where ``out_kept`` is None.
        in_kept: kept input channels; None keeps all.
        out_kept: kept output channels; None keeps all.
        bias, activation, slope: as in :class:`vsr_kernels.nn.Conv3x3`.
    """

    in_kept: Tensor | None
    out_kept: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        in_kept: Sequence[int] | Tensor | None = None,
        out_kept: Sequence[int] | Tensor | None = None,
        bias: bool = True,
        activation: str = "none",
        slope: float | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        gather = None if in_kept is None else _kept(name, "in_kept", in_kept, in_channels)
        scatter = None if out_kept is None else _kept(name, "out_kept", out_kept, out_channels)
        self.register_buffer("in_kept", gather)
        self.register_buffer("out_kept", scatter)
        narrow_in = in_channels if gather is None else len(gather)
        narrow_out = out_channels if scatter is None else len(scatter)
        like = nn.Conv2d(narrow_in, narrow_out, 3, 1, 1, bias=bias)
        self.weight, self.bias = like.weight, like.bias
        self._set_activation(activation, slope, narrow_out, None, None)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(N, C, H, W), a residual (N, C_res, H, W) where output channels are kept -> (N, C_out or C_res, H, W)."""
        return sparse_conv3x3(
            x,
            self.weight,
            self.bias,
            in_channels=self.in_kept,
            out_channels=self.out_kept,
            residual=residual,
            activation=self.activation,
            slope=self._slope(),
            packed=self.packed_weights(),
        )

    @classmethod
    def from_module(
        cls,
        module: nn.Conv2d,
        *,
        in_kept: Sequence[int] | Tensor | None = None,
        out_kept: Sequence[int] | Tensor | None = None,
    ) -> SparseConv3x3:
        """Cut a dense 3x3 convolution down to its kept channels."""
        made = cls(
            module.in_channels,
            module.out_channels,
            in_kept=in_kept,
            out_kept=out_kept,
            bias=module.bias is not None,
        ).to(module.weight)
        weight = module.weight.detach()
        if made.in_kept is not None:
            weight = weight.index_select(1, made.in_kept)
        if made.out_kept is not None:
            weight = weight.index_select(0, made.out_kept)
        made.weight.data.copy_(weight)
        if made.bias is not None and module.bias is not None:
            bias = module.bias.detach()
            made.bias.data.copy_(bias if made.out_kept is None else bias.index_select(0, made.out_kept))
        return made.train(module.training)


class SparseResidualBlock(_Activated):
    """Residual block of a network pruned by SSL: ``x[:, out_kept] += conv2(act(conv1(x[:, in_kept])))``, out of place.

    Source: Xia et al., "Structured Sparsity Learning for Efficient Video Super-Resolution", CVPR 2023.

    Args:
        num_feat: channels C of x.
        in_kept, out_kept: kept channels that conv1 reads and conv2 adds to.
        hidden: channels between the two convolutions.
        activation, slope: as in :class:`vsr_kernels.nn.Conv3x3`.
    """

    in_kept: Tensor
    out_kept: Tensor

    def __init__(
        self,
        num_feat: int,
        *,
        in_kept: Sequence[int] | Tensor,
        out_kept: Sequence[int] | Tensor,
        hidden: int,
        activation: str = "relu",
        slope: float | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.register_buffer("in_kept", _kept(name, "in_kept", in_kept, num_feat))
        self.register_buffer("out_kept", _kept(name, "out_kept", out_kept, num_feat))
        self.conv1 = nn.Conv2d(len(self.in_kept), hidden, 3, 1, 1)
        self.conv2 = nn.Conv2d(hidden, len(self.out_kept), 3, 1, 1)
        self._set_activation(activation, slope, hidden, None, None)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return sparse_residual_block(
            x,
            self.conv1.weight,
            self.conv1.bias,
            self.conv2.weight,
            self.conv2.bias,
            in_channels=self.in_kept,
            out_channels=self.out_kept,
            activation=self.activation,
            slope=self._slope(),
            packed=self.packed_weights(),
        )

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        *,
        in_kept: Sequence[int] | Tensor,
        out_kept: Sequence[int] | Tensor,
        hidden_kept: Sequence[int] | Tensor,
    ) -> SparseResidualBlock:
        """Cut a dense :class:`vsr_kernels.nn.ResidualBlock` (res_scale 1) down to its kept channels."""
        from .conv import ResidualBlock

        block = module if isinstance(module, ResidualBlock) else ResidualBlock.from_module(module)
        if block.res_scale != 1.0:
            raise ValueError(f"{cls.__name__}: module: expected res_scale 1, got {block.res_scale}")
        if block.activation == "prelu":
            raise ValueError(f"{cls.__name__}: module: expected activation none, relu or leaky_relu, got prelu")
        hidden = _kept(cls.__name__, "hidden_kept", hidden_kept, block.conv1.out_channels)
        made = cls(
            block.conv1.in_channels,
            in_kept=in_kept,
            out_kept=out_kept,
            hidden=len(hidden),
            activation=block.activation,
            slope=block.number,
        ).to(block.conv1.weight)
        hidden = hidden.to(block.conv1.weight.device)
        with torch.no_grad():
            made.conv1.weight.copy_(block.conv1.weight.index_select(0, hidden).index_select(1, made.in_kept))
            made.conv2.weight.copy_(block.conv2.weight.index_select(0, made.out_kept).index_select(1, hidden))
            for ours, theirs, kept in ((made.conv1, block.conv1, hidden), (made.conv2, block.conv2, made.out_kept)):
                assert ours.bias is not None and theirs.bias is not None
                ours.bias.copy_(theirs.bias.index_select(0, kept))
        return made.train(module.training)
