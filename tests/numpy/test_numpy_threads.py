"""The threads of the NumPy interface under ThreadSanitizer."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from vsr_kernels import build

DRIVER = Path(__file__).resolve().parent / "threads_driver.cpp"


@pytest.mark.skipif(build.cxx_obstacle() is not None, reason=f"nothing can be compiled: {build.cxx_obstacle()}")
def test_threads_under_a_sanitizer(tmp_path: Path) -> None:
    """No race between callers, workers and changes of their number."""
    compiler = [*os.environ.get("CXX", "c++").split(), "-std=c++20", "-O1", "-g1", "-fsanitize=thread"]
    hello = tmp_path / "hello.cpp"
    hello.write_text("int main() { return 0; }\n")
    tried = subprocess.run([*compiler, hello, "-o", tmp_path / "hello"], capture_output=True, text=True, check=False)
    if tried.returncode != 0 or subprocess.run([tmp_path / "hello"], check=False).returncode != 0:
        pytest.skip(f"there is no ThreadSanitizer here: {tried.stderr[-300:]}")
    root = build.source_root()
    sources = [root / "numpy" / "threads.cpp", DRIVER]
    program = tmp_path / "driver"
    done = subprocess.run(
        [*compiler, f"-I{root}", *sources, "-o", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-4000:]
