"""Runs a recording in an arena.

Inputs are read where the caller has them. Those that a step overwrites, or that the function returns, are copied first;
so are those that are looked at as wider numbers, whose address may not suit them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .arena import Buffer, lay_out, reserve
from .record import Recording
from .steps import Step, Value

_SPARE = 16  # pieces of memory kept per result, for callers who keep as many
_NOTHING = torch.UntypedStorage(0)


class Replay:
    """A recorded function with memory for all that it computes.

    Results have memory of their own: the caller may keep them. A piece is used again once nothing refers to it.

    Attributes:
        arena_bytes: memory that calls share.
        allocating: operators that have no way to write into given memory, with how often they are called.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._lent = {buffer: _Lent() for buffer in _read_in_place(recording)}
        kept = [buffer for buffer in recording.buffers if buffer.result]
        shared = [buffer for buffer in recording.buffers if not buffer.result and buffer not in self._lent]
        self.arena_bytes = lay_out(shared)
        self.allocating: dict[str, int] = {}
        for step in recording.steps:
            if step.results:
                name = str(step.function)
                self.allocating[name] = self.allocating.get(name, 0) + 1
        with torch.inference_mode(False):  # only such memory can be written in either mode
            self._arena = reserve(self.arena_bytes)
            self._results = {buffer: _Result(buffer.nbytes) for buffer in kept}
            self._bound = [self._bind(step) for step in recording.steps]
            self._take = [self._taker(value) for value in recording.inputs]
        for result in self._results.values():
            result.note_references()

    def __call__(self, tensors: list[Tensor]) -> Any:
        """The function's results for tensors of the recorded shapes."""
        with torch.no_grad():
            moved = [buffer for buffer, result in self._results.items() if not result.settle()]
            if moved:
                with torch.inference_mode(False):
                    self._rebind(moved)
            try:
                for take, given in zip(self._take, tensors, strict=True):
                    take(given)
                for function, arguments, keywords, results in self._bound:
                    made = function(*arguments, **keywords)
                    if results:
                        leaves = [leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor)]
                        for into, tensor in zip(results, leaves, strict=True):
                            into.copy_(tensor)
            finally:
                for lent in self._lent.values():
                    lent.leave()
            outputs = [self._tensor(leaf) if isinstance(leaf, Value) else leaf for leaf in self._recording.outputs]
            return pytree.tree_unflatten(outputs, self._recording.structure)

    def _tensor(self, value: Value) -> Tensor:
        if value.buffer is None:
            assert value.constant is not None
            return value.constant
        buffer = value.buffer
        if buffer in self._lent:
            return self._lent[buffer].tensor(value)
        result = self._results.get(buffer)
        memory = self._arena[buffer.offset : buffer.offset + buffer.nbytes] if result is None else result.memory
        typed = memory[: buffer.nbytes // value.dtype.itemsize * value.dtype.itemsize].view(value.dtype)
        return typed.as_strided(value.shape, value.strides, typed.storage_offset() + value.offset)

    def _taker(self, value: Value) -> Callable[[Tensor], Any]:
        """What is called with an input."""
        assert value.buffer is not None
        lent = self._lent.get(value.buffer)
        if lent is not None:
            return lent.enter
        into = _distinct(self._tensor(value))
        return lambda given: into.copy_(_distinct(given))

    def _bind(self, step: Step) -> tuple[Any, list[Any], dict[str, Any], list[Tensor]]:
        def bound(leaf: Any) -> Any:
            return self._tensor(leaf) if isinstance(leaf, Value) else leaf

        arguments = pytree.tree_map(bound, list(step.arguments))
        return step.function, arguments, pytree.tree_map(bound, step.keywords), [bound(v) for v in step.results]

    def _rebind(self, moved: list[Buffer]) -> None:
        """Point everything at the new memory of results."""
        for i, step in enumerate(self._recording.steps):
            if any(value.buffer in moved for value in step.values()):
                self._bound[i] = self._bind(step)
        for i, value in enumerate(self._recording.inputs):
            if value.buffer in moved:
                self._take[i] = self._taker(value)
        for buffer in moved:
            self._results[buffer].note_references()


class _Lent:
    """An input, and views of it, where the caller has it: tensors that are of its memory during a call."""

    def __init__(self) -> None:
        self._tensors: dict[Value, Tensor] = {}

    def tensor(self, value: Value) -> Tensor:
        """What stands for the input or a view of it; empty between calls."""
        if value not in self._tensors:
            self._tensors[value] = torch.empty(0, dtype=value.dtype)
        return self._tensors[value]

    def enter(self, given: Tensor) -> None:
        """Make all of them the caller's memory."""
        storage, start = given.untyped_storage(), given.storage_offset() * given.itemsize
        for value, tensor in self._tensors.items():
            tensor.set_(storage, start // value.dtype.itemsize + value.offset, value.shape, value.strides)

    def leave(self) -> None:
        """Refer to it no more."""
        for tensor in self._tensors.values():
            tensor.set_(_NOTHING)


def _read_in_place(recording: Recording) -> set[Buffer]:
    """Of inputs that nothing writes to."""
    copied = {value.buffer for step in recording.steps for value in step.written()}
    itemsize = {value.buffer: value.dtype.itemsize for value in recording.inputs}
    touched = (value for step in recording.steps for value in step.values())
    copied |= {value.buffer for value in touched if value.dtype.itemsize > itemsize.get(value.buffer, math.inf)}
    return {buffer for buffer in itemsize if buffer is not None and not buffer.result and buffer not in copied}


def _distinct(tensor: Tensor) -> Tensor:
    """Without the repetitions of expanded dimensions, which cannot be written."""
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if size > 1 and stride == 0:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


class _Result:
    """Memory of one result, and pieces that callers may still hold."""

    def __init__(self, nbytes: int) -> None:
        self.memory = reserve(nbytes)
        self._alone = _references(self.memory)  # to a piece that nobody else has
        self._references = self._alone  # to the memory in use by this package itself
        self._away: list[Tensor] = []

    def note_references(self) -> None:
        """Remember how many tensors share the memory while no caller has one."""
        self._references = _references(self.memory)

    def settle(self) -> bool:
        """Whether the memory may be written again; else another piece takes its place."""
        if _references(self.memory) == self._references:
            return True
        back = next((i for i, piece in enumerate(self._away) if _references(piece) == self._alone), None)
        with torch.inference_mode(False):
            taken = reserve(self.memory.numel()) if back is None else self._away.pop(back)
        self._away = [*self._away, self.memory][-_SPARE:]
        self.memory = taken
        return False


def _references(tensor: Tensor) -> int:
    """How many tensors share a tensor's memory."""
    return int(torch._C._storage_Use_Count(tensor.untyped_storage()._cdata))
