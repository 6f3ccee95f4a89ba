"""Drop-in convolution modules on the fused operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ..ops import PackedWeights, _check, conv3x3, conv7x7, residual_block

if TYPE_CHECKING:
    from typing_extensions import Self


def _only(module: str, size: int, **given: Any) -> None:
    """Refuse what ``nn.Conv2d`` can and the operators for kernels of this size cannot."""
    wanted = {
        "kernel_size": size,
        "stride": 1,
        "padding": size // 2,
        "dilation": 1,
        "groups": 1,
        "padding_mode": "zeros",
    }
    for name, value in given.items():
        pair = (wanted[name], wanted[name])
        if value != wanted[name] and value != pair and not (name == "padding" and value == "same"):
            raise ValueError(f"{module}: {name}: expected {wanted[name]!r}, got {value!r}")


def _settings(conv: nn.Conv2d) -> dict[str, Any]:
    """What :func:`_only` asks about."""
    return {
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "padding_mode": conv.padding_mode,
    }


class KeepsPackedWeights(nn.Module):
    """A module whose weights are packed once in eval mode, see :class:`vsr_kernels.PackedWeights`.

    In train mode they change from call to call.
    """

    def __init__(self) -> None:
        super().__init__()
        self._packed = PackedWeights()

    def train(self, mode: bool = True) -> Self:
        """As in ``nn.Module``; packs anew afterwards."""
        self._packed.clear()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._packed.clear()
        return super()._apply(fn, recurse)

    def packed_weights(self) -> PackedWeights | None:
        """The argument ``packed`` for a call of the operator with this module's parameters; None in train mode."""
        return None if self.training else self._packed


