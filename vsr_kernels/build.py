"""The one list of sources and flags, for setup.py and for building at first use.

Two objects through the LibTorch stable ABI: ``_C`` (schemas and CPU kernels) and ``_C_cuda`` (CUDA kernels). They are
apart because an object linked against CUDA does not load in a torch without it. Whether a GPU is present is never asked
here: machines that build often have none. The third, ``_numpy`` (the CPU kernels on NumPy arrays, through pybind11),
needs no torch, neither to be built nor to be used; it goes along with the others wherever pybind11 is found.

Environment:
    VSR_KERNELS_BUILD: ``auto`` (default: whatever the machine can build), ``cpu``, ``cuda`` (``_C`` and ``_C_cuda``, an
        error if that is impossible), ``numpy`` (``_numpy`` alone, likewise) or ``none``.
    TORCH_CUDA_ARCH_LIST: CUDA targets, as in torch; :data:`CUDA_TARGETS` by default.
    MAX_JOBS: parallel compile jobs.
    TORCH_EXTENSIONS_DIR: where a build at first use goes, as in torch.
    CUDA_HOME: the CUDA toolkit, if it should not be the one of the nvcc on PATH.

This file imports nothing of the package, because setup.py loads it alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: Turing (fp16 tensor cores only) to Blackwell, and PTX of the highest for what comes after.
CUDA_TARGETS = "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"

#: Oldest torch on which the objects load: 2.10, as TORCH_TARGET_VERSION encodes it.
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY"]

#: The CPU kernels, which ``_C`` and ``_numpy`` share: compiled once where both are built.
CORE = [
    "cpu/dispatch.cpp",
    "cpu/gather.cpp",
    "cpu/kernels_amx_bf16.cpp",
    "cpu/kernels_amx_int8.cpp",
    "cpu/kernels_avx2.cpp",
    "cpu/kernels_avx512.cpp",
    "cpu/kernels_avx512_bf16.cpp",
    "cpu/kernels_avx512_vnni.cpp",
    "cpu/kernels_portable.cpp",
    "cpu/quantized.cpp",
    "cpu/scratch.cpp",
]

SOURCES = {
    "_C": [
        *CORE,
        "torch/conv_cpu.cpp",
        "torch/library.cpp",
        "torch/quantized_cpu.cpp",
        "torch/shuffle_cpu.cpp",
        "torch/warp_cpu.cpp",
    ],
    "_C_cuda": [
        "cuda/conv3x3.cu",
        "cuda/conv3x3_bf16.cu",
        "cuda/conv3x3_epilogue.cu",
        "cuda/conv3x3_f16.cu",
        "cuda/conv3x3_f32.cu",
        "cuda/conv3x3_pack.cu",
        "cuda/conv3x3_wgrad.cu",
        "cuda/conv3x3_wgrad_bf16.cu",
        "cuda/conv3x3_wgrad_f16.cu",
        "cuda/conv3x3_wgrad_f32.cu",
        "cuda/flow_warp.cu",
        "cuda/flow_warp_backward.cu",
        "cuda/pixel_shuffle.cu",
        "cuda/residual_block.cu",
        "cuda/residual_block_bf16.cu",
        "cuda/residual_block_f16.cu",
        "cuda/thin_net.cu",
        "cuda/thin_net_bf16.cu",
        "cuda/thin_net_f16.cu",
        "torch/chain_cuda.cpp",
        "torch/conv_cuda.cpp",
        "torch/shuffle_cuda.cpp",
        "torch/warp_cuda.cpp",
    ],
    "_numpy": [
        *CORE,
        "numpy/module.cpp",
        "numpy/threads.cpp",
    ],
}

CXX_FLAGS = [
    "-O3",
    "-g0",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-missing-field-initializers",  # designated initialisers leave the rest at its default on purpose
    "-Wno-unused-parameter",  # torch's headers
]
NVCC_FLAGS = ["-O3", "--expt-relaxed-constexpr", "-Xfatbin=-compress-all", "-Xcompiler=-fvisibility=hidden"]

MODES = ("auto", "cpu", "cuda", "numpy", "none")


class BuildError(RuntimeError):
    """The compiled operators cannot be built here; the message says why."""


def mode() -> str:
    """VSR_KERNELS_BUILD, checked."""
    value = os.environ.get("VSR_KERNELS_BUILD", "auto")
    if value not in MODES:
        raise BuildError(f"VSR_KERNELS_BUILD: expected one of {', '.join(MODES)}, got {value!r}")
    return value


def source_root() -> Path:
    """The folder ``csrc``: inside an installed package, beside the package in a checkout."""
    here = Path(__file__).resolve().parent
    for root in (here / "csrc", here.parent / "csrc"):
        if (root / "torch" / "library.cpp").is_file():
            return root
    raise BuildError(f"the C++ sources were not found: expected the folder csrc in {here} or {here.parent}")


def installed_object(name: str) -> Path | None:
    """The object that an installation compiled, or None."""
    path = Path(__file__).resolve().parent / f"{name}.abi3.so"
    return path if path.is_file() else None


def cxx_obstacle() -> str | None:
    """Why no C++ compiler can be used, or None."""
    cxx = os.environ.get("CXX", "c++")
    return (
        None if shutil.which(cxx.split()[0]) else f"no C++ compiler: {cxx!r} is not on PATH (Debian: apt install g++)"
    )


def cuda_root() -> Path | None:
    """Root of the CUDA toolkit, from CUDA_HOME or from what nvcc itself says.

    The folder above the nvcc on PATH is no evidence: that nvcc may be a wrapper script or a link.
    """
    if os.environ.get("CUDA_HOME"):
        return Path(os.environ["CUDA_HOME"])
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        default = Path("/usr/local/cuda")
        return default if (default / "bin" / "nvcc").is_file() else None
    dry = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False)
    top = re.search(r"^#\$ TOP=(.+)$", dry.stderr, re.MULTILINE)
    return Path(top.group(1).strip()).resolve() if top else None


def cuda_obstacle() -> str | None:
    """Why ``_C_cuda`` cannot be built here, or None."""
    import torch

    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) has no CUDA"
    root = cuda_root()
    if root is None:
        return "no CUDA toolkit: nvcc is not on PATH and CUDA_HOME is not set"
    library = [root / "lib64" / "libcudart.so", root / "lib" / "libcudart.so"]
    for missing in (root / "bin" / "nvcc", root / "include" / "cuda_runtime.h"):
        if not missing.is_file():
            return f"the CUDA toolkit at {root} is not whole: {missing} is missing"
    if not any(path.is_file() for path in library):
        return f"the CUDA toolkit at {root} is not whole: {library[0]} is missing"
    version = subprocess.run([root / "bin" / "nvcc", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"release (\d+)\.(\d+)", version)
    if not found:
        return f"{root / 'bin' / 'nvcc'} --version gave no version"
    if found.group(1) != torch.version.cuda.split(".")[0]:
        return (
            f"nvcc is {found.group(1)}.{found.group(2)} and torch was built for CUDA {torch.version.cuda}: install a "
            f"toolkit {torch.version.cuda.split('.')[0]}.x or a torch for CUDA {found.group(1)}"
        )
    return None


def numpy_obstacle() -> str | None:
    """Why ``_numpy`` cannot be built here, or None."""
    missing = importlib.util.find_spec("pybind11") is None
    return cxx_obstacle() or ("pybind11 is not installed (pip install pybind11)" if missing else None)


def objects() -> list[str]:
    """The objects for torch to build in this mode on this machine, in build order.

    Raises:
        BuildError: the mode asks for what this machine cannot build.
    """
    wanted = mode()
    if wanted in ("numpy", "none"):
        return []
    obstacle = cxx_obstacle()
    if obstacle:
        if wanted == "auto":
            _say(f"building no object: {obstacle}")
            return []
        raise BuildError(f"VSR_KERNELS_BUILD={wanted}: {obstacle}")
    if wanted == "cpu":
        return ["_C"]
    obstacle = cuda_obstacle()
    if obstacle and wanted == "cuda":
        raise BuildError(f"VSR_KERNELS_BUILD=cuda: {obstacle}")
    if obstacle:
        _say(f"building the CPU object only: {obstacle}")
        return ["_C"]
    return ["_C", "_C_cuda"]


def _say(text: str) -> None:
    print(f"vsr_kernels: {text}", file=sys.stderr)


def target_flags() -> list[str]:
    """nvcc's flags for the targets in TORCH_CUDA_ARCH_LIST; none, which leaves them to torch, where it holds names.

    Targets 8.x share what comes before their machine code: nothing in the sources, or in CUDA's headers that they use,
    tells one from another, and the machine code comes out the same. That saves two of seven runs of the compiler.
    """
    targets = re.split(r"[;\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", CUDA_TARGETS).strip("; "))
    if not all(re.fullmatch(r"\d+\.\d(\+PTX)?", target) for target in targets):
        return []
    numbers = sorted({int(target.removesuffix("+PTX").replace(".", "")) for target in targets})
    found = []
    for number in numbers:
        first = next(other for other in numbers if other == number or other // 10 == number // 10 == 8)
        found.append(f"-gencode=arch=compute_{first},code=sm_{number}")
        if any(target == f"{number // 10}.{number % 10}+PTX" for target in targets):
            found.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return found


def flags(name: str) -> dict[str, list[str]]:
    """Compiler flags of an object, by compiler."""
    if name == "_numpy":
        return {"cxx": [*CXX_FLAGS, "-std=c++20"]}
    if name == "_C":
        return {"cxx": CXX_FLAGS + STABLE_ABI}
    return {"cxx": CXX_FLAGS + STABLE_ABI + ["-DUSE_CUDA"], "nvcc": NVCC_FLAGS + target_flags()}


def sources(name: str) -> list[Path]:
    """Source files of an object."""
    return [source_root() / path for path in SOURCES[name]]


def prepare_cuda() -> None:
    """Set what torch's extension builder reads from the environment: the toolkit's true root and the targets."""
    root = cuda_root()
    if root is not None:
        os.environ["CUDA_HOME"] = str(root)
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", CUDA_TARGETS)
    if "torch.utils.cpp_extension" in sys.modules:  # it reads CUDA_HOME once, when it is imported
        sys.modules["torch.utils.cpp_extension"].CUDA_HOME = os.environ.get("CUDA_HOME")  # type: ignore[attr-defined]


def extensions() -> tuple[list[Any], dict[str, Any]]:
    """``ext_modules`` and ``cmdclass`` for setup.py; empty where nothing can or is to be built.

    Raises:
        BuildError: the mode asks for what this machine cannot build.
    """
    if mode() == "none":
        return [], {}
    names = objects() if mode() != "numpy" and _torch_is_here() else []
    obstacle = numpy_obstacle()
    if obstacle and mode() == "numpy":
        raise BuildError(f"VSR_KERNELS_BUILD=numpy: {obstacle}")
    if obstacle:
        _say(f"building no NumPy object: {obstacle}")
    if not names and obstacle:
        return [], {}
    if "_C_cuda" in names:
        prepare_cuda()
    command = _build_command(with_torch=bool(names))
    made = [_torch_extension(name) for name in names]
    if not obstacle:
        made.append(_numpy_extension(shares_core=bool(names)))
    return made, {"build_ext": command}


def _torch_is_here() -> bool:
    """Whether torch can be imported; where that was asked for, it has to be."""
    try:
        import torch  # noqa: F401
    except ImportError:
        if mode() != "auto":
            raise BuildError(
                f"VSR_KERNELS_BUILD={mode()}: torch is not importable in this build; install torch first and use "
                "pip install --no-build-isolation"
            ) from None
        _say(
            "torch is not importable in this (isolated) build: its operators are not compiled now but at first use; to "
            "compile them now: pip install --no-build-isolation ."
        )
        return False
    return True


def _relative(paths: Iterable[Path]) -> list[str]:
    return [os.path.relpath(path, source_root().parent) for path in paths]


def _torch_extension(name: str) -> Any:
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    kind = CUDAExtension if name == "_C_cuda" else CppExtension
    return kind(
        f"vsr_kernels.{name}",
        _relative(sources(name)),
        include_dirs=[str(source_root())],
        extra_compile_args=flags(name),
        py_limited_api=True,
    )


def _numpy_extension(shares_core: bool) -> Any:
    """``_numpy``; the core is linked from the objects of ``_C`` where that is built before it."""
    import pybind11
    from setuptools import Extension

    own = [path for path in SOURCES["_numpy"] if not (shares_core and path in CORE)]
    return Extension(
        "vsr_kernels._numpy",
        _relative(source_root() / path for path in own),
        include_dirs=[str(source_root()), pybind11.get_include()],
        extra_compile_args=flags("_numpy")["cxx"],
        language="c++",
    )


def _build_command(with_torch: bool) -> Any:
    """The command ``build_ext``: torch's, which then hands the core's objects on, or that of setuptools."""
    if not with_torch:
        from pybind11.setup_helpers import ParallelCompile
        from setuptools.command.build_ext import build_ext

        ParallelCompile("MAX_JOBS").install()
        return build_ext
    from torch.utils.cpp_extension import BuildExtension

    class SharingBuild(BuildExtension):
        def finalize_options(self) -> None:
            super().finalize_options()
            self.force = True  # ninja knows what is up to date, the objects that are handed on included

        def build_extension(self, extension: Any) -> None:
            if extension.name == "vsr_kernels._numpy":
                core = _relative(source_root() / path for path in CORE)
                extension.extra_objects = self.compiler.object_filenames(core, output_dir=self.build_temp)
            super().build_extension(extension)

    return SharingBuild


def build_at_first_use() -> tuple[Path, Path | None]:
    """Compile into torch's extension cache and return the paths of ``_C`` and, where it can be built, ``_C_cuda``.

    Raises:
        BuildError: nothing can be compiled here, or the compiler failed; the message holds its last words.
    """
    if mode() in ("numpy", "none"):
        raise BuildError(f"no compiled object was installed, and VSR_KERNELS_BUILD={mode()} forbids building one")
    obstacle = cxx_obstacle()
    if obstacle:
        raise BuildError(f"no compiled object was installed, and none can be built: {obstacle}")
    names = objects()
    paths = [_compile(name) for name in names]
    return paths[0], paths[1] if len(paths) > 1 else None


def _compile(name: str) -> Path:
    if name == "_C_cuda":
        prepare_cuda()
    import torch
    from torch.utils import cpp_extension

    settings = flags(name)
    digest = _digest(
        [torch.__version__, *settings["cxx"], *settings.get("nvcc", []), os.environ.get("TORCH_CUDA_ARCH_LIST", "")]
    )
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()
    folder = Path(root) / f"vsr_kernels{name}_{digest}"
    built = folder / f"vsr_kernels{name}.so"
    complete = folder / "complete"  # another process may be writing the object at this moment
    if complete.is_file():
        return built
    folder.mkdir(parents=True, exist_ok=True)
    _say(f"compiling {name} once into {folder}")
    try:
        cpp_extension.load(
            name=f"vsr_kernels{name}",
            sources=[str(path) for path in sources(name)],
            extra_cflags=settings["cxx"],
            extra_cuda_cflags=settings.get("nvcc"),
            extra_include_paths=[str(source_root())],
            build_directory=str(folder),
            with_cuda=name == "_C_cuda",
            is_python_module=False,
        )
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"compiling {name} in {folder} failed: {str(error)[-2000:]}") from error
    complete.touch()
    return built


def _digest(words: Iterable[str]) -> str:
    """Hash of the sources and of everything else that changes the object."""
    digest = hashlib.sha256("\0".join(words).encode())
    for path in sorted(source_root().rglob("*")):
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]
