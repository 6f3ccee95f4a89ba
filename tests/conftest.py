"""Shared by all tests: seeds, threads, the ``gpu`` marker, and the table of tested operators at the end of a run."""

from __future__ import annotations

import os

# Test runs share machines: one thread, and threads that sleep while they wait, since spinning ones stop everything
# where cores are few. Set before anything loads OpenMP.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import random
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "cell(operator, backend, dtype): the entry of the final table that a test covers"
    )
    config.addinivalue_line("markers", "isa: repeated for every CPU instruction set, in a process of its own")
    config.addinivalue_line("markers", "interpreted: run by Triton's interpreter, in a process of its own")
    config.pluginmanager.register(OperatorTable(), "operator-table")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_gpu = None if torch.cuda.is_available() else pytest.mark.skip(reason="no CUDA device is visible")
    for item in items:
        if no_gpu is not None and item.get_closest_marker("gpu") is not None:
            item.add_marker(no_gpu)
        item.user_properties += [("cell", tuple(mark.args)) for mark in item.iter_markers("cell")]


@pytest.fixture(autouse=True)
def same_start() -> Iterator[None]:
    """The same random numbers and settings for a test whichever tests ran before it, and one thread."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (libraries under test may use the old generator)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    torch.backends.cudnn.deterministic = True
    yield
    torch.set_num_threads(1)


class OperatorTable:
    """Counts the outcomes of the tests that carry a ``cell`` mark, and prints operator x backend x dtype."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
        self.reasons: dict[tuple[str, str, str], set[str]] = defaultdict(set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return  # setup and teardown count only where they are the reason that a test did not pass
        for name, value in report.user_properties:
            if name != "cell":
                continue
            operator, backend, dtype = map(str, value)  # type: ignore[arg-type]
            self.outcomes[operator, backend, dtype][report.outcome] += 1
            if report.skipped and isinstance(report.longrepr, tuple):
                self.reasons[operator, backend, dtype].add(report.longrepr[2].removeprefix("Skipped: "))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.outcomes:
            return
        notes: list[str] = []
        dtypes = list(dict.fromkeys(dtype for _, _, dtype in self.outcomes))
        terminalreporter.section("operators tested")
        terminalreporter.write_line(f"{'operator':22} {'backend':10}" + "".join(f"{d:>16}" for d in dtypes))
        for operator, backend in dict.fromkeys(cell[:2] for cell in self.outcomes):
            texts = [self._text((operator, backend, dtype), notes) for dtype in dtypes]
            terminalreporter.write_line(f"{operator:22} {backend:10}" + "".join(f"{t:>16}" for t in texts))
        for number, why in enumerate(notes, 1):
            terminalreporter.write_line(f"({number}) {why}")

    def _text(self, cell: tuple[str, str, str], notes: list[str]) -> str:
        counts = self.outcomes.get(cell)
        if not counts:
            return "-"
        if counts["failed"]:
            return f"{counts['failed']} FAILED"
        if counts["passed"]:
            return f"{counts['passed']} passed"
        why = "; ".join(sorted(self.reasons[cell]))
        if why not in notes:
            notes.append(why)
        return f"skipped ({notes.index(why) + 1})"
