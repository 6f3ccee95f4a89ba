"""What is built where: the list of sources, the modes, the search for a CUDA toolkit, the build at first use."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from setuptools import Distribution
from setuptools._distutils.ccompiler import new_compiler

import vsr_kernels
from vsr_kernels import build, nvrtc

ROOT = Path(vsr_kernels.__file__).resolve().parent.parent
CHECKOUT = (ROOT / "setup.py").is_file()
checkout_only = pytest.mark.skipif(not CHECKOUT, reason="not a checkout: setup.py is not beside the package")


def test_one_version() -> None:
    """The package's, the distribution's where it is installed, in the form that PEP 440 allows."""
    assert re.fullmatch(r"\d+(\.\d+)+((a|b|rc)\d+)?(\.dev\d+)?", vsr_kernels.__version__)
    try:
        installed = importlib.metadata.version("vsr-kernels")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the distribution is not installed")
    assert installed == vsr_kernels.__version__


# Sources

SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}


def included(path: Path) -> set[Path]:
    """A file and what it includes from csrc, directly or not."""
    root, found, waiting = build.source_root(), set(), [path]
    while waiting:
        here = waiting.pop()
        if here in found:
            continue
        found.add(here)
        names = re.findall(r'^\s*#include "([^"]+)"', here.read_text(), re.MULTILINE)
        for name in names:
            target = root / name
            assert target.is_file(), f"{here.name} includes {name}, which is not in csrc"
            waiting.append(target)
    return found


def test_sources_exist_and_none_is_forgotten() -> None:
    """Every file of csrc is compiled, into an object or at run time, or is included; objects share the core alone."""
    listed = [source for sources in build.SOURCES.values() for source in sources]
    assert {source for source in listed if listed.count(source) > 1} == set(build.CORE)
    assert [listed.count(source) for source in build.CORE] == [2] * len(build.CORE)
    used: set[Path] = set()
    for source in listed:
        path = build.source_root() / source
        assert path.is_file(), path
        used |= included(path)
    for name in re.findall(r'#include "([^"]+)"', nvrtc.Conv3x3("float16", 8, 8).source):
        used |= included(build.source_root() / name)
    assert {path for path in build.source_root().rglob("*") if path.suffix in SUFFIXES} == used


def test_objects_hold_what_belongs_to_them() -> None:
    """_C loads in a torch without CUDA, _numpy without torch: nothing of those may be compiled into them."""
    for name, foreign in (("_C", {"cuda", "numpy"}), ("_numpy", {"cuda", "torch"})):
        for path in build.sources(name):
            assert not [file for file in included(path) if file.parent.name in foreign]


@checkout_only
def test_every_package_and_source_is_packaged() -> None:
    """The lists in pyproject.toml name every Python package of ours, and the patterns match every C++ file."""
    text = (ROOT / "pyproject.toml").read_text()
    listed = set(
        re.findall(r'"([\w.]+)"', re.search(r"^packages = \[(.*?)\]", text, re.MULTILINE | re.DOTALL).group(1))
    )  # type: ignore[union-attr]
    present = {"vsr_kernels.csrc"}
    for folder, base in ((ROOT / "vsr_kernels", ROOT), (ROOT / "python" / "vsr", ROOT / "python")):
        present |= {".".join(p.parent.relative_to(base).parts) for p in folder.rglob("__init__.py")}
    assert listed == present
    patterns = set(re.findall(r'"\*\*/\*(\.\w+)"', text))
    assert patterns >= SUFFIXES
    assert (ROOT / "vsr_kernels" / "py.typed").is_file()


# Modes


@pytest.mark.parametrize("value", ["", "gpu", "AUTO", "yes"])
def test_unknown_modes_are_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("VSR_KERNELS_BUILD", value)
    with pytest.raises(build.BuildError) as caught:
        build.mode()
    assert str(caught.value) == f"VSR_KERNELS_BUILD: expected one of auto, cpu, cuda, numpy, none, got {value!r}"


def test_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VSR_KERNELS_BUILD", raising=False)
    assert build.mode() == "auto"
    for value in build.MODES:
        monkeypatch.setenv("VSR_KERNELS_BUILD", value)
        assert build.mode() == value


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with a compiler and a toolkit; tests take parts away."""
    monkeypatch.setattr(build, "cxx_obstacle", lambda: None)
    monkeypatch.setattr(build, "cuda_obstacle", lambda: None)
    return monkeypatch