class _Activated(KeepsPackedWeights):
    """Activation settings of a convolution. The slope is a number, or a parameter for prelu."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = "none"
        self.number: float | None = None

    def _set_activation(
        self,
        activation: str,
        slope: float | None,
        channels: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        if activation not in _check.ACTIVATIONS:
            _check.fail(type(self).__name__, "activation", "one of " + ", ".join(_check.ACTIVATIONS), repr(activation))
        self.activation = activation
        self.number = None
        if activation == "prelu":
            start = 0.25 if slope is None else float(slope)
            self.slope = nn.Parameter(torch.full((channels,), start, device=device, dtype=dtype))
        elif activation == "leaky_relu":
            self.number = 0.01 if slope is None else float(slope)
        elif slope is not None:
            raise ValueError(
                f"{type(self).__name__}: slope: expected None for activation {activation!r}, got {slope!r}"
            )

    def _slope(self) -> float | Tensor | None:
        return self.slope if self.activation == "prelu" else self.number


class Conv3x3(nn.Conv2d, _Activated):
    """``nn.Conv2d(..., 3, 1, 1)`` with its activation and a residual in the epilogue: ``act(conv(x)) + residual``.

    The arguments and state_dict keys (``weight``, ``bias``) of ``nn.Conv2d``.

    Args:
        in_channels, out_channels, bias, device, dtype: as in ``nn.Conv2d``.
        kernel_size, stride, padding, dilation, groups, padding_mode: as in ``nn.Conv2d``; only the values shown work.
        activation: ``none``, ``relu``, ``leaky_relu`` or ``prelu``.
        slope: negative slope of ``leaky_relu`` (0.01), or initial value of ``prelu``'s parameter ``slope``
            (C_out,) (0.25).

    Raises:
        ValueError: a value that no 3x3 kernel serves.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 1,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        slope: float | None = None,
    ) -> None:
        _only(
            type(self).__name__,
            3,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            padding_mode=padding_mode,
        )
        nn.Conv2d.__init__(self, in_channels, out_channels, 3, 1, 1, bias=bias, device=device, dtype=dtype)
        self._set_activation(activation, slope, out_channels, device, dtype)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(N, C_in, H, W), optionally a residual (N, C_out, H, W) -> (N, C_out, H, W)."""
        return conv3x3(
            x,
            self.weight,
            self.bias,
            activation=self.activation,
            slope=self._slope(),
            residual=residual,
            packed=self.packed_weights(),
        )

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return super().extra_repr() + ("" if self.activation == "none" else f", activation={self.activation}")

    @classmethod
    def from_module(cls, module: nn.Conv2d, activation: nn.Module | None = None) -> Conv3x3:
        """Take over the parameters of a 3x3 ``nn.Conv2d`` and of the activation module behind it.

        Raises:
            ValueError: the modules are of a kind or shape that this one cannot replace.
        """
        _only(cls.__name__, 3, **_settings(module))
        name, slope = activation_of(activation, module.out_channels)
        weight = module.weight
        made = cls(
            module.in_channels,
            module.out_channels,
            bias=module.bias is not None,
            device="meta",
            dtype=weight.dtype,
            activation=name,
            slope=slope if isinstance(slope, float) else None,
        )
        made.weight, made.bias = module.weight, module.bias
        if isinstance(slope, nn.Parameter):
            made.slope = slope
        return made.train(module.training)


class Conv7x7(nn.Conv2d, KeepsPackedWeights):
    """``nn.Conv2d(..., 7, 1, 3)`` with a ReLU behind the sums, as optical flow networks have it.

    The state_dict keys (``weight``, ``bias``) of ``nn.Conv2d``. Frozen weights stay packed in train mode, too.

    Args:
        in_channels, out_channels, bias, device, dtype: as in ``nn.Conv2d``.
        activation: ``none`` or ``relu``.

    Raises:
        ValueError: another activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
    ) -> None:
        if activation not in ("none", "relu"):
            _check.fail(type(self).__name__, "activation", "none or relu", repr(activation))
        nn.Conv2d.__init__(self, in_channels, out_channels, 7, 1, 3, bias=bias, device=device, dtype=dtype)
        self.activation = activation

    def packed_weights(self) -> PackedWeights | None:
        """As in every module that keeps packed weights, but for those that are trained only."""
        return None if self.training and self.weight.requires_grad else self._packed

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H, W)."""
        return conv7x7(x, self.weight, self.bias, activation=self.activation, packed=self.packed_weights())

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return super().extra_repr() + ("" if self.activation == "none" else f", activation={self.activation}")

    @classmethod
    def from_module(cls, module: nn.Conv2d, activation: nn.Module | None = None) -> Conv7x7:
        """Take over the parameters of a 7x7 ``nn.Conv2d`` and of the ReLU behind it.

        Raises:
            ValueError: the modules are of a kind or shape that this one cannot replace.
        """
        _only(cls.__name__, 7, **_settings(module))
        name, _ = activation_of(activation, module.out_channels)
        made = cls(
            module.in_channels,
            module.out_channels,
            bias=module.bias is not None,
            device="meta",
            dtype=module.weight.dtype,
            activation=name,
        )
        made.weight, made.bias = module.weight, module.bias
        return made.train(module.training)


def activation_of(module: nn.Module | None, channels: int) -> tuple[str, float | nn.Parameter | None]:
    """Name and slope of an activation module.

    Raises:
        ValueError: an activation that the epilogue does not have.
    """
    if module is None or isinstance(module, nn.Identity):
        return "none", None
    if isinstance(module, nn.ReLU):
        return "relu", None
    if isinstance(module, nn.LeakyReLU):
        return "leaky_relu", float(module.negative_slope)
    if isinstance(module, nn.PReLU) and module.num_parameters in (1, channels):
        return "prelu", module.weight
    raise ValueError(f"Conv3x3: activation: expected ReLU, LeakyReLU, PReLU({channels}) or none, got {module}")


class PixelShuffleConv(_Activated):
    """3x3 convolution, activation and pixel shuffle in one pass: ``pixel_shuffle(act(conv(x)), r) + residual``.

    Replaces ``nn.Conv2d(in_channels, out_channels * r^2, 3, 1, 1)`` followed by ``nn.PixelShuffle(r)``, with the
    convolution's state_dict keys (``weight``, ``bias``).

    Args:
        in_channels: C_in.
        out_channels: channels after the shuffle.
        upscale_factor: r >= 1.
        bias, device, dtype: as in ``nn.Conv2d``.
        activation, slope: as in :class:`Conv3x3`; a prelu slope has one value per channel before the shuffle.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        upscale_factor: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        slope: float | None = None,
    ) -> None:
        super().__init__()
        _check.factor(type(self).__name__, "upscale_factor", upscale_factor)
        self.upscale_factor = upscale_factor
        wide = out_channels * upscale_factor**2
        like = nn.Conv2d(in_channels, wide, 3, 1, 1, bias=bias, device=device, dtype=dtype)
        self.weight, self.bias = like.weight, like.bias
        self._set_activation(activation, slope, wide, device, dtype)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(N, C_in, H, W), optionally a residual of the output's shape -> (N, C_out, r * H, r * W)."""
        return conv3x3(
            x,
            self.weight,
            self.bias,
            activation=self.activation,
            slope=self._slope(),
            residual=residual,
            pixel_shuffle=self.upscale_factor,
            packed=self.packed_weights(),
        )

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        wide, c_in = self.weight.shape[:2]
        r = self.upscale_factor
        return f"{c_in}, {wide // r**2}, upscale_factor={r}, activation={self.activation}"

    @classmethod
    def from_module(cls, module: nn.Conv2d, shuffle: nn.PixelShuffle) -> PixelShuffleConv:
        """Take over the parameters of a 3x3 ``nn.Conv2d`` that an ``nn.PixelShuffle`` follows.

        Raises:
            ValueError: the convolution is of a shape that this one cannot replace.
        """
        conv = Conv3x3.from_module(module)
        r = shuffle.upscale_factor
        if conv.out_channels % r**2:
            raise ValueError(
                f"{cls.__name__}: module: expected output channels divisible by r^2 = {r**2}, got {conv.out_channels}"
            )
        made = cls(
            conv.in_channels,
            conv.out_channels // r**2,
            r,
            bias=conv.bias is not None,
            device="meta",
            dtype=conv.weight.dtype,
        )
        made.weight, made.bias = conv.weight, conv.bias
        return made.train(module.training)


