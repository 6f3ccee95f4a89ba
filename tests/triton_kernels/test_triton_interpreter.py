"""The operator tests under Triton's interpreter, in a process of their own: it has to be chosen before kernels exist.

The interpreter runs a kernel's source with NumPy, program by program: it proves what the source says, in float32 and
float16. It multiplies matrices of bfloat16 wrongly; those run compiled, in ``test_triton_ptx.py``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vsr_kernels
from vsr_kernels import backend

pytest.importorskip("triton")

OPS = Path(__file__).resolve().parent.parent / "ops"
LOW = ("float32", "float16")
CELLS = [(op, "triton", dtype) for op in (*backend.OPERATORS, "flow_warp_concat") for dtype in LOW]
CELLS += [(op, "triton", "bfloat16") for op in ("flow_warp", "flow_warp_concat", "pixel_shuffle", "pixel_unshuffle")]


def cells(test: pytest.MarkDecorator | object) -> object:
    """Mark a test with every cell of the table that the inner run covers."""
    for cell in CELLS:
        test = pytest.mark.cell(*cell)(test)
    return test


def run(*arguments: str, timeout: int) -> int:
    """Run operator tests in the interpreter; how many passed."""
    root = Path(vsr_kernels.__file__).resolve().parent.parent
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": f"{root}{os.pathsep}{root / 'python'}"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=timeout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return int(re.findall(r"(\d+) passed", done.stdout.splitlines()[-1])[0])


@cells
def test_small_cases() -> None:
    files = [str(OPS / f"test_{name}.py") for name in ("values", "edges")]
    assert run("-m", "interpreted", *files, timeout=550) > 200


@pytest.mark.slow
@pytest.mark.timeout(7300)
def test_every_case() -> None:
    files = [str(OPS / f"test_{name}.py") for name in ("values", "edges", "exact", "determinism", "autocast")]
    assert run("-m", "", "-k", "triton and not float64", *files, timeout=7200) > 1000


def test_kernels_that_are_not_interpreted_are_refused_tensors_of_the_cpu() -> None:
    """Elsewhere the backend needs a GPU, and says so."""
    status = vsr_kernels.backends()["triton"]
    if status.available:
        pytest.skip("a GPU is visible")
    with (
        pytest.raises(RuntimeError, match="triton is not available: no GPU is visible"),
        vsr_kernels.use_backend("triton"),
    ):
        pass
