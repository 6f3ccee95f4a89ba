"""Whether what an operator made of arrays is right: the error that PyTorch makes in the same dtype is the measure."""

from __future__ import annotations

from typing import Any

import numpy as np
import plain
import torch
from arrays import Call
from numpy.typing import NDArray

import vsr_kernels

Array = NDArray[Any]


def tensor(value: Any) -> Any:
    """An array as a tensor; bfloat16 by its bits, which torch does not take from NumPy."""
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.name == "bfloat16":
        return torch.from_numpy(value.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(value.copy())


def wide(value: Any) -> Any:
    """An array in float64, channel lists as they are."""
    return value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype != np.int64 else value


def by_torch(call: Call, memory_format: torch.memory_format = torch.contiguous_format) -> Array:
    """What PyTorch makes of a call in the same dtype, for the error that is allowed."""
    name, arguments = call
    tensors = {key: tensor(value) for key, value in arguments.items()}
    for key, value in tensors.items():
        if isinstance(value, torch.Tensor) and value.dim() == 4:
            tensors[key] = value.contiguous(memory_format=memory_format)
    with vsr_kernels.use_backend("reference"):
        made = getattr(vsr_kernels, name)(**tensors)
    return made.double().numpy()


def judge(call: Call, got: Any) -> None:
    """At most twice PyTorch's error against float64, in the worse memory format, plus one unit of the largest value."""
    name, arguments = call
    got = np.asarray(got)
    assert got.dtype == arguments["x"].dtype
    truth = ({"pixel_shuffle": plain.shuffle, "pixel_unshuffle": plain.unshuffle}.get(name) or getattr(plain, name))(
        **{key: wide(value) for key, value in arguments.items()}
    )
    theirs = [by_torch(call, form) for form in (torch.contiguous_format, torch.channels_last)]
    allowed = 2 * max(abs(made - truth).max() for made in theirs) + eps(got.dtype) * abs(truth).max()
    assert got.shape == truth.shape
    assert abs(got.astype(np.float64) - truth).max() <= allowed


def eps(dtype: Any) -> float:
    return 2.0**-7 if dtype.name == "bfloat16" else float(np.finfo(dtype).eps)
