"""The process of one peer: ``python -m cpu_peers.worker PEER FOLDER [--smoke]``, spoken to in lines of JSON.

It sleeps in a read until it is asked for something, so that whoever is being timed has the machine to itself.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from .cases import Case, cases
from .protocol import PEERS, Prepare, Prepared, Setting, Store, UnsupportedError, distance

TRUTH = "truth"


class Worker:
    """Answers requests; ``make`` is for the truth, the others for peers."""

    def __init__(self, peer: str, store: Store, known: dict[str, Case]) -> None:
        self.peer, self.store, self.cases = peer, store, known
        self.ready: dict[str, Prepared] = {}

    def make(self, case: str) -> dict[str, Any]:
        """Write a case's inputs, parameters and expected outputs; tell its products and bytes."""
        from .recorder import Recorder
        from .torch_peer import truth

        inputs, params = self.cases[case].make()
        outputs = truth(self.cases[case], inputs, params)
        self.store.write_list(case, "inputs", inputs)
        self.store.write(case, "params", params)
        self.store.write_list(case, "truth", outputs)
        flops = Recorder(self.cases[case].network, params, [x.shape for x in inputs]).flops
        return {"flops": flops, "values": sum(x.size for x in (*inputs, *outputs))}

    def load(self, entry: str, case: str, setting: dict[str, Any], cores: Sequence[int]) -> dict[str, Any]:
        """Prepare a case on these cores; tell how far its output is from the expected one."""
        pin(cores)
        peer = PEERS[self.peer]
        module = importlib.import_module(f"cpu_peers.{peer.module}")
        prepare: Prepare = partial(module.prepare, **dict(peer.arguments))
        inputs, params = self.store.read_list(case, "inputs"), self.store.read(case, "params")
        prepared = prepare(self.cases[case], inputs, params, Setting(**setting))
        error = distance(prepared.outputs(prepared.call()), self.store.read_list(case, "truth"))
        self.ready[entry] = prepared
        return {"error": error}

    def reorders(self, entry: str) -> dict[str, Any]:
        """What conversions cost; see :class:`Prepared`."""
        prepared = self.ready[entry]
        apart, inside = prepared.reorders_apart, prepared.reorders_inside
        return {"apart": apart and apart(), "inside": inside and inside()}

    def run(self, entry: str, calls: int) -> dict[str, Any]:
        """Seconds per call, by the clock and of all threads together."""
        call = self.ready[entry].call
        cpu, start = time.process_time(), time.perf_counter()
        for _ in range(calls):
            call()
        wall = time.perf_counter() - start
        return {"wall": wall / calls, "cpu": (time.process_time() - cpu) / calls}

    def drop(self) -> dict[str, Any]:
        """Forget all cases and return their memory, which tuned allocators keep otherwise."""
        self.ready.clear()
        if "torch._dynamo" in sys.modules:
            sys.modules["torch"].compiler.reset()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return {}


def pin(cores: Sequence[int]) -> None:
    """Every thread of this process; threads to come inherit it."""
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):  # ended meanwhile
            os.sched_setaffinity(int(thread), cores)


def serve(worker: Worker, requests: TextIO, answers: TextIO) -> None:
    """Until there are no more requests."""
    for line in requests:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except UnsupportedError as reason:
            answer = {"refused": str(reason)}
        except Exception as error:  # of whatever kind a library raises: the row shows it, the others go on
            answer = {"refused": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=[TRUTH, *PEERS])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    serve(Worker(args.peer, Store(args.folder), cases(args.smoke)), sys.stdin, answers)


if __name__ == "__main__":
    main()
