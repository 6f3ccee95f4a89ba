"""The truth itself, against loops that spell the definitions out, and against the modules of ``torch.nn``."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from ops import truth
from ops.cases import run_branches
from vsr_kernels import RepBranch


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (4, 3)])
def test_convolution(size: tuple[int, int]) -> None:
    h, w = size
    x, weight, bias = draw(2, 3, h, w), draw(4, 3, 3, 3), draw(4)
    expected = torch.zeros(2, 4, h, w, dtype=torch.float64)
    for n, o, i, j in itertools.product(range(2), range(4), range(h), range(w)):
        total = bias[o].item()
        for c, di, dj in itertools.product(range(3), range(3), range(3)):
            row, col = i + di - 1, j + dj - 1
            if 0 <= row < h and 0 <= col < w:
                total += x[n, c, row, col].item() * weight[o, c, di, dj].item()
        expected[n, o, i, j] = total
    torch.testing.assert_close(truth.convolve(x, weight, bias), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(
        truth.convolve(x, weight, bias), nn.functional.conv2d(x, weight, bias, padding=1), rtol=1e-12, atol=1e-12
    )


def test_activations() -> None:
    z = torch.tensor([-2.0, -0.0, 0.0, 3.0], dtype=torch.float64).view(1, 4, 1, 1)
    slopes = torch.tensor([0.5, 1.0, 2.0, 7.0], dtype=torch.float64)
    assert truth.activate(z, "none", None).flatten().tolist() == [-2, 0, 0, 3]
    assert truth.activate(z, "relu", None).flatten().tolist() == [0, 0, 0, 3]
    assert truth.activate(z, "leaky_relu", -0.25).flatten().tolist() == [0.5, 0, 0, 3]
    assert truth.activate(z, "prelu", slopes).flatten().tolist() == [-1, 0, 0, 3]
    assert truth.activate(z, "prelu", slopes[:1]).flatten().tolist() == [-1, 0, 0, 3]


@pytest.mark.parametrize("r", [1, 2, 3])
def test_shuffle(r: int) -> None:
    n, c, h, w = 2, 3, 2, 4
    packed = draw(n, c * r * r, h, w)
    expected = torch.empty(n, c, h * r, w * r, dtype=torch.float64)
    for i, j in itertools.product(range(r), range(r)):
        for k in range(c):
            expected[:, k, i::r, j::r] = packed[:, k * r * r + i * r + j]
    assert torch.equal(truth.shuffle(packed, r), expected)
    assert torch.equal(truth.unshuffle(expected, r), packed)
    assert torch.equal(truth.shuffle(packed, r), nn.PixelShuffle(r)(packed))


def warp_pixel(image: Tensor, row: float, col: float, interpolation: str, padding: str) -> float:
    """One sample of an image (H, W), by the definition."""
    h, w = image.shape

    def at(i: int, j: int) -> float:
        return image[i, j].item() if 0 <= i < h and 0 <= j < w else 0.0

    if padding == "border":
        row, col = min(max(row, 0.0), h - 1.0), min(max(col, 0.0), w - 1.0)
    if interpolation == "nearest":
        return at(round(row), round(col))  # Python rounds ties to even
    top, left = math.floor(row), math.floor(col)
    total = 0.0
    for i, j in itertools.product((top, top + 1), (left, left + 1)):
        total += at(i, j) * (1 - abs(row - i)) * (1 - abs(col - j))
    return total


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 1), (4, 5)])
def test_warp(size: tuple[int, int], padding: str, interpolation: str) -> None:
    h, w = size
    x = draw(2, 2, h, w)
    flow = torch.cat([draw(1, 2, h, w) * 2, (draw(1, 2, h, w) * 3).round() / 2])  # the second image: ties and integers
    got = truth.flow_warp(x, flow, interpolation=interpolation, padding=padding)
    for n, c, i, j in itertools.product(range(2), range(2), range(h), range(w)):
        row, col = i + flow[n, 1, i, j].item(), j + flow[n, 0, i, j].item()
        expected = warp_pixel(x[n, c], row, col, interpolation, padding)
        assert got[n, c, i, j].item() == pytest.approx(expected, abs=1e-13), (n, c, i, j)


@pytest.mark.parametrize("residual", [None, "added", "scattered"])
def test_sparse_convolution(residual: str | None) -> None:
    x, weight, bias, slope = draw(2, 5, 3, 4), draw(2, 3, 3, 3), draw(2), draw(2)
    gather, scatter = [4, 0, 3], [2, 0] if residual == "scattered" else None
    base = {None: None, "added": draw(2, 2, 3, 4), "scattered": draw(2, 4, 3, 4)}[residual]
    narrow = nn.functional.prelu(nn.functional.conv2d(x[:, gather], weight, bias, padding=1), slope)
    expected = narrow if base is None else base.clone()
    if base is not None:
        for k, channel in enumerate(scatter or [0, 1]):
            expected[:, channel] += narrow[:, k]
    got = truth.sparse_conv3x3(
        x, weight, bias, in_channels=gather, out_channels=scatter, residual=base, activation="prelu", slope=slope
    )
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_sparse_block() -> None:
    x, weight1, weight2 = draw(2, 5, 3, 4), draw(4, 2, 3, 3), draw(3, 4, 3, 3)
    hidden = nn.functional.relu(nn.functional.conv2d(x[:, [3, 1]], weight1, None, padding=1))
    expected = x.clone()
    expected[:, [0, 4, 2]] += nn.functional.conv2d(hidden, weight2, None, padding=1)
    got = truth.sparse_residual_block(x, weight1, None, weight2, None, in_channels=[3, 1], out_channels=[0, 4, 2])
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (2, 5)])
def test_branches(size: tuple[int, int]) -> None:
    """As modules in eval mode, the way RepSR trains and evaluates them."""
    x = draw(2, 3, *size)
    modules, branches = [], []
    for _ in range(2):
        bn = nn.BatchNorm2d(6, eps=1e-2)
        branch = nn.Sequential(nn.Conv2d(3, 6, 3, 1, 1), bn, nn.Conv2d(6, 3, 1)).double()
        for tensor in (bn.weight.data, bn.bias.data, bn.running_mean, bn.running_var):
            tensor.uniform_(0.5, 2.0)
        modules.append(branch.eval())
        tensors = [branch[0].weight, branch[0].bias, bn.weight, bn.bias, bn.running_mean, bn.running_var]
        branches.append(RepBranch(*tensors, bn.eps, branch[2].weight, branch[2].bias))
    expected = x + modules[0](x) + modules[1](x)
    torch.testing.assert_close(run_branches(branches, True, x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(run_branches(branches, False, x), expected - x, rtol=1e-12, atol=1e-12)
