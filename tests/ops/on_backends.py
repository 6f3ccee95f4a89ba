"""Which tests run on which backend: parameters with the marks that skip, count and repeat them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import vsr_kernels
from ops.cases import DTYPES, OPERATORS, Case, Operator, cases
from vsr_kernels import backend as backend_module

#: Those that have gradients; nvrtc has none, and its tests are in tests/nvrtc.
BACKENDS = tuple(name for name in backend_module.NAMES if name != "nvrtc")
INTERPRETED = backend_module.interpreted()
CONVOLUTIONS = backend_module.TENSOR_CORE_OPERATORS

#: Every how manieth case is repeated for each instruction set, and used where a test takes a few cases only.
STRIDE = 4


def obstacle(operator: str, backend: str, dtype: torch.dtype) -> str | None:
    """Why ``operator`` cannot run on ``backend`` in ``dtype`` here, or None."""
    status = vsr_kernels.backends()[backend]
    if not status.available:
        return f"{backend}: {status.detail}"
    if operator in (*backend_module.OPERATORS, *backend_module.CPU_OPERATORS) and operator not in status.operators:
        return f"{backend}: no kernel of {operator} exists"
    if backend == "triton" and INTERPRETED and dtype == torch.bfloat16 and operator in CONVOLUTIONS:
        return "Triton's interpreter multiplies matrices of bfloat16 wrongly; the compiled kernels run in ptxvm"
    return None


def device_of(backend: str) -> str:
    """Where tensors of a test on ``backend`` live."""
    return "cuda" if backend == "cuda" or (backend == "triton" and not INTERPRETED) else "cpu"


@contextmanager
def on(backend: str) -> Iterator[None]:
    """Run operators on a backend and on nothing else."""
    with vsr_kernels.use_backend(backend):
        yield


def _marks(
    operator: str, backend: str, dtype: str, why_not: str | None, *, isa: bool = True, small: bool = True
) -> list[pytest.MarkDecorator]:
    marks = [pytest.mark.cell(operator, backend, dtype)]
    if device_of(backend) == "cuda":
        marks.append(pytest.mark.gpu)
    if why_not is not None:
        marks.append(pytest.mark.skip(reason=why_not))
    if backend == "triton" and INTERPRETED and small and why_not is None:
        marks.append(pytest.mark.interpreted)
    if backend == "cpu" and isa and dtype != "float64":  # which runs as reference
        marks.append(pytest.mark.isa)
    return marks


def _parameter(case: Case, backend: str, why_not: str | None) -> Any:
    name, dtype = case.operator.name, str(case.dtype).removeprefix("torch.")
    marks = _marks(name, backend, dtype, why_not, isa=few(case), small=interpretable(case))
    return pytest.param(backend, case, marks=marks, id=f"{name}-{backend}-{case.label}")


def keeps_all(backend: str, dtype: torch.dtype) -> bool:
    """Whether every case is run: kernels in their dtypes, the reference in float64. The rest is PyTorch's own work."""
    return (backend == "reference") == (dtype == torch.float64)


def parameters(
    operators: Sequence[Operator] = OPERATORS, keep: Callable[[Case], bool] = lambda case: True
) -> list[Any]:
    """(backend, case) for every backend and the cases that ``keep`` admits.

    Backends of one case follow each other, so that its truth is computed once. Where a backend is missing, one case
    per dtype stands for all of them and says why. Where a backend runs nothing of its own, few cases do.
    """
    made = []
    for operator in operators:
        seen: set[tuple[str, torch.dtype]] = set()
        for case in filter(keep, cases(operator)):
            for backend in BACKENDS:
                why_not = obstacle(operator.name, backend, case.dtype)
                if why_not is not None:
                    wanted = (backend, case.dtype) not in seen
                else:
                    wanted = keeps_all(backend, case.dtype) or few(case)
                if wanted:
                    made.append(_parameter(case, backend, why_not))
                    seen.add((backend, case.dtype))
    return made


def few(case: Case) -> bool:
    """Every fourth case: for tests of properties that do not hang on each size."""
    return case.number % STRIDE == 0


def interpretable(case: Case) -> bool:
    """Few and small cases: Triton's interpreter takes a second for a hundred products of matrix blocks."""
    row = case.row
    pixels = row.get("n", 0) * row.get("h", 0) * row.get("w", 0)
    channels = max((row.get(name, 0) for name in ("c", "c_in", "c_out", "c_mid", "c_res")), default=0)
    wide = channels * row.get("r", 1) ** 2
    return few(case) and 0 < pixels <= 100 and wide <= 48 and case.dtype != torch.float64


def every_dtype_and_backend() -> list[Any]:
    """One case per operator, dtype and backend: the first of its dtype."""
    first = {(op, dtype): next(c for c in cases(op) if c.dtype == dtype) for op in OPERATORS for dtype in DTYPES}
    return parameters(keep=lambda case: first[case.operator, case.dtype] is case)


def each(*operators: str, dtypes: Sequence[torch.dtype] = DTYPES, backends: Sequence[str] = BACKENDS) -> list[Any]:
    """(operator, backend, dtype), or (backend, dtype) of a single operator, for tests that make their own inputs."""
    made = []
    for operator in operators:
        for backend in backends:
            for dtype in dtypes:
                why_not = obstacle(operator, backend, dtype)
                name = str(dtype).removeprefix("torch.")
                values = (backend, dtype) if len(operators) == 1 else (operator, backend, dtype)
                made.append(
                    pytest.param(
                        *values, marks=_marks(operator, backend, name, why_not), id=f"{operator}-{backend}-{name}"
                    )
                )
    return made
