"""From a function of tensors to a list of operator calls on values with known shapes and memory.

The function is traced with fake tensors, which computes nothing. What shares memory in the trace becomes a view of the
same buffer, so that views cost nothing in a replay.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from .arena import Buffer
from .in_place import write_in_place
from .lower import lower
from .steps import NotPlannableError, Step, Value, constant, fold


@dataclass
class Recording:
    """A function as steps.

    Attributes:
        steps: in order.
        inputs: values that stand for the caller's tensors.
        outputs: values or other objects that the function returns, flat.
        structure: how they are put together.
        buffers: all of them.
    """

    steps: list[Step]
    inputs: list[Value]
    outputs: list[Any]
    structure: pytree.TreeSpec
    buffers: list[Buffer]


def record(function: Callable[..., Any], tensors: Sequence[Tensor]) -> Recording:
    """Trace ``function(*tensors)``, which returns any structure of tensors.

    Raises:
        NotPlannableError: what it does depends on values, not on shapes alone, or draws random numbers.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # which takes as long to import as torch itself

    returned: list[pytree.TreeSpec] = []

    def flat(*given: Tensor) -> list[Any]:
        leaves, structure = pytree.tree_flatten(function(*given))
        for leaf in leaves:
            if not isinstance(leaf, (Tensor, int, float, str, bytes, type(None))):
                raise NotPlannableError(f"it returns a {type(leaf).__name__}, in which tensors cannot be seen")
        returned.append(structure)
        return leaves

    with torch.inference_mode(False), torch.no_grad():
        # Inference tensors know no views; copies of their layout stand for them.
        stand_ins = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype) for t in tensors]
        try:
            traced = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*stand_ins)
        except NotPlannableError:
            raise
        except Exception as error:  # whatever tracing meets, calling the function does not
            raise NotPlannableError(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    return Recorder(traced).run(returned[-1])


class Recorder:
    """Walks through a trace; lowerings add their steps to it."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.steps: list[Step] = []
        self._traced = traced
        self._values: dict[fx.Node, Any] = {}
        self._buffers: dict[int, Buffer] = {}  # by the identity of the fake storage
        self._scratch: list[Buffer] = []
        self._made: dict[Hashable, Any] = {}

    def run(self, structure: pytree.TreeSpec) -> Recording:
        """Everything, from the inputs to the outputs."""
        inputs: list[Value] = []
        outputs: list[Any] = []
        for node in self._traced.graph.nodes:
            if node.op == "placeholder":
                self._values[node] = self._fresh(node.meta["val"])
                inputs.append(self._values[node])
            elif node.op == "get_attr":
                tensor = getattr(self._traced, str(node.target))
                self._values[node] = self.once(("constant", id(tensor)), partial(constant, tensor))
            elif node.op == "call_function":
                self._values[node] = self._call(node)
            else:
                outputs = [self._resolve(leaf) for leaf in node.args[0]]
        for value in outputs:
            if isinstance(value, Value) and value.buffer is not None:
                value.buffer.result = True
        buffers = write_in_place(self.steps, inputs, [*self._buffers.values(), *self._scratch])
        return Recording(self.steps, inputs, outputs, structure, buffers)

    def add(self, step: Step) -> None:
        """Append a step, which keeps everything that it touches in use."""
        for value in step.values():
            if value.buffer is not None:
                value.buffer.last = len(self.steps)
        self.steps.append(step)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` gave for the key the first time."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def scratch(self, like: Value, channels: int) -> Value:
        """Memory for a channels_last image as large as another one, from the next step on."""
        n, _, h, w = like.shape
        buffer = Buffer(n * channels * h * w * like.dtype.itemsize, len(self.steps), len(self.steps))
        self._scratch.append(buffer)
        return Value(buffer, None, (n, channels, h, w), (channels * h * w, 1, w * channels, channels), 0, like.dtype)

    def _call(self, node: fx.Node) -> Any:
        target, result = node.target, node.meta.get("val")
        arguments = tuple(pytree.tree_map(self._resolve, list(node.args)))
        keywords = {name: pytree.tree_map(self._resolve, value) for name, value in node.kwargs.items()}
        if not isinstance(target, torch._ops.OpOverload):  # an item of what an operator returned
            return arguments[0][arguments[1]]
        if torch.Tag.nondeterministic_seeded in target.tags:
            raise NotPlannableError(f"{target} draws random numbers")
        given = [v for v in pytree.tree_leaves((arguments, keywords)) if isinstance(v, Value)]
        if given and all(v.constant is not None for v in given) and not target._schema.is_mutable:
            leaves = pytree.tree_leaves((arguments, keywords))
            key = (target, *(id(leaf) if isinstance(leaf, Value) else repr(leaf) for leaf in leaves))
            return self.once(key, lambda: fold(target, arguments, keywords))
        fakes = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        fresh = [fake for fake in fakes if _storage(fake) not in self._buffers]
        for fake in fresh:
            self._fresh(fake)
        made = pytree.tree_map_only(Tensor, self._within, result)
        if fresh:
            lower(self, target, arguments, keywords, made)
        elif target._schema.is_mutable:
            self.add(Step(target, arguments, keywords))
        return made  # without a step where it is a view

    def _resolve(self, argument: Any) -> Any:
        return self._values[argument] if isinstance(argument, fx.Node) else argument

    def _fresh(self, fake: Tensor) -> Value:
        """A value in a buffer of its own."""
        now = len(self.steps)
        self._buffers[_storage(fake)] = Buffer(fake.untyped_storage().nbytes(), now, now)
        return self._within(fake)

    def _within(self, fake: Tensor) -> Value:
        buffer = self._buffers[_storage(fake)]
        return Value(buffer, None, tuple(fake.shape), tuple(fake.stride()), int(fake.storage_offset()), fake.dtype)


def _storage(fake: Tensor) -> int:
    return int(fake.untyped_storage()._cdata)
