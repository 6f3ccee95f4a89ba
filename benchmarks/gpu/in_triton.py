"""This package's operators by its Triton kernels, forward: what vsr_kernels.triton launches, on tensors of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .case import require_close
from .machine import UNCHECKED, Launched, Machine, triton_ptxas


def launched_by(machine: Machine, call: Callable[[Any], Tensor], expected: Tensor, what: str) -> Sequence[Launched]:
    """The launches of a call of the Triton operators, its result checked; packing, done once per network, left out.

    Kernels take the first of the tiles that their autotuner would time.

    Args:
        machine: where it runs.
        call: takes ``torch.ops.vsr_triton``.
        expected: the result in float32.
        what: names the call.
    """
    from ptxvm.triton_calls import Call, Launcher
    from vsr_kernels import backend
    from vsr_kernels.triton import conv, shuffle, warp

    found: list[Launched] = []

    def run(call: Call) -> None:
        kernel = call.compile(machine.target)
        stats = kernel.launch(call.grid, call.numpy(), **UNCHECKED)
        if call.fn.__name__ != "pack_kernel":
            blocks, ptxas = int(np.prod(call.grid)), triton_ptxas(machine.target)
            found.append(
                Launched(kernel.module, kernel.name, blocks, kernel.threads, kernel.shared_bytes, stats, ptxas)
            )

    launcher = Launcher(machine.target, run=run)
    modules = (conv, shuffle, warp)
    before = [module.wrap_triton for module in modules]
    backend.load()
    backend._load_triton()
    try:
        for module in modules:
            module.wrap_triton = launcher
        with torch.no_grad():
            out = call(torch.ops.vsr_triton)
    finally:
        for module, wrap in zip(modules, before, strict=True):
            module.wrap_triton = wrap
    require_close(f"{what} by Triton operators on sm_{machine.target}", out.float(), expected)
    return found
