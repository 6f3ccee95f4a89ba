"""Compiles CUDA sources once per session."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import ptxvm
from ptxvm.toolkit import find_tool


@functools.cache
def compiled(source: Path, arch: str, options: tuple[str, ...]) -> str:
    return ptxvm.compile_cuda(source, arch, options)


@pytest.fixture(scope="session")
def cuda() -> Callable[..., ptxvm.Module]:
    """cuda(path, arch=..., options=...) -> a fresh Module; skips where the compiler is missing."""
    if find_tool("nvcc") is None:
        pytest.skip("nvcc is not installed")

    def build(source: Path, arch: str = "sm_80", options: Sequence[str] = ()) -> ptxvm.Module:
        return ptxvm.Module.from_ptx(compiled(source, arch, tuple(options)))

    return build
