"""What a recurrent model remembers between calls, handled without knowing the model: any nest of tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def map_tensors(state: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with every tensor replaced.

    Args:
        state: A tensor, None, or dataclasses, lists, tuples and dictionaries of such; anything else is kept.
        function: What to apply to each tensor.
    """
    if isinstance(state, Tensor):
        return function(state)
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        names = [field.name for field in dataclasses.fields(state)]
        return dataclasses.replace(state, **{name: map_tensors(getattr(state, name), function) for name in names})
    if isinstance(state, (list, tuple)):
        return type(state)(map_tensors(item, function) for item in state)
    if isinstance(state, dict):
        return {key: map_tensors(item, function) for key, item in state.items()}
    return state


def tensors_of(state: Any) -> list[Tensor]:
    """All tensors, in the order in which :func:`map_tensors` meets them."""
    found: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(state, collect)
    return found


def with_tensors(template: Any, tensors: list[Tensor]) -> Any:
    """A state built like ``template`` from the tensors of another (see :func:`tensors_of`)."""
    supply: Iterator[Tensor] = iter(tensors)
    return map_tensors(template, lambda _: next(supply))


def to_float32(state: Any) -> Any:
    """All floating-point tensors in float32."""
    return map_tensors(state, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)


def is_finite(state: Any) -> bool:
    """Whether no tensor holds NaN or infinity."""
    return all(finite(tensor) for tensor in tensors_of(state))


def finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity.

    One pass, as a rule: if the sum is finite, every element is. A sum may overflow although no element has; then they
    are looked at one by one.
    """
    if not tensor.is_floating_point():
        return True
    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())
