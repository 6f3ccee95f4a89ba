"""The Triton operators on tensors of the CPU, their launches handed to somebody else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import vsr_kernels
from ptxvm.triton_calls import Launcher
from vsr_kernels import backend


@contextmanager
def launching(launcher: Launcher) -> Iterator[None]:
    """Public functions run as Triton operators, whose kernels ``launcher`` launches."""
    from vsr_kernels.triton import conv, shuffle, warp

    with pytest.MonkeyPatch.context() as patch:
        for module in (conv, shuffle, warp):
            patch.setattr(module, "wrap_triton", launcher)
        patch.setattr(backend, "choose", lambda op, x: "triton")
        yield


def registered() -> str | None:
    """Register the operators; why that is impossible here, or None."""
    vsr_kernels.load()
    backend._load_triton()
    return backend._state.triton_error or None


def image(*shape: int, dtype: torch.dtype = torch.bfloat16, last: bool = True) -> Tensor:
    """Normal values, channels last or not."""
    x = torch.randn(shape).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if last else x


def weight(c_out: int, c_in: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Normal values of a size that keeps the output's near one."""
    return (torch.randn(c_out, c_in, 3, 3) / (9 * c_in) ** 0.5).to(dtype)
