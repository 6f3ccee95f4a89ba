"""3x3 convolutions on the CPU against PyTorch: single layers, and chains of eight with residuals, dense and pruned.

    python benchmarks/conv3x3.py [--dtype float32 bfloat16] [--fast] [--threads N] [--malloc default] [--json FILE]

--fast allows Winograd F(4x4) in float32 (torch.backends.mkldnn.conv.fp32_precision = "tf32"), to PyTorch as well. The
pruned chain keeps random halves of the channels, in odd numbers, and is timed beside the dense one: both are ours.

PyTorch runs eager: conv2d, activation, sum. With glibc's settings it returns large tensors to the system after every
layer and spends much of its time on fresh pages; unless --malloc says otherwise, the script starts itself again with
settings that keep them (GLIBC_TUNABLES), which is the stronger baseline. Both layouts of PyTorch are timed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from harness import Case, Outputs, measure, report
from torch import Tensor

from vsr_kernels import conv3x3, residual_block, sparse_residual_block

TUNED = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=268435456"
SMALL, MEDIUM = (180, 320), (360, 640)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

#: Relative L2 distance of a peer after up to eight layers.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}

#: Kept channels of 64 of the pruned chain: into a block, inside it, out of it.
PRUNED = ((33, 31, 29), (31, 35, 33), (29, 33, 31), (35, 29, 35))

#: (C_in, C_out, pixel shuffle): trunks of several widths, a first layer, upsampling, a last layer.
LAYERS = ((64, 64, 1), (32, 32, 1), (16, 16, 1), (128, 128, 1), (3, 64, 1), (64, 256, 2), (64, 48, 4), (64, 3, 1))


def eager(x: Tensor, weight: Tensor, bias: Tensor, r: int) -> Tensor:
    y = F.leaky_relu(F.conv2d(x, weight, bias, padding=1), 0.1)
    return F.pixel_shuffle(y, r) if r > 1 else y


def draw(c_in: int, c_out: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A weight (C_out, C_in, 3, 3) that keeps the size of the numbers, and a bias."""
    return (torch.randn(c_out, c_in, 3, 3) / (9 * c_in) ** 0.5).to(dtype), torch.randn(c_out).to(dtype) / 4


def channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t


def layer(c_in: int, c_out: int, r: int, size: tuple[int, int], dtype: torch.dtype) -> Case:
    """One convolution with leaky ReLU and pixel shuffle."""
    torch.manual_seed(0)
    weight, bias = draw(c_in, c_out, dtype)
    first = torch.randn(1, c_in, *size).to(dtype)
    last, weight_last = channels_last(first), channels_last(weight)
    peers: dict[str, Callable[[], Outputs]] = {
        "conv3x3": lambda: conv3x3(last, weight, bias, activation="leaky_relu", slope=0.1, pixel_shuffle=r),
        "torch channels_last": lambda: eager(last, weight_last, bias, r),
        "torch contiguous": lambda: eager(first, weight, bias, r),
    }
    name = f"{c_in} -> {c_out}" + (f" shuffle {r}" if r > 1 else "")
    return Case(f"{name} {size[0]}x{size[1]} {str(dtype)[6:]}", peers, TOLERANCE[dtype])


def chain(size: tuple[int, int], dtype: torch.dtype) -> Case:
    """Four residual blocks of 64 channels."""
    torch.manual_seed(0)
    blocks = [(*draw(64, 64, dtype), *draw(64, 64, dtype)) for _ in range(4)]
    blocks_last = [
        tuple(t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in b) for b in blocks
    ]
    first = torch.randn(1, 64, *size).to(dtype)
    last = channels_last(first)

    def ours() -> Tensor:
        x = last
        for weight1, bias1, weight2, bias2 in blocks:
            x = residual_block(x, weight1, bias1, weight2, bias2, scale=0.5)
        return x

    def theirs(x: Tensor, weights: Sequence[tuple[Tensor, ...]]) -> Tensor:
        for weight1, bias1, weight2, bias2 in weights:
            x = x + 0.5 * F.conv2d(F.relu(F.conv2d(x, weight1, bias1, padding=1)), weight2, bias2, padding=1)
        return x

    peers: dict[str, Callable[[], Outputs]] = {
        "residual_block": ours,
        "torch channels_last": lambda: theirs(last, blocks_last),
        "torch contiguous": lambda: theirs(first, blocks),
    }
    return Case(f"4 residual blocks {size[0]}x{size[1]} {str(dtype)[6:]}", peers, TOLERANCE[dtype], rounds=7, warmup=1)


def pruned(size: tuple[int, int], dtype: torch.dtype) -> Case:
    """Four sparse residual blocks on 64 channels that compute about half of them, against PyTorch and dense ones."""
    generator = torch.Generator().manual_seed(1)

    def pick(count: int) -> Tensor:
        return torch.randperm(64, generator=generator)[:count].sort().values

    torch.manual_seed(0)
    blocks = [
        (*draw(kept, hidden, dtype), *draw(hidden, added, dtype), pick(kept), pick(added))
        for kept, hidden, added in PRUNED
    ]
    dense = [(*draw(64, 64, dtype), *draw(64, 64, dtype)) for _ in PRUNED]
    first = channels_last(torch.randn(1, 64, *size).to(dtype))

    def ours() -> Tensor:
        x = first
        for weight1, bias1, weight2, bias2, gather, scatter in blocks:
            x = sparse_residual_block(x, weight1, bias1, weight2, bias2, in_channels=gather, out_channels=scatter)
        return x

    def theirs() -> Tensor:
        x = first
        for weight1, bias1, weight2, bias2, gather, scatter in blocks:
            hidden = F.relu(F.conv2d(x[:, gather], channels_last(weight1), bias1, padding=1))
            x = x.index_add(1, scatter, F.conv2d(hidden, channels_last(weight2), bias2, padding=1))
        return x

    def whole() -> Tensor:
        x = first
        for weight1, bias1, weight2, bias2 in dense:
            x = residual_block(x, weight1, bias1, weight2, bias2)
        return x

    def timed(function: Callable[[], Tensor]) -> Callable[[], Outputs]:
        """Another network than ours: its time is compared, not its output."""
        return lambda: (function(), ours_once)[1]

    ours_once = ours()
    name = f"4 pruned blocks {size[0]}x{size[1]} {str(dtype)[6:]}"
    peers: dict[str, Callable[[], Outputs]] = {
        "sparse_residual_block": ours,
        "torch channels_last": theirs,
        "dense residual_block": timed(whole),
    }
    return Case(name, peers, TOLERANCE[dtype], rounds=7, warmup=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--malloc", choices=("tuned", "default"), default="tuned")
    parser.add_argument("--json")
    args = parser.parse_args()
    if args.malloc == "tuned" and "GLIBC_TUNABLES" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"GLIBC_TUNABLES": TUNED})
    torch.set_num_threads(args.threads)
    torch.backends.mkldnn.conv.fp32_precision = "tf32" if args.fast else "ieee"
    cases = []
    for dtype in (DTYPES[name] for name in args.dtype):
        cases += [layer(*channels, SMALL, dtype) for channels in LAYERS]
        cases += [layer(64, 64, 1, MEDIUM, dtype), chain(SMALL, dtype), chain(MEDIUM, dtype), pruned(SMALL, dtype)]
    report([measure(case) for case in cases], args.json)


if __name__ == "__main__":
    main()
