"""Host code with <<<>>> launches, run against the stand-in runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ptxvm
from ptxvm import cudart

KERNELS = Path(__file__).with_name("kernels")


@pytest.fixture(scope="module")
def library():
    return cudart.Library.build([KERNELS / "host.cu"])


def test_template_dispatch_and_geometry(library):
    x = np.arange(1000, dtype=np.float32)
    assert library.call("run_multiply", x, 1000, 3, 128) == 0
    assert (x == np.arange(1000) * 3).all()
    assert library.launches[-1][1:4] == ((8, 1, 1), (128, 1, 1), 0)
    assert library.call("run_multiply", x, 1000, 2, 100) == 0
    assert (x == np.arange(1000) * 6).all()
    assert library.call("run_multiply", x, 1000, 4, 100) == -1


def test_launch_limits(library):
    x = np.zeros(100, np.float32)
    assert library.call("run_multiply", x, 100, 2, 1025) == 9  # cudaErrorInvalidConfiguration
    assert library.call("run_multiply", x, 0, 2, 128) == 9  # an empty grid
    assert library.call("run_multiply", x, 100, 2, 1024) == 0
    assert library.call("run_bounded", x, 160) == 1
    assert library.call("run_bounded", x, 96) == 0


def test_shared_memory_opt_in(library):
    for n, opt_in, expected in [
        (12 * 1024, 0, 0),
        (12 * 1024 + 1, 0, 1),
        (40 * 1024, 1, 0),
        (42 * 1024, 1, -2),
        (42 * 1024, 2, 1),
    ]:
        x = np.arange(n, dtype=np.int32)
        y = np.zeros_like(x)
        for module in library.modules:
            module.shared_limit.clear()
        assert library.call("run_reverse", x, y, n, opt_in) == expected
        if expected == 0:
            assert (y == x[::-1]).all()


def test_device_memory_and_symbols(library):
    x, f, y = np.arange(32, dtype=np.float32), np.array([1, 2, 3, 4], np.float32), np.zeros(32, np.float32)
    assert library.call("run_scale", x, y, f) == 0
    assert (y == x * np.tile(f, 8)).all()


def test_extended_launch(library):
    x = np.ones(100, np.float32)
    assert library.call("run_extended", x, 100) == 0
    assert (x == 5).all()


def test_fault_surfaces_as_exception(library):
    x = np.zeros(100, np.float32)
    with pytest.raises(ptxvm.OutOfBounds, match="argument 0 of run_multiply"):
        library.call("run_multiply", x, 101, 2, 128)


def test_device_queries(library):
    assert library.call("properties") == 8108
    assert library.call("occupancy", 256, 0) == 8
    assert library.call("occupancy", 256, 50 * 1024) == 3


def test_tensor_map_from_host_code():
    library = cudart.Library.build([KERNELS / "tensor_map.cu"], arch="sm_90")
    backing = np.zeros(40 * 80 + 8, np.uint16)
    skip = -backing.ctypes.data % 16 // 2
    x = backing[skip : skip + 40 * 80].reshape(40, 80)
    x[...] = np.arange(40 * 80).reshape(40, 80)
    y = np.ones((16, 64), np.uint16)
    assert library.call("run_tile", x, y, 40, 80, 32, 30) == 0
    expected = np.zeros((16, 64), np.uint16)
    expected[:10, :48] = x[30:, 32:]
    assert (y == expected).all()
    assert library.call("run_tile", x, y, 40, 76, 0, 0) == -1  # rows are not a multiple of 16 bytes
