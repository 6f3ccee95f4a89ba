"""Which of torch's settings forbid TF32, in eager and in compiled code."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from vsr_kernels.ops.precision import exact_float32, tf32_is_forbidden


def legacy(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed


def by_name(allowed: bool) -> None:
    torch.set_float32_matmul_precision("high" if allowed else "highest")


def new(allowed: bool) -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32" if allowed else "ieee"


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """Torch as it was, compiler included."""
    torch.compiler.reset()
    yield
    new(False)
    legacy(False)
    torch.compiler.reset()


@pytest.mark.parametrize("change", [legacy, by_name, new])
def test_every_interface_is_heard(change: Callable[[bool], None]) -> None:
    for allowed in (True, False, True):
        change(allowed)
        assert tf32_is_forbidden() is not allowed


def test_tf32_is_forbidden_by_default() -> None:
    assert tf32_is_forbidden()


def test_the_interfaces_mixed() -> None:
    """Where torch itself refuses to say whether ``allow_tf32``."""
    legacy(False)
    new(True)
    with pytest.raises(RuntimeError):
        assert torch.backends.cuda.matmul.allow_tf32
    assert not tf32_is_forbidden()


def test_other_devices_have_nothing_to_allow() -> None:
    new(True)
    assert exact_float32(torch.zeros(1))
    assert exact_float32(torch.zeros(1, device="meta"))


@pytest.mark.parametrize("change", [legacy, by_name, new])
def test_compiled_code_follows(change: Callable[[bool], None]) -> None:
    """In one graph, which is traced again where the setting has changed."""

    def function(x: Tensor) -> Tensor:
        return x + 1 if tf32_is_forbidden() else x * 4

    compiled = torch.compile(function, fullgraph=True, backend="eager")
    for allowed in (False, True, False):
        change(allowed)
        assert compiled(torch.ones(1)).item() == (4 if allowed else 2)
