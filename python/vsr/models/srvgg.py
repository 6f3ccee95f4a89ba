"""Plain single-frame networks: a chain of 3x3 convolutions that ends in one pixel shuffle."""

from __future__ import annotations

import re
from typing import cast

import torch
from torch import Tensor, nn

from vsr.models.base import Upscaler, add_skip, check_frames, enlarged, fuses
from vsr_kernels import conv_chain
from vsr_kernels.nn import Conv3x3, KeepsPackedWeights

#: BasicSR's names of the activations, and those of the operators.
ACTIVATIONS = {"prelu": "prelu", "relu": "relu", "leakyrelu": "leaky_relu"}
LEAKY_SLOPE = 0.1


class SRVGGNet(Upscaler, KeepsPackedWeights):
    """The compact network of Real-ESRGAN (there: SRVGGNetCompact), as in realesr-animevideov3 and realesr-general.

    Convolution 3 -> ``num_feat``, ``num_conv`` convolutions ``num_feat`` -> ``num_feat``, each followed by the
    activation, one more to 3 * ``upscale``^2 channels, pixel shuffle, plus the input enlarged by nearest neighbour.
    State_dict keys are BasicSR's: ``body.{2i}`` the convolutions, ``body.{2i+1}.weight`` the PReLU slopes.

    Source: Wang, Xie, Dong, Shan, "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data",
    ICCVW 2021.

    Args:
        num_feat: Channels, >= 1.
        num_conv: Convolutions between the first and the last, >= 0.
        upscale: 1 to 4.
        act_type: ``prelu`` (one slope per channel), ``relu`` or ``leakyrelu`` (slope 0.1).

    Raises:
        ValueError: An argument outside these ranges.
    """

    def __init__(self, num_feat: int = 64, num_conv: int = 16, upscale: int = 4, act_type: str = "prelu") -> None:
        super().__init__()
        if num_feat < 1 or num_conv < 0:
            raise ValueError(
                f"SRVGGNet: expected num_feat >= 1 and num_conv >= 0, got num_feat {num_feat}, num_conv {num_conv}"
            )
        if upscale not in (1, 2, 3, 4):
            raise ValueError(f"SRVGGNet: upscale: expected 1, 2, 3 or 4, got {upscale}")
        if act_type not in ACTIVATIONS:
            raise ValueError(f"SRVGGNet: act_type: expected one of {', '.join(ACTIVATIONS)}, got {act_type!r}")
        self.num_feat = num_feat
        self.num_conv = num_conv
        self.scale = upscale
        self.act_type = act_type
        self.recurrent = False
        self.receptive_field = num_conv + 2  # one pixel per convolution
        self.body = nn.ModuleList()
        for index in range(num_conv + 1):
            self.body.append(Conv3x3(num_feat if index else 3, num_feat))
            self.body.append(_activation(act_type, num_feat))
        self.body.append(Conv3x3(num_feat, 3 * upscale * upscale))

    @property
    def config(self) -> dict[str, int | float | bool | str]:
        """The constructor arguments of :class:`SRVGGNet` that rebuild this network."""
        return {
            "num_feat": self.num_feat,
            "num_conv": self.num_conv,
            "upscale": self.scale,
            "act_type": self.act_type,
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
        x = x.contiguous(memory_format=torch.channels_last)
        skip = enlarged(x, self.scale)
        convs = [self._conv(index) for index in range(0, len(self.body), 2)]
        weights = [conv.weight for conv in convs]
        fused = fuses(skip, weights[-1])
        y = conv_chain(
            x.to(weights[-1].dtype),
            weights,
            [cast(Tensor, conv.bias) for conv in convs],
            activation=ACTIVATIONS[self.act_type],
            slope=self._slope(),
            residual=skip if fused else None,
            pixel_shuffle=self.scale,
            packed=self.packed_weights(),
        )
        return y if fused else add_skip(y, skip)

    def _conv(self, index: int) -> Conv3x3:
        return cast(Conv3x3, self.body[index])

    def _slope(self) -> list[Tensor] | float | None:
        if self.act_type == "prelu":
            return [cast(nn.PReLU, self.body[index]).weight for index in range(1, len(self.body), 2)]
        return LEAKY_SLOPE if self.act_type == "leakyrelu" else None


class RepSRNet(SRVGGNet):
    """RepSR as it runs: every block already merged into one 3x3 convolution.

    A merged RepSR is exactly an :class:`SRVGGNet` with PReLU, so it shares that network's code, keys and file format
    and runs in every program that reads Real-ESRGAN's compact models.

    Source: Wang, Dong, Shan, "RepSR: Training Efficient VGG-style Super-Resolution Networks with Structural
    Re-Parameterization and Batch Normalization", ACM MM 2022.

    Args:
        name: The paper's name of a size: ``MxCy`` has x blocks of y channels, such as ``M4C16`` or ``M16C64``.
        upscale: 1 to 4.

    Raises:
        ValueError: An argument outside these ranges.
    """

    def __init__(self, name: str = "M16C64", upscale: int = 4) -> None:
        size = re.fullmatch(r"M(\d+)C(\d+)", name)
        if size is None:
            raise ValueError(f"RepSRNet: name: expected MxCy such as M4C16, got {name!r}")
        super().__init__(num_feat=int(size[2]), num_conv=int(size[1]), upscale=upscale)


def _activation(act_type: str, channels: int) -> nn.Module:
    if act_type == "prelu":
        return nn.PReLU(channels)
    return nn.ReLU() if act_type == "relu" else nn.LeakyReLU(LEAKY_SLOPE)
