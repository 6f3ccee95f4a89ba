"""Runs host code that launches kernels with <<<>>>, against a stand-in CUDA runtime.

``Library.build(sources)`` compiles .cu files into a shared library in which the CUDA
runtime is replaced by ``cudart.cpp``; launches come back here and run in the virtual
machine, on the PTX of the very same compilation.  Device pointers are host pointers.
"""

from __future__ import annotations

import ctypes
import functools
import os
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import tensormap
from .aliases import Array, Triple
from .devices import Device, limits, occupancy
from .errors import LaunchError, PtxError
from .memory import Memory, Region
from .module import Module, triple
from .stats import Stats
from .toolkit import run_tool

if TYPE_CHECKING:
    from .stats import Stats

ERROR_CODES = {"cudaErrorInvalidValue": 1, "cudaErrorInvalidConfiguration": 9, "cudaErrorLaunchFailure": 719}
SIGNATURES = {
    "launch": ctypes.CFUNCTYPE(
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.POINTER(ctypes.c_uint),
        ctypes.POINTER(ctypes.c_uint),
        ctypes.POINTER(ctypes.c_void_p),
        ctypes.c_size_t,
    ),
    "set_shared": ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_int),
    "function_attribute": ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_int),
    "device_attribute": ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int),
    "occupancy": ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t),
    "allocate": ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t),
    "release": ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p),
    "symbol": ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p),
    "symbol_size": ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_char_p),
    "encode_map": ctypes.CFUNCTYPE(
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_uint64),
        ctypes.POINTER(ctypes.c_uint64),
        ctypes.POINTER(ctypes.c_uint32),
        ctypes.c_int,
    ),
}


