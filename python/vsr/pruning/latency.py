"""Measured times of the kernels by channel count, kept in the cache folder so that a machine is measured once."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsr.fetch import cache_dir
from vsr.files import whole_file
from vsr_kernels import PackedWeights, conv3x3, sparse_conv3x3
from vsr_kernels.version import __version__

_HEIGHT, _WIDTH = 90, 160
_ROUNDS = 7
_STEP = 8


class TimeTable:
    """Seconds per pixel of convolutions, measured when they are first asked for.

    Widths are rounded up to multiples of 8: kernels compute whole vectors.

    Args:
        folder: Where measurements are kept; None for the cache folder.
        device: Where to measure.
    """

    def __init__(self, folder: Path | None = None, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self._path = (folder or cache_dir() / "kernel-times") / f"{_machine(self.device)}.json"
        self._known: dict[str, float] = json.loads(self._path.read_text()) if self._path.is_file() else {}

    def seconds_per_pixel(self, kind: str, full: int, inputs: int, outputs: int, repeat: int = 1) -> float:
        """Time of one convolution over the pixels of its output before any shuffle.

        Args:
            kind: ``conv``; ``shuffle``, a convolution with a pixel shuffle; ``point``, 1x1; ``gather`` and ``scatter``,
                the first and the second convolution of a pruned residual block.
            full: Channels that are gathered from or scattered to.
            inputs, outputs: Widths, in units.
            repeat: Filters of an output unit.
        """
        inputs, outputs = (-(-width // _STEP) * _STEP for width in (inputs, outputs))
        full = max(full, inputs if kind == "gather" else outputs)
        key = f"{kind} {full} {inputs} {outputs} {repeat}"
        if key not in self._known:
            self._known[key] = _measure(_call(kind, full, inputs, outputs, repeat, self.device), self.device)
        return self._known[key]

    def save(self) -> None:
        """Keep what was measured for later runs on this machine."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self._path) as temporary:
            temporary.write_text(json.dumps(self._known, indent=0))


def _machine(device: torch.device) -> str:
    """A file name for what measurements depend on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif info.is_file():
        lines = (line for line in info.read_text().splitlines() if line.startswith("model name"))
        name = next(lines, name).split(":")[-1].strip()
    text = f"{name} {torch.get_num_threads()} threads {__version__} torch {torch.__version__}"
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in text)


def _call(kind: str, full: int, inputs: int, outputs: int, repeat: int, device: torch.device) -> Callable[[], Tensor]:
    def image(channels: int) -> Tensor:
        made = torch.randn(1, channels, _HEIGHT, _WIDTH, device=device)
        return made.contiguous(memory_format=torch.channels_last)

    taps = 1 if kind == "point" else 3
    weight = nn.Parameter(torch.randn(outputs * repeat, inputs, taps, taps, device=device) / (taps * inputs**0.5))
    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    bias = nn.Parameter(torch.zeros(outputs * repeat, device=device))
    packed = PackedWeights()
    some = torch.arange(inputs if kind == "gather" else outputs, device=device)
    if kind == "gather":
        x = image(full)
        return lambda: sparse_conv3x3(x, weight, bias, in_channels=some, activation="relu", packed=packed)
    x = image(inputs)
    if kind == "scatter":
        residual = image(full)
        return lambda: sparse_conv3x3(x, weight, bias, out_channels=some, residual=residual, packed=packed)
    if kind == "point":
        return lambda: F.conv2d(x, weight, bias)
    r = math.isqrt(repeat)
    return lambda: conv3x3(x, weight, bias, activation="leaky_relu", slope=0.1, pixel_shuffle=r, packed=packed)


@torch.no_grad()
def _measure(call: Callable[[], Tensor], device: torch.device) -> float:
    """Least time of a call per pixel: what other work on the machine takes only ever adds."""
    best = math.inf
    for _ in range(_ROUNDS):
        _wait(device)
        begin = time.perf_counter()
        call()
        _wait(device)
        best = min(best, time.perf_counter() - begin)
    return best / (_HEIGHT * _WIDTH)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
