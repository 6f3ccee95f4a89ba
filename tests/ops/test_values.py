"""Every operator, forward and backward, on every backend against the float64 truth."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from ops.accuracy import assert_near, assert_same_bits
from ops.cases import CONV3X3, RESIDUAL_BLOCK, SPARSE_CONV3X3, SPARSE_RESIDUAL_BLOCK, Arguments, Case
from ops.on_backends import device_of, on, parameters
from ops.running import Gradients, Outputs, run


@pytest.mark.parametrize(("backend", "case"), parameters())
def test_forward(backend: str, case: Case) -> None:
    """Without gradients, on values of full precision."""
    arguments = case.arguments(device_of(backend), exact=_nearest(case))
    with on(backend), torch.no_grad():
        got = case.operator.public(arguments)
        low = [case.operator.plain(a) for a in _baselines(case, backend, arguments)]
    _check_outputs(case, got, _forward_truth(case), low)
    assert all(out.device.type == arguments.device for out in got)


@pytest.mark.parametrize(("backend", "case"), parameters())
def test_backward(backend: str, case: Case) -> None:
    """The output of the training path and the gradients of every tensor argument."""
    apart = _transforms(backend, case)
    arguments = case.arguments(device_of(backend), exact=not apart, apart=apart)
    with on(backend):
        got, gradients = run(case, case.operator.public, arguments, exact=not apart)
    low = [run(case, case.operator.plain, a, exact=not apart) for a in _baselines(case, backend, arguments)]
    true, true_gradients = _backward_truth(case, apart)
    _check_outputs(case, got, true, [outputs for outputs, _ in low])
    for name, ours in gradients.items():
        assert ours.dtype == arguments.tensors[name].dtype
        if case.operator.bitwise:
            assert_same_bits(ours, true_gradients[name].to(ours.dtype), f"gradient of {name}")
        else:
            low_gradients = [found[name] for _, found in low]
            assert_near(ours, true_gradients[name], low_gradients, f"gradient of {name}", ours.dtype)


def _check_outputs(case: Case, got: Outputs, true: Outputs, low: list[Outputs]) -> None:
    for i, (ours, theirs) in enumerate(zip(got, true, strict=True)):
        if case.operator.bitwise:
            assert_same_bits(ours, theirs.to(case.dtype), "output")
        else:
            assert ours.dtype == case.operator.output_dtype(case.dtype)
            assert_near(ours, theirs, [outputs[i] for outputs in low], "output", case.dtype)


def _nearest(case: Case) -> bool:
    """Nearest sampling jumps at ties, so it gets coordinates that are near none."""
    return case.row.get("interpolation") == "nearest"


def _transforms(backend: str, case: Case) -> bool:
    """Whether 3x3 convolutions are computed by transforms, which are exact for no numbers."""
    return backend == "cpu" and case.operator in (CONV3X3, RESIDUAL_BLOCK, SPARSE_CONV3X3, SPARSE_RESIDUAL_BLOCK)


def _baselines(case: Case, backend: str, arguments: Arguments) -> list[Arguments]:
    """Arguments for PyTorch in the same dtype; none where the result is exact or would be compared with itself."""
    if backend == "reference" or case.dtype == torch.float64 or case.operator.bitwise:
        return []
    return [arguments, arguments.channels_last()]


@lru_cache(maxsize=1)
def _forward_truth(case: Case) -> Outputs:
    with torch.no_grad():
        return case.operator.exact(case.arguments("cpu", exact=_nearest(case)).wide())


@lru_cache(maxsize=1)
def _backward_truth(case: Case, apart: bool) -> tuple[Outputs, Gradients]:
    arguments = case.arguments("cpu", exact=not apart, apart=apart).wide()
    return run(case, case.operator.exact, arguments, unused_is_zero=True, exact=not apart)
