"""conv_chain: a plain network of 3x3 convolutions, in as few launches as pay."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import backend
from ..registration import COMPILED, on_load, register_autocast
from . import _check
from .conv import conv3x3, empty_channels_last, needs_grad, split_slope
from .packing import PackedWeights
from .precision import exact_float32

Slopes = float | Sequence[Tensor] | None


def conv_chain(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None = None,
    *,
    activation: str = "none",
    slope: Slopes = None,
    residual: Tensor | None = None,
    pixel_shuffle: int = 1,
    packed: PackedWeights | None = None,
) -> Tensor:
    """3x3 convolutions in a row: ``pixel_shuffle(conv_L(act(... act(conv_1(x)))), r) + residual``.

    On CUDA, in inference, up to four layers of at most 16 channels run as one launch whose intermediates never leave
    the chip; a model of costs decides how the network is cut. Elsewhere, and where gradients are wanted, this is
    :func:`conv3x3` layer by layer.

    Args:
        x: (N, C_0, H, W), float32, float16, bfloat16 or float64, any strides; channels_last is the fast path.
        weights: L >= 1 tensors (C_l, C_{l-1}, 3, 3), dtype of ``x``.
        biases: L tensors (C_l,), or None.
        activation: ``none``, ``relu``, ``leaky_relu`` or ``prelu``, after every layer but the last.
        slope: a float for ``leaky_relu``; L - 1 tensors (1,) or (C_l,) for ``prelu``; otherwise None.
        residual: (N, C_L / r^2, r * H, r * W), added last, or None.
        pixel_shuffle: r >= 1; ``C_L`` must be divisible by r^2.
        packed: where to keep packed weights between calls; None packs them in every call.

    Returns:
        (N, C_L / r^2, r * H, r * W), channels_last, dtype of ``x`` (of autocast where it is enabled). Differentiable in
        every tensor argument.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what was given.
    """
    slopes, number = _checked(x, weights, biases, activation, slope, residual, pixel_shuffle)
    given = [] if biases is None else list(biases)
    fused = backend.choose("conv3x3", x) == "cuda" and not needs_grad(x, *weights, *given, *slopes, residual)
    if not fused:
        last = len(weights) - 1
        for layer, weight in enumerate(weights):
            inner = layer < last
            x = conv3x3(
                x,
                weight,
                given[layer] if given else None,
                activation=activation if inner else "none",
                slope=(slopes[layer] if slopes else number if activation == "leaky_relu" else None) if inner else None,
                residual=None if inner else residual,
                pixel_shuffle=1 if inner else pixel_shuffle,
                packed=packed,
                slot=layer,
            )
        return x
    settings = (number, activation, pixel_shuffle)
    kept = None if packed is None else packed.get_chain(x, weights, given, slopes, *settings)
    return torch.ops.vsr_kernels.conv_chain(
        x, list(weights), given, slopes, number, activation, residual, pixel_shuffle, exact_float32(x), kept
    )


def _checked(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    activation: str,
    slope: Slopes,
    residual: Tensor | None,
    r: int,
) -> tuple[list[Tensor], float]:
    """Check everything; the slopes of prelu, and the number of leaky_relu."""
    op = "conv_chain"
    _check.image(op, "x", x)
    _sequence("weights", weights, None)
    layers = len(weights)
    if biases is not None:
        _sequence("biases", biases, layers)
    if activation == "prelu":
        _sequence("slope", slope, layers - 1)
    _check.factor(op, "pixel_shuffle", r)
    channels = x.shape[1]
    for layer, weight in enumerate(weights):
        _check.kernel3x3(op, f"weights[{layer}]", weight, x, channels, f"C_{layer}")
        channels = weight.shape[0]
        if biases is not None:
            _check.optional_vector(op, f"biases[{layer}]", biases[layer], x, channels, f"(C_{layer + 1},)")
        if layer < layers - 1:
            _check.activation(op, activation, slope[layer] if isinstance(slope, Sequence) else slope, x, channels)
    if layers == 1 and activation not in _check.ACTIVATIONS:
        _check.fail(op, "activation", "one of " + ", ".join(_check.ACTIVATIONS), repr(activation))
    if channels % (r * r) != 0:
        _check.fail(op, f"weights[{layers - 1}]", f"C_{layers} divisible by r^2 = {r * r}", f"{channels} channels")
    if residual is not None:
        n, _, h, w = x.shape
        _check.like(op, "residual", residual, x)
        shape = (n, channels // (r * r), h * r, w * r)
        _check.shaped(op, "residual", residual, shape, f"(N, C_{layers} / r^2, r H, r W)")
    if isinstance(slope, Sequence):
        return list(slope), 0.0
    return [], split_slope(slope)[1]


def _sequence(name: str, values: object, count: int | None) -> None:
    """Check a list of tensors: of `count`, or of at least one."""
    expected = "a sequence of at least one tensor" if count is None else f"a sequence of {count} tensors"
    if isinstance(values, Tensor) or not isinstance(values, Sequence):
        _check.fail("conv_chain", name, expected, type(values).__name__, TypeError)
    elif (count is None and not values) or (count is not None and len(values) != count):
        _check.fail("conv_chain", name, expected, len(values))


def _chain_fake(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    slopes: list[Tensor],
    number: float,
    activation: str,
    residual: Tensor | None,
    r: int,
    exact: bool,
    packed: Tensor | None,
) -> Tensor:
    n, _, h, w = x.shape
    return empty_channels_last(x, (n, weights[-1].shape[0] // (r * r), h * r, w * r))


def _pack_fake(
    weights: list[Tensor],
    biases: list[Tensor],
    slopes: list[Tensor],
    number: float,
    activation: str,
    r: int,
    exact: bool,
) -> Tensor:
    channels = [weights[0].shape[1], *(weight.shape[0] for weight in weights)]
    size = torch.ops.vsr_kernels.conv_chain_packed_bytes(channels, r, weights[0].element_size(), exact)
    return weights[0].new_empty((size,), dtype=torch.uint8)


@on_load(COMPILED)
def _register(namespace: str) -> None:
    torch.library.register_fake(f"{namespace}::conv_chain", _chain_fake)
    torch.library.register_fake(f"{namespace}::conv_chain_pack", _pack_fake)
    register_autocast(namespace, "conv_chain")
