"""What gpu_run.py does apart from the GPU: its rows, the comparison of outputs, statistics, table and JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import harness
import pytest
import torch
from gpu.workloads import Workload, workloads
from gpu_run import TOLERANCE
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_sides_of_every_row_compute_the_same(dtype: torch.dtype) -> None:
    rows = workloads("cpu", dtype, (9, 14))
    assert len({row.key for row in rows}) == len(rows) >= 11
    for row in rows:
        ours, peer = row.run(row.ours), row.run(row.peer)
        assert [t.shape for t in ours] == [t.shape for t in peer], row.title
        apart = harness.distance(peer, ours)
        assert apart <= (1e-4 if dtype == torch.float32 else TOLERANCE[dtype]), (row.title, apart)


def test_training_rows_give_all_gradients() -> None:
    """Of half the squared norm, so that the upstream gradient is the output."""

    def scaled(factor: float) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, y: torch.stack((1000 * x.sum(), factor * y[0], factor * 2 * y[1]))

    arguments = (torch.ones(3, requires_grad=True), torch.tensor([1.0, 2.0], requires_grad=True))
    row = Workload("k", "t", "o", scaled(1.0), scaled(3.0), arguments, trained=(0, 1))
    x, y = row.run(row.ours)
    assert x.tolist() == [3e6] * 3 and y.tolist() == [1.0, 8.0]
    assert row.run(row.peer)[1].tolist() == [9.0, 72.0]
    assert harness.distance(row.run(row.peer), [x, y]) == pytest.approx(8.0)


class Clock:
    """Time that passes only in calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.finished = 0
        monkeypatch.setattr(harness.time, "perf_counter", lambda: self.now)

    def peer(self, seconds: list[float], value: float) -> Callable[[], Tensor]:
        """A function that takes these times in turn."""
        left = iter(seconds)

        def call() -> Tensor:
            self.now += next(left)
            return torch.tensor([value, 1.0])

        return call

    def finish(self) -> None:
        self.finished += 1


def test_medians_and_ratios_within_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    # The first call compares outputs, the second warms up, three are timed; each does the work ten times.
    peers = {
        "ours": clock.peer([9, 9, 10.0, 20.0, 30.0], 1.0),
        "peer": clock.peer([9, 9, 40.0, 20.0, 90.0], 1.0),
    }
    case = harness.Case("c", peers, 1e-3, rounds=3, warmup=1, repeats=10, finish=clock.finish)
    timings = harness.measure(case).timings
    assert timings["ours"] == harness.Timing(2.0, 1.0, 3.0, 1.0, 1.0, 1.0)
    assert timings["peer"] == harness.Timing(4.0, 2.0, 9.0, 3.0, 1.0, 4.0)
    assert clock.finished == 2 * 4 * 2


@pytest.mark.parametrize("value", [1.01, float("nan")])
def test_a_wrong_output_has_no_time(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    clock = Clock(monkeypatch)
    peers = {"ours": clock.peer([1] * 9, 1.0), "peer": clock.peer([1] * 9, value)}
    with pytest.raises(SystemExit, match=r"peer differs by .* no timing"):
        harness.measure(harness.Case("c", peers, 1e-3, rounds=1, warmup=0))


def test_distance_is_that_of_the_worst_output() -> None:
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([1000.0, 0.0])
    assert harness.distance(a, torch.tensor([3.0, 0.0])) == pytest.approx(4 / 3)
    assert harness.distance([a, b], [2 * a, b]) == harness.distance([a, b], [2 * a, 2 * b]) == 0.5
    assert torch.tensor(harness.distance([a, b * torch.nan], [2 * a, b])).isnan()
    with pytest.raises(ValueError):
        harness.distance([a, b], [a])


def test_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow, fast = harness.Timing(2e-3, 1e-3, 4e-3, 1, 1, 1), harness.Timing(25e-6, 20e-6, 30e-6, 0.5, 0.25, 1.5)
    results = [harness.Result("conv", {"ours": slow, "cuDNN": fast})]
    harness.report(results, str(tmp_path / "out.json"))
    text = capsys.readouterr().out
    assert "2.00 [1.00-4.00] ms" in text and "25.00 [20.00-30.00] µs" in text and "0.50 [0.25-1.50]" in text
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["results"][0]["timings"]["cuDNN"]["median"] == 25e-6
    assert written["environment"]["torch"] == torch.__version__


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_run.py")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'python'}", "VSR_KERNELS_BUILD": "none"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("gpu_run: nothing can be measured here: ")
