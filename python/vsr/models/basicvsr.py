"""BasicVSR: recurrent video super-resolution, in both directions of time or in one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from vsr.models.base import SHUFFLES, Upscaler, add_skip, check_frames, fuses
from vsr.models.spynet import SPyNet
from vsr_kernels import flow_warp
from vsr_kernels.nn import Conv3x3, PixelShuffleConv, ResidualBlock

_SLOPE = 0.1
_FLOW_PIXELS = 1 << 18  # frames of this many pixels in total go through SPyNet at once


class ResidualTrunk(nn.Module):
    """Convolution, leaky ReLU and a chain of residual blocks; keys ``main.0`` and ``main.2.{i}.conv{1,2}``."""

    def __init__(self, in_channels: int, num_feat: int, num_block: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            Conv3x3(in_channels, num_feat, activation="leaky_relu", slope=_SLOPE),
            nn.Identity(),  # the activation is fused; public checkpoints number the blocks from here
            nn.Sequential(*(_block(num_feat) for _ in range(num_block))),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, num_feat, H, W)."""
        return cast(Tensor, self.main(x))


def _block(num_feat: int) -> ResidualBlock:
    """A residual block that starts close to the identity, without which a long chain of them hardly trains."""
    block = ResidualBlock(num_feat)
    with torch.no_grad():
        for conv in (block.conv1, block.conv2):
            nn.init.kaiming_normal_(conv.weight).mul_(0.1)
            nn.init.zeros_(cast(Tensor, conv.bias))
    return block


@dataclass
class BasicVSRState:
    """What the forward direction carries from one stretch of a clip to the next.

    Attributes:
        feature: (N, num_feat, H, W), the propagated feature at the last frame that was put out.
        frame: (N, 3, H, W), that frame, from which the next flow starts.
    """

    feature: Tensor
    frame: Tensor


# So that vsr_kernels.plan sees its tensors.
pytree.register_pytree_node(
    BasicVSRState,
    lambda state: ([state.feature, state.frame], None),
    lambda tensors, _: BasicVSRState(*tensors),
)


