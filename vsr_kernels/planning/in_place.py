"""Additions to a residual that nothing reads afterwards are written where the residual lies.

A block of a pruned network adds to some channels and copies the others. In place, the copy is of lines that are in the
cache already, and no other memory is brought in for it: measured on a Zen 4, 90x160 pixels of 64 channels, float32, 0.2
of the 2.2 ms of a convolution 32 -> 32. The kernels read each value of the residual before they write that very value,
once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .arena import Buffer
from .steps import Step, Value

_OUT, _X, _SCATTER, _RESIDUAL = 0, 1, 7, 8  # arguments of conv3x3_into


def write_in_place(steps: Sequence[Step], inputs: Sequence[Value], buffers: Sequence[Buffer]) -> list[Buffer]:
    """Give scattered sums the buffer of their residual; the buffers that are left.

    Args:
        steps: all of a recording, whose values are changed.
        inputs: values that stand for the caller's tensors, which stay as they are.
        buffers: all of the recording, with their lifetimes and results known.
    """
    values = {id(value): value for step in steps for value in step.values()}.values()
    given = {id(value.buffer) for value in inputs}
    gone: set[int] = set()
    for now, step in enumerate(steps):
        if step.function is not torch.ops.vsr_kernels.conv3x3_into.default or step.arguments[_SCATTER] is None:
            continue
        out, x, residual = (step.arguments[i] for i in (_OUT, _X, _RESIDUAL))
        old, new = out.buffer, residual.buffer
        if (
            old is None
            or new is None
            or old is new
            or old.result
            or new.result
            or id(new) in given
            or new.last != now
            or x.buffer is new
            or (out.shape, out.strides, out.offset) != (residual.shape, residual.strides, residual.offset)
            or old.nbytes != new.nbytes
        ):
            continue
        for value in values:
            if value.buffer is old:
                value.buffer = new
        new.last = old.last
        gone.add(id(old))
    return [buffer for buffer in buffers if id(buffer) not in gone]