@pytest.mark.parametrize(
    ("mode", "cxx", "cuda", "expected"),
    [
        ("auto", None, None, ["_C", "_C_cuda"]),
        ("auto", None, "no toolkit", ["_C"]),
        ("auto", "no compiler", None, []),
        ("cpu", None, None, ["_C"]),
        ("cuda", None, None, ["_C", "_C_cuda"]),
        ("numpy", None, None, []),
        ("none", None, None, []),
        ("none", "no compiler", "no toolkit", []),
    ],
)
def test_objects(
    machine: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mode: str,
    cxx: str | None,
    cuda: str | None,
    expected: list[str],
) -> None:
    """What is left out is said, with the reason, unless it was asked for."""
    machine.setenv("VSR_KERNELS_BUILD", mode)
    machine.setattr(build, "cxx_obstacle", lambda: cxx)
    machine.setattr(build, "cuda_obstacle", lambda: cuda)
    assert build.objects() == expected
    said = capsys.readouterr().err
    reason = (cxx or cuda) if mode == "auto" else None
    assert (reason in said) if reason else said == ""


@pytest.mark.parametrize(
    ("mode", "cxx", "cuda"), [("cpu", "no compiler", None), ("cuda", "no compiler", None), ("cuda", None, "no toolkit")]
)
def test_what_was_asked_for_is_not_left_out(
    machine: pytest.MonkeyPatch, mode: str, cxx: str | None, cuda: str | None
) -> None:
    machine.setenv("VSR_KERNELS_BUILD", mode)
    machine.setattr(build, "cxx_obstacle", lambda: cxx)
    machine.setattr(build, "cuda_obstacle", lambda: cuda)
    with pytest.raises(build.BuildError, match=f"VSR_KERNELS_BUILD={mode}: {cxx or cuda}"):
        build.objects()


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("8.6", ["86,sm_86"]),
        ("9.0+PTX", ["90,sm_90", "90,compute_90"]),
        ("8.9 8.0;12.0+PTX", ["80,sm_80", "80,sm_89", "120,sm_120", "120,compute_120"]),
        (None, ["75,sm_75", *(f"80,sm_{n}" for n in (80, 86, 89)), "90,sm_90", "100,sm_100"]),
        ("9.0a", []),
        ("Ampere", []),
        ("", []),
    ],
)
def test_targets_of_one_generation_share_a_front_end(
    monkeypatch: pytest.MonkeyPatch, targets: str | None, expected: list[str]
) -> None:
    """What is left to torch gives no flags, since torch adds none where there are some."""
    if targets is None:
        monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
        expected = [*expected, "120,sm_120", "120,compute_120"]
    else:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", targets)
    flags = ["-gencode=arch=compute_" + each.replace(",", ",code=") for each in expected]
    assert build.target_flags() == flags
    assert [flag for flag in build.flags("_C_cuda")["nvcc"] if "arch" in flag] == flags


@pytest.mark.parametrize("number", [80, 86, 89])
def test_no_source_tells_targets_8_x_apart(number: int) -> None:
    """Only then may they share the code before the assembler."""
    sources = [path for path in build.source_root().rglob("*") if path.suffix in (".cu", ".cuh")]
    found = {int(n) for path in sources for n in re.findall(r"__CUDA_ARCH__ [<>=!]+ (\d+)", path.read_text())}
    assert found and all((number * 10 >= limit) == (limit <= 800) for limit in found)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "'c++' is not on PATH" in str(build.cxx_obstacle())
    monkeypatch.setenv("CXX", "my-compiler -O2")
    assert "my-compiler" in str(build.cxx_obstacle())
    script(tmp_path / "my-compiler", "exit 0")
    assert build.cxx_obstacle() is None


