"""The simulated devices and the launch limits they enforce."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .aliases import Triple
from .errors import LaunchError


@dataclass(frozen=True)
class Limits:
    """Limits shared by every device."""

    threads_per_block: int = 1024
    block: Triple = (1024, 1024, 64)
    grid: Triple = (2**31 - 1, 65535, 65535)
    default_dynamic_shared: int = 48 * 1024


limits = Limits()


@dataclass(frozen=True)
class Device:
    """What a kernel launch, and code that asks for device properties, can see."""

    major: int
    minor: int
    name: str
    multiprocessors: int
    shared_optin: int  # bytes per block, with the opt-in
    shared_per_multiprocessor: int
    threads_per_multiprocessor: int
    blocks_per_multiprocessor: int
    l2_bytes: int
    registers_per_multiprocessor: int = 65536

    @property
    def reserved_shared(self) -> int:
        """Bytes of shared memory that the system takes for each block (CUDA programming guide, "Shared Memory")."""
        return 1024 if self.major >= 8 else 0

    @classmethod
    def for_target(cls, target: str) -> Device:
        """The device for a PTX target such as sm_90a; an unknown one gets the next lower entry."""
        number = int("".join(c for c in target if c.isdigit()))
        return DEVICES[max((n for n in DEVICES if n <= number), default=min(DEVICES))]

    def check_launch(
        self,
        grid: Triple,
        block: Triple,
        dynamic_shared: int,
        static_shared: int,
        allowed_dynamic: int,
        directives: Mapping[str, Sequence[int]],
    ) -> None:
        """Refuse what the real runtime refuses, with its error codes."""
        threads = block[0] * block[1] * block[2]
        if min(grid) < 1 or min(block) < 1:
            raise LaunchError("cudaErrorInvalidConfiguration", f"grid {grid}, block {block} has an empty dimension")
        if threads > limits.threads_per_block or any(b > most for b, most in zip(block, limits.block, strict=True)):
            raise LaunchError("cudaErrorInvalidConfiguration", f"block {block} is too large")
        if any(g > most for g, most in zip(grid, limits.grid, strict=True)):
            raise LaunchError("cudaErrorInvalidConfiguration", f"grid {grid} is too large")
        bound = directives.get("maxntid") or directives.get("reqntid")
        if bound:
            product = 1
            for value in bound:
                product *= value
            if threads > product:
                raise LaunchError("cudaErrorInvalidValue", f"{threads} threads exceed the launch bound {product}")
        if dynamic_shared > max(allowed_dynamic, 0):
            raise LaunchError(
                "cudaErrorInvalidValue",
                f"{dynamic_shared} bytes of dynamic shared memory, {allowed_dynamic} are allowed",
            )
        if dynamic_shared + static_shared > (
            self.shared_optin if allowed_dynamic > limits.default_dynamic_shared else limits.default_dynamic_shared
        ):
            raise LaunchError("cudaErrorInvalidValue", f"{dynamic_shared} + {static_shared} bytes of shared memory")


KIB, MIB = 1024, 1 << 20
DEVICES = {
    75: Device(7, 5, "Simulated sm_75", 40, 64 * KIB, 64 * KIB, 1024, 16, 4 * MIB),
    80: Device(8, 0, "Simulated sm_80", 108, 163 * KIB, 164 * KIB, 2048, 32, 40 * MIB),
    86: Device(8, 6, "Simulated sm_86", 84, 99 * KIB, 100 * KIB, 1536, 16, 6 * MIB),
    89: Device(8, 9, "Simulated sm_89", 128, 99 * KIB, 100 * KIB, 1536, 24, 72 * MIB),
    90: Device(9, 0, "Simulated sm_90", 132, 227 * KIB, 228 * KIB, 2048, 32, 50 * MIB),
    100: Device(10, 0, "Simulated sm_100", 148, 227 * KIB, 228 * KIB, 2048, 32, 126 * MIB),
    120: Device(12, 0, "Simulated sm_120", 170, 99 * KIB, 100 * KIB, 1536, 24, 96 * MIB),
}


@dataclass(frozen=True)
class Occupancy:
    """How many blocks of a kernel fit on a multiprocessor.

    Attributes:
        blocks: resident blocks.
        warps: resident warps.
        fraction: of the warps that the multiprocessor can hold.
        limits: blocks that each resource alone would allow.
    """

    blocks: int
    warps: int
    fraction: float
    limits: Mapping[str, int]

    @property
    def limited_by(self) -> list[str]:
        """The resources that are used up."""
        return [name for name, blocks in self.limits.items() if blocks == self.blocks]


def occupancy(device: Device | int, threads: int, registers: int, shared_bytes: int) -> Occupancy:
    """Resident blocks by the allocation rules of the CUDA occupancy calculator.

    A warp gets its registers in units of 256, on one of four sub-partitions; a block gets shared memory in units of
    128 bytes (256 before compute capability 8), and what the system reserves.

    Args:
        device: a device, or the key of one in ``DEVICES``.
        threads: threads of a block.
        registers: registers of a thread, as ptxas reports them.
        shared_bytes: shared memory of a block, static and dynamic.

    Returns:
        The occupancy; no blocks if a single one does not fit.

    Raises:
        ValueError: a number is out of its range, or the device is unknown.
    """
    if isinstance(device, int):
        if device not in DEVICES:
            raise ValueError(f"occupancy: device: expected one of {sorted(DEVICES)}, got {device}")
        device = DEVICES[device]
    if not 1 <= threads <= limits.threads_per_block:
        raise ValueError(f"occupancy: threads: expected 1 to {limits.threads_per_block}, got {threads}")
    if not 1 <= registers <= 255 or shared_bytes < 0:
        raise ValueError(
            f"occupancy: expected 1 to 255 registers and shared_bytes >= 0, got {registers}, {shared_bytes}"
        )
    warps = -(-threads // 32)
    per_warp = -(-registers * 32 // 256) * 256
    warps_by_registers = device.registers_per_multiprocessor // 4 // per_warp * 4
    unit = 128 if device.major >= 8 else 256
    shared = -(-(shared_bytes + device.reserved_shared) // unit) * unit
    by_shared = device.shared_per_multiprocessor // shared if shared else device.blocks_per_multiprocessor
    by_resource = {
        "threads": device.threads_per_multiprocessor // 32 // warps,
        "blocks": device.blocks_per_multiprocessor,
        "registers": warps_by_registers // warps,
        "shared memory": by_shared if shared_bytes <= device.shared_optin else 0,
    }
    blocks = min(by_resource.values())
    return Occupancy(blocks, blocks * warps, blocks * warps * 32 / device.threads_per_multiprocessor, by_resource)
