"""Plain networks in int8: uint8 activations, int8 weights, exact sums.

A quantized file holds, under ``body.{i}``, the first convolution in floating point with its slopes (``weight``,
``bias``, ``slope``), and of each other one ``weight`` (int8), ``zero_point`` (uint8), ``scale``, ``bias`` and ``slope``
(float32), as :class:`vsr_kernels.nn.QuantizedConv3x3` has them; in its metadata the version of this format and what
the network was. Layers hand over numbers in quanta, which differ from channel to channel: the quantum of a channel is
divided out of the convolution that writes it and multiplied into the weights that read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from vsr.errors import UserError
from vsr.models.base import Upscaler, check_frames
from vsr.models.srvgg import ACTIVATIONS, LEAKY_SLOPE
from vsr_kernels.nn import Conv3x3, QuantizedConv3x3

FORMAT_KEY, FORMAT = "quantized_format", "1"


class QuantizedSRVGGNet(Upscaler):
    """A :class:`vsr.models.SRVGGNet`, such as a merged RepSR, all but the first convolution of which are int8.

    The first has three input channels, and costs little in floating point; rounding its weights would cost 1 to 3 dB.
    It runs on CPUs only. :func:`vsr.quantization.quantize` makes one.

    Args:
        num_feat, num_conv, upscale, act_type: As in :class:`vsr.models.SRVGGNet`.
    """

    def __init__(self, num_feat: int = 64, num_conv: int = 16, upscale: int = 4, act_type: str = "prelu") -> None:
        super().__init__()
        self.num_feat = num_feat
        self.num_conv = num_conv
        self.scale = upscale
        self.act_type = act_type
        self.recurrent = False
        self.receptive_field = num_conv + 2
        activation, slope = ACTIVATIONS[act_type], LEAKY_SLOPE if act_type == "leakyrelu" else None
        self.body = nn.ModuleList([Conv3x3(3, num_feat, activation=activation, slope=slope)])
        for _ in range(num_conv):
            self.body.append(QuantizedConv3x3(num_feat, num_feat, activation=activation, slope=slope))
        self.body.append(QuantizedConv3x3(num_feat, 3 * upscale * upscale))

    @property
    def config(self) -> dict[str, int | float | bool | str]:
        """The constructor arguments that rebuild this network."""
        return {
            "num_feat": self.num_feat,
            "num_conv": self.num_conv,
            "upscale": self.scale,
            "act_type": self.act_type,
        }

    @property
    def first(self) -> Conv3x3:
        """The convolution in floating point."""
        return cast(Conv3x3, self.body[0])

    @property
    def layers(self) -> list[QuantizedConv3x3]:
        """Those in int8."""
        return [cast(QuantizedConv3x3, layer) for layer in list(self.body)[1:]]

    def forward(self, x: Tensor) -> Tensor:
        """Enlarges frames.

        Args:
            x: (N, 3, H, W), RGB in [0, 1], on the CPU.

        Returns:
            (N, 3, ``scale`` * H, ``scale`` * W) in the dtype of ``x``, not clamped.

        Raises:
            TypeError, ValueError: ``x`` is no such tensor.
            UserError: It is on another device.
        """
        check_frames(type(self).__name__, x, 4)
        if x.device.type != "cpu":
            raise UserError(f"a quantized network runs on the CPU only, not on {x.device.type}: use --device cpu")
        x = x.contiguous(memory_format=torch.channels_last)
        y = self.first(x.to(self.first.weight.dtype))
        layers = self.layers
        for layer, following in pairwise(layers):
            y = layer(y, out_zero_point=following.zero_point)
        return cast(Tensor, layers[-1](y, base=x, pixel_shuffle=self.scale, dtype=x.dtype))


def is_quantized(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bool:
    """Whether a checkpoint says that it holds a quantized network."""
    return FORMAT_KEY in metadata or any(key.endswith(".zero_point") for key in tensors)


def build_quantized(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> QuantizedSRVGGNet:
    """The network that a file was made from, on torch's current default device, its weights not yet loaded.

    Raises:
        UserError: The file is of another version or kind, says nothing about the network, or holds a tensor of another
            dtype.
    """
    version, name = metadata.get(FORMAT_KEY), metadata.get("architecture")
    if version != FORMAT:
        raise UserError(f"{path}: a quantized network in format {version}; this version reads format {FORMAT}")
    if name != QuantizedSRVGGNet.__name__:
        raise UserError(f"{path}: a quantized network of kind {name!r}; known is {QuantizedSRVGGNet.__name__}")
    try:
        sizes = {key: int(metadata[key]) for key in ("num_feat", "num_conv", "upscale")}
        made = QuantizedSRVGGNet(**sizes, act_type=metadata["act_type"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: its metadata do not describe a {name}: {error}") from error
    for key, wanted in made.state_dict().items():
        if key in tensors and not key.startswith("body.0.") and tensors[key].dtype != wanted.dtype:
            raise UserError(f"{path}: {key}: expected {wanted.dtype}, got {tensors[key].dtype}")
    return made
