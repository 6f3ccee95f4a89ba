"""Where NVRTC is, with calls and truths of the operators on arrays; what is compiled is kept for one run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ptxvm.cupy_calls import Machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "numpy"))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "compiled"
    monkeypatch.setenv("VSR_KERNELS_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """The operators on CuPy arrays take :class:`cupy_standin.DeviceArray`, and launch in ptxvm."""
    import cupy_standin

    from vsr_kernels.cupy import _operators

    with cupy_standin.launching() as machine:
        monkeypatch.setattr(_operators, "cupy", cupy_standin.cupy(machine))
        monkeypatch.setattr(_operators.CuPy, "array", cupy_standin.DeviceArray)
        shown = cupy_standin.showing(machine, _operators.CUPY.view)
        monkeypatch.setattr(_operators.CUPY, "view", shown, raising=False)
        yield machine
