"""Which backends exist on this machine, why not the others, and which one runs an operator."""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from . import build, registration

#: Names that :func:`use_backend` takes, in the order of preference.
NAMES = ("cuda", "triton", "nvrtc", "cpu", "reference")

OPERATORS = (
    "conv3x3",
    "residual_block",
    "flow_warp",
    "pixel_shuffle",
    "pixel_unshuffle",
    "sparse_conv3x3",
    "sparse_residual_block",
)

#: Operators with CPU kernels only.
CPU_OPERATORS = ("conv7x7", "quantized_conv3x3")

#: Operators on tensor cores, which Turing has for float16 only.
TENSOR_CORE_OPERATORS = ("conv3x3", "residual_block", "sparse_conv3x3", "sparse_residual_block")

#: Lowest compute capability that is compiled for (build.CUDA_TARGETS), and the first with all kinds of tensor cores.
LOWEST_CAPABILITY, FULL_CAPABILITY = (7, 5), (8, 0)


class BackendStatus(NamedTuple):
    """Whether a backend can be used here, its operators, and the facts or the reason behind it."""

    available: bool
    operators: tuple[str, ...]
    detail: str


_NO_TRITON = "the package triton is not installed"
_NO_CUPY = "the package cupy is not installed"
_NO_GPU = "no GPU is visible"


class _State:
    """What has been loaded; written once under the lock, read without it."""

    def __init__(self) -> None:
        self.ready = False
        self.cpu_error = "not loaded"
        self.cuda_error = "not loaded"
        self.triton_error: str | None = None  # None until somebody needed it
        self.nvrtc_error: str | None = None  # likewise
        self.kernels: dict[str, frozenset[str]] = {"cpu": frozenset(), "cuda": frozenset(), "meta": frozenset()}
        self.forced: str | None = None
        self.warned: set[tuple[str, str]] = set()
        self.lock = threading.RLock()


_state = _State()


def load(*, compile_missing: bool = True) -> None:
    """Load the compiled operators; build them first where no object was installed.

    Operators call this by themselves. Call it before ``torch.compile`` where the package was installed without
    compiled objects, since a build cannot happen while tracing.

    Args:
        compile_missing: whether to compile when no installed object is found (a minute, for CUDA several;
            ``VSR_KERNELS_BUILD=none`` forbids it).
    """
    with _state.lock:
        if _state.ready:
            return
        cpu = build.installed_object("_C")
        cuda = build.installed_object("_C_cuda")
        if cpu is None and not compile_missing:
            return
        if cpu is None:
            try:
                cpu, cuda = build.build_at_first_use()
            except build.BuildError as error:
                _state.cpu_error = str(error)
        if cpu is not None:
            _load_objects(cpu, cuda)
        if not _state.kernels["cuda"] and torch.cuda.device_count():  # counted without initialising CUDA
            _load_triton()
        _state.ready = True


def _load_objects(cpu: Path, cuda: Path | None) -> None:
    try:
        torch.ops.load_library(str(cpu))
    except OSError as error:
        _state.cpu_error = f"{cpu.name} could not be loaded: {error}"
        return
    _state.cpu_error = ""
    registration.run(registration.COMPILED)
    if torch.version.cuda is None:
        _state.cuda_error = f"this torch ({torch.__version__}) has no CUDA"
    elif cuda is None:
        _state.cuda_error = "_C_cuda was not built: " + (build.cuda_obstacle() or "VSR_KERNELS_BUILD=cpu was in force")
    else:
        try:
            torch.ops.load_library(str(cuda))
            _state.cuda_error = ""
        except OSError as error:
            _state.cuda_error = f"{cuda.name} could not be loaded: {error}"
    for device, key in (("cpu", "CPU"), ("cuda", "CUDA")):
        _state.kernels[device] = frozenset(
            op
            for op in (*OPERATORS, *CPU_OPERATORS)
            if torch._C._dispatch_has_kernel_for_dispatch_key(f"vsr_kernels::{op}", key)
        )
    _state.kernels["meta"] = frozenset((*OPERATORS, *CPU_OPERATORS))


def _load_triton() -> None:
    """Register the Triton operators, where Triton is installed; a second or two, and only where they may run."""
    if _state.triton_error == "":
        return
    if importlib.util.find_spec("triton") is None:
        _state.triton_error = _NO_TRITON
        return
    try:
        importlib.import_module("vsr_kernels.triton")
    except Exception as error:  # an installed Triton that torch or this machine cannot use fails in many ways
        _state.triton_error = f"Triton could not be used: {error}"
        return
    registration.run(registration.TRITON)
    _state.triton_error = ""


def _load_nvrtc() -> None:
    """Register the operators that are compiled at run time, where they can be; the import of CuPy takes a second."""
    if _state.nvrtc_error is not None:
        return
    if torch.version.cuda is None:
        _state.nvrtc_error = f"this torch ({torch.__version__}) has no CUDA"
        return
    from . import nvrtc

    error = nvrtc.obstacle()
    if error is None:
        importlib.import_module("vsr_kernels.nvrtc.torch_operators")
        registration.run(registration.NVRTC)
    _state.nvrtc_error = error or ""


