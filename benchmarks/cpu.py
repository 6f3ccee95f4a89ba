"""This package on the CPU beside PyTorch, ONNX Runtime, OpenVINO and ncnn.

    python benchmarks/cpu.py [--cases NAME ...] [--peers NAME ...] [--threads 1 2] [--rounds 9]
                             [--json FILE] [--plot FILE] [--smoke]

Every peer runs in a process of its own, which sleeps while another one is timed. Peers take turns within each round,
pinned to the same cores, and ratios are taken within a round, because machines drift. Outputs are compared with
eager float32 PyTorch first: a wrong answer has no speed. Raw peaks (float32 FMA, bfloat16 dot products, copies) are
measured between the tables, by a program that is compiled for it. Linux only. Peers that are not installed become rows
that say so; pip install 'vsr-kernels[bench]' brings them.

Cases of int8 networks run ONNX Runtime and OpenVINO on the same integers, as QuantizeLinear and DequantizeLinear tell
them; this package's float32 and bfloat16 stand beside.

Names of cases and peers are in benchmarks/cpu_peers/cases.py and protocol.py; ``ours`` runs always, planned as in
``vsr upscale``. torch-tuned, torch-compile and ours-unplanned run with glibc settings that keep large tensors instead
of returning them to the system after every layer; all others as they come.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from cpu_peers.cases import cases
from cpu_peers.peaks import Peaks, Probe, best
from cpu_peers.protocol import INT8, PEERS, PRECISIONS, Setting
from cpu_peers.report import EXPLANATION, environment, plot, print_peaks, table, write_json
from cpu_peers.session import Section, Session
from rich.console import Console

_LARGE_COPY, _SMOKE_COPY = 1 << 28, 1 << 20  # bytes; the large one is beyond most caches


def main() -> None:
    known = list(cases(smoke=False))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=known, default=known, metavar="NAME")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS), metavar="NAME")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, random weights, one round")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if not all(1 <= threads <= len(cores) for threads in args.threads):
        parser.error(f"--threads: expected 1 to {len(cores)}, the cores that this process may use, got {args.threads}")
    if args.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {args.rounds}")
    sys.exit(run(args, cores))


def run(args: argparse.Namespace, cores: list[int]) -> int:
    """Measure everything; 1 if an output was wrong."""
    console = Console(width=150)
    console.print(", ".join(f"{key}: {value}" for key, value in environment().items()))
    console.print(EXPLANATION, markup=False)
    precisions = PRECISIONS if args.smoke or _has_bfloat16() else PRECISIONS[:1]
    if precisions != PRECISIONS:
        console.print("This CPU has no bfloat16 instructions: float32 only.")
    peers = [name for name in PEERS if name in args.peers or name == "ours"]
    all_cases = cases(args.smoke)
    sections: list[Section] = []
    with tempfile.TemporaryDirectory(prefix="vsr-cpu-") as folder:
        probe = Probe(Path(folder))
        if probe.missing:
            console.print(probe.missing)
        session = Session(peers, Path(folder), args.smoke, cores[: max(args.threads)])
        peaks: dict[int, Peaks] = {}
        try:
            for case in (case for name, case in all_cases.items() if name in args.cases):
                made = session.make(case.name)
                if case.beside:
                    session.make(case.beside)
                for threads in args.threads:
                    used = cores[:threads]
                    for precision in (INT8,) if case.quantized else precisions:
                        print(f"{case.name}, {precision}, {threads} threads", file=sys.stderr)
                        setting = Setting(precision, threads)
                        section = session.measure(case, made, setting, used, 1 if args.smoke else args.rounds)
                        sections.append(section)
                        copies = sorted({_SMOKE_COPY if args.smoke else _LARGE_COPY, section.moved} - {0})
                        now = probe.measure(used, copies)
                        peaks[threads] = best([peaks.get(threads, Peaks()), now])
                        console.print(table(section, peaks[threads]))
                        if args.json:
                            write_json(args.json, sections, peaks)
        finally:
            session.close()
    for threads, found in peaks.items():
        print_peaks(console, threads, found)
    if args.plot:
        plot(args.plot, sections)
    wrong = [f"{s.case}, {row.label}" for s in sections for row in s.rows if row.is_wrong()]
    if wrong:
        console.print("Outputs differ, and are not timed: " + "; ".join(wrong))
    return 1 if wrong else 0


def _has_bfloat16() -> bool:
    flags = Path("/proc/cpuinfo").read_text().split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


if __name__ == "__main__":
    main()
