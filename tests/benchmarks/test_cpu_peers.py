"""benchmarks/cpu.py: every peer computes the same, wrong answers are not timed, ratios are taken within rounds."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpu_peers.cases import Array, cases
from cpu_peers.peaks import Peaks, Probe
from cpu_peers.protocol import INT8, PEERS, PRECISIONS, Peer, Setting, Store, UnsupportedError, distance
from cpu_peers.report import plot, print_peaks, table, write_json
from cpu_peers.session import TOLERANCES, Row, Section, Session
from cpu_peers.torch_peer import truth
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
CASES = cases(smoke=True)
CORES = sorted(os.sched_getaffinity(0))[:1]


@pytest.fixture(scope="module")
def made() -> Callable[[str], tuple[list[Array], dict[str, Array], list[Array]]]:
    """Inputs, parameters and expected outputs of a case."""
    kept: dict[str, tuple[list[Array], dict[str, Array], list[Array]]] = {}

    def get(name: str) -> tuple[list[Array], dict[str, Array], list[Array]]:
        if name not in kept:
            inputs, params = CASES[name].make()
            kept[name] = inputs, params, truth(CASES[name], inputs, params)
        return kept[name]

    return get


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("peer", ["ours", "torch", "onnxruntime", "openvino", "ncnn"])
def test_every_peer_computes_every_case(peer: str, case: str, made: Any) -> None:
    if PEERS[peer].missing():
        pytest.skip(PEERS[peer].missing())
    prepare = importlib.import_module(f"cpu_peers.{PEERS[peer].module}").prepare
    inputs, params, expected = made(case)
    assert all(np.count_nonzero(x) for x in (*inputs, *expected))
    for precision in (INT8,) if CASES[case].quantized else PRECISIONS:
        try:
            prepared = prepare(CASES[case], inputs, params, Setting(precision, 1))
        except UnsupportedError:
            without = (("onnxruntime", "bfloat16"), ("torch", INT8), ("ncnn", INT8))
            assert (peer, precision) in without or (peer, case) == ("ncnn", "pruned")
            continue
        error = distance(prepared.outputs(prepared.call()), expected)
        if (peer, case, precision) == ("ncnn", "flow_warp", "bfloat16"):
            assert error > TOLERANCES[precision]  # it rounds coordinates
        else:
            assert error <= TOLERANCES[precision]
        if CASES[case].whole:
            assert prepared.reorders_apart is None and prepared.reorders_inside is None
        if prepared.reorders_inside:
            assert 0 <= prepared.reorders_inside() < 2  # more than the whole only if something else ran meanwhile
        if prepared.reorders_apart:
            assert prepared.reorders_apart() > 0


def test_pruned_blocks_read_and_write_odd_sets(made: Any) -> None:
    inputs, params, _ = made("pruned")
    kept = {key: value for key, value in params.items() if key.endswith("_kept")}
    assert len(kept) == 4 and len({tuple(v) for v in kept.values()}) > 1
    assert all(len(set(v.tolist())) == len(v) and len(v) % 2 == 1 for v in kept.values())
    assert all(len(v) in (3, 5) and v.max() < inputs[0].shape[0] for v in kept.values())


def test_distance() -> None:
    a = np.float32([[[3, 4]], [[0, 0]]])
    assert distance([2 * a], [a]) == pytest.approx(1)
    assert distance([a, a * 1.5], [a, a]) == pytest.approx(0.5)
    assert distance([a[:1]], [a]) == distance([a, a], [a]) == distance([a * np.nan], [a]) == np.inf


class Stub:
    """A worker whose answers are known."""

    def __init__(self, error: float, wall: list[float], inside: float | None = None) -> None:
        self.error, self.wall, self.inside = error, iter(wall), inside
        self.asked: list[str] = []

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append(do)
        if do == "load":
            return {"error": self.error}
        if do == "run":
            wall = next(self.wall, None)
            return {"refused": "ended"} if wall is None else {"wall": wall, "cpu": 2 * wall}
        return {"apart": None, "inside": self.inside}


def measured(case: str, rounds: int, *, precision: str = "float32", **workers: Stub) -> Section:
    session = Session.__new__(Session)
    session.missing = dict.fromkeys(workers) | {"absent": "not installed"}
    session.workers = workers  # type: ignore[assignment]
    return session.measure(CASES[case], {"flops": 8, "values": 5}, Setting(precision, 1), CORES, rounds)


def test_ratios_within_rounds_without_conversions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "absent", Peer("absent", "absent"))
    ours = Stub(1e-7, [9, 1, 9, 1, 10.0, 10.0, 20.0, 20.0, 40.0, 40.0])  # default and fast; two to warm up each
    section = measured("chain", 3, ours=ours, openvino=Stub(1e-7, [9, 1, 40.0, 160.0, 80.0], inside=0.25))
    first, fast, openvino, absent = section.rows
    assert (first.label, fast.label, openvino.label) == ("ours", "ours, fast", "openvino")
    assert first.wall == fast.wall == [10, 20, 40]
    assert openvino.wall == [40, 160, 80] and openvino.seconds() == [30, 120, 60]
    assert openvino.cpu_seconds() == [60, 240, 120]
    assert openvino.ratios(first) == [3, 6, 1.5]
    assert openvino.reorders() == 20
    assert absent.refused == "not installed" and absent.wall == []


@pytest.mark.parametrize("error", [5.1e-5, np.inf, np.nan])
def test_a_wrong_output_is_not_timed(error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "absent", Peer("absent", "absent"))
    wrong = Stub(error, [])
    section = measured("repsr", 2, ours=Stub(1e-7, [1.0] * 9), ncnn=wrong)
    row = next(row for row in section.rows if row.peer == "ncnn")
    assert row.is_wrong() and row.wall == [] and "not timed" in str(row.refused)
    assert "run" not in wrong.asked
    assert not section.rows[0].is_wrong()


def test_int8_stands_beside_other_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "absent", Peer("absent", "absent"))
    ours = Stub(1e-7, [9, 1, 9, 1, 9, 1, 10.0, 20.0, 15.0])
    section = measured("repsr-int8", 1, precision=INT8, ours=ours)
    labels = ["ours", "ours, repsr, float32", "ours, repsr, bfloat16", "absent"]
    assert [row.label for row in section.rows] == labels
    assert [row.tolerance for row in section.rows[:3]] == [TOLERANCES[p] for p in (INT8, *PRECISIONS)]
    assert section.rows[1].ratios(section.rows[0]) == [2]


def test_a_peer_that_ends_has_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "absent", Peer("absent", "absent"))
    ends = Stub(1e-7, [1.0] * 3)
    section = measured("repsr", 3, ours=Stub(1e-7, [1.0] * 10), ncnn=ends)
    ours, row = section.rows[0], next(row for row in section.rows if row.peer == "ncnn")
    assert row.refused == "ended" and row.wall == row.cpu == []
    assert ends.asked.count("run") == 4
    assert ours.wall == [1, 1, 1]


def test_a_missing_package_says_what_to_install() -> None:
    reason = Peer("p", "m", ("json", "no_such_package")).missing()
    assert reason == "no_such_package not installed: pip install 'vsr-kernels[bench]'"
    assert Peer("p", "m", ("json",)).missing() is None


def sections() -> list[Section]:
    ours = Row("ours", "ours", "chain x", 1e-5, 1e-7, wall=[0.010, 0.020], cpu=[0.02, 0.04], apart=0.003)
    peer = Row("ncnn", "ncnn", "chain x", 1e-5, 1e-7, wall=[0.040, 0.040], cpu=[0.02, 0.02], inside=0.5)
    wrong = Row("torch", "torch", "chain x", 1e-5, 0.5, refused="differs")
    return [Section("chain", "Chain", "float32", 2, 30_000_000, 0, [ours, peer, wrong], disturbance=0.25)]


def test_table_shows_rates_and_no_speed_of_what_is_wrong() -> None:
    console = Console(width=150, record=True)
    console.print(table(sections()[0], Peaks({"float32": 4.0})))
    print_peaks(console, 2, Peaks({"float32": 4.0}, {1000: 3.0}))
    text = console.export_text()
    lines = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    assert "15.00 [10.00-20.00]" in lines["ours"] and "2.0" in lines["ours"] and "50 %" in lines["ours"]
    assert "20.00 [20.00-20.00]" in lines["ncnn"] and "1.50 [1.00-2.00]" in lines["ncnn"]
    assert "differs" in lines["torch"] and "[" not in lines["torch"]
    assert "0.25 cores" in text and "peaks, 2 threads: float32 4 GFLOP/s" in text


def test_json_and_plot(tmp_path: Path) -> None:
    write_json(tmp_path / "out.json", sections(), {2: Peaks({"float32": 4.0}, {1000: 3.0})})
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["sections"][0]["rows"][1]["wall"] == [0.04, 0.04]
    assert data["peaks"]["2"]["gflops"] == {"float32": 4.0}
    pytest.importorskip("matplotlib")
    plot(tmp_path / "out.png", sections())
    assert (tmp_path / "out.png").stat().st_size > 5000


def test_peaks_are_plausible(tmp_path: Path) -> None:
    probe = Probe(tmp_path)
    if probe.missing:
        pytest.skip(probe.missing)
    found = probe.measure(CORES, [1 << 24])
    assert all(0.5 < value < 10_000 for value in (*found.gflops.values(), *found.copy.values()))
    assert list(found.copy) == [1 << 24]


def test_store_keeps_names_and_order(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("case", "params", {"body.0.weight": np.float32([1, 2])})
    assert store.read("case", "params")["body.0.weight"].tolist() == [1, 2]
    store.write_list("case", "truth", [np.float32([i]) for i in range(12)])
    assert [x[0] for x in store.read_list("case", "truth")] == list(range(12))


def test_the_whole_command(tmp_path: Path) -> None:
    """In short, with two peers that tests always have."""
    command = [sys.executable, str(ROOT / "benchmarks" / "cpu.py"), "--smoke", "--threads", "1"]
    command += ["--cases", "compact", "flow_warp", "--peers", "torch-tuned", "--json", str(tmp_path / "out.json")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'python'}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())["sections"]
    assert [(s["case"], s["precision"]) for s in found] == [
        (c, p) for c in ("compact", "flow_warp") for p in PRECISIONS
    ]
    assert [row["label"] for row in found[0]["rows"]] == ["ours", "ours, fast", "torch-tuned"]
    assert all(len(row["wall"]) == 1 and row["wall"][0] > 0 for s in found for row in s["rows"])


def test_bad_arguments_are_refused() -> None:
    run = partial(subprocess.run, capture_output=True, text=True, check=False)
    command = [sys.executable, str(ROOT / "benchmarks" / "cpu.py")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'python'}"}
    for arguments, word in ((["--threads", "0"], "--threads: expected 1 to"), (["--rounds", "0"], "at least 1, got 0")):
        done = run([*command, *arguments], env=environment)
        assert done.returncode == 2 and word in done.stderr
