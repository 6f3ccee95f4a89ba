"""The same bits twice, and with any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
import torch

from ops.accuracy import assert_same_bits
from ops.cases import CONV7X7, DTYPES, MERGE_REP_BRANCHES, Case
from ops.inputs import Draw
from ops.on_backends import device_of, each, few, on, parameters
from ops.running import run

T = TypeVar("T")


@contextmanager
def asked_for_determinism(backend: str) -> Iterator[None]:
    """As users ask PyTorch for it; on the CPU, results are the same twice without."""
    torch.use_deterministic_algorithms(backend == "cuda", warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("backend", "case"), parameters(keep=few))
def test_twice_the_same(backend: str, case: Case) -> None:
    arguments = case.arguments(device_of(backend), exact=False)
    with on(backend), asked_for_determinism(backend):
        first, first_gradients = run(case, case.operator.public, arguments)
        second, second_gradients = run(case, case.operator.public, arguments)
    for ours, theirs in zip(first, second, strict=True):
        assert_same_bits(ours, theirs, "output")
    for name, gradient in first_gradients.items():
        assert_same_bits(gradient, second_gradients[name], f"gradient of {name}")


def wide(case: Case) -> bool:
    """Images with enough rows to be split between threads."""
    return case.operator is not MERGE_REP_BRANCHES and case.row["h"] * case.row["w"] >= 33 * 33 and case.number % 2 == 0


def on_threads(function: Callable[[], T]) -> Iterator[T]:
    """The results with one, two and three threads."""
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        yield function()


@pytest.mark.parametrize(("backend", "case"), [p for p in parameters(keep=wide) if p.values[0] == "cpu"])
def test_threads_change_no_bit(backend: str, case: Case) -> None:
    """Of outputs and gradients; those of 7x7 convolutions are PyTorch's."""
    arguments = case.arguments("cpu", exact=False)
    if case.operator is CONV7X7:
        with on(backend), torch.no_grad():
            ((first,), *others) = on_threads(lambda: case.operator.public(arguments))
        for (other,) in others:
            assert_same_bits(other, first, "output")
        return
    with on(backend):
        (one, gradients), *more = on_threads(lambda: run(case, case.operator.public, arguments))
    for other, other_gradients in more:
        assert_same_bits(other[0], one[0], "output")
        for name, gradient in other_gradients.items():
            assert_same_bits(gradient, gradients[name], f"gradient of {name}")


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "prelu"])
@pytest.mark.parametrize(("backend", "dtype"), each("conv3x3", dtypes=DTYPES[:3], backends=("cpu", "cuda")))
def test_threads_change_no_bit_of_the_epilogue(backend: str, dtype: torch.dtype, activation: str) -> None:
    """Its gradients hold sums over all pixels, those of the slope."""
    draw = Draw(1, dtype, device_of(backend), exact=False)
    saved, grad = draw.image((2, 5, 106, 70)), draw.image((2, 5, 106, 70))
    slope = draw.slope(20) if activation == "prelu" else None
    one, *more = on_threads(
        lambda: torch.ops.vsr_kernels.conv3x3_epilogue_backward(grad, saved, slope, activation, 0.1, 0.7, 2)
    )
    for other in more:
        assert_same_bits(other[0], one[0], "gradient before the epilogue")
        assert_same_bits(other[1], one[1], "gradient of the slope")
