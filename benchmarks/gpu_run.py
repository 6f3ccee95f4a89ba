"""Measures the operators on the GPU of this machine, beside cuDNN and grid_sample, eager and under torch.compile.

    python benchmarks/gpu_run.py [--dtype bfloat16 float16] [--rounds N] [--json FILE]

All peers get channels_last tensors, cudnn.benchmark is on, and torch.compile searches exhaustively (max-autotune).
What is timed is a CUDA graph of 50 calls, so that neither Python nor launches from the CPU are in the figure; inputs
stay in L2 where they fit, as between the layers of a network. Peers take turns within each round. Outputs are compared
first: where they disagree, no time is printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import torch
from gpu.workloads import Workload, workloads
from harness import Case, Result, measure, report
from torch import Tensor

from vsr_kernels import backends, use_backend

REPEATS = 50
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 4e-3}  # relative L2 distance; float32 sums of rounded operands
COMPILED = "max-autotune-no-cudagraphs"  # the graphs are captured here, for all peers alike


def captured(function: Callable[[], Sequence[Tensor]]) -> Callable[[], Sequence[Tensor]]:
    """A CUDA graph of ``REPEATS`` calls, as a function that replays it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles, searches, allocates
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(REPEATS):
            out = function()

    def replay() -> Sequence[Tensor]:
        graph.replay()
        return out

    return replay


def functions(workload: Workload) -> dict[str, Callable[[], Sequence[Tensor]]]:
    """What is to be timed, by name; ours is the first."""
    compiled = torch.compile(workload.peer, mode=COMPILED, dynamic=False)
    return {
        "vsr_kernels": lambda: workload.run(workload.ours),
        f"{workload.peer_name}, eager": lambda: workload.run(workload.peer),
        f"{workload.peer_name}, torch.compile": lambda: workload.run(compiled),
    }


def attempt(name: str, function: Callable[[], Sequence[Tensor]]) -> Callable[[], Sequence[Tensor]] | None:
    """``captured``, or None and a word on stderr where that is impossible."""
    try:
        return captured(function)
    except RuntimeError as error:
        print(f"{name} left out: {str(error).splitlines()[0]}", file=sys.stderr)
        return None


def case(workload: Workload, dtype: torch.dtype, rounds: int) -> Case:
    """The row of a workload, with the peers that can be captured."""
    name = f"{workload.title}, {str(dtype).removeprefix('torch.')}"
    (mine, ours), *others = functions(workload).items()
    peers = {mine: captured(ours)}
    for peer, function in others:
        replay = attempt(f"{name}: {peer}", function)
        if replay is not None:
            peers[peer] = replay
    return Case(
        name,
        peers,
        TOLERANCE[dtype],
        rounds=rounds,
        repeats=REPEATS,
        finish=torch.cuda.synchronize,
    )


def run(dtypes: list[torch.dtype], rounds: int) -> list[Result]:
    """Measure all workloads whose operators have CUDA kernels."""
    torch.backends.cudnn.benchmark = True
    results = []
    available = backends()["cuda"].operators
    for dtype in dtypes:
        for workload in workloads("cuda", dtype):
            if workload.operator not in available:
                print(f"{workload.title}: no CUDA kernel of {workload.operator} exists", file=sys.stderr)
                continue
            with use_backend("cuda"), torch.inference_mode():
                results.append(measure(case(workload, dtype, rounds)))
            torch.compiler.reset()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", choices=["bfloat16", "float16"], default=["bfloat16", "float16"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json")
    args = parser.parse_args()
    status = backends()["cuda"]
    if not status.available:
        print(f"gpu_run: nothing can be measured here: {status.detail}", file=sys.stderr)
        raise SystemExit(2)
    report(run([getattr(torch, name) for name in args.dtype], args.rounds), args.json)


if __name__ == "__main__":
    main()
