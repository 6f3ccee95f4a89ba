"""What the CUDA kernels do, counted on the CPU, and the time a model makes of it; beside plain Triton kernels.

    python benchmarks/gpu_model.py                 # writes the tables and the plot of docs/gpu-model.md
    python benchmarks/gpu_model.py --operators     # the tables of this package's own Triton kernels there
    python benchmarks/gpu_model.py --check         # the gates on sm_80 at 180x320; exit code 1 if one fails

Needs a CUDA toolkit and Triton, no GPU. Nothing here was measured on a GPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from gpu import gates
from gpu.case import Case
from gpu.cases import SIZE, gate_cases, table_cases
from gpu.counts import total
from gpu.devices import GPUS
from gpu.machine import Machine
from gpu.report import Row, operators_sections, plot, sections, write_between_marks

DOCS = Path(__file__).resolve().parent.parent / "docs"
GATE_TARGET = 80


def measure(machine: Machine, cases: Sequence[Case]) -> list[Row]:
    """Run and count cases, by this package's kernels and by the baselines."""
    rows = []
    for case in cases:
        ours = total(machine, case.ours(machine), case.compulsory, case.units)
        triton = None
        if case.triton is not None:
            triton = total(machine, case.triton(machine), case.compulsory, case.units)
        rows.append(Row(case.key, case.title, case.unit, case.flops, case.compulsory, ours, triton))
        print(f"sm_{machine.target}: {case.title}", file=sys.stderr, flush=True)
    return rows


def measure_target(target: int, only: Sequence[str]) -> list[Row]:
    """The rows of the table for one target, in a process of its own."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="triton")
    return measure(Machine(target), [case for case in table_cases() if not only or case.key in only])


def measure_operators(target: int, only: Sequence[str]) -> list[Row]:
    """This package's Triton kernels for one target, in a process of its own."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="triton")
    machine, rows = Machine(target), []
    for case in table_cases():
        if case.operators is None or (only and case.key not in only):
            continue
        found = total(machine, case.operators(machine), case.compulsory, case.units)
        rows.append(Row(case.key, case.title, case.unit, case.flops, case.compulsory, found, None))
        print(f"sm_{target}: {case.title}, in Triton", file=sys.stderr, flush=True)
    return rows


def check(only: Sequence[str]) -> int:
    """Judge all gates; the number of those that fail."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="triton")
    verdicts: list[gates.Verdict] = []
    for row in measure(Machine(GATE_TARGET), [case for case in gate_cases(*SIZE) if not only or case.key in only]):
        verdicts += gates.judge(row.key, row.ours, row.unit, sized=True)
        if row.triton is not None:
            verdicts += gates.compare(row.key, row.ours, row.triton, row.unit)
    print(gates.report(verdicts))
    return sum(not verdict.passed for verdict in verdicts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="judge the gates instead of writing the document")
    parser.add_argument("--operators", action="store_true", help="this package's Triton kernels instead")
    parser.add_argument("--case", nargs="+", default=[], metavar="KEY", help="only these rows, printed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    args = parser.parse_args()
    if args.check:
        raise SystemExit(1 if check(args.case) else 0)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        measured = measure_operators if args.operators else measure_target
        found = list(pool.map(measured, [gpu.target for gpu in GPUS], [args.case] * len(GPUS)))
    rows = {gpu.name: part for gpu, part in zip(GPUS, found, strict=True)}
    text = operators_sections(rows) if args.operators else sections(rows)
    if args.case:
        print(text)
        return
    if args.operators:
        write_between_marks(DOCS / "gpu-model.md", text, "operators")
        return
    write_between_marks(DOCS / "gpu-model.md", text)
    plot(rows, DOCS / "gpu-model.png")


if __name__ == "__main__":
    main()
