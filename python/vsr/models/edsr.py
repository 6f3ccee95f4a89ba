"""EDSR: a residual network for single frames."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from vsr.models.base import SHUFFLES, Upscaler, check_frames
from vsr_kernels.nn import Conv3x3, PixelShuffleConv, ResidualBlock

_MEAN = (4488, 4371, 4040)  # RGB of DIV2K, in 1 / 10000
_RANGE = 255.0  # what the network counts brightness up to


class EDSR(Upscaler):
    """Convolution, ``num_block`` residual blocks under a skip, pixel shuffles, convolution; no input is added.

    State_dict keys are BasicSR's.

    Source: Lim, Son, Kim, Nah, Lee, "Enhanced Deep Residual Networks for Single Image Super-Resolution", CVPRW 2017.

    Args:
        num_feat: Channels.
        num_block: Residual blocks.
        upscale: 1 to 4.
        res_scale: Factor of the blocks' branches.

    Raises:
        ValueError: An argument outside these ranges.
    """

    def __init__(self, num_feat: int = 64, num_block: int = 16, upscale: int = 4, res_scale: float = 1.0) -> None:
        super().__init__()
        if num_feat < 1 or num_block < 0:
            raise ValueError(
                f"EDSR: expected num_feat >= 1 and num_block >= 0, got num_feat {num_feat}, num_block {num_block}"
            )
        if upscale not in SHUFFLES:
            raise ValueError(f"EDSR: upscale: expected 1, 2, 3 or 4, got {upscale}")
        self.num_feat = num_feat
        self.num_block = num_block
        self.scale = upscale
        self.res_scale = res_scale
        self.recurrent = False
        # A pixel per convolution: those behind a shuffle see a fraction, of which there is always one.
        self.receptive_field = 2 * num_block + (4 if upscale > 1 else 3)
        # Whole numbers, which no change of dtype rounds; on the CPU even where parameters are not made yet.
        self.register_buffer("mean", torch.tensor(_MEAN, device="cpu").view(3, 1, 1), persistent=False)
        self.conv_first = Conv3x3(3, num_feat)
        self.body = nn.Sequential(*(ResidualBlock(num_feat, res_scale) for _ in range(num_block)))
        self.conv_after_body = Conv3x3(num_feat, num_feat)
        self.upsample = nn.Sequential()
        for factor in SHUFFLES[upscale]:
            self.upsample.append(PixelShuffleConv(num_feat, num_feat, factor))
            self.upsample.append(nn.Identity())  # public checkpoints count the shuffles, too
        self.conv_last = Conv3x3(num_feat, 3)

    @property
    def config(self) -> dict[str, int | float | bool | str]:
        """The constructor arguments that rebuild this network."""
        return {
            "num_feat": self.num_feat,
            "num_block": self.num_block,
            "upscale": self.scale,
            "res_scale": self.res_scale,
        }

    def forward(self, x: Tensor) -> Tensor:
        """Enlarges frames.

        Args:
            x: (N, 3, H, W), RGB in [0, 1].

        Returns:
            (N, 3, ``scale`` * H, ``scale`` * W) in the dtype of ``x``, not clamped.

        Raises:
            TypeError, ValueError: ``x`` is no such tensor.
        """
        check_frames(type(self).__name__, x, 4)
        mean = cast(Tensor, self.mean).to(x.dtype) / 10000
        centred = ((x - mean) * _RANGE).contiguous(memory_format=torch.channels_last)
        first = self.conv_first(centred.to(self.conv_last.weight.dtype))
        y = self.conv_after_body(self.body(first), first)
        return self.conv_last(self.upsample(y)).to(x.dtype) / _RANGE + mean

    @torch.no_grad()
    def rescaled(self, res_scale: float) -> EDSR:
        """The same function with another ``res_scale``: the second convolution of each block makes up for it."""
        made = EDSR(self.num_feat, self.num_block, self.scale, res_scale).to(self.conv_last.weight)
        state = self.state_dict()
        for name, value in state.items():
            if name.startswith("body.") and ".conv2." in name:
                state[name] = value * (self.res_scale / res_scale)
        made.load_state_dict(state)
        return made.train(self.training)


def published_res_scale(num_feat: int) -> float:
    """What public checkpoints of this width were trained with, which their tensors do not tell."""
    return 0.1 if num_feat == 256 else 1.0
