"""Gradients of a 3x3 convolution on the CPU against PyTorch's, channels_last.

python benchmarks/conv3x3_gradients.py [--threads N] [--json FILE]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from harness import Case, Outputs, main

import vsr_kernels  # noqa: F401  the operators

#: (N, C_in, C_out, H, W): trunks on training crops and on a frame, a first layer, a last one.
SHAPES = ((8, 64, 64, 64, 64), (1, 64, 64, 180, 320), (8, 3, 64, 64, 64), (8, 64, 48, 64, 64), (1, 64, 3, 180, 320))

#: By input alone, by weight and bias, by all three.
MASKS = {"input": (True, False, False), "weight, bias": (False, True, True), "all": (True, True, True)}


def case(shape: tuple[int, ...], which: str, dtype: torch.dtype) -> Case:
    torch.manual_seed(0)
    n, c_in, c_out, h, w = shape

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size).to(dtype).contiguous(memory_format=torch.channels_last)

    x, grad, weight = draw(n, c_in, h, w).relu(), draw(n, c_out, h, w), draw(c_out, c_in, 3, 3)
    need = MASKS[which]

    def wanted(found: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        return [gradient for gradient, needed in zip(found, need, strict=True) if needed]

    peers: dict[str, Callable[[], Outputs]] = {
        "conv3x3": lambda: wanted(torch.ops.vsr_kernels.conv3x3_backward(grad, x, weight, None, *need, True)),
        "torch": lambda: wanted(
            torch.ops.aten.convolution_backward(
                grad, x, weight, [c_out], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, list(need)
            )
        ),
    }
    name = f"{n} x {c_in} -> {c_out} at {h}x{w} {str(dtype).removeprefix('torch.')}, by {which}"
    return Case(name, peers, tolerance=1e-4 if dtype == torch.float32 else 2e-2, calls=2)


def cases() -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16):
        yield from (case(shape, which, dtype) for shape in SHAPES for which in MASKS)


if __name__ == "__main__":
    main(__doc__, cases)
