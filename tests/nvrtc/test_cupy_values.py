"""The operators on CuPy arrays: choice, compilation, grids, arguments and launches, run in ptxvm; no GPU, no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arrays import Call, calls, laid_out, name_of
from judging import judge

from ptxvm.cupy_calls import Machine
from vsr_kernels import nvrtc

if (REASON := nvrtc.obstacle()) is not None:
    pytest.skip(REASON, allow_module_level=True)

import cupy_standin
from cupy_standin import DeviceArray, on_device

import vsr_kernels.cupy as vk
from vsr_kernels.cupy import _operators


@pytest.fixture(autouse=True)
def machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    with cupy_standin.launching() as machine:
        monkeypatch.setattr(_operators, "cupy", cupy_standin.cupy(machine))
        monkeypatch.setattr(_operators.CuPy, "array", DeviceArray)
        shown = cupy_standin.showing(machine, _operators.CUPY.view)
        monkeypatch.setattr(_operators.CUPY, "view", shown, raising=False)
        yield machine


def run(call: Call, **changes: Any) -> Any:
    name, arguments = call
    lists = ("in_channels", "out_channels")
    given = {k: v if k in lists else on_device(v) for k, v in {**arguments, **changes}.items()}
    return getattr(vk, name)(**given)


SMALL = calls(2, 9, 3, 5)


@pytest.mark.parametrize("number", range(len(SMALL)), ids=[name_of(call) for call in SMALL])
def test_values(number: int) -> None:
    """Contiguous float32, then float16 pixels side by side."""
    judge(SMALL[number], run(SMALL[number]))
    name, arguments = calls(1, 8, 4, 9, np.float16)[number]
    images = ("x", "residual", "flow")
    last = {k: laid_out(v, "channels_last") if k in images else v for k, v in arguments.items()}
    judge((name, arguments), run((name, last)))