class ResidualBlock(_Activated):
    """Residual block without batch norm, ``x + res_scale * conv2(act(conv1(x)))``.

    The arguments and state_dict keys (``conv1.weight``, ``conv1.bias``, ``conv2.weight``, ``conv2.bias``) of BasicSR's
    ResidualBlockNoBN.

    Args:
        num_feat: channels C.
        res_scale: factor of the residual branch.
        activation, slope: as in :class:`Conv3x3`.
    """

    def __init__(
        self, num_feat: int = 64, res_scale: float = 1.0, *, activation: str = "relu", slope: float | None = None
    ) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self._set_activation(activation, slope, num_feat, None, None)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return residual_block(
            x,
            self.conv1.weight,
            self.conv1.bias,
            self.conv2.weight,
            self.conv2.bias,
            activation=self.activation,
            slope=self._slope(),
            scale=self.res_scale,
            packed=self.packed_weights(),
        )

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"res_scale={self.res_scale}, activation={self.activation}"

    @classmethod
    def from_module(cls, module: nn.Module) -> ResidualBlock:
        """Take over a block that has 3x3 convolutions ``conv1`` and ``conv2``, ``relu`` and ``res_scale``.

        Raises:
            ValueError: the module is not of that form.
        """
        parts = [getattr(module, name, None) for name in ("conv1", "conv2")]
        if not all(isinstance(part, nn.Conv2d) for part in parts) or not hasattr(module, "res_scale"):
            raise ValueError(
                f"{cls.__name__}: module: expected convolutions conv1 and conv2 and a number res_scale, "
                f"got {type(module).__name__}"
            )
        conv1, conv2 = parts
        assert isinstance(conv1, nn.Conv2d) and isinstance(conv2, nn.Conv2d)
        Conv3x3.from_module(conv1), Conv3x3.from_module(conv2)
        if conv1.in_channels != conv2.out_channels or conv1.out_channels != conv2.in_channels:
            raise ValueError(f"{cls.__name__}: module: expected as many channels out as in, got {conv1} and {conv2}")
        name, slope = activation_of(getattr(module, "relu", None), conv1.out_channels)
        made = cls(
            1, float(cast(float, module.res_scale)), activation=name, slope=slope if isinstance(slope, float) else None
        )
        made.conv1, made.conv2 = conv1, conv2
        if isinstance(slope, nn.Parameter):
            made.slope = slope
        return made.train(module.training)
