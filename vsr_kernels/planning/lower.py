"""How an operator call becomes steps that write into memory that is there.

This package's convolutions and warps have operators for that; blocks become two convolutions with the hidden layer in
between, as their CPU kernels have it. PyTorch's operators have out variants. What has neither is called as it is and
its result copied, which allocates.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Protocol

import torch
from torch.utils import _pytree as pytree

from .steps import Step, Value, fold


class Steps(Protocol):
    """Where steps go."""

    def add(self, step: Step) -> None:
        """Append one."""

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` gave for the key the first time."""

    def scratch(self, like: Value, channels: int) -> Value:
        """Memory for a channels_last image as large as another one, from the next step on."""


def lower(
    steps: Steps, target: torch._ops.OpOverload, arguments: tuple[Any, ...], keywords: dict[str, Any], made: Any
) -> None:
    """Add what ``target`` does to the steps; ``made`` is where its results belong, as it returns them."""
    special = _LOWERINGS.get(target.name())
    if special is not None and special(steps, arguments, made):
        return
    out = _out_variant(target)
    if out is not None and isinstance(made, Value):
        steps.add(Step(out, arguments, {**keywords, "out": made}))
        return
    results = [leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Value)]
    steps.add(Step(target, arguments, keywords, results))


def _out_variant(target: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    """The overload with the same arguments and ``out``; not a generated one, which allocates and copies as well."""
    names = [argument.name for argument in target._schema.arguments]
    packet = target.overloadpacket
    for overload in packet.overloads():
        candidate: torch._ops.OpOverload = getattr(packet, overload)
        listed = candidate._schema.arguments
        outs = [argument for argument in listed if argument.is_out]
        if [argument.name for argument in outs] != ["out"] or torch.Tag.generated in candidate.tags:
            continue
        if [argument.name for argument in listed if not argument.is_out] == names:
            return candidate
    return None


def _packed(steps: Steps, given: Any, weight: Any, bias: Any, slope: Any, *settings: Any) -> Value | None:
    """What the call was given if it keeps packed weights, else weights packed now, if they are constants."""
    if isinstance(given, Value) and given.constant is not None:
        return given
    if any(isinstance(value, Value) and value.constant is None for value in (weight, bias, slope)):
        return None
    pack = torch.ops.vsr_kernels.conv3x3_pack.default
    key = ("packed", id(weight), id(bias), id(slope), settings)
    made: Value = steps.once(key, lambda: fold(pack, (weight, bias, slope, *settings, False), {}))
    return made


def _convolve(
    steps: Steps,
    out: Value,
    x: Value,
    weight: Value,
    bias: Value | None,
    exact: bool,
    packed: Value | None,
    *,
    slope: Value | None = None,
    number: float = 0.0,
    gather: Value | None = None,
    scatter: Value | None = None,
    residual: Value | None = None,
    activation: str = "none",
    scale: float = 1.0,
    r: int = 1,
) -> None:
    ready = _packed(steps, packed, weight, bias, slope, number, activation, r, exact)
    into = torch.ops.vsr_kernels.conv3x3_into.default
    arguments = (weight, bias, slope, number, gather, scatter, residual, activation, scale, r, exact, ready)
    steps.add(Step(into, (out, x, *arguments), {}))


def _conv3x3(steps: Steps, arguments: tuple[Any, ...], made: Any) -> bool:
    x, weight, bias, slope, number, residual, activation, scale, r, keep, exact, packed = arguments
    if keep:
        return False
    _convolve(
        steps,
        made[0],
        x,
        weight,
        bias,
        exact,
        packed,
        slope=slope,
        number=number,
        residual=residual,
        activation=activation,
        scale=scale,
        r=r,
    )
    return True


def _conv7x7(steps: Steps, arguments: tuple[Any, ...], made: Any) -> bool:
    x, weight, bias, relu, exact, packed = arguments
    ready = packed
    if ready is None and all(value is None or value.constant is not None for value in (weight, bias)):
        pack = torch.ops.vsr_kernels.conv7x7_pack.default
        key = ("packed 7x7", id(weight), id(bias), exact)
        ready = steps.once(key, lambda: fold(pack, (weight, bias, exact), {}))
    steps.add(Step(torch.ops.vsr_kernels.conv7x7_into.default, (made, x, weight, bias, relu, exact, ready), {}))
    return True


def _sparse_conv3x3(steps: Steps, arguments: tuple[Any, ...], made: Any) -> bool:
    x, weight, bias, slope, number, gather, scatter, residual, activation, keep, exact, packed = arguments
    if keep:
        return False
    _convolve(
        steps,
        made[0],
        x,
        weight,
        bias,
        exact,
        packed,
        slope=slope,
        number=number,
        gather=gather,
        scatter=scatter,
        residual=residual,
        activation=activation,
    )
    return True


def _residual_block(steps: Steps, arguments: tuple[Any, ...], made: Any) -> bool:
    x, weight1, bias1, weight2, bias2, slope, number, activation, scale, keep, exact, *packed = arguments
    if keep:
        return False
    hidden = steps.scratch(x, weight1.shape[0])
    _convolve(steps, hidden, x, weight1, bias1, exact, packed[0], slope=slope, number=number, activation=activation)
    _convolve(steps, made[0], hidden, weight2, bias2, exact, packed[1], residual=x, scale=scale)
    return True


def _sparse_residual_block(steps: Steps, arguments: tuple[Any, ...], made: Any) -> bool:
    x, weight1, bias1, weight2, bias2, slope, number, gather, scatter, activation, keep, exact, *packed = arguments
    if keep:
        return False
    hidden = steps.scratch(x, weight1.shape[0])
    _convolve(
        steps,
        hidden,
        x,
        weight1,
        bias1,
        exact,
        packed[0],
        slope=slope,
        number=number,
        gather=gather,
        activation=activation,
    )
    _convolve(steps, made[0], hidden, weight2, bias2, exact, packed[1], scatter=scatter, residual=x)
    return True


def _quantized_conv3x3(steps: Steps, arguments: tuple[Any, ...], made: Any) -> bool:
    x, weight, *vectors, number, out_zero_point, base, activation, r, _, packed = arguments
    ready = packed
    if ready is None and all(v is None or v.constant is not None for v in (weight, *vectors)):
        pack = torch.ops.vsr_kernels.quantized_conv3x3_pack.default
        given = (weight, *vectors, number, activation, r)
        key = ("quantized", id(weight), *map(id, vectors), number, activation, r)
        ready = steps.once(key, lambda: fold(pack, given, {}))
    into = torch.ops.vsr_kernels.quantized_conv3x3_into.default
    rest = (number, out_zero_point, base, activation, r, ready)
    steps.add(Step(into, (made, x, weight, *vectors, *rest), {}))
    return True


def _flow_warp(steps: Steps, arguments: tuple[Any, ...], made: Any) -> bool:
    steps.add(Step(torch.ops.vsr_kernels.flow_warp_into.default, (made, *arguments), {}))
    return True


def _pixel_shuffle(steps: Steps, arguments: tuple[Any, ...], made: Any, *, inverse: bool) -> bool:
    steps.add(Step(torch.ops.vsr_kernels.pixel_shuffle_into.default, (made, *arguments, inverse), {}))
    return True


def _copy(steps: Steps, arguments: tuple[Any, ...], made: Any) -> bool:
    steps.add(Step(torch.ops.aten.copy_.default, (made, arguments[0]), {}))
    return True


def _zeros(steps: Steps, arguments: tuple[Any, ...], made: Any) -> bool:
    steps.add(Step(torch.ops.aten.zero_.default, (made,), {}))
    return True


_LOWERINGS: dict[str, Callable[[Steps, tuple[Any, ...], Any], bool]] = {
    "vsr_kernels::conv3x3": _conv3x3,
    "vsr_kernels::conv7x7": _conv7x7,
    "vsr_kernels::sparse_conv3x3": _sparse_conv3x3,
    "vsr_kernels::quantized_conv3x3": _quantized_conv3x3,
    "vsr_kernels::residual_block": _residual_block,
    "vsr_kernels::sparse_residual_block": _sparse_residual_block,
    "vsr_kernels::flow_warp": _flow_warp,
    "vsr_kernels::pixel_shuffle": partial(_pixel_shuffle, inverse=False),
    "vsr_kernels::pixel_unshuffle": partial(_pixel_shuffle, inverse=True),
    "aten::clone": _copy,
    "aten::_to_copy": _copy,
    "aten::new_zeros": _zeros,
}
