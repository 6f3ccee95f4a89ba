"""What the cores can do at most, measured in the same run as everything else."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

_FLAGS = ("-O3", "-std=c++20", "-pthread")


@dataclass
class Peaks:
    """Best figures of a number of threads.

    Attributes:
        gflops: By precision; a precision without a figure has no instructions of its own.
        copy: GB/s of a copy, by the bytes that it reads and writes.
    """

    gflops: dict[str, float] = field(default_factory=dict)
    copy: dict[int, float] = field(default_factory=dict)


class Probe:
    """The program peaks.cpp, compiled at first use; without a compiler it knows nothing."""

    def __init__(self, folder: Path) -> None:
        self.program = folder / "peaks"
        compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
        self.missing = None if compiler else "no C++ compiler: raw peaks are not measured"
        if compiler:
            source = Path(__file__).with_name("peaks.cpp")
            done = subprocess.run([compiler, *_FLAGS, source, "-o", self.program], capture_output=True, text=True)
            if done.returncode:
                self.missing = f"peaks.cpp does not compile: {done.stderr.strip().splitlines()[0]}"

    def measure(self, cores: Sequence[int], copied: Sequence[int]) -> Peaks:
        """One thread per core; ``copied`` are bytes that copies are to read and write."""
        peaks = Peaks()
        if self.missing:
            return peaks
        command = [str(self.program), str(len(cores)), *map(str, copied)]
        pin = partial(os.sched_setaffinity, 0, cores)
        found = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=pin)
        for line in found.stdout.splitlines():
            name, value = line.split()
            if name.startswith("copy"):
                peaks.copy[int(name.removeprefix("copy"))] = float(value)
            else:
                peaks.gflops[name] = float(value)
        return peaks


def best(found: Sequence[Peaks]) -> Peaks:
    """The best of several measurements."""
    merged = Peaks()
    for peaks in found:
        for name, value in peaks.gflops.items():
            merged.gflops[name] = max(value, merged.gflops.get(name, 0.0))
        for size, value in peaks.copy.items():
            merged.copy[size] = max(value, merged.copy.get(size, 0.0))
    return merged
