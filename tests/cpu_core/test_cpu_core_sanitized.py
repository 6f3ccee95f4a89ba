"""The torch-free CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer, on every instruction set."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from vsr_kernels import build

HERE = Path(__file__).resolve().parent
ISAS = [Path(path).stem.removeprefix("kernels_") for path in build.SOURCES["_C"] if path.startswith("cpu/kernels_")]
FLAGS = ["-std=c++20", "-O0", "-g1", "-fno-math-errno", "-fno-trapping-math"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
NO_SUCH_ISA = 77

pytestmark = [
    pytest.mark.skipif(build.cxx_obstacle() is not None, reason=f"the core cannot be compiled: {build.cxx_obstacle()}"),
    pytest.mark.timeout(2400),  # compiling takes a minute and a half of one core, which others may be using
]


def compiler() -> list[str]:
    return [*os.environ.get("CXX", "c++").split(), *FLAGS, *SANITIZERS, f"-I{build.source_root()}"]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels and their driver, compiled once."""
    folder = tmp_path_factory.mktemp("cpu_core")
    hello = folder / "hello.cpp"
    hello.write_text("int main() { return 0; }\n")
    tried = subprocess.run([*compiler(), hello, "-o", folder / "hello"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"this compiler has no sanitizers: {tried.stderr[-300:]}")
    sources = [build.source_root() / path for path in build.SOURCES["_C"] if path.startswith("cpu/")]
    objects = []
    for source in [*sources, HERE / "driver.cpp"]:
        objects.append(folder / f"{source.stem}.o")
        done = subprocess.run(
            [*compiler(), "-c", source, "-o", objects[-1]], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]
    done = subprocess.run([*compiler(), *objects, "-o", folder / "driver"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "driver"


@pytest.mark.parametrize("isa", ISAS)
def test_every_kernel(driver: Path, isa: str) -> None:
    """No finding, and values as float64 loops give them."""
    environment = os.environ | {"VSR_KERNELS_CPU_ISA": isa}
    done = subprocess.run([driver], env=environment, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode == NO_SUCH_ISA:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.split() == [isa]
