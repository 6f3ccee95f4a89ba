"""Which of torch's settings forbid TF32 and fast convolutions on the CPU, in eager and in compiled code."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from vsr_kernels.ops.precision import exact_float32, fast_float32_is_forbidden, tf32_is_forbidden


def legacy(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed


def by_name(allowed: bool) -> None:
    torch.set_float32_matmul_precision("high" if allowed else "highest")


def new(allowed: bool) -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32" if allowed else "ieee"


def for_convolutions(precision: str) -> None:
    torch.backends.mkldnn.conv.fp32_precision = precision


def for_everything(precision: str) -> None:
    torch.backends.fp32_precision = precision


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """Torch as it was, compiler included."""
    torch.compiler.reset()
    yield
    for_everything("none")
    for_convolutions("none")
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


def test_the_gpu_s_setting_is_not_the_cpu_s() -> None:
    new(True)
    assert exact_float32(torch.zeros(1))
    assert exact_float32(torch.zeros(1, device="meta"))


@pytest.mark.parametrize("change", [for_convolutions, for_everything])
def test_the_cpu_follows_the_setting_for_convolutions(change: Callable[[str], None]) -> None:
    assert exact_float32(torch.zeros(1))
    for precision in ("tf32", "none", "bf16", "ieee"):
        change(precision)
        assert exact_float32(torch.zeros(1)) is (precision in ("none", "ieee"))
        assert exact_float32(torch.zeros(1, device="meta"))
        assert tf32_is_forbidden() or change is for_everything


def test_a_setting_for_convolutions_goes_before_one_for_everything() -> None:
    for_everything("tf32")
    for_convolutions("ieee")
    assert exact_float32(torch.zeros(1))


def test_compiled_code_keeps_the_cpu_s_setting() -> None:
    """The one that held when it was traced: torch guards no graph by it."""

    def function(x: Tensor) -> Tensor:
        return x + 1 if fast_float32_is_forbidden() else x * 4

    compiled = torch.compile(function, fullgraph=True, backend="eager")
    assert compiled(torch.ones(1)).item() == 2
    for_convolutions("tf32")
    torch.compiler.reset()
    assert compiled(torch.ones(1)).item() == 4


@pytest.mark.parametrize("change", [legacy, by_name, new])
def test_compiled_code_follows(change: Callable[[bool], None]) -> None:
    """In one graph, which is traced again where the setting has changed."""

    def function(x: Tensor) -> Tensor:
        return x + 1 if tf32_is_forbidden() else x * 4

    compiled = torch.compile(function, fullgraph=True, backend="eager")
    for allowed in (False, True, False):
        change(allowed)
        assert compiled(torch.ones(1)).item() == (4 if allowed else 2)
