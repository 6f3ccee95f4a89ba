"""The CUDA toolkit, and kernels run on the CPU by ptxvm."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from resources import budgets, by_family, launch_complaints

from ptxvm.cudart import Library
from vsr_kernels import build


@pytest.fixture(scope="session")
def toolkit() -> Path:
    """Root of the CUDA toolkit; skips where there is none."""
    root = build.cuda_root()
    if root is None or not (root / "bin" / "nvcc").is_file():
        pytest.skip("no CUDA toolkit: nvcc is not on PATH and CUDA_HOME is not set")
    return root


@pytest.fixture(scope="session")
def library(toolkit: Path) -> Iterator[Callable[[str], Library]]:
    """library(name) -> the host and device code of kernels/<name>.cu on ptxvm, with every check on; compiled once.

    In the end, everything that tests launched is held to the budgets of threads and shared memory.
    """
    loaded_ones: list[Library] = []

    @functools.cache
    def load(name: str) -> Library:
        before = os.environ.get("CUDA_HOME")
        os.environ["CUDA_HOME"] = str(toolkit)
        try:
            source = Path(__file__).with_name("kernels") / f"{name}.cu"
            options = ["-I", str(build.source_root()), "--expt-relaxed-constexpr"]
            loaded = Library.build([source], options=options)
        finally:
            if before is None:
                del os.environ["CUDA_HOME"]
            else:
                os.environ["CUDA_HOME"] = before
        loaded.options = {"check_uninitialized": True, "check_equal_stores": True}
        loaded_ones.append(loaded)
        return loaded

    yield load
    wrong = launch_complaints(loaded_ones, by_family(budgets()))
    assert not wrong, "\n".join(["csrc/cuda/budgets.toml:", *wrong])
