"""Bad CuPy arrays are answered in the sentences for NumPy's, before anything is compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ops.test_bad_input import GOOD, MISTAKES, Mistake

from vsr_kernels import nvrtc

if (REASON := nvrtc.obstacle()) is not None:
    pytest.skip(REASON, allow_module_level=True)

import cupy_standin
from cupy_standin import DeviceArray, on_device
from test_numpy_bad_input import array, sentence

import vsr_kernels.cupy as vk
from ptxvm.cupy_calls import Machine
from vsr_kernels.nvrtc import device

pytestmark = pytest.mark.usefixtures("machine")


def applies(mistake: Mistake) -> bool:
    operator, _, changes, _ = mistake
    return hasattr(vk, operator) and not any(getattr(v, "is_meta", False) for v in changes.values())


def placed(name: str, value: Any) -> Any:
    value = array(value)
    return value if name.endswith("_channels") else on_device(value)


@pytest.mark.parametrize(
    ("operator", "kind", "changes", "message"), [mistake for mistake in MISTAKES if applies(mistake)]
)
def test_same_sentences(
    operator: str, kind: type[Exception], changes: dict[str, Any], message: str, machine: Machine
) -> None:
    arguments = {name: placed(name, value) for name, value in (GOOD[operator] | changes).items()}
    with pytest.raises(kind) as caught:
        getattr(vk, operator)(**arguments)
    assert str(caught.value) == sentence(operator, message)
    assert not machine.launches


X, WEIGHT = np.zeros((1, 4, 2, 3), np.float32), np.zeros((8, 4, 3, 3), np.float32)


def test_arrays_of_numpy() -> None:
    with pytest.raises(TypeError, match=r"^conv3x3: x: expected an array \(N, C, H, W\), got numpy\.ndarray$"):
        vk.conv3x3(X, WEIGHT)
    with pytest.raises(TypeError, match=r"^conv3x3: weight: expected an array, got numpy\.ndarray$"):
        vk.conv3x3(on_device(X), WEIGHT)


def test_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = on_device(X), on_device(WEIGHT)
    other = cupy_standin.Gpu()
    other.id = 1
    there = property(lambda t: other if t.shape == WEIGHT.shape else cupy_standin.GPU)
    monkeypatch.setattr(DeviceArray, "device", there)
    with pytest.raises(ValueError, match=r"^conv3x3: weight: expected device 0 as x, got 1$"):
        vk.conv3x3(x, weight)


def test_a_gpu_without_the_tensor_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cupy_standin.PROPERTIES, "major", 7)
    monkeypatch.setitem(cupy_standin.PROPERTIES, "minor", 5)
    message = r"^vsr_kernels\.cupy: float32 needs a GPU of compute capability 8\.0, this one has 7\.5$"
    with pytest.raises(RuntimeError, match=message):
        vk.conv3x3(on_device(X), on_device(WEIGHT))
    assert device.device(0).limits.capability == (7, 5)
