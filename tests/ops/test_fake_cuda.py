"""The public functions on fake tensors of a GPU, which need not be there: what they pass to the operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import vsr_kernels
from ops.cases import OPERATORS, Arguments, Case, cases
from vsr_kernels import PackedWeights, backend

pytestmark = [
    pytest.mark.skipif(torch.version.cuda is None, reason="this torch has no CUDA"),
    pytest.mark.skipif(
        not vsr_kernels.backends()["cpu"].available,
        reason="no compiled operators: " + vsr_kernels.backends()["cpu"].detail,
    ),
]


class Calls(TorchDispatchMode):
    """Notes the arguments of this package's operators, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "vsr_kernels":
            names = [argument.name for argument in func._schema.arguments]
            self.seen.append((func._schema.name.split("::")[1], dict(zip(names, args, strict=False))))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """Fake tensors in force, kernels for all operators, and what is called."""
    monkeypatch.setitem(backend._state.kernels, "cuda", frozenset(backend.OPERATORS))
    with FakeTensorMode(), Calls() as noted, torch.no_grad():
        yield noted


def fake(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, device="cuda", dtype=dtype)


def first(name: str) -> Case:
    operator = next(o for o in OPERATORS if o.name == name)
    return next(c for c in cases(operator) if c.dtype == torch.float32)


@pytest.mark.parametrize("name", backend.OPERATORS)
def test_every_function_reaches_its_operator(name: str, calls: Calls) -> None:
    """With everything on the GPU, and results laid out like those of the CPU."""
    case = first(name)
    with _disable_current_modes():
        arguments = case.arguments("cpu", exact=True)
        (expected,) = case.operator.public(arguments)
        others = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in arguments.others.items()}
    tensors = {
        k: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda") for k, t in arguments.tensors.items()
    }
    (out,) = case.operator.public(Arguments(tensors, others))
    assert (out.shape, out.stride(), out.dtype) == (expected.shape, expected.stride(), expected.dtype)
    ((operator, passed),) = calls.seen
    assert operator == name
    everything = [v for v in (*passed.values(), out) if isinstance(v, Tensor)]
    assert len(everything) > len(tensors)
    assert all(t.device.type == "cuda" for t in everything)


@pytest.mark.parametrize("forbidden", [False, True])
def test_the_setting_of_tf32_is_passed_on(calls: Calls, monkeypatch: pytest.MonkeyPatch, forbidden: bool) -> None:
    x, weight, both = fake(1, 8, 4, 4), fake(8, 8, 3, 3), {"in_channels": range(8), "out_channels": range(8)}
    torch.backends.cuda.matmul.fp32_precision = "ieee" if forbidden else "tf32"
    try:
        vsr_kernels.conv3x3(x, weight)
        vsr_kernels.residual_block(x, weight, None, weight, None)
        vsr_kernels.sparse_conv3x3(x, weight)
        vsr_kernels.sparse_residual_block(x, weight, None, weight, None, **both)
    finally:
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cuda.matmul.allow_tf32 = False
    assert [passed["exact"] for _, passed in calls.seen] == [forbidden] * 4


def functions(packed: PackedWeights) -> dict[str, Callable[[], Tensor]]:
    x, weight = fake(1, 8, 4, 4), fake(8, 8, 3, 3)
    lists = {"in_channels": list(range(8)), "out_channels": list(range(8))}
    return {
        "conv3x3": lambda: vsr_kernels.conv3x3(x, weight, packed=packed),
        "residual_block": lambda: vsr_kernels.residual_block(x, weight, None, weight, None, packed=packed),
        "sparse_conv3x3": lambda: vsr_kernels.sparse_conv3x3(x, weight, packed=packed),
        "sparse_residual_block": lambda: vsr_kernels.sparse_residual_block(
            x, weight, None, weight, None, packed=packed, **lists
        ),
    }


@pytest.mark.parametrize("name", backend.TENSOR_CORE_OPERATORS)
def test_what_is_packed_is_passed_on(name: str, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each convolution of an operator asks for its weights and gets its own packing."""
    made: dict[int, Tensor] = {}

    def get(self: PackedWeights, ops: object, slot: int, x: Tensor, weight: Tensor, *others: object) -> Tensor:
        assert weight.shape == (8, 8, 3, 3)
        made[slot] = torch.empty(slot + 1, dtype=torch.uint8, device="cuda")
        return made[slot]

    monkeypatch.setattr(PackedWeights, "get", get)
    functions(PackedWeights())[name]()
    ((_, passed),) = calls.seen
    given = [value for key, value in passed.items() if key.startswith("packed")]
    assert [t.shape for t in given] == [t.shape for t in made.values()]
    assert len(given) == (2 if "block" in name else 1)


@pytest.mark.parametrize("name", backend.TENSOR_CORE_OPERATORS)
def test_fake_weights_are_packed_by_the_operator(name: str, calls: Calls) -> None:
    """There is nothing to keep."""
    packed = PackedWeights()
    functions(packed)[name]()
    ((_, passed),) = calls.seen
    assert all(value is None for key, value in passed.items() if key.startswith("packed"))
    assert packed._slots == {}
