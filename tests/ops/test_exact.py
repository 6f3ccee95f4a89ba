"""Results that have to be exact, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import vsr_kernels
from ops.accuracy import assert_same_bits
from ops.inputs import Draw
from ops.on_backends import device_of, each, on

HALVES = (torch.float16, torch.bfloat16)


def image(backend: str, dtype: torch.dtype, *shape: int) -> Tensor:
    return Draw(1, dtype, device_of(backend), exact=False).image(shape)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("backend", "dtype"), each("pixel_shuffle", dtypes=HALVES))
def test_shuffle_keeps_every_bit_pattern(backend: str, dtype: torch.dtype, memory: torch.memory_format) -> None:
    """Each of the 65536 values of a 16-bit type, signalling NaNs and both zeros included."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(2, 32, 32, 32).to(device_of(backend))
    x = bits.view(dtype).contiguous(memory_format=memory)
    expected = bits.view(2, 2, 4, 4, 32, 32).permute(0, 1, 4, 2, 5, 3).reshape(2, 2, 128, 128)
    with on(backend):
        shuffled = vsr_kernels.pixel_shuffle(x, 4)
        assert torch.equal(shuffled.contiguous().view(torch.int16), expected)
        assert torch.equal(vsr_kernels.pixel_unshuffle(shuffled, 4).contiguous().view(torch.int16), bits)


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (7, 33), (17, 13), (33, 180)])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize(("backend", "dtype"), each("flow_warp"))
def test_warp_by_whole_pixels(
    backend: str, dtype: torch.dtype, padding: str, interpolation: str, size: tuple[int, int]
) -> None:
    """Copies pixels, also those that come from outside the image."""
    x = image(backend, dtype, 2, 11, *size)
    dx, dy = 3, -2
    flow = torch.tensor([dx, dy], dtype=dtype, device=x.device).view(1, 2, 1, 1).expand(2, 2, *size)
    rows, cols = torch.arange(size[0]) + dy, torch.arange(size[1]) + dx
    expected = x[:, :, rows.clamp(0, size[0] - 1)][..., cols.clamp(0, size[1] - 1)]
    if padding == "zeros":
        inside = ((rows >= 0) & (rows < size[0]))[:, None] & ((cols >= 0) & (cols < size[1]))
        expected = torch.where(inside.to(x.device), expected, torch.zeros_like(expected))
    with on(backend):
        got = vsr_kernels.flow_warp(x, flow, interpolation=interpolation, padding=padding)
    check_whole_pixels(got, expected, backend)


def check_whole_pixels(got: Tensor, expected: Tensor, backend: str) -> None:
    """Kernels take whole pixels exactly; grid_sample's coordinates in [-1, 1] are off by some roundings."""
    if backend != "reference" and got.dtype != torch.float64:
        assert_same_bits(got + 0.0, expected + 0.0, "output")  # + 0.0: the sign of zero is free
        return
    coordinate = 4 * max(got.shape[2:]) * torch.finfo(torch.promote_types(got.dtype, torch.float32)).eps
    torch.testing.assert_close(got, expected, rtol=torch.finfo(got.dtype).eps, atol=6 * coordinate)


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize(("backend", "dtype"), each("flow_warp"))
def test_warp_by_nothing(backend: str, dtype: torch.dtype, interpolation: str) -> None:
    x = image(backend, dtype, 2, 5, 23, 31)
    with on(backend):
        got = vsr_kernels.flow_warp(x, x.new_zeros(2, 2, 23, 31), interpolation=interpolation)
    check_whole_pixels(got, x, backend)


@pytest.mark.parametrize(("backend", "dtype"), each("flow_warp"))
def test_nearest_rounds_ties_to_even(backend: str, dtype: torch.dtype) -> None:
    x = image(backend, dtype, 1, 3, 9, 17)
    flow = torch.full((1, 2, 9, 17), 0.5, dtype=dtype, device=x.device)
    rows, cols = (torch.arange(9) + 0.5).round().long(), (torch.arange(17) + 0.5).round().long()
    assert rows[:4].tolist() == [0, 2, 2, 4]
    with on(backend):
        got = vsr_kernels.flow_warp(x, flow, interpolation="nearest", padding="border")
    assert_same_bits(got, x[:, :, rows][..., cols], "output")


def one_tap(channels: int, row: int, col: int, like: Tensor) -> Tensor:
    """A kernel that shifts every channel."""
    weight = like.new_zeros(channels, channels, 3, 3)
    weight[range(channels), range(channels), row, col] = 1.0
    return weight


@pytest.mark.parametrize("channels", [(4, 4), (6, 3)], ids=str)
@pytest.mark.parametrize(("backend", "dtype"), each("conv3x3"))
def test_convolution_with_one_tap_shifts(backend: str, dtype: torch.dtype, channels: tuple[int, int]) -> None:
    """Where the channels are so few that numbers are multiplied as they come, without a transform before."""
    c_in, c_out = channels
    x = image(backend, dtype, 2, c_in, 6, 7)
    kept = x[:, :c_out]
    with on(backend):
        got = vsr_kernels.conv3x3(x, one_tap(c_in, 1, 1, x)[:c_out])
        assert_same_bits(got + 0.0, kept + 0.0, "the centre tap")
        got = vsr_kernels.conv3x3(x, one_tap(c_in, 0, 2, x)[:c_out])
    expected = torch.zeros_like(kept)
    expected[:, :, 1:, :-1] = kept[:, :, :-1, 1:]
    assert_same_bits(got + 0.0, expected + 0.0, "the upper right tap")


