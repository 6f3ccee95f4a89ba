"""The compiled objects: which symbols they ask for, what they leave to the loader, and life without them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vsr_kernels
from vsr_kernels import build

PACKAGE = Path(vsr_kernels.__file__).resolve().parent
OBJECTS = ("_C", "_C_cuda", "_numpy")

#: What an object of the LibTorch stable ABI may leave undefined.
ALLOWED = (
    r"(aoti_torch|torch)_\w+",  # the C shims of the stable ABI
    r"\w+@+(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+",  # the C and C++ runtimes
    r"_ZN?[VKRO]*S[ts]\w+",  # std:: where PyTorch's copy of libstdc++ has no version for it
    r"__gmon_start__|_ITM_(de)?registerTMCloneTable|__cxa_finalize",
)
CUDA_RUNTIME = r"(__)?cuda\w+@+libcudart\.so\.\d+"


def built(name: str) -> Path:
    """An object in the package, or the test is skipped."""
    found = importlib.util.find_spec("vsr_kernels._numpy")
    path = Path(str(found.origin)) if name == "_numpy" and found else build.installed_object(name)
    if path is None:
        pytest.skip(f"{name} is not beside the package")
    return path


def names(path: Path, which: str) -> list[str]:
    """Dynamic symbols, with versions."""
    if shutil.which("nm") is None:
        pytest.skip("nm is not on PATH")
    done = subprocess.run(["nm", "-D", which, str(path)], capture_output=True, text=True, check=True)
    return [line.split()[-1] for line in done.stdout.splitlines()]


def unexpected(symbols: list[str], *more: str) -> list[str]:
    return [symbol for symbol in symbols if not re.fullmatch("|".join([*ALLOWED, *more]), symbol)]


def test_the_list_lets_nothing_unstable_pass() -> None:
    """Symbols of at::, c10::, Python or CUDA, in the mangled forms that objects ask for."""
    bad = [
        "_ZN2at5emptyEv",
        "_ZN3c106detail14torchCheckFailEPKcS2_jS2_",
        "_ZN5torch8autograd4HookE",
        "PyModule_Create2",
        "cudaLaunchKernel@libcudart.so.13",
        "cuLaunchKernel",
        "_ZNK2at6Tensor5sizesEv",
        "omp_get_thread_num@OMP_1.0",
    ]
    assert unexpected(bad) == bad
    assert unexpected(["torch_call_dispatcher", "memcpy@GLIBC_2.14", "_Znwm@GLIBCXX_3.4", "_ZNSt7__cxx11C1Ev"]) == []


def test_the_cpu_object_asks_for_the_stable_abi_only() -> None:
    assert unexpected(names(built("_C"), "--undefined-only")) == []


def test_the_cuda_object_asks_for_the_runtime_besides() -> None:
    symbols = names(built("_C_cuda"), "--undefined-only")
    assert unexpected(symbols, CUDA_RUNTIME) == []
    assert [s for s in symbols if s.startswith("cuda")], "no symbol of the CUDA runtime: is this the right object?"


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_export_nothing_of_ours(name: str) -> None:
    """Operators are found through the dispatcher; an exported helper could clash with another library's."""
    ours = [s for s in names(built(name), "--defined-only") if "vsr" in s and not s.startswith("PyInit")]
    assert ours == []


@pytest.mark.parametrize(
    ("name", "foreign"), [("_C", ("cuda", "python")), ("_numpy", ("cuda", "python", "torch", "c10"))]
)
def test_objects_need_no_library_that_may_be_absent(name: str, foreign: tuple[str, ...]) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not on PATH")
    done = subprocess.run(["readelf", "-d", str(built(name))], capture_output=True, text=True, check=True)
    needed = re.findall(r"NEEDED.*\[(.+)\]", done.stdout)
    assert needed
    assert not [library for library in needed if any(word in library for word in foreign)]


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_are_not_older_than_their_sources(name: str) -> None:
    """What the tests ran is what the sources say."""
    path = built(name)
    if not (PACKAGE.parent / "setup.py").is_file():
        pytest.skip("an installed package: its files carry the times of the installation")
    newest = max(build.sources(name), key=lambda source: source.stat().st_mtime)
    assert newest.stat().st_mtime <= path.stat().st_mtime, f"{newest.name} is newer than {path.name}: build again"