class BasicVSR(Upscaler):
    """Features propagated backward and forward in time along optical flow, then enlarged frame by frame.

    State_dict keys are BasicSR's. With ``bidirectional=False`` only the forward direction exists, and the network is
    causal: no frame waits for a later one.

    Source: Chan, Wang, Yu, Dong, Loy, "BasicVSR: The Search for Essential Components in Video Super-Resolution and
    Beyond", CVPR 2021.

    Args:
        num_feat: Channels of the propagated features.
        num_block: Residual blocks per direction.
        scale: 1 to 4; public checkpoints have 4.
        bidirectional: Whether the backward direction exists.
        num_hr_feat: Channels at the output's resolution; 64 in public checkpoints, whatever ``num_feat`` is.

    Raises:
        ValueError: An argument outside these ranges.
    """

    def __init__(
        self,
        num_feat: int = 64,
        num_block: int = 30,
        *,
        scale: int = 4,
        bidirectional: bool = True,
        num_hr_feat: int = 64,
    ) -> None:
        super().__init__()
        if num_feat < 1 or num_block < 0 or num_hr_feat < 1:
            raise ValueError(
                "BasicVSR: expected num_feat >= 1, num_block >= 0 and num_hr_feat >= 1, "
                f"got {num_feat}, {num_block} and {num_hr_feat}"
            )
        if scale not in SHUFFLES:
            raise ValueError(f"BasicVSR: scale: expected 1, 2, 3 or 4, got {scale}")
        self.num_feat = num_feat
        self.num_block = num_block
        self.num_hr_feat = num_hr_feat
        self.bidirectional = bidirectional
        self.scale = scale
        self.recurrent = True
        self.receptive_field = None
        self.planned = ("forward_trunk.forward", "_reconstruct")
        self.spynet = SPyNet()
        if bidirectional:
            self.backward_trunk = ResidualTrunk(num_feat + 3, num_feat, num_block)
            self.planned = ("backward_trunk.forward", *self.planned)
        self.forward_trunk = ResidualTrunk(num_feat + 3, num_feat, num_block)
        self.fusion = nn.Conv2d(num_feat * (2 if bidirectional else 1), num_feat, 1)
        shuffles = SHUFFLES[scale]
        width = num_feat
        for index, factor in enumerate(shuffles, 1):
            wide_out = num_hr_feat if index == len(shuffles) else num_feat
            conv = PixelShuffleConv(width, wide_out, factor, activation="leaky_relu", slope=_SLOPE)
            self.add_module(f"upconv{index}", conv)
            width = wide_out
        self.conv_hr = Conv3x3(width, num_hr_feat, activation="leaky_relu", slope=_SLOPE)
        self.conv_last = Conv3x3(num_hr_feat, 3)

    @property
    def config(self) -> dict[str, int | float | bool | str]:
        """The constructor arguments that rebuild this network."""
        return {
            "num_feat": self.num_feat,
            "num_block": self.num_block,
            "scale": self.scale,
            "bidirectional": self.bidirectional,
            "num_hr_feat": self.num_hr_feat,
        }

    def forward(self, frames: Tensor) -> Tensor:
        """Enlarges whole clips.

        Args:
            frames: (N, T, 3, H, W), RGB in [0, 1], any T, H, W >= 1.

        Returns:
            (N, T, 3, ``scale`` * H, ``scale`` * W) in the dtype of ``frames``, not clamped.

        Raises:
            TypeError, ValueError: ``frames`` is no such tensor.
        """
        return self.step(frames)[0]

    def step(
        self, frames: Tensor, state: BasicVSRState | None = None, *, keep: int | None = None
    ) -> tuple[Tensor, BasicVSRState]:
        """Enlarges the next stretch of a clip, with frames after it as look-ahead.

        The backward direction starts from nothing at the last frame given. The forward direction goes on from
        ``state`` and is exact; if ``frames`` reach to the end of the clip, or there is no backward direction, so is
        the output.

        Args:
            frames: (N, T, 3, H, W), RGB in [0, 1].
            state: What the call for the frames just before returned; None at the start of a clip.
            keep: How many frames to put out, 1 to T; the T - ``keep`` others only feed the backward direction.
                None: all.

        Returns:
            (N, ``keep``, 3, ``scale`` * H, ``scale`` * W) in the dtype of ``frames``, and the state after them.

        Raises:
            TypeError, ValueError: ``frames``, ``state`` or ``keep`` do not fit.
        """
        check_frames("BasicVSR", frames, 5)
        n, t, _, h, w = frames.shape
        keep = t if keep is None else keep
        if not 1 <= keep <= t:
            raise ValueError(f"BasicVSR: keep: expected 1 to T = {t}, got {keep}")
        if state is not None and state.feature.shape != (n, self.num_feat, h, w):
            raise ValueError(
                f"BasicVSR: state: expected a feature of shape {(n, self.num_feat, h, w)}, "
                f"got {tuple(state.feature.shape)}"
            )
        images = [f.contiguous(memory_format=torch.channels_last) for f in frames.unbind(1)]  # T x (N, 3, H, W)
        dtype = self.conv_last.weight.dtype
        inputs = [image.to(dtype) for image in images]
        behind: list[Tensor] = []
        if self.bidirectional:
            behind = self._backward_features(images, inputs)[:keep]
        before = [] if state is None else [state.frame]
        flows = self._flows(images[1 - len(before) : keep], [*before, *images[: keep - 1]])
        feature = self._zeros(inputs[0]) if state is None else state.feature
        outputs = []
        for i in range(keep):
            if i > 0 or state is not None:
                feature = flow_warp(feature, flows[i - 1 + len(before)])
            feature = self.forward_trunk(torch.cat([inputs[i], feature], 1))
            outputs.append(self._reconstruct(images[i], [*behind[i : i + 1], feature]))
        # Stacked as (N, keep, sH, sW, 3), which is how the frames lie in memory, and viewed as channels first.
        clip = torch.stack([y.permute(0, 2, 3, 1) for y in outputs], 1).permute(0, 1, 4, 2, 3)
        return clip, BasicVSRState(feature, images[keep - 1])

    def _backward_features(self, images: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
        """The features (N, num_feat, H, W) of the backward direction, by frame."""
        flows = self._flows(images[:-1], images[1:])
        feature = self._zeros(inputs[0])
        features = []
        for i in reversed(range(len(inputs))):
            if i < len(flows):
                feature = flow_warp(feature, flows[i])
            feature = self.backward_trunk(torch.cat([inputs[i], feature], 1))
            features.append(feature)
        return features[::-1]

    def _flows(self, refs: list[Tensor], supps: list[Tensor]) -> list[Tensor]:
        """Flows (N, 2, H, W) from each of ``refs`` to its partner in ``supps``, several frames at a time."""
        flows: list[Tensor] = []
        if not refs:
            return flows
        n, _, h, w = refs[0].shape
        count = max(1, _FLOW_PIXELS // (n * h * w))
        for i in range(0, len(refs), count):
            flow = self.spynet(torch.cat(refs[i : i + count]), torch.cat(supps[i : i + count]))
            flows += flow.split(n)
        return flows

    def _zeros(self, frame: Tensor) -> Tensor:
        n, _, h, w = frame.shape
        zeros = frame.new_zeros(n, h, w, self.num_feat)
        return zeros.permute(0, 3, 1, 2)  # channels_last

    def _reconstruct(self, image: Tensor, features: list[Tensor]) -> Tensor:
        """One output frame (N, 3, scale * H, scale * W) from its input and the features of both directions."""
        y = F.leaky_relu(self.fusion(torch.cat(features, 1)), _SLOPE, inplace=True)
        for index in range(1, len(SHUFFLES[self.scale]) + 1):
            y = self.get_submodule(f"upconv{index}")(y)
        y = self.conv_hr(y)
        skip = image
        if self.scale > 1:
            skip = F.interpolate(image, scale_factor=self.scale, mode="bilinear", align_corners=False)
        if fuses(skip, self.conv_last.weight):
            return self.conv_last(y, skip)
        return add_skip(self.conv_last(y), skip)