def interpreted() -> bool:
    """Whether Triton kernels run in Triton's interpreter, on the CPU: for tests, and for stepping through them.

    The environment variable TRITON_INTERPRET, by Triton's rule, which is asked for before Triton is imported.
    """
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on")


def operators(chosen: str) -> Any:
    """The namespace of ``torch.ops`` that holds the operators of a backend other than the reference."""
    namespaces = {"triton": registration.TRITON, "nvrtc": registration.NVRTC}
    return registration.operators(namespaces.get(chosen, registration.COMPILED))


def forced() -> str | None:
    """The backend that :func:`use_backend` is in force for, or None."""
    return _state.forced


def generic(op: str) -> str:
    """The backend whose kernel of ``op`` serves every layer on a GPU: ``cuda`` if it is compiled, else ``triton``."""
    return "cuda" if op in _state.kernels["cuda"] else "triton"


def specialised(op: str, chosen: str, x: Tensor, *, pruned: bool, differentiated: bool) -> str:
    """``nvrtc`` where a kernel may be compiled for the layer of this call, else ``chosen``.

    Args:
        op: the operator.
        chosen: what :func:`choose` found.
        x: the input; a fake tensor has nothing to launch on, and its trace is for every layer.
        pruned: whether the layer's channels are listed or no multiples of eight: what the generic kernel pads.
        differentiated: whether a gradient will be asked for.
    """
    if chosen not in ("cuda", "triton") or _state.forced is not None or not pruned or differentiated:
        return chosen
    if torch.compiler.is_compiling() or isinstance(x, FakeTensor) or interpreted():
        return chosen
    _load_nvrtc()
    return chosen if _state.nvrtc_error else "nvrtc"


def choose(op: str, x: Tensor) -> str:
    """The backend that runs ``op`` on ``x``, by its name.

    Raises:
        RuntimeError: a backend was forced that cannot run this.
    """
    if not _state.ready:
        if torch.compiler.is_compiling():
            raise RuntimeError(
                f"{op}: the compiled operators are not built yet; call vsr_kernels.load() before tracing"
            )
        load()
    forced = _state.forced
    if forced == "reference" or x.dtype == torch.float64:
        return "reference"
    device = x.device.type
    wanted = {"triton": "cpu" if interpreted() else "cuda", "nvrtc": "cuda"}.get(forced or "", forced)
    if wanted is not None and wanted != device:
        raise RuntimeError(f"{op}: use_backend({forced!r}): expected a tensor on {wanted}, got one on {device}")
    if forced == "nvrtc":
        missing = f"no CUDA kernel of {op} exists" if op in CPU_OPERATORS else _unfit(op, x)
        if missing is None:
            return "nvrtc"
        raise RuntimeError(f"{op}: use_backend('nvrtc'): no kernel: {missing}")
    missing = _missing(op, x)
    if missing is None and forced != "triton":
        return device
    if forced == "triton" or (device == "cuda" and op not in _state.kernels["cuda"]):
        obstacle = _NO_GPU if _state.triton_error is None else _state.triton_error or _unfit_for_triton(op, x)
        if obstacle is None:
            return "triton"
        missing = obstacle if forced == "triton" or missing is None else f"{missing}; in Triton: {obstacle}"
    if forced is not None:
        raise RuntimeError(f"{op}: use_backend({forced!r}): no kernel: {missing}")
    assert missing is not None  # else the device's own kernel was taken
    if (op, missing) not in _state.warned and not torch.compiler.is_compiling():
        _state.warned.add((op, missing))
        warnings.warn(f"vsr_kernels.{op} runs as plain PyTorch on {device}: {missing}", stacklevel=3)
    return "reference"


def _missing(op: str, x: Tensor) -> str | None:
    """Why there is no kernel of ``op`` for ``x``, or None."""
    device = x.device.type
    if op in _state.kernels.get(device, ()):
        return _unfit(op, x) if device == "cuda" else None
    error = {"cpu": _state.cpu_error, "cuda": _state.cuda_error or _state.cpu_error}.get(device, "no backend for it")
    return error or f"no {device} kernel of {op} exists"


def _unfit(op: str, x: Tensor) -> str | None:
    """Why x's GPU cannot run a kernel of ``op`` that exists, or None."""
    capability = compute_capability(x.device.index)
    if capability >= FULL_CAPABILITY:
        return None
    number = ".".join(map(str, capability))
    if capability < LOWEST_CAPABILITY:
        return f"the GPU has compute capability {number}, the kernels need {'.'.join(map(str, LOWEST_CAPABILITY))}"
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
    if op in TENSOR_CORE_OPERATORS and dtype != torch.float16:
        name = str(dtype).removeprefix("torch.")
        return f"the GPU (compute capability {number}) has tensor cores for float16 only, not for {name}"
    return None