# Without objects


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and its sources without compiled objects; the folder to put on the path."""
    root = tmp_path_factory.mktemp("bare")
    shutil.copytree(PACKAGE, root / "vsr_kernels", ignore=shutil.ignore_patterns("*.so", "__pycache__", "csrc"))
    shutil.copytree(build.source_root(), root / "csrc")
    return root


def run(bare: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python on the bare copy, with a build cache of its own."""
    wanted = {k: v for k, v in os.environ.items() if k not in ("VSR_KERNELS_BUILD", "CUDA_HOME", "PYTHONPATH")}
    wanted |= {"PYTHONPATH": str(bare), "TORCH_EXTENSIONS_DIR": str(bare / "cache")} | environment
    return subprocess.run(
        [sys.executable, "-c", code], env=wanted, cwd=bare, capture_output=True, text=True, check=False
    )


def test_importing_compiles_nothing(bare: Path) -> None:
    """Not even where it could: that waits for the first use."""
    done = run(bare, "import vsr_kernels; print(vsr_kernels.__file__)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(bare))
    assert done.stderr == ""
    assert not (bare / "cache").exists()


USE = """
import torch, warnings, vsr_kernels as v
warnings.simplefilter("always")
x = torch.arange(16.0).view(1, 4, 2, 2)
assert torch.equal(v.pixel_shuffle(x, 2), torch.nn.functional.pixel_shuffle(x, 2))
print(v.backends()["cpu"].available, v.backends()["cpu"].detail, v.backends()["cuda"].available, v.cpu_isa())
with v.use_backend("reference"):
    v.conv3x3(x, torch.zeros(4, 4, 3, 3))
"""


def test_everything_works_without_objects(bare: Path) -> None:
    """On the reference, with one warning that says why."""
    done = run(bare, USE, VSR_KERNELS_BUILD="none")
    assert done.returncode == 0, done.stderr
    reason = "no compiled object was installed, and VSR_KERNELS_BUILD=none forbids building one"
    assert done.stdout.strip() == f"False {reason} False none"
    assert done.stderr.count("UserWarning: vsr_kernels.pixel_shuffle runs as plain PyTorch on cpu") == 1
    assert reason in done.stderr
    assert not (bare / "cache").exists()


def test_no_compiler_is_no_reason_to_fail(bare: Path, tmp_path: Path) -> None:
    done = run(bare, USE, PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("False no compiled object was installed, and none can be built: no C++ compiler")


def test_a_broken_object_is_reported(bare: Path, tmp_path: Path) -> None:
    """An object that the loader refuses leaves the reference, and the loader's words."""
    copy = tmp_path / "copy"
    shutil.copytree(bare, copy)
    (copy / "vsr_kernels" / "_C.abi3.so").write_bytes(b"not an object")
    done = run(copy, USE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("False _C.abi3.so could not be loaded: ")
    assert "_C.abi3.so" in done.stderr


def test_a_bad_mode_is_one_clear_error(bare: Path) -> None:
    """Importing goes on; the use says what the variable may be."""
    done = run(bare, USE, VSR_KERNELS_BUILD="fast")
    assert done.returncode == 0, done.stderr
    assert "VSR_KERNELS_BUILD: expected one of auto, cpu, cuda, numpy, none, got 'fast'" in done.stdout


def test_missing_sources_are_an_error_of_one_line(bare: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bare / "vsr_kernels", copy / "vsr_kernels")
    if build.cxx_obstacle() is not None:
        pytest.skip(str(build.cxx_obstacle()))
    done = run(copy, USE, VSR_KERNELS_BUILD="cpu")
    assert done.returncode == 0, done.stderr
    assert "the C++ sources were not found: expected the folder csrc in" in done.stdout


def test_loading_twice_is_loading_once() -> None:
    """load() after the import finds everything done."""
    before = vsr_kernels.backends()
    vsr_kernels.load()
    assert vsr_kernels.backends() == before


def test_torch_is_at_least_the_target() -> None:
    """The objects are made for torch 2.10 and later; TORCH_TARGET_VERSION says the same as pyproject.toml."""
    target = next(flag for flag in build.STABLE_ABI if "TORCH_TARGET_VERSION" in flag)
    value = int(target.split("=")[1], 16)
    assert (value >> 56, value >> 48 & 0xFF) == (2, 10)
    assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 10)
    project = PACKAGE.parent / "pyproject.toml"
    if project.is_file():
        assert '"torch>=2.10"' in project.read_text()


def test_names_are_the_same_with_and_without_torch_imported_first() -> None:
    """Both halves list them, because the one that needs torch cannot be asked."""
    from vsr_kernels import torch_api

    assert set(vsr_kernels.__all__) == {*torch_api.__all__, "__version__", "nn"}
