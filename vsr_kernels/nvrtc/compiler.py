"""NVRTC through CuPy, and a cache of what it made: by content of the sources, target and version, on disk.

Environment:
    VSR_KERNELS_CACHE_DIR: the folder of the cache, ``~/.cache/vsr_kernels`` by default.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from .. import build
from .launch import Kernel

#: Functions without a mark are for the device: the core's headers are shared with the host.
OPTIONS = ("-std=c++17", "-default-device")


def obstacle() -> str | None:
    """Why kernels cannot be compiled at run time here, or None."""
    if importlib.util.find_spec("cupy") is None:
        return "the package cupy is not installed"
    try:
        _nvrtc().getVersion()
    except Exception as error:  # an installed CuPy without its libraries fails in many ways
        return f"CuPy could not be used: {error}"
    if _cuda_headers() is None:
        return "no CUDA headers: neither the package nvidia-cuda-runtime nor a CUDA toolkit is installed"
    return None


def compile_kernel(kernel: Kernel, arch: str) -> Path:
    """The file that holds the compiled kernel, made now unless it is in the cache.

    Args:
        kernel: what to compile.
        arch: ``sm_80`` and the like for machine code, ``compute_80`` and the like for PTX.

    Raises:
        RuntimeError: it cannot be compiled here, with the reason.
    """
    reason = obstacle()
    if reason is not None:
        raise RuntimeError(f"nvrtc.compile_kernel: {reason}")
    source = kernel.source
    name = f"{_digest(source, arch)}.{'ptx' if arch.startswith('compute_') else 'cubin'}"
    kept = cache_folder() / name
    if kept.is_file():
        return kept
    compiled = _compile(kernel.entry, source, arch)
    try:
        _write(kept, compiled)
    except OSError:  # a folder that cannot be written to is no reason to fail
        kept = Path(_own_folder().name) / name
        _write(kept, compiled)
    return kept


def cache_folder() -> Path:
    """Where compiled kernels are kept."""
    given = os.environ.get("VSR_KERNELS_CACHE_DIR")
    root = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vsr_kernels"
    return root / "nvrtc"


@cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    """For this process alone; gone when it ends."""
    return tempfile.TemporaryDirectory(prefix="vsr_kernels-nvrtc-")


def _nvrtc() -> Any:
    return importlib.import_module("cupy.cuda").nvrtc


@cache
def _cuda_headers() -> Path | None:
    """The folder of cuda_fp16.h: of the package that CuPy's libraries come with, else of a toolkit."""
    folders = []
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        folders += [*sorted(Path(place).glob("cu[0-9]*/include"), reverse=True), Path(place, "cuda_runtime", "include")]
    toolkit = build.cuda_root()
    if toolkit is not None:
        folders.append(toolkit / "include")
    return next((folder for folder in folders if (folder / "cuda_fp16.h").is_file()), None)


@cache
def _headers_digest() -> bytes:
    """Hash of the device code of this package, as it was when first asked for."""
    digest = hashlib.sha256()
    root = build.source_root()
    for path in sorted([*root.glob("core/*.h"), *root.glob("cuda/*.cuh")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.digest()


def _digest(source: str, arch: str) -> str:
    """Hash of everything that the result depends on."""
    version = ".".join(map(str, _nvrtc().getVersion()))
    digest = hashlib.sha256("\0".join([source, arch, version, str(_cuda_headers()), *OPTIONS]).encode())
    digest.update(_headers_digest())
    return digest.hexdigest()[:32]


def _compile(entry: str, source: str, arch: str) -> bytes:
    nvrtc = _nvrtc()
    options = (*OPTIONS, f"-arch={arch}", f"-I{build.source_root()}", f"-I{_cuda_headers()}")
    program = nvrtc.createProgram(source, f"{entry}.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        compiled = nvrtc.getPTX(program) if arch.startswith("compute_") else nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program)
        raise RuntimeError(f"nvrtc.compile_kernel: NVRTC failed for {arch}: {error}\n{log[-2000:]}") from error
    finally:
        nvrtc.destroyProgram(program)
    return compiled.encode() if isinstance(compiled, str) else bytes(compiled)


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing, whoever else writes the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise
