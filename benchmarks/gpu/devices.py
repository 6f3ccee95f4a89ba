"""The GPUs of the model, as data.

Published: multiprocessors, clock, peak bf16 rate with float32 sums, DRAM bandwidth and L2 size, from NVIDIA's data
sheets and white papers of the A100 (SXM, 40 GB), the Ada generation and the H100 (SXM). Cycles of an MMA follow from
the peak.

Not published, and assumed here: what L2 delivers in practice (the design figure of the A100 is 5120 bytes per clock,
7.2 TB/s), and that mma.sync reaches 62 % of what wgmma does on the H100 (Luo et al., "Benchmarking and Dissecting the
Nvidia Hopper GPU Architecture", 2024, saw about that share).
"""

from __future__ import annotations

from dataclasses import dataclass

from ptxvm import DEVICES, Device

MMA_FLOPS = 2 * 16 * 8 * 16  # of one mma.m16n8k16, the unit of all figures "per MMA"
SUB_CORES = 4  # of a multiprocessor; each issues one warp instruction per cycle
ISSUE_PER_CYCLE = 1
SHARED_BYTES_PER_CYCLE = 128  # of a multiprocessor: one wavefront


@dataclass(frozen=True)
class Gpu:
    """A device of the model.

    Attributes:
        name: as in tables.
        target: compute capability, as a key of ``ptxvm.DEVICES``.
        clock: of the multiprocessors under load, in Hz.
        mma_cycles: cycles of a sub-core for an m16n8k16 in 16 bits by mma.sync.
        wgmma_cycles: the same by wgmma; None where there is none.
        l2: bytes per second that L2 delivers.
        dram: bytes per second of DRAM.
    """

    name: str
    target: int
    clock: float
    mma_cycles: float
    wgmma_cycles: float | None
    l2: float
    dram: float

    @property
    def device(self) -> Device:
        """Multiprocessors, shared memory and the like."""
        return DEVICES[self.target]

    @property
    def flops(self) -> float:
        """Peak rate of mma.sync, in 1/s."""
        return MMA_FLOPS / self.mma_cycles * SUB_CORES * self.device.multiprocessors * self.clock


GPUS = (
    Gpu("A100", 80, 1.41e9, 8.0, None, 4.5e12, 1.555e12),
    Gpu("RTX 4090", 89, 2.52e9, 32.0, None, 4.5e12, 1.008e12),
    Gpu("H100", 90, 1.755e9, 6.4, 4.0, 5.5e12, 3.35e12),
)
