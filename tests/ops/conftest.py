"""The AMX kernels, compiled once for all tests of a process."""

from __future__ import annotations

import pytest

import amxvm
from vsr_kernels import build


@pytest.fixture(scope="session")
def library() -> amxvm.Library:
    """The kernels on tile registers in software."""
    why_not = amxvm.obstacle()
    if why_not is not None:
        pytest.skip(why_not)
    return amxvm.Library(build.source_root(), ["-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers"])


@pytest.fixture(scope="session")
def shipped() -> amxvm.Library:
    """The kernels as they are compiled for the product."""
    why_not = amxvm.obstacle()
    if why_not is not None:
        pytest.skip(why_not)
    return amxvm.Library(build.source_root(), build.CXX_FLAGS, shipped=True)
