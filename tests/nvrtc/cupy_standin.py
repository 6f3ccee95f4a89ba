"""CuPy without a GPU: arrays of the host that look like the device's, and launches that run in ptxvm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ptxvm.cupy_calls import Machine
from vsr_kernels.nvrtc import device
from vsr_kernels.nvrtc.launch import View

#: What NVRTC compiles for here, and the limits of a GPU that has it (A100).
ARCH = "compute_80"
PROPERTIES = {
    "major": 8,
    "minor": 0,
    "multiProcessorCount": 108,
    "sharedMemPerBlockOptin": 166912,
    "sharedMemPerMultiprocessor": 167936,
}


class Gpu(nullcontext[None]):
    """A device, and that it is the current one."""

    id = 0


GPU = Gpu()


class DeviceArray(np.ndarray[Any, Any]):
    """What of ``cupy.ndarray`` the operators use."""

    @property
    def device(self) -> Gpu:  # type: ignore[override]
        return GPU

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)


def on_device(x: Any, offset: int = 0) -> Any:
    """The same strided array in the device's memory, from ``offset`` elements behind an aligned address on."""
    if not isinstance(x, np.ndarray):
        return x
    ordered = tuple(np.argsort([-stride for stride in x.strides], kind="stable"))
    room = empty((x.size + offset,), x.dtype)[offset:]
    placed = room.reshape([x.shape[axis] for axis in ordered]).transpose(np.argsort(ordered))
    placed[...] = x
    return placed


def empty(shape: Any, dtype: Any) -> DeviceArray:
    """Aligned as CuPy's pool does it, and full of NaN."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape))
    backing = np.full(count * dtype.itemsize + 256, 0xFF, np.uint8)
    first = -backing.ctypes.data % 256
    return backing[first : first + count * dtype.itemsize].view(dtype).reshape(shape).view(DeviceArray)


def cupy(machine: Machine) -> SimpleNamespace:
    """The module."""
    return SimpleNamespace(
        ndarray=DeviceArray,
        empty=empty,
        ascontiguousarray=lambda x: x if x.flags.c_contiguous else on_device(np.ascontiguousarray(x)),
        may_share_memory=np.may_share_memory,
        RawModule=machine.raw_module,
        cuda=SimpleNamespace(
            Device=lambda: GPU,
            get_current_stream=lambda: SimpleNamespace(ptr=0),
            runtime=SimpleNamespace(getDeviceProperties=lambda index: PROPERTIES),
        ),
    )


def showing(machine: Machine, view: Callable[[Any], View]) -> Callable[[Any], View]:
    """``view``, whose arrays kernels can then reach."""

    def shown(array: Any) -> View:
        found = view(array)
        machine.show(found.pointer, found.shape, found.strides, 2 if "16" in found.dtype else array.itemsize, array)
        return found

    return shown


@contextmanager
def launching() -> Iterator[Machine]:
    """Launches of :mod:`vsr_kernels.nvrtc.device` run in ptxvm, with all its checks."""
    machine = Machine(check_uninitialized=True, check_equal_stores=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "cupy", lambda: cupy(machine))
        patch.setattr(device, "architecture", lambda capability: ARCH)
        patch.setattr(device, "COMPILATIONS", device.Compilations())
        device.device.cache_clear()
        yield machine
        device.device.cache_clear()