@pytest.mark.parametrize("r", [1, 2])
@pytest.mark.parametrize(("backend", "dtype"), each("conv3x3", dtypes=HALVES))
def test_sums_are_rounded_once_and_to_nearest(backend: str, dtype: torch.dtype, r: int) -> None:
    """A residual is added in float32, and the sum rounded as PyTorch rounds, ties to even."""
    x, residual = image(backend, dtype, 2, 4, 6, 7), image(backend, dtype, 2, 4 // r**2, 6 * r, 7 * r).flip(0)
    with on(backend):
        got = vsr_kernels.conv3x3(x, one_tap(4, 1, 1, x), residual=residual, pixel_shuffle=r)
    moved = torch.nn.functional.pixel_shuffle(x.float(), r)
    assert_same_bits(got + 0.0, (moved + residual.float()).to(dtype) + 0.0, "output")


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("backend", "dtype"), each("flow_warp", dtypes=HALVES, backends=("cuda", "cpu")))
def test_averages_are_rounded_once_and_to_nearest(
    backend: str, dtype: torch.dtype, memory: torch.memory_format
) -> None:
    """Half a pixel to the right is the mean of two neighbours, worked out in float32."""
    x = image(backend, dtype, 2, 11, 6, 9).contiguous(memory_format=memory)
    flow = torch.tensor([0.5, 0.0], dtype=dtype, device=x.device).view(1, 2, 1, 1).expand(2, 2, 6, 9)
    with on(backend):
        got = vsr_kernels.flow_warp(x, flow, padding="border")
    wide = torch.cat([x, x[..., -1:]], dim=3).float()
    assert_same_bits(got + 0.0, ((wide[..., :-1] + wide[..., 1:]) / 2).to(dtype) + 0.0, "output")


@pytest.mark.parametrize(("backend", "dtype"), each("residual_block"))
def test_block_of_nothing_is_the_identity(backend: str, dtype: torch.dtype) -> None:
    x, zero = image(backend, dtype, 2, 4, 6, 7), image(backend, dtype, 4, 4, 3, 3) * 0
    ones = torch.ones_like(zero)
    with on(backend):
        assert_same_bits(vsr_kernels.residual_block(x, ones, None, zero, None), x, "zero weights")
        assert_same_bits(vsr_kernels.residual_block(x, ones, None, ones, None, scale=0.0), x, "zero scale")
        identity = one_tap(4, 1, 1, x)
        got = vsr_kernels.residual_block(x, identity, None, identity, None, activation="none")
    assert_same_bits(got, 2 * x, "identity twice")


@pytest.mark.parametrize(("backend", "dtype"), each("sparse_conv3x3"))
def test_other_channels_are_copied(backend: str, dtype: torch.dtype) -> None:
    """Bit for bit, NaN included, whatever the convolution gives for its own channels."""
    x, residual = image(backend, dtype, 2, 5, 6, 7), image(backend, dtype, 2, 8, 6, 7)
    residual[:, [1, 6]] = torch.nan
    weight = image(backend, dtype, 2, 3, 3, 3) * torch.inf
    with on(backend):
        got = vsr_kernels.sparse_conv3x3(x, weight, in_channels=[4, 0, 2], out_channels=[7, 3], residual=residual)
    others = [0, 1, 2, 4, 5, 6]
    assert_same_bits(got[:, others], residual[:, others], "output")
    assert not torch.isfinite(got[:, [7, 3]]).any()


@pytest.mark.parametrize(("backend", "dtype"), each("sparse_residual_block"))
def test_other_channels_of_a_block_are_copied(backend: str, dtype: torch.dtype) -> None:
    x = image(backend, dtype, 2, 6, 6, 7)
    weight1, weight2 = image(backend, dtype, 4, 2, 3, 3), image(backend, dtype, 3, 4, 3, 3)
    x[:, 3] = torch.nan  # not read by the convolutions
    with on(backend):
        got = vsr_kernels.sparse_residual_block(
            x, weight1, None, weight2, None, in_channels=[5, 0], out_channels=[2, 4, 1]
        )
    assert_same_bits(got[:, [0, 3, 5]], x[:, [0, 3, 5]], "output")
    assert torch.isfinite(got[:, [2, 4, 1]]).all()


@pytest.mark.parametrize(("backend", "dtype"), each("sparse_conv3x3"))
def test_channels_left_out_are_not_read(backend: str, dtype: torch.dtype) -> None:
    x = image(backend, dtype, 2, 6, 5, 4)
    weight = image(backend, dtype, 3, 2, 3, 3)
    spoilt = x.clone()
    spoilt[:, [0, 2, 3, 5]] = torch.nan
    with on(backend):
        clean = vsr_kernels.sparse_conv3x3(x, weight, in_channels=[4, 1])
        assert_same_bits(vsr_kernels.sparse_conv3x3(spoilt, weight, in_channels=[4, 1]), clean, "output")


@pytest.mark.parametrize(("backend", "dtype"), each("merge_rep_branches"))
def test_merging_nothing_gives_the_identity(backend: str, dtype: torch.dtype) -> None:
    ones = torch.ones(5, dtype=dtype, device=device_of(backend))
    branch = vsr_kernels.RepBranch(
        ones.new_ones(5, 4, 3, 3), ones, ones, ones, ones, ones, 1e-5, ones.new_zeros(4, 5, 1, 1), ones[:4] * 3
    )
    with on(backend):
        weight, bias = vsr_kernels.merge_rep_branches([branch], identity=True)
    assert_same_bits(weight, one_tap(4, 1, 1, ones), "weight")
    assert_same_bits(bias, ones[:4] * 3, "bias")
