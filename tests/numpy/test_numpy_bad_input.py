"""Bad arrays are answered as bad tensors are, in the same sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ops.test_bad_input import GOOD, MISTAKES, Mistake

vk = pytest.importorskip("vsr_kernels.numpy", exc_type=ImportError)


def array(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype == torch.bfloat16:
        return value.float().numpy().astype(pytest.importorskip("ml_dtypes").bfloat16)
    return value.numpy()


def sentence(operator: str, message: str) -> str:
    """What is said about an array where ``message`` speaks of a tensor."""
    message = message.replace("torch.", "").replace("a tensor", "an array").replace("int64 tensor", "int64 array")
    if not operator.startswith("pixel"):  # float64 runs as reference, which is torch's
        message = message.replace("float32, float16, bfloat16 or float64", "float32, float16 or bfloat16")
    return f"{operator}: {message}"


def applies(mistake: Mistake) -> bool:
    """There is one device only."""
    operator, _, changes, _ = mistake
    return hasattr(vk, operator) and not any(isinstance(v, torch.Tensor) and v.is_meta for v in changes.values())


@pytest.mark.parametrize(
    ("operator", "kind", "changes", "message"), [mistake for mistake in MISTAKES if applies(mistake)]
)
def test_same_sentences(operator: str, kind: type[Exception], changes: dict[str, Any], message: str) -> None:
    arguments = {name: array(value) for name, value in (GOOD[operator] | changes).items()}
    with pytest.raises(kind) as caught:
        getattr(vk, operator)(**arguments)
    assert str(caught.value) == sentence(operator, message)
    assert type(caught.value) is kind


@pytest.mark.parametrize("operator", [operator for operator in GOOD if hasattr(vk, operator)])
def test_what_is_right_passes(operator: str) -> None:
    getattr(vk, operator)(**{name: array(value) for name, value in GOOD[operator].items()})


X = np.zeros((2, 6, 8, 4), np.float32).transpose(0, 3, 1, 2)
WEIGHT = np.zeros((8, 4, 3, 3), np.float32)
RESULT = (2, 6, 8, 8)


@pytest.mark.parametrize("dtype", [">f4", np.int32, np.float64, np.complex64])
def test_dtypes_that_the_kernels_do_not_compute_in(dtype: Any) -> None:
    with pytest.raises(TypeError) as caught:
        vk.conv3x3(X.astype(dtype), WEIGHT.astype(dtype))
    assert str(caught.value) == f"conv3x3: x: expected float32, float16 or bfloat16, got {np.dtype(dtype)}"


OUTS = {
    "list": ([], "expected an array, got list"),
    "dtype": (np.zeros(RESULT, np.float16).transpose(0, 3, 1, 2), "expected float32, got float16"),
    "shape": (X.copy(), "expected shape (2, 8, 6, 8) = the result's, got (2, 4, 6, 8)"),
    "format": (
        np.zeros((2, 8, 6, 8), np.float32),
        "expected channels_last memory, aligned, got strides (1536, 192, 32, 4)",
    ),
    "read-only": (
        np.broadcast_to(np.float32(0), RESULT).transpose(0, 3, 1, 2),
        "expected an array that can be written to, got a read-only one",
    ),
    "unaligned": (
        np.zeros(4 * 768 + 1, np.uint8)[1:].view(np.float32).reshape(RESULT).transpose(0, 3, 1, 2),
        "expected channels_last memory, aligned, got strides (1536, 4, 256, 32)",
    ),
}


@pytest.mark.parametrize("out", OUTS)
def test_results_that_cannot_be_written(out: str) -> None:
    given, message = OUTS[out]
    with pytest.raises((TypeError, ValueError)) as caught:
        vk.conv3x3(X, WEIGHT, out=given)
    assert str(caught.value).startswith(f"conv3x3: out: {message}")


def test_results_in_the_memory_of_arguments() -> None:
    """Whatever the argument: a kernel reads it when part of the result is there already."""
    memory = np.zeros((2, 6, 8, 8), np.float32).transpose(0, 3, 1, 2)
    square = np.zeros((8, 8, 3, 3), np.float32)
    for name, arguments in {
        "x": {"x": memory, "weight": square},
        "residual": {"x": X, "weight": WEIGHT, "residual": memory},
        "bias": {"x": X, "weight": WEIGHT, "bias": memory[0, :, 0, 0]},
    }.items():
        with pytest.raises(ValueError) as caught:
            vk.conv3x3(**arguments, out=memory)
        assert str(caught.value) == f"conv3x3: out: expected memory of its own, got memory that {name} lies in"
    flow = np.zeros((2, 2, 6, 8), np.float32)
    with pytest.raises(ValueError, match="flow_warp: out: expected ascending strides, aligned, got strides"):
        vk.flow_warp(flow, flow, out=np.zeros((2, 2, 6, 8), np.float32)[..., ::-1])
    with pytest.raises(ValueError, match="flow_warp: out: expected memory of its own, got memory that x lies in"):
        vk.flow_warp(memory, flow, out=memory)
    with pytest.raises(ValueError, match="flow_warp: out: expected memory of its own, got memory that flow lies in"):
        vk.flow_warp(np.zeros((2, 2, 6, 8), np.float32), flow, out=flow)
    with pytest.raises(ValueError, match="pixel_shuffle: out: expected channels_last memory, aligned"):
        vk.pixel_shuffle(memory, 2, out=np.zeros((2, 2, 12, 16), np.float32))
