"""Interleaved timing: every peer once per round, in turn, and ratios taken within a round.

Machines drift by tens of percent between minutes, so the figure that means something is the median over rounds of
``time of peer / time of ours`` with its spread. Outputs are compared before anything is timed: a wrong answer has no
speed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

Outputs = torch.Tensor | Sequence[torch.Tensor]


@dataclass
class Case:
    """One row of a table: what is timed, its peers by name (the first one is ours), and how their outputs compare."""

    name: str
    peers: dict[str, Callable[[], Outputs]]
    tolerance: float  # relative L2 distance that a peer's output may have to ours
    calls: int = 1  # calls per timing
    rounds: int = 9
    warmup: int = 2
    repeats: int = 1  # how often a call does the work
    finish: Callable[[], None] = lambda: None  # waits for what calls only enqueue
    clock: Callable[[], float] = lambda: time.perf_counter()


@dataclass
class Timing:
    """Seconds per call of one peer, and its ratio to ours per round."""

    median: float
    low: float
    high: float
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass
class Result:
    """All timings of a case."""

    name: str
    timings: dict[str, Timing] = field(default_factory=dict)


def distance(theirs: Outputs, ours: Outputs) -> float:
    """Relative L2 distance; of several outputs, that of the worst."""
    pairs = [(theirs, ours)] if isinstance(theirs, torch.Tensor) else zip(theirs, ours, strict=True)
    apart = [(a.double() - b.double()).norm() / b.double().norm() for a, b in pairs]
    return torch.stack(apart).max().item()  # which is NaN if one of them is


def measure(case: Case) -> Result:
    """Time a case.

    Raises:
        SystemExit: a peer's output differs from ours by more than the tolerance.
    """
    names = list(case.peers)
    with torch.inference_mode():
        ours = case.peers[names[0]]()
        for name in names[1:]:
            apart = distance(case.peers[name](), ours)
            if not apart <= case.tolerance:
                raise SystemExit(
                    f"{case.name}: {name} differs by {apart:.2e} (allowed {case.tolerance:.0e}): no timing"
                )
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for round_number in range(case.warmup + case.rounds):
            for name in names:
                case.finish()
                start = case.clock()
                for _ in range(case.calls):
                    case.peers[name]()
                case.finish()
                if round_number >= case.warmup:
                    seconds[name].append((case.clock() - start) / case.calls / case.repeats)
    result = Result(case.name)
    for name in names:
        ratios = [theirs / own for theirs, own in zip(seconds[name], seconds[names[0]], strict=True)]
        result.timings[name] = Timing(
            statistics.median(seconds[name]),
            min(seconds[name]),
            max(seconds[name]),
            statistics.median(ratios),
            min(ratios),
            max(ratios),
        )
    return result


def environment() -> dict[str, Any]:
    """What a reader needs to place the figures."""
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "cpu": _cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ""),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def span(timing: Timing) -> str:
    """Median, least and largest time, in ms or µs."""
    unit, factor = ("ms", 1e3) if timing.median >= 1e-3 else ("µs", 1e6)
    return f"{timing.median * factor:.2f} [{timing.low * factor:.2f}-{timing.high * factor:.2f}] {unit}"


def report(results: list[Result], json_path: str | None) -> None:
    """Print the table; write it as JSON too if asked for."""
    console = Console(width=130)
    console.print(", ".join(f"{key}: {value}" for key, value in environment().items() if value != ""))
    table = Table("case", "peer", "time [min-max]", "times ours [min-max]")
    for result in results:
        for i, (name, t) in enumerate(result.timings.items()):
            table.add_row(
                result.name if i == 0 else "",
                name,
                span(t),
                "" if i == 0 else f"{t.ratio:.2f} [{t.ratio_low:.2f}-{t.ratio_high:.2f}]",
            )
        table.add_section()
    console.print(table)
    if json_path:
        Path(json_path).write_text(
            json.dumps({"environment": environment(), "results": [asdict(r) for r in results]}, indent=1)
        )


def main(description: str | None, cases: Callable[[], Iterable[Case]]) -> None:
    """The command line of a script whose cases need no more than a number of threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report([measure(case) for case in cases()], args.json)