class HostMemory(Memory):
    """Global memory whose addresses are real host addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, Array] = {}

    def alloc(self, nbytes: int, name: str = "buffer", fill: int = 0xCD) -> int:
        """A new buffer filled with ``fill``; returns its host address."""
        backing = np.full(nbytes + 512, fill, np.uint8)
        address = (backing.ctypes.data + 255) // 256 * 256
        start = address - backing.ctypes.data
        self.kept[address] = backing
        self._insert(Region(address, nbytes, backing[start : start + (nbytes + 31) // 32 * 32], name))
        return address

    def attach(self, array: Array, name: str = "array") -> int:
        """Make an array visible at its own address."""
        self.attach_host(array.ctypes.data, array.nbytes, name)
        return array.ctypes.data

    def free(self, address: int) -> None:
        """Forget a buffer."""
        super().free(address)
        self.kept.pop(address, None)


def device_attributes(device: Device) -> dict[int, int]:
    """cudaDeviceAttr numbers and what the simulated device answers."""
    return {
        1: limits.threads_per_block,
        2: limits.block[0],
        3: limits.block[1],
        4: limits.block[2],
        5: limits.grid[0],
        6: limits.grid[1],
        7: limits.grid[2],
        8: limits.default_dynamic_shared,
        10: 32,
        12: device.registers_per_multiprocessor,
        13: 1_500_000,
        16: device.multiprocessors,
        31: 1,
        38: device.l2_bytes,
        39: device.threads_per_multiprocessor,
        75: device.major,
        76: device.minor,
        81: device.shared_per_multiprocessor,
        82: device.registers_per_multiprocessor,
        97: device.shared_optin,
        106: device.blocks_per_multiprocessor,
        111: device.reserved_shared,
    }


@functools.cache
def runtime_object() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    """The compiled stand-in runtime (built once per process), and the folder that holds it as long as it is kept."""
    folder = tempfile.TemporaryDirectory(prefix="ptxvm-")
    target = Path(folder.name, "cudart.o")
    source = Path(__file__).with_name("cudart.cpp")
    run_tool("nvcc", ["-c", "-O1", "-x", "c++", "-Xcompiler", "-fPIC", str(source), "-o", str(target)])
    return folder, target


class Launch(NamedTuple):
    """One launch of a kernel from host code; ``kernel`` is its mangled name."""

    kernel: str
    grid: Triple
    block: Triple
    shared_bytes: int
    stats: Stats


class Library:
    """A shared library of host and device code, loaded against the stand-in runtime.

    Args:
        path: the library; it may be deleted once this is made.
        modules: the device code.
        memory: host memory that kernels may touch.
        device: the simulated device.
    """

    def __init__(
        self, path: str | os.PathLike[str], modules: Sequence[Module], memory: HostMemory, device: Device
    ) -> None:
        self.device, self.memory, self.modules = device, memory, modules
        self.owner = {name: module for module in modules for name in module.entries}
        self.attributes = device_attributes(device)
        self.error: Exception | None = None  # of the last failed launch
        self.launches: list[Launch] = []
        self.options: dict[str, Any] = {}  # overrides of Options for every launch
        self.arrays: list[Array] = []  # those that kernels may touch during a call
        self.handle = ctypes.CDLL(str(path))
        table = type("Callbacks", (ctypes.Structure,), {"_fields_": list(SIGNATURES.items())})
        self.callbacks = table(*[kind(getattr(self, f"_{name}")) for name, kind in SIGNATURES.items()])
        self.handle.ptxvm_connect(ctypes.byref(self.callbacks))

    @classmethod
    def build(
        cls,
        sources: Sequence[str | os.PathLike[str]],
        arch: str = "sm_80",
        options: Sequence[str] = (),
        device: Device | None = None,
    ) -> Library:
        """Compile .cu files and load the result.

        Args:
            sources: .cu files, and what else nvcc can link.
            arch: target of the PTX that runs.
            options: more options of nvcc.
            device: the simulated device, by default that of ``arch``.

        Raises:
            PtxError: nvcc is missing or failed.
        """
        with tempfile.TemporaryDirectory(prefix="ptxvm-") as folder:
            paths = [Path(source) for source in sources]
            library = Path(folder, "library.so")
            virtual = arch.replace("sm_", "compute_")
            target = ["-gencode", f"arch={virtual},code={virtual}", "-std=c++17", "-lineinfo"]
            linking = ["-shared", "-cudart=none", "-Xcompiler", "-fPIC", "-Xlinker", "-Bsymbolic"]
            kept = ["--keep", "--keep-dir", folder]  # the PTX of this very compilation
            inputs = [*map(str, paths), str(runtime_object()[1])]
            run_tool("nvcc", [*target, *linking, *kept, *options, *inputs, "-o", str(library)])
            memory, device = HostMemory(), device or Device.for_target(arch)
            modules = [
                Module(Path(folder, f"{path.stem}.ptx").read_text(), memory=memory, device=device)
                for path in paths
                if path.suffix == ".cu"
            ]
            return cls(library, modules, memory, device)

    def call(self, name: str, *args: Any, restype: Any = ctypes.c_int) -> Any:
        """Call an exported C function; arrays are passed by pointer and visible to kernels."""
        function = getattr(self.handle, name)
        function.restype = restype
        borrowed: list[int] = []
        converted: list[Any] = []
        self.arrays = [value for value in args if isinstance(value, np.ndarray)]
        try:
            for index, value in enumerate(args):
                if isinstance(value, np.ndarray):
                    if self.memory.region(value.ctypes.data) is None:
                        borrowed.append(self.memory.attach(value, f"argument {index} of {name}"))
                    value = ctypes.c_void_p(value.ctypes.data)
                elif isinstance(value, float | np.floating):  # a plain float is a C float
                    kind = ctypes.c_double if isinstance(value, np.float64) else ctypes.c_float
                    value = kind(float(value))
                elif isinstance(value, np.integer):
                    value = np.ctypeslib.as_ctypes_type(value.dtype)(value)
                converted.append(value)
            self.error = None
            result = function(*converted)
        finally:
            for address in borrowed:
                self.memory.free(address)
        if self.error is not None and not isinstance(self.error, LaunchError):
            raise self.error
        return result

    @property
    def stats(self) -> Stats:
        """Statistics of the last launch."""
        return self.launches[-1].stats

    # -- callbacks ---------------------------------------------------------------------
    def _launch(self, name: bytes, grid: Any, block: Any, args: Any, shared: int) -> int:
        kernel = name.decode()
        try:
            module = self.owner[kernel]
            params = bytearray(module.program(kernel).parameter_bytes)
            for index, var in enumerate(module.entries[kernel].params):
                params[var.offset : var.offset + var.bytes] = ctypes.string_at(args[index], var.bytes)
            shape, threads = triple(grid[0:3]), triple(block[0:3])
            stats = module.launch_raw(kernel, shape, threads, bytes(params), shared, **self.options)
            for array in self.arrays:
                stats.note_written(array, self.memory.region(array.ctypes.data))
            self.launches.append(Launch(kernel, shape, threads, shared, stats))
            return 0
        except LaunchError as error:
            self.error = error
            return ERROR_CODES.get(error.code, 999)
        except Exception as error:  # must not unwind through C; call() raises it again
            if not isinstance(error, PtxError):
                traceback.print_exc()
            self.error = error
            return ERROR_CODES["cudaErrorLaunchFailure"]

    def _set_shared(self, name: bytes, nbytes: int) -> int:
        try:
            self.owner[name.decode()].allow_shared(name.decode(), nbytes)
            return 0
        except LaunchError as error:
            self.error = error
            return ERROR_CODES[error.code]

    def _function_attribute(self, name: bytes, which: int) -> int:
        kernel = name.decode()
        module = self.owner[kernel]
        program = module.program(kernel)
        return (
            program.static_shared,
            module.shared_limit.get(kernel, limits.default_dynamic_shared - program.static_shared),
            limits.threads_per_block,
            program.local_bytes,
        )[which]

    def _device_attribute(self, which: int) -> int:
        return self.attributes.get(which, 0)

    def _occupancy(self, name: bytes, threads: int, shared: int) -> int:
        if not 1 <= threads <= limits.threads_per_block:
            return 0
        program = self.owner[name.decode()].program(name.decode())
        # PTX does not say how many registers ptxas will take: few, so that they are no limit.
        return occupancy(self.device, threads, 16, shared + program.static_shared).blocks

    def _allocate(self, nbytes: int) -> int | None:
        return self.memory.alloc(nbytes, "cudaMalloc buffer") if nbytes else None

    def _release(self, pointer: int) -> int:
        if pointer not in self.memory.bases:
            return ERROR_CODES["cudaErrorInvalidValue"]
        self.memory.free(pointer)
        return 0

    def _variable(self, name: bytes) -> Module:
        return next(m for m in self.modules if name.decode() in m.symbols)

    def _symbol(self, name: bytes) -> int:
        return self._variable(name).symbols[name.decode()]

    def _symbol_size(self, name: bytes) -> int:
        return self._variable(name).parsed.variables[name.decode()].bytes

    def _encode_map(
        self, target: int, itemsize: int, rank: int, address: int, shape: Any, strides: Any, box: Any, swizzle: int
    ) -> int:
        try:
            data = tensormap.encode(
                address, shape[:rank], box[:rank], itemsize, [itemsize, *strides[: rank - 1]], swizzle
            )
        except LaunchError as error:
            self.error = error
            return ERROR_CODES[error.code]
        ctypes.memmove(target, data, len(data))
        return 0
