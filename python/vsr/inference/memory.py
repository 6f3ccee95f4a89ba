"""How much memory a call of a model takes, to tile before a CPU runs out: Linux then kills the process unasked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vsr.inference.state import tensors_of

_PROBE = 64
# Input, output and one workspace of the widest layer, and what the allocator keeps.
_LAYER_COPIES = 4
_USABLE = 0.7


@dataclass(frozen=True)
class Footprint:
    """Bytes per input pixel.

    Attributes:
        call: Taken once by a call, whatever the number of frames.
        frame: Taken by every frame of the call.
    """

    call: float
    frame: float

    def pixels(self, frames: int, available: int) -> int:
        """How many pixels a frame may have so that a call of ``frames`` frames fits into ``available`` bytes."""
        return int(available * _USABLE / (self.call + frames * self.frame))


def measure(model: nn.Module, recurrent: bool) -> Footprint:
    """Run a model on a small picture and note the size of what its layers return.

    Args:
        model: On the CPU, in the precision it will be used in.
        recurrent: Whether it takes (N, T, 3, H, W) and keeps a state.
    """
    largest = 0

    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal largest
        sizes = [t.numel() * t.element_size() for t in tensors_of(output)]
        largest = max([largest, *sizes])

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        with torch.inference_mode():
            x = torch.zeros(1, 3, _PROBE, _PROBE)
            kept: list[Tensor] = [x]
            if recurrent:
                out, state = model.step(x[None], None, keep=1)  # type: ignore[operator]
                kept += [out, *tensors_of(state)]
            else:
                kept.append(model(x))
    finally:
        for hook in hooks:
            hook.remove()
    per_frame = sum(t.numel() * t.element_size() for t in kept)
    return Footprint(_LAYER_COPIES * largest / _PROBE**2, per_frame / _PROBE**2)


def available_memory() -> int | None:
    """Bytes of main memory that can be taken without swapping, control group limits included; None if unknown."""
    candidates = []
    info = Path("/proc/meminfo")
    if info.exists():
        kibibytes = re.search(r"^MemAvailable:\s*(\d+)", info.read_text(), re.MULTILINE)
        if kibibytes:
            candidates.append(int(kibibytes[1]) * 1024)
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), (group / "memory.current").read_text().strip()
        if limit != "max":
            candidates.append(int(limit) - int(used))
    except (OSError, ValueError):
        pass  # no control group, or one without a limit
    return min(candidates) if candidates else None
