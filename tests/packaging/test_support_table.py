"""The README's support table says what is registered, and every hole has its reason."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from vsr_kernels import backend


@pytest.fixture(scope="module")
def made() -> ModuleType:
    path = Path(__file__).parents[2] / "docs" / "support_table.py"
    spec = importlib.util.spec_from_file_location("support_table", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_has_the_table(made: ModuleType) -> None:
    if found := made.obstacles():
        pytest.skip("; ".join(found))
    text = made.README.read_text()
    assert text.split(made.BEGIN)[1].split(made.END)[0] == made.table(), "run docs/support_table.py --write"


def test_every_operator_and_backend_is_in_it(made: ModuleType) -> None:
    assert set(backend.OPERATORS) < set(made.BACKWARD)
    assert set(backend.NAMES) < set(made.BACKENDS)


def test_a_hole_without_a_reason_is_an_error(made: ModuleType) -> None:
    for where, found in (("cuda", None), ("triton", "forward"), ("cpu", "forward")):
        with pytest.raises(RuntimeError, match=f"flow_warp on {where}: .*nothing says why"):
            made.explanation("flow_warp", where, found)
    assert made.explanation("flow_warp", "cuda", made.BOTH) is None
    assert made.explanation("flow_warp", "numpy", made.FORWARD) == "arrays have no gradients"
