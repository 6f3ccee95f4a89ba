"""What a peer is to the worker that runs it, and what passes between a worker and the driver."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .cases import Array, Case
from .recorder import UnsupportedError

PRECISIONS = ("float32", "bfloat16")

#: Of quantized cases alone; what is left in floating point may be either of these.
INT8 = "int8"

#: glibc keeps large tensors instead of returning them to the system after every layer.
TUNED = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=268435456"


@dataclass(frozen=True)
class Prepared:
    """A case that is ready to be timed.

    Attributes:
        call: Does the work once; what it returns is only given to ``outputs``.
        outputs: The result as float32 arrays (C, H, W).
        reorders_apart: For an operator whose layout the caller provides: seconds that it would take to convert its
            inputs from float32 NCHW and its outputs back.
        reorders_inside: For an operator that converts by itself: the part of its time that goes into that.
    """

    call: Callable[[], Any]
    outputs: Callable[[Any], Sequence[Array]]
    reorders_apart: Callable[[], float] | None = None
    reorders_inside: Callable[[], float] | None = None


@dataclass(frozen=True)
class Setting:
    """How a case is to run.

    ``precision`` is one of PRECISIONS, or INT8; ``fast`` asks for float32 of relaxed precision.
    """

    precision: str
    threads: int
    fast: bool = False


class Prepare(Protocol):
    """The one function of a peer's module."""

    def __call__(self, case: Case, inputs: Sequence[Array], params: Mapping[str, Array], setting: Setting) -> Prepared:
        """Builds what is timed.

        Raises:
            UnsupportedError: the peer cannot do that.
        """


@dataclass(frozen=True)
class Peer:
    """A process of the benchmark.

    Attributes:
        name: As the command line takes it.
        module: In this folder; its function ``prepare`` is a :class:`Prepare`.
        needs: Packages without which it cannot run.
        arguments: Of ``prepare``, beyond those of :class:`Prepare`.
        environment: Added to that of its process.
    """

    name: str
    module: str
    needs: tuple[str, ...] = ()
    arguments: tuple[tuple[str, Any], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    def missing(self) -> str | None:
        """What to install before this peer can run."""
        absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"{' and '.join(absent)} not installed: pip install 'vsr-kernels[bench]'" if absent else None


_TUNED = (("GLIBC_TUNABLES", TUNED),)
_PEERS = (
    Peer("ours", "ours"),
    Peer("ours-unplanned", "ours", arguments=(("planned", False),), environment=_TUNED),
    Peer("torch", "torch_peer"),
    Peer("torch-tuned", "torch_peer", environment=_TUNED),
    Peer("torch-compile", "torch_peer", arguments=(("compiled", True),), environment=_TUNED),
    Peer("onnxruntime", "onnxruntime_peer", ("onnxruntime", "onnx")),
    Peer("openvino", "openvino_peer", ("openvino", "onnx")),
    Peer("ncnn", "ncnn_peer", ("ncnn",)),
)

#: By name; the first is what the others are compared with.
PEERS = {peer.name: peer for peer in _PEERS}


class Store:
    """Inputs, parameters and expected outputs of cases, as files that all workers read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, case: str, kind: str, arrays: Mapping[str, Array]) -> None:
        """Keep arrays under their names."""
        folder = self.folder / case / kind
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)

    def read(self, case: str, kind: str) -> dict[str, Array]:
        """Arrays by name, mapped."""
        files = sorted((self.folder / case / kind).glob("*.npy"))
        return {file.stem: np.load(file, mmap_mode="r") for file in files}

    def write_list(self, case: str, kind: str, arrays: Sequence[Array]) -> None:
        """Keep arrays in their order."""
        self.write(case, kind, {f"{i:04}": array for i, array in enumerate(arrays)})

    def read_list(self, case: str, kind: str) -> list[Array]:
        """Arrays in their order, mapped."""
        return list(self.read(case, kind).values())


def distance(found: Sequence[Array], wanted: Sequence[Array]) -> float:
    """Relative L2 distance; of several outputs, that of the worst. Infinite where shapes differ."""
    worst = 0.0
    if len(found) != len(wanted):
        return float("inf")
    for a, b in zip(found, wanted, strict=True):
        if a.shape != b.shape:
            return float("inf")
        apart = sum(float(np.square(x - y, dtype=np.float64).sum()) for x, y in _rows(a, b))
        size = sum(float(np.square(y, dtype=np.float64).sum()) for _, y in _rows(a, b))
        worst = max(worst, (apart / size) ** 0.5) if np.isfinite(apart) else float("inf")
    return worst


def _rows(a: Array, b: Array) -> Iterator[tuple[Array, Array]]:
    """Pairs of channels: whole arrays of float64 would take too much memory."""
    return zip(a, b, strict=True)


__all__ = [
    "INT8",
    "PEERS",
    "PRECISIONS",
    "Peer",
    "Prepare",
    "Prepared",
    "Setting",
    "Store",
    "UnsupportedError",
    "distance",
]
