"""What a recording is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .arena import Buffer


class NotPlannableError(Exception):
    """The function cannot be replayed; the message says why."""


@dataclass(eq=False)
class Value:
    """A tensor of the recording: a place in a buffer, or a constant.

    Attributes:
        buffer: where it lies; None for a constant.
        constant: the tensor itself, for a constant.
        shape, strides, offset: in elements, from the beginning of the buffer.
        dtype: of the elements.
    """

    buffer: Buffer | None
    constant: Tensor | None
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: torch.dtype


@dataclass
class Step:
    """One operator call; its arguments hold :class:`Value` where the call takes tensors.

    Attributes:
        function: what is called.
        arguments: positional.
        keywords: by name.
        results: values to copy what it returns into; empty for a call that writes into an argument.
    """

    function: torch._ops.OpOverload
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    results: list[Value] = field(default_factory=list)

    def values(self) -> list[Value]:
        """All that it touches."""
        leaves = pytree.tree_leaves((self.arguments, self.keywords, self.results))
        return [leaf for leaf in leaves if isinstance(leaf, Value)]

    def written(self) -> Iterator[Value]:
        """What it writes into."""
        yield from self.results
        listed = self.function._schema.arguments
        given = {**dict(zip((argument.name for argument in listed), self.arguments, strict=False)), **self.keywords}
        for argument in listed:
            if argument.alias_info is not None and argument.alias_info.is_write:
                leaves = pytree.tree_leaves(given.get(argument.name))
                yield from (leaf for leaf in leaves if isinstance(leaf, Value))


def constant(tensor: Tensor) -> Value:
    """A tensor that does not change between calls."""
    data = tensor.detach()
    return Value(None, data, tuple(data.shape), tuple(data.stride()), 0, data.dtype)


def fold(target: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """What an operator makes of constants, computed now."""

    def tensor_of(leaf: Any) -> Any:
        return leaf.constant if isinstance(leaf, Value) else leaf

    given, named = pytree.tree_map(tensor_of, list(arguments)), pytree.tree_map(tensor_of, keywords)
    return pytree.tree_map_only(Tensor, constant, target(*given, **named))
