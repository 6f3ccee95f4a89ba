"""plan(function): replayed from an arena where it can be, called as it is where it cannot."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..ops.precision import fast_float32_is_forbidden
from .record import record
from .replay import Replay
from .steps import NotPlannableError

_SHAPES = 4  # recordings kept, each with an arena


class Plan:
    """A function that is recorded when the same shapes come a second time, and replayed from then on.

    A replay computes what the function does, bit for bit, with weights that were packed once, in memory that was
    reserved once; inputs are read where they lie, results have memory of their own, which is used again when nothing
    refers to it any more.

    Called as it is wherever a replay would not be the same: on other devices, in train mode, with gradients or
    autocast, in traced code, while another thread replays, and where the function depends on the values of tensors.
    Changed weights are noticed by their version counters and addresses, as :class:`vsr_kernels.PackedWeights` notices
    them.

    Attributes:
        obstacle: why the last call was not replayed, or None.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.obstacle: str | None = None
        self._function = function
        owner = getattr(function, "__self__", function)
        self._module = owner if isinstance(owner, nn.Module) else None
        self._replays: OrderedDict[Hashable, Replay | str | None] = OrderedDict()
        self._weights: tuple[Hashable, ...] = ()
        self._busy = threading.Lock()

    def __reduce__(self) -> tuple[type[Plan], tuple[Callable[..., Any]]]:
        return Plan, (self._function,)  # copies and pickles have recorded nothing

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the function."""
        leaves, structure = pytree.tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self.obstacle = self._why_not(tensors)
        if self.obstacle is not None or not self._busy.acquire(blocking=False):
            return self._function(*args, **kwargs)
        try:
            replay = self._replay(leaves, structure)
            if isinstance(replay, Replay):
                return replay(tensors)
            self.obstacle = replay
        finally:
            self._busy.release()
        return self._function(*args, **kwargs)

    @property
    def replays(self) -> list[Replay]:
        """What was recorded, the latest last."""
        return [replay for replay in self._replays.values() if isinstance(replay, Replay)]

    def clear(self) -> None:
        """Forget everything that was recorded, and its memory."""
        self._replays.clear()

    def _why_not(self, tensors: list[Tensor]) -> str | None:
        if torch.compiler.is_compiling():
            return "traced code"
        if not all(_is_plain(t) for t in tensors):
            return "expected plain tensors on the CPU"
        if torch.is_grad_enabled():
            return "gradients are enabled"
        if torch.is_autocast_enabled("cpu"):
            return "autocast is enabled"
        if self._module is not None and self._module.training:
            return "train mode"
        return None

    def _replay(self, leaves: list[Any], structure: pytree.TreeSpec) -> Replay | str:
        if self._module is not None:
            weights = tuple(_state(t) for t in (*self._module.parameters(), *self._module.buffers()))
            if weights != self._weights:
                self.clear()
                self._weights = weights
        key = (str(structure), fast_float32_is_forbidden(), tuple(_signature(leaf) for leaf in leaves))
        try:
            known = key in self._replays
        except TypeError:
            return "arguments that are neither tensors nor hashable"
        if not known:
            self._replays[key] = None
            while len(self._replays) > _SHAPES:
                self._replays.popitem(last=False)
            return "the first call with these shapes"
        self._replays.move_to_end(key)
        replay = self._replays[key]
        if replay is None:
            replay = self._record(leaves, structure)
            self._replays[key] = replay
        return replay

    def _record(self, leaves: list[Any], structure: pytree.TreeSpec) -> Replay | str:
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

        def of_tensors(*tensors: Tensor) -> Any:
            filled = list(leaves)
            for place, tensor in zip(places, tensors, strict=True):
                filled[place] = tensor
            args, kwargs = pytree.tree_unflatten(filled, structure)
            return self._function(*args, **kwargs)

        try:
            return Replay(record(of_tensors, [leaves[place] for place in places]))
        except NotPlannableError as error:
            return str(error)


def plan(function: Callable[..., Any]) -> Plan:
    """Replay a function of tensors, such as a model or its method, without allocating anything but its results.

    Args:
        function: a ``nn.Module`` in eval mode, one of its methods, or any function of tensors and hashable options,
            whose result is any structure of tensors. It has no side effects, and what it does depends on shapes and
            options alone.

    Returns:
        What is called like ``function``; see :class:`Plan`.
    """
    return Plan(function)


def _signature(leaf: Any) -> Hashable:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.stride(), leaf.dtype
    return type(leaf), leaf


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is numbers in memory, and nothing else."""
    strided = type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.layout == torch.strided
    return strided and not tensor.is_conj() and not tensor.is_neg()


def _state(tensor: Tensor) -> Hashable:
    return tensor.data_ptr(), tensor.dtype, 0 if tensor.is_inference() else tensor._version
