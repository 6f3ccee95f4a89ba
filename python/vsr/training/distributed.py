"""This process among those of a ``torchrun``; one alone where there is none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Group:
    """The processes of a run.

    Attributes:
        rank: This process.
        size: How many there are.
        device: Where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join_group(device: torch.device | None = None) -> Iterator[Group]:
    """Join the processes that torchrun started (its environment variables say so), or stand alone.

    A torchrun over several nodes that shall restart processes needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.

    Args:
        device: Where to compute; None for this rank's GPU, or the CPU where there is none.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device is None:
        device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Group(0, 1, device)
        return
    store, rank, size = next(dist.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # torchrun keeps one store through all restarts, in which processes find the addresses of those that died, and
        # wait for them (https://github.com/pytorch/pytorch/issues/135712). On one node everybody counts the same.
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=size)
    try:
        yield Group(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