# The CUDA toolkit


def script(path: Path, body: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def toolkit(root: Path, version: str, library: str = "lib64") -> Path:
    """What a toolkit looks like from outside."""
    dry = f'echo "#\\$ TOP={root}/bin/.." >&2'
    version_line = f'echo "Cuda compilation tools, release {version}, V{version}.1"'
    script(root / "bin" / "nvcc", f'case "$*" in *--dryrun*) {dry};; *) {version_line};; esac')
    for name in ("include/cuda_runtime.h", f"{library}/libcudart.so"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.fixture
def no_toolkit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """PATH holds a folder of our own and the shell's tools, and no variable points to a toolkit."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    return folder


def test_a_wrapper_on_path_leads_to_the_toolkit(no_toolkit: Path, tmp_path: Path) -> None:
    """The folder above a wrapper script is no toolkit; the compiler itself knows where it is."""
    root = toolkit(tmp_path / "cuda", "13.0")
    script(no_toolkit / "nvcc", f'exec {root}/bin/nvcc "$@"')
    assert build.cuda_root() == root.resolve()


def test_a_link_on_path_leads_to_the_toolkit(no_toolkit: Path, tmp_path: Path) -> None:
    root = toolkit(tmp_path / "cuda", "13.0")
    (no_toolkit / "nvcc").symlink_to(root / "bin" / "nvcc")
    assert build.cuda_root() == root.resolve()


def test_cuda_home_goes_first(no_toolkit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(no_toolkit / "nvcc", f'exec {toolkit(tmp_path / "one", "13.0")}/bin/nvcc "$@"')
    other = toolkit(tmp_path / "other", "13.0")
    monkeypatch.setenv("CUDA_HOME", str(other))
    assert build.cuda_root() == other


def test_the_toolkit_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found here is whole."""
    monkeypatch.delenv("CUDA_HOME", raising=False)
    root = build.cuda_root()
    if root is None:
        pytest.skip("no CUDA toolkit")
    assert (root / "bin" / "nvcc").is_file()
    assert (root / "include" / "cuda_runtime.h").is_file()


OBSTACLES = {
    "missing header": "is not whole: .*cuda_runtime.h is missing",
    "missing compiler": "is not whole: .*nvcc is missing",
    "missing library": "is not whole: .*libcudart.so is missing",
    "other major": "nvcc is 11.8 and torch was built for CUDA 13.0: install a toolkit 13.x or a torch for CUDA 11",
    "no version": "gave no version",
}


@pytest.mark.parametrize("flaw", OBSTACLES)
def test_toolkits_that_cannot_be_used(flaw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence with what is wrong, and both versions where they do not fit."""
    root = toolkit(tmp_path / "cuda", "11.8" if flaw == "other major" else "13.1")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_HOME", str(root))
    if flaw == "missing header":
        (root / "include" / "cuda_runtime.h").unlink()
    elif flaw == "missing compiler":
        (root / "bin" / "nvcc").unlink()
    elif flaw == "missing library":
        (root / "lib64" / "libcudart.so").unlink()
    elif flaw == "no version":
        script(root / "bin" / "nvcc", "exit 1")
    assert re.search(OBSTACLES[flaw], str(build.cuda_obstacle()))


@pytest.mark.parametrize("library", ["lib64", "lib"])
def test_a_toolkit_of_another_minor_is_fine(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda", "13.2", library)))
    assert build.cuda_obstacle() is None


def test_no_toolkit_at_all(no_toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    if Path("/usr/local/cuda/bin/nvcc").is_file():
        assert build.cuda_root() == Path("/usr/local/cuda")
    else:
        assert build.cuda_obstacle() == "no CUDA toolkit: nvcc is not on PATH and CUDA_HOME is not set"


def test_a_torch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert build.cuda_obstacle() == f"this torch ({torch.__version__}) has no CUDA"


# setup.py


def without_torch(code: str, mode: str | None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run Python where importing torch fails, as in pip's isolated builds."""
    environment = {k: v for k, v in os.environ.items() if k != "VSR_KERNELS_BUILD"}
    if mode is not None:
        environment["VSR_KERNELS_BUILD"] = mode
    program = f"import sys; sys.modules['torch'] = None\n{code}"
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )


LOAD_BUILD = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("build_alone", {str(Path(build.__file__))!r})
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)
"""


DESCRIBE = LOAD_BUILD + "made, _ = build.extensions(); print([(e.name, e.py_limited_api, e.sources) for e in made])"

needs_pybind11 = pytest.mark.skipif(importlib.util.find_spec("pybind11") is None, reason="pybind11 is not installed")


@needs_pybind11
@pytest.mark.parametrize("mode", [None, "numpy"])
def test_no_torch_leaves_the_numpy_object(mode: str | None) -> None:
    """With all its sources, and a line about what is missing unless nothing else was asked for."""
    done = without_torch(DESCRIBE, mode)
    assert done.returncode == 0, done.stderr
    ((name, limited, sources),) = ast.literal_eval(done.stdout)
    assert (name, limited) == ("vsr_kernels._numpy", False)
    assert [Path(source) for source in sources] == [Path("csrc", source) for source in build.SOURCES["_numpy"]]
    assert ("torch is not importable" in done.stderr) == (mode is None)
    assert ("pip install --no-build-isolation ." in done.stderr) == (mode is None)


def test_no_torch_and_no_pybind11_give_a_pure_wheel() -> None:
    """Nothing to compile, and the reasons; an error where the object was asked for."""
    code = "sys.modules['pybind11'] = None\n" + DESCRIBE
    done = without_torch(code, None)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert "building no NumPy object: pybind11 is not installed" in done.stderr
    done = without_torch(code, "numpy")
    assert "BuildError: VSR_KERNELS_BUILD=numpy: pybind11 is not installed" in done.stderr


@pytest.mark.parametrize("mode", ["cpu", "cuda"])
def test_no_torch_is_an_error_where_objects_were_asked_for(mode: str) -> None:
    done = without_torch(LOAD_BUILD + "build.extensions()", mode)
    assert done.returncode != 0
    assert f"BuildError: VSR_KERNELS_BUILD={mode}: torch is not importable in this build" in done.stderr


def test_mode_none_does_not_ask_for_torch() -> None:
    done = without_torch(LOAD_BUILD + "print(build.extensions())", "none")
    assert done.stdout.strip() == "([], {})"
    assert done.stderr == ""


@checkout_only
def test_setup_runs_without_torch() -> None:
    """setup.py reads the version and the extensions without importing the package."""
    done = without_torch(
        "import runpy; sys.argv = ['setup.py', '--version']; runpy.run_path('setup.py', run_name='__main__')", None
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == vsr_kernels.__version__


@checkout_only
def test_extensions_with_torch(machine: pytest.MonkeyPatch) -> None:
    """The object for the stable ABI, with sources relative to the checkout as setuptools wants them."""
    machine.setenv("VSR_KERNELS_BUILD", "cpu")
    machine.setattr(build, "numpy_obstacle", lambda: "says the test")
    machine.chdir(ROOT)
    (made,), commands = build.extensions()
    assert made.name == "vsr_kernels._C"
    assert made.py_limited_api
    assert list(commands) == ["build_ext"]
    assert all(not os.path.isabs(source) and Path(source).is_file() for source in made.sources)
    flags = made.extra_compile_args["cxx"]
    assert "-DTORCH_STABLE_ONLY" in flags
    assert any(flag.startswith("-DTORCH_TARGET_VERSION=0x020a") for flag in flags)
    assert not [
        flag for flag in flags if flag.startswith(("-march", "-mtune", "-ffast-math", "-Ofast", "-ffinite-math"))
    ]


@checkout_only
@needs_pybind11
def test_the_numpy_object_takes_the_core_from_torchs(machine: pytest.MonkeyPatch) -> None:
    """The core is compiled once: not among the sources of the second object, whose command adds what the first left."""
    machine.setenv("VSR_KERNELS_BUILD", "cpu")
    machine.chdir(ROOT)
    (_, made), commands = build.extensions()
    assert made.name == "vsr_kernels._numpy"
    assert not made.py_limited_api
    core = {f"csrc/{source}" for source in build.CORE}
    assert {*made.sources, *core} == {f"csrc/{source}" for source in build.SOURCES["_numpy"]}
    assert not core & set(made.sources)
    command = commands["build_ext"](Distribution({"ext_modules": [made]}))
    command.build_temp = "somewhere"
    command.compiler = new_compiler()
    machine.setattr(commands["build_ext"].__base__, "build_extension", lambda self, extension: None)
    command.build_extension(made)
    assert set(made.extra_objects) == {f"somewhere/{source.removesuffix('.cpp')}.o" for source in core}


def test_cuda_targets_name_the_ptx_of_the_highest() -> None:
    targets = build.CUDA_TARGETS.split(";")
    assert targets == sorted(targets, key=lambda t: float(t.removesuffix("+PTX")))
    assert [t for t in targets if t.endswith("+PTX")] == targets[-1:]


# The build at first use


def test_first_use_without_permission_or_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("none", "numpy"):
        monkeypatch.setenv("VSR_KERNELS_BUILD", value)
        with pytest.raises(build.BuildError, match=f"VSR_KERNELS_BUILD={value} forbids building one"):
            build.build_at_first_use()
    monkeypatch.setenv("VSR_KERNELS_BUILD", "auto")
    monkeypatch.setattr(build, "cxx_obstacle", lambda: "no C++ compiler: says the test")
    with pytest.raises(build.BuildError, match="none can be built: no C\\+\\+ compiler: says the test"):
        build.build_at_first_use()


@pytest.fixture
def tiny(machine: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Sources of one line, compiled into a cache of our own; the file that stands for them."""
    machine.setenv("VSR_KERNELS_BUILD", "cpu")
    machine.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    sources = tmp_path / "csrc"
    (sources / "torch").mkdir(parents=True)
    (sources / "torch" / "library.cpp").write_text('extern "C" int tiny() { return 1; }\n')
    machine.setattr(build, "source_root", lambda: sources)
    machine.setattr(build, "SOURCES", {"_C": ["torch/library.cpp"]})
    return sources / "torch" / "library.cpp"


needs_compiler = pytest.mark.skipif(build.cxx_obstacle() is not None, reason=str(build.cxx_obstacle()))


@needs_compiler
def test_first_use_compiles_once(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The second time the object is there already; other sources make another object."""
    first, cuda = build.build_at_first_use()
    assert first.is_file()
    assert cuda is None
    assert "compiling _C once into" in capfd.readouterr().err
    written = first.stat().st_mtime_ns
    assert build.build_at_first_use() == (first, None)
    assert first.stat().st_mtime_ns == written
    assert "compiling" not in capfd.readouterr().err
    tiny.write_text('extern "C" int tiny() { return 2; }\n')
    other, _ = build.build_at_first_use()
    assert other != first
    assert first.is_file()


@needs_compiler
def test_first_use_repeats_the_words_of_the_compiler(tiny: Path) -> None:
    tiny.write_text("this is no C++;\n")
    with pytest.raises(build.BuildError, match=r"compiling _C in .* failed:") as caught:
        build.build_at_first_use()
    assert "library.cpp" in str(caught.value)
    assert len(str(caught.value)) < 3000


def test_flags_are_part_of_the_cache_key(tiny: Path) -> None:
    assert build._digest(["-O2"]) == build._digest(["-O2"])
    assert build._digest(["-O2"]) != build._digest(["-O3"])
    before = build._digest([])
    (tiny.parent / "extra.h").write_text("// a header\n")
    assert build._digest([]) != before