def _unfit_for_triton(op: str, x: Tensor) -> str | None:
    """Why the Triton kernel of ``op`` cannot run on ``x``, or None."""
    if op in CPU_OPERATORS:
        return f"no Triton kernel of {op} exists"
    if interpreted():
        if op in TENSOR_CORE_OPERATORS and x.dtype == torch.bfloat16:
            return "Triton's interpreter multiplies matrices of bfloat16 wrongly"
        return None
    if torch.version.hip is None and (capability := compute_capability(x.device.index)) < FULL_CAPABILITY:
        return f"the GPU has compute capability {'.'.join(map(str, capability))}, Triton needs 8.0"
    return None


@torch.compiler.assume_constant_result
def compute_capability(index: int | None) -> tuple[int, int]:
    """Of a GPU; asked only for a tensor that is on one, so that CUDA is never initialised for the question.

    A fake tensor may be on a GPU that is not there: it is traced for one that can do everything.
    """
    return torch.cuda.get_device_capability(index) if torch.cuda.is_available() else FULL_CAPABILITY


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Context manager: run every operator on the named backend, in the whole process.

    float64 always runs as ``reference``.

    Args:
        name: ``cuda``, ``triton``, ``nvrtc``, ``cpu`` or ``reference``.

    Raises:
        ValueError: an unknown name.
        RuntimeError: a backend that does not exist here, with the reason.
    """
    if name not in NAMES:
        raise ValueError(f"use_backend: name: expected one of {', '.join(NAMES)}, got {name!r}")
    if name == "triton":
        load()
        _load_triton()
    if name == "nvrtc":
        load()
        _load_nvrtc()
    status = backends()[name]
    if not status.available:
        raise RuntimeError(f"use_backend: {name} is not available: {status.detail}")
    previous, _state.forced = _state.forced, name
    try:
        yield
    finally:
        _state.forced = previous


def backends() -> dict[str, BackendStatus]:
    """Every backend by name, in the order of preference, with its state and the reason where it cannot be used."""
    load()
    cpu_ok = bool(_state.kernels["cpu"])
    cpu_detail = f"instruction set {cpu_isa()}" if cpu_ok else _state.cpu_error
    cuda_error = _state.cpu_error or _state.cuda_error
    if not cuda_error and not torch.cuda.is_available():
        cuda_error = "no CUDA device is visible"
    cuda_detail = cuda_error or ", ".join(_describe(i) for i in range(torch.cuda.device_count()))
    return {
        "cuda": BackendStatus(not cuda_error, _in_order("cuda"), cuda_detail),
        "triton": _triton_status(),
        "nvrtc": _nvrtc_status(),
        "cpu": BackendStatus(cpu_ok, _in_order("cpu"), cpu_detail),
        "reference": BackendStatus(True, (*OPERATORS, *CPU_OPERATORS), f"plain PyTorch {torch.__version__}"),
    }


def _triton_status() -> BackendStatus:
    """Of Triton, which is not imported for the question."""
    error = _state.triton_error
    if error is None:
        error = _NO_TRITON if importlib.util.find_spec("triton") is None else ""
    if not error and not interpreted() and not torch.cuda.is_available():
        error = _NO_GPU
    detail = "in Triton's interpreter, on the CPU" if interpreted() else "Triton kernels, compiled at first use"
    return BackendStatus(not error, OPERATORS, error or detail)


def _nvrtc_status() -> BackendStatus:
    """Of run-time compilation, for which CuPy is not imported for the question."""
    error = _state.nvrtc_error
    if error is None:
        error = _NO_CUPY if importlib.util.find_spec("cupy") is None else ""
    if not error and not torch.cuda.is_available():
        error = _NO_GPU
    return BackendStatus(not error, OPERATORS, error or "CUDA kernels compiled for each layer, through CuPy")


def _describe(index: int) -> str:
    """A GPU's name and what it lacks."""
    name, capability = torch.cuda.get_device_name(index), compute_capability(index)
    if capability >= FULL_CAPABILITY:
        return name
    lack = "no kernels" if capability < LOWEST_CAPABILITY else "convolutions in float16 only"
    return f"{name} ({lack}: compute capability {'.'.join(map(str, capability))})"


def _in_order(device: str) -> tuple[str, ...]:
    return tuple(op for op in (*OPERATORS, *CPU_OPERATORS) if op in _state.kernels[device])


def cpu_isa() -> str:
    """Instruction set of the CPU kernels.

    ``amx_int8``, ``amx_bf16``, ``avx512_bf16``, ``avx512_vnni``, ``avx512``, ``avx2`` or ``portable``: the best one
    that the CPU has; the environment variable ``VSR_KERNELS_CPU_ISA`` (read once) names a lesser one.
    ``none`` without compiled kernels.
    """
    load()
    if not _state.kernels["cpu"]:
        return "none"
    return torch.ops.vsr_kernels.cpu_isa()
