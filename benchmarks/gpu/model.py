"""From counts to a predicted time. A model, no measurement: what it leaves out is listed in docs/gpu-model.md.

Blocks are dealt out evenly, so the busiest multiprocessor gets ceil(blocks / multiprocessors) of them. Each costs it
the largest of three: cycles of its tensor cores over their efficiency, cycles of its four issue slots, and wavefronts
of shared memory and L1. The first loads and last stores of a block are covered by other blocks, if more than one fits;
otherwise they are paid for each block. The launch takes at least what L2 and DRAM need, and a fixed time to begin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .counts import Counts, Total
from .devices import ISSUE_PER_CYCLE, SHARED_BYTES_PER_CYCLE, SUB_CORES, Gpu

LAUNCH = 2e-6  # seconds from one kernel of a stream to the next; about half of it inside a CUDA graph
FILL_CYCLES = 1700  # from the first load of a block to its first product, and from the last to the end of its stores
TENSOR_EFFICIENCY = (0.85, 0.70)  # of tensor cores whose operands are there: the range of the prediction
KEPT_BY_L2 = 0.7  # share of L2 that one launch leaves for the next; data larger than that comes from DRAM


@dataclass(frozen=True)
class Prediction:
    """Seconds by term, for one tensor efficiency; terms of several launches are summed."""

    terms: Mapping[str, float]
    seconds: float

    @property
    def limit(self) -> str:
        """The terms that the time consists of, the largest first, down to a quarter of it."""
        ordered = sorted(self.terms.items(), key=lambda item: -item[1])
        return ", ".join(name for name, value in ordered if value >= self.seconds / 4)


def predict_launch(c: Counts, gpu: Gpu, efficiency: float) -> Prediction:
    """The model for one launch."""
    mma_cycles = gpu.wgmma_cycles if c.wgmma and gpu.wgmma_cycles else gpu.mma_cycles
    rounds = math.ceil(c.blocks / gpu.device.multiprocessors)
    share = (
        rounds / c.blocks / gpu.clock
    )  # of the launch that falls to the busiest multiprocessor, in seconds per cycle
    busy = {
        "tensor": c.mma * mma_cycles / SUB_CORES / efficiency * share,
        "issue": (c.sass + c.matrix_sass) / SUB_CORES / ISSUE_PER_CYCLE * share,
        "shared": (c.wavefronts + c.l1_bytes / SHARED_BYTES_PER_CYCLE) * share,
    }
    fill = FILL_CYCLES * (rounds if c.resident == 1 else 1) / gpu.clock
    bound = max(busy, key=lambda name: busy[name])
    memory = {"L2": c.l2_bytes / gpu.l2}
    if c.moved_bytes > KEPT_BY_L2 * gpu.device.l2_bytes:
        memory["DRAM"] = c.moved_bytes / gpu.dram
    slowest = max(memory, key=lambda name: memory[name])
    if memory[slowest] > busy[bound] + fill:
        return Prediction({slowest: memory[slowest], "launch": LAUNCH}, memory[slowest] + LAUNCH)
    return Prediction({bound: busy[bound], "fill": fill, "launch": LAUNCH}, busy[bound] + fill + LAUNCH)


def predict(total: Total, gpu: Gpu, efficiency: float) -> Prediction:
    """The model for all launches of a call, one after the other."""
    terms: dict[str, float] = {}
    seconds = 0.0
    for each in total.counts:
        part = predict_launch(each, gpu, efficiency)
        seconds += part.seconds
        for name, value in part.terms.items():
            terms[name] = terms.get(name, 0.0) + value
    return Prediction(terms, seconds)


def predict_range(total: Total, gpu: Gpu) -> tuple[Prediction, Prediction]:
    """The best and the worst case of the tensor cores' efficiency."""
    best, worst = (predict(total, gpu, efficiency) for efficiency in TENSOR_EFFICIENCY)
    return best, worst


def roofline(flops: float, compulsory: int, gpu: Gpu) -> float:
    """Seconds that no implementation with mma.sync undercuts: the arithmetic, and the bytes from where they are."""
    in_l2 = compulsory <= KEPT_BY_L2 * gpu.device.l2_bytes
    return max(flops / gpu.flops, compulsory / (gpu.l2 if in_l2 else gpu.dram))
