"""The 7x7 convolutions of an optical flow network on the CPU against PyTorch's, channels_last, weights packed.

python benchmarks/conv7x7.py [--threads N] [--json FILE]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.nn.functional as F
from harness import Case, Outputs, main
from torch import nn

from vsr_kernels.nn import Conv7x7

#: Channels of one level of SPyNet, and sizes: a frame, a quarter of it, a training crop.
WIDTHS = (8, 32, 64, 32, 16, 2)
SIZES = ((180, 320), (90, 160), (64, 64))


@contextmanager
def float32_as_fast_as_allowed(fast: bool) -> Iterator[None]:
    """torch's setting, under which float32 on the CPU may be less than exact."""
    before = torch.backends.mkldnn.conv.fp32_precision
    torch.backends.mkldnn.conv.fp32_precision = "tf32" if fast else before
    try:
        yield
    finally:
        torch.backends.mkldnn.conv.fp32_precision = before


def level(dtype: torch.dtype) -> nn.Sequential:
    """Five convolutions with ReLU between them."""
    torch.manual_seed(0)
    layers = [
        Conv7x7(c_in, c_out, activation="none" if c_out == WIDTHS[-1] else "relu") for c_in, c_out in pairwise(WIDTHS)
    ]
    return nn.Sequential(*layers).eval().to(dtype).to(memory_format=torch.channels_last)


def case(size: tuple[int, int], dtype: torch.dtype, fast: bool) -> Case:
    model = level(dtype)
    x = torch.randn(1, WIDTHS[0], *size).to(dtype).contiguous(memory_format=torch.channels_last)

    def ours() -> Outputs:
        with torch.inference_mode(), float32_as_fast_as_allowed(fast):
            return [model(x)]

    def theirs() -> Outputs:
        y = x
        with torch.inference_mode():
            for layer in model:
                assert isinstance(layer, Conv7x7)
                y = F.conv2d(y, layer.weight, layer.bias, padding=3)
                y = y.relu_() if layer.activation == "relu" else y
        return [y]

    peers: dict[str, Callable[[], Outputs]] = {"conv7x7": ours, "torch": theirs}
    name = f"SPyNet level at {size[0]}x{size[1]} {str(dtype).removeprefix('torch.')}{', fast' if fast else ''}"
    return Case(name, peers, tolerance=1e-4 if dtype == torch.float32 else 3e-2, calls=1)


def cases() -> Iterator[Case]:
    for dtype, fast in ((torch.float32, False), (torch.float32, True), (torch.bfloat16, False)):
        yield from (case(size, dtype, fast) for size in SIZES)


if __name__ == "__main__":
    main(__doc__, cases)
