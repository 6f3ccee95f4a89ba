"""The driver's side: starts the workers, has them compared with the truth, and times them in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .cases import Case
from .protocol import INT8, PEERS, PRECISIONS, Setting
from .worker import TRUTH

#: Relative L2 distance that an output may have to eager float32 PyTorch with coordinates in float64, by precision;
#: ``fast`` is float32 of relaxed precision. The truth of int8 networks is quantized too: what is left are roundings
#: that come out on the other side.
TOLERANCES = {"float32": 5e-5, "fast": 2e-4, "bfloat16": 3e-2, INT8: 1e-2}
_TURN = 0.1  # seconds that a turn takes at least, by repeating short calls
_MOST_CALLS = 200
_PAUSE = 0.02  # until the threads of the last one to run no longer spin
_HERE = Path(__file__).resolve().parent


@dataclass
class Row:
    """One peer in a section.

    Attributes:
        label: As the report shows it.
        entry: The worker's name of what it has prepared.
        error: Relative L2 distance of the output.
        refused: Why there are no times.
        wall, cpu: Seconds per call in each round; those that a peer spends in its own conversions included.
        inside: The part of the time that goes into conversions.
        apart: Seconds that conversions would take, which are not in the times.
    """

    peer: str
    label: str
    entry: str
    tolerance: float
    error: float | None = None
    refused: str | None = None
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    inside: float | None = None
    apart: float | None = None

    def seconds(self) -> list[float]:
        """Per call and round, without conversions of layout."""
        return [wall * (1 - (self.inside or 0.0)) for wall in self.wall]

    def cpu_seconds(self) -> list[float]:
        """Of all threads together, per call and round, without conversions of layout."""
        return [cpu * (1 - (self.inside or 0.0)) for cpu in self.cpu]

    def ratios(self, ours: Row) -> list[float]:
        """Time of this peer over that of ours, by round."""
        return [a / b for a, b in zip(self.seconds(), ours.seconds(), strict=True)]

    def is_wrong(self) -> bool:
        """Whether its output is too far from the expected one."""
        return self.error is not None and not self.error <= self.tolerance

    def reorders(self) -> float | None:
        """Seconds of conversions between float32 NCHW and the layout of the peer."""
        return statistics.median(self.wall) * self.inside if self.inside is not None and self.wall else self.apart


@dataclass
class Section:
    """A case at one precision and number of threads.

    Attributes:
        flops: Of direct convolutions.
        moved: Bytes that have to be read and written, for cases bound by memory; else 0.
        disturbance: Cores' worth of time, of those it was pinned to, that went elsewhere while something was timed.
    """

    case: str
    title: str
    precision: str
    threads: int
    flops: int
    moved: int
    rows: list[Row]
    disturbance: float = 0.0


class Worker:
    """A peer's process, asleep unless asked."""

    def __init__(self, peer: str, folder: Path, smoke: bool, cores: Sequence[int]) -> None:
        self.peer = peer
        settings = dict(PEERS[peer].environment) if peer in PEERS else {}
        paths = [str(_HERE.parent), *filter(None, sys.path)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **settings}
        command = [sys.executable, "-m", "cpu_peers.worker", peer, str(folder), *(["--smoke"] if smoke else [])]
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)  # inherited, so that thread pools are made for these cores
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        os.sched_setaffinity(0, before)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            return {"refused": f"its process ended with status {self.process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


class Session:
    """All workers of a run."""

    def __init__(self, peers: Sequence[str], folder: Path, smoke: bool, cores: Sequence[int]) -> None:
        self.missing = {name: PEERS[name].missing() for name in peers}
        self.truth = Worker(TRUTH, folder, smoke, cores)
        self.workers = {name: Worker(name, folder, smoke, cores) for name in peers if not self.missing[name]}

    def make(self, case: str) -> dict[str, Any]:
        """Have a case's arrays written.

        Raises:
            SystemExit: they cannot be had.
        """
        made = self.truth.ask("make", case=case)
        if "refused" in made:
            raise SystemExit(f"cpu: {case}: {made['refused']}")
        return made

    def close(self) -> None:
        """End all processes."""
        for worker in (self.truth, *self.workers.values()):
            worker.close()

    def measure(self, case: Case, made: dict[str, Any], setting: Setting, cores: Sequence[int], rounds: int) -> Section:
        """Compare, then time in turn."""
        moved = made["values"] * (2 if setting.precision == "bfloat16" else 4) if case.memory else 0
        section = Section(case.name, case.title, setting.precision, setting.threads, made["flops"], moved, [])
        for peer, reason in self.missing.items():
            self._add(section, peer, case.name, setting, cores, reason)
            if PEERS[peer].module == "ours":
                if setting.precision == "float32" and not case.memory:
                    fast = Setting(setting.precision, setting.threads, fast=True)
                    self._add(section, peer, case.name, fast, cores, reason)
                for precision in PRECISIONS if case.quantized else [setting.precision]:
                    if case.beside:
                        other = Setting(precision, setting.threads)
                        self._add(section, peer, case.beside, other, cores, reason)
        calls = [self._calls(row) for row in section.rows]
        for row in section.rows:
            if row.refused is None and not case.whole:
                found = self.workers[row.peer].ask("reorders", entry=row.entry)
                row.apart, row.inside = found.get("apart"), found.get("inside")
        busy = used = wall = 0.0
        for _ in range(rounds):
            for row, count in zip(section.rows, calls, strict=True):
                time.sleep(_PAUSE)
                before = _busy(cores)
                took = self._run(row, count)
                if took is None:
                    continue
                busy += _busy(cores) - before
                used += took["cpu"] * count
                wall += took["wall"] * count
                row.wall.append(took["wall"])
                row.cpu.append(took["cpu"])
        section.disturbance = max(0.0, busy - used) / wall if wall else 0.0
        for worker in self.workers.values():
            worker.ask("drop")
        return section

    def _add(
        self, section: Section, peer: str, case: str, setting: Setting, cores: Sequence[int], reason: str | None
    ) -> None:
        """A row, prepared and compared."""
        parts = [peer] + ["fast"] * setting.fast + [case] * (case != section.case)
        label = ", ".join(parts + [setting.precision] * (setting.precision != section.precision))
        tolerance = TOLERANCES["fast" if setting.fast else setting.precision]
        row = Row(peer, label, f"{case} {setting}", tolerance, refused=reason)
        section.rows.append(row)
        if reason:
            return
        found = self.workers[peer].ask("load", entry=row.entry, case=case, setting=asdict(setting), cores=list(cores))
        row.refused, row.error = found.get("refused"), found.get("error")
        if row.is_wrong():
            row.refused = f"differs by {row.error:.1e}, allowed are {tolerance:.0e}: not timed"

    def _run(self, row: Row, calls: int) -> dict[str, Any] | None:
        """What some calls take. None once they failed or the process ended, which takes the row its times."""
        if row.refused is not None:
            return None
        found = self.workers[row.peer].ask("run", entry=row.entry, calls=calls)
        if "refused" in found:
            row.refused, row.wall, row.cpu = found["refused"], [], []
            return None
        return found

    def _calls(self, row: Row) -> int:
        """How many calls make a turn; the first one warms up."""
        self._run(row, 1)
        found = self._run(row, 1)
        return 0 if found is None else max(1, min(_MOST_CALLS, round(_TURN / found["wall"])))


def _busy(cores: Sequence[int]) -> float:
    """Seconds that cores have worked, for anybody."""
    names = {f"cpu{core}" for core in cores}
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *times = line.split()
        if name in names:
            user, nice, system, _, _, irq, soft = map(int, times[:7])
            ticks += user + nice + system + irq + soft
    return ticks / os.sysconf("SC_CLK_TCK")
