"""The CPU convolutions: every method on odd sizes, where blocks meet, and on what is not finite or hardly anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vsr_kernels
from ops import truth
from ops.accuracy import assert_near, assert_same_bits, relative_l2
from ops.cases import DTYPES
from ops.inputs import Draw
from ops.on_backends import each, on

CPU = pytest.mark.parametrize(("backend", "dtype"), each("conv3x3", dtypes=DTYPES[:3], backends=("cpu",)))

#: (C_in, C_out) on both sides of every limit: up to 4 input channels directly, up to 3 or 7 output channels by taps
#: (with 8 or 16 lanes), else by Winograd, in chunks of 64 output channels.
CHANNELS = (
    (1, 1),
    (3, 64),
    (4, 9),
    (5, 8),
    (5, 1),
    (64, 3),
    (33, 4),
    (17, 7),
    (16, 16),
    (19, 33),
    (64, 64),
    (31, 65),
    (66, 130),
    (300, 20),
)
SIZES = ((1, 1), (1, 9), (2, 2), (7, 1), (5, 6), (16, 43), (33, 14))

#: One pair of channels per method.
METHODS = {"direct": (3, 20), "taps": (20, 3), "winograd3": (20, 40), "winograd4": (20, 40)}


@contextmanager
def precision(method: str) -> Iterator[None]:
    """Torch's setting under which a method is chosen."""
    torch.backends.mkldnn.conv.fp32_precision = "tf32" if method == "winograd4" else "ieee"
    try:
        yield
    finally:
        torch.backends.mkldnn.conv.fp32_precision = "none"


def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, method: str = "") -> Tensor:
    """Without gradients, on the compiled kernels."""
    with on("cpu"), torch.no_grad(), precision(method):
        return vsr_kernels.conv3x3(x, weight, bias)


def is_winograd4(method: str, dtype: torch.dtype) -> bool:
    """Whether float32 sums have the error of F(4x4), which no rounding to 16 bits hides."""
    return method == "winograd4" and dtype == torch.float32


def assert_near_winograd4(got: Tensor, expected: Tensor) -> None:
    """The bounds that csrc/cpu/conv_winograd.inl.h gives."""
    assert relative_l2(got.double(), expected) < 4e-6
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    """PyTorch in both layouts."""
    formats = (torch.contiguous_format, torch.channels_last)
    return [
        F.conv2d(x.contiguous(memory_format=f), weight.contiguous(memory_format=f), bias, padding=1) for f in formats
    ]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@CPU
def test_channels_and_sizes(backend: str, dtype: torch.dtype, channels: tuple[int, int], size: tuple[int, int]) -> None:
    draw = Draw(3, dtype, "cpu", exact=False)
    c_in, c_out = channels
    batch = 2 + 60 // (size[0] * size[1])  # of a few values, PyTorch's own error may be small by chance
    x, weight, bias = draw.image((batch, c_in, *size)), draw.weight((c_out, c_in, 3, 3)), draw.bias(c_out)
    expected = truth.convolve(x.double(), weight.double(), bias.double())
    assert_near(conv(x, weight, bias), expected, plain(x, weight, bias), "output", dtype)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [c for c in CHANNELS if c[0] > 4 and c[1] > 7], ids=str)
@CPU
def test_winograd4(backend: str, dtype: torch.dtype, channels: tuple[int, int], size: tuple[int, int]) -> None:
    """float32 within its bounds; in 16 bits nothing is lost."""
    draw = Draw(9, dtype, "cpu", exact=False)
    c_in, c_out = channels
    batch = 2 + 60 // (size[0] * size[1])
    x, weight, bias = draw.image((batch, c_in, *size)), draw.weight((c_out, c_in, 3, 3)), draw.bias(c_out)
    expected = truth.convolve(x.double(), weight.double(), bias.double())
    got = conv(x, weight, bias, "winograd4")
    if dtype == torch.float32:
        assert_near_winograd4(got, expected)
    else:
        assert_near(got, expected, plain(x, weight, bias), "output", dtype)


@pytest.mark.parametrize(("r", "c_out"), [(1, 37), (2, 64), (2, 20), (3, 36)])
@pytest.mark.parametrize(("backend", "dtype"), each("conv3x3", dtypes=DTYPES[:1], backends=("cpu",)))
def test_winograd4_with_an_epilogue(backend: str, dtype: torch.dtype, r: int, c_out: int) -> None:
    """Straight to the output where its pixels have whole vectors, else by way of a buffer; also what is kept."""
    draw = Draw(10, dtype, "cpu", exact=False)
    x, weight, bias = draw.image((2, 21, 13, 22)), draw.weight((c_out, 21, 3, 3)), draw.bias(c_out)
    slope, residual = draw.bias(c_out).abs(), draw.image((2, c_out // r**2, 13 * r, 22 * r))
    z = truth.convolve(x.double(), weight.double(), bias.double())
    expected = truth.shuffle(truth.activate(z, "prelu", slope.double()), r) + residual.double()
    with on("cpu"), precision("winograd4"):
        got = vsr_kernels.conv3x3(x, weight, bias, activation="prelu", slope=slope, residual=residual, pixel_shuffle=r)
        _, kept = torch.ops.vsr_kernels.conv3x3(
            x, weight, bias, slope, 0.0, residual, "prelu", 1.0, r, True, False, None
        )
    assert_near_winograd4(got, expected)
    assert_near_winograd4(kept, truth.shuffle(z, r))


def test_winograd4_is_asked_for() -> None:
    """By torch's setting."""
    draw = Draw(11, torch.float32, "cpu", exact=False)
    x, weight = draw.image((1, 16, 9, 9)), draw.weight((16, 16, 3, 3))
    default = vsr_kernels.conv3x3(x, weight)
    assert_same_bits(conv(x, weight, method="winograd3"), default, "exact")
    assert not torch.equal(conv(x, weight, method="winograd4"), default)


def test_packed_weights_follow_the_setting() -> None:
    """Each method has its own packing, whose size is known before it is made."""
    draw = Draw(13, torch.float32, "cpu", exact=False)
    x, weight = draw.image((1, 16, 9, 9)), torch.nn.Parameter(draw.weight((20, 16, 3, 3)))
    kept = vsr_kernels.PackedWeights()
    for method in ("winograd3", "winograd4", "winograd3"):
        with on("cpu"), torch.no_grad(), precision(method):
            assert_same_bits(vsr_kernels.conv3x3(x, weight, packed=kept), conv(x, weight, method=method), method)
    for exact in (True, False):
        arguments = (weight.detach(), None, None, 0.0, "none", 1, exact, False)
        torch.library.opcheck(torch.ops.vsr_kernels.conv3x3_pack.default, arguments, test_utils=("test_faketensor",))


#: Channels of x, kept ones, hidden ones, scattered ones: on both sides of half and whole vectors.
PRUNED = ((64, 33, 29, 31), (64, 32, 41, 37), (150, 70, 9, 70), (5, 5, 5, 5), (100, 3, 17, 2), (40, 1, 24, 40))


def pick(total: int, count: int, seed: int) -> Sequence[int]:
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].tolist()


@pytest.mark.parametrize("method", ["winograd3", "winograd4"])
@pytest.mark.parametrize("channels", PRUNED, ids=str)
@CPU
def test_gather_and_scatter(backend: str, dtype: torch.dtype, channels: tuple[int, int, int, int], method: str) -> None:
    """In no order, by every method; what is not added to is copied bit for bit, whatever it is."""
    c, kept, hidden, scattered = channels
    draw = Draw(12, dtype, "cpu", exact=False)
    x, bias1, bias2 = draw.image((2, c, 11, 19)), draw.bias(hidden), draw.bias(scattered)
    gather, scatter = pick(c, kept, 1), pick(c, scattered, 2)
    rest = [i for i in range(c) if i not in scatter]
    weight1, weight2 = draw.weight((hidden, kept, 3, 3)), draw.weight((scattered, hidden, 3, 3))
    if rest and rest[0] not in gather:
        x[:, rest[0], ::2] = -0.0
        x[:, rest[0], 1::2] = torch.finfo(dtype).tiny / 4
    with on("cpu"), torch.no_grad(), precision(method):
        got = vsr_kernels.sparse_residual_block(
            x, weight1, bias1, weight2, bias2, in_channels=gather, out_channels=scatter
        )
        middle = vsr_kernels.sparse_conv3x3(x, weight1, bias1, in_channels=gather, activation="relu")
    assert_same_bits(got[:, rest], x[:, rest], "other channels")
    first = F.relu(truth.convolve(x[:, gather].double(), weight1.double(), bias1.double()))
    second = truth.convolve(middle.double(), weight2.double(), bias2.double()) + x[:, scatter].double()
    if is_winograd4(method, dtype):
        assert_near_winograd4(middle, first)
        return assert_near_winograd4(got[:, scatter], second)
    low = [F.relu(y) for y in plain(x[:, gather], weight1, bias1)]
    assert_near(middle, first, low, "first convolution", dtype)
    low = [x[:, scatter] + y for y in plain(middle, weight2, bias2)]
    return assert_near(got[:, scatter], second, low, "second convolution", dtype)


@pytest.mark.parametrize("method", METHODS)
@CPU
def test_the_place_of_a_pixel_changes_no_bit(backend: str, dtype: torch.dtype, method: str) -> None:
    """Neither its image in the batch nor the block it falls into: an image, and pieces of it that begin with a tile."""
    c_in, c_out = METHODS[method]
    draw = Draw(4, dtype, "cpu", exact=False)
    x, weight, bias = draw.image((3, c_in, 47, 131)), draw.weight((c_out, c_in, 3, 3)), draw.bias(c_out)
    whole = conv(x, weight, bias, method)
    for n in range(3):
        assert_same_bits(conv(x[n : n + 1], weight, bias, method), whole[n : n + 1], f"image {n}")
    pieces = [(0, 0, 19, 23), (12, 24, 30, 40), (24, 96, 23, 35)]
    edge = 5  # pixels whose tile may have other neighbours in a piece
    for top, left, height, width in pieces:
        rows, cols = slice(top, top + height), slice(left, left + width)
        inside = (..., slice(edge, -edge), slice(edge, -edge))
        piece = conv(x[..., rows, cols], weight, bias, method)
        assert_same_bits(piece[inside], whole[..., rows, cols][inside], f"piece at {top}, {left}")


@pytest.mark.parametrize("method", METHODS)
@CPU
def test_nan_and_infinity_stay_in_their_place(backend: str, dtype: torch.dtype, method: str) -> None:
    """Exactly where the sum of nine products has them, also where tiles share the pixel."""
    c_in, c_out = METHODS[method]
    draw = Draw(5, dtype, "cpu", exact=False)
    x, weight, bias = draw.image((2, c_in, 13, 22)), draw.weight((c_out, c_in, 3, 3)), draw.bias(c_out)
    x[0, 0, 1, 1], x[0, 1, 7, 6], x[1, 2, 0, 0], x[1, 0, 12, 21] = torch.nan, torch.inf, -torch.inf, torch.inf
    x[1, 1, 6, 9], x[1, 2, 6, 10] = torch.inf, -torch.inf
    got, expected = conv(x, weight, bias, method), truth.convolve(x.double(), weight.double(), bias.double())
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.isposinf(), expected.isposinf())
    assert torch.equal(got.isneginf(), expected.isneginf())
    assert min(expected.isnan().sum(), expected.isposinf().sum(), expected.isneginf().sum()) > 0
    finite = expected.isfinite()
    if is_winograd4(method, dtype):
        return assert_near_winograd4(got[finite], expected[finite])
    low = [y[finite] for y in plain(x, weight, bias)]
    assert_near(got[finite], expected[finite], low, "finite values", dtype)
    return None


@pytest.mark.parametrize("method", METHODS)
@CPU
def test_nan_everywhere(backend: str, dtype: torch.dtype, method: str) -> None:
    c_in, c_out = METHODS[method]
    x = torch.full((1, c_in, 9, 9), torch.nan, dtype=dtype)
    assert conv(x, torch.ones(c_out, c_in, 3, 3, dtype=dtype), method=method).isnan().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("backend", "dtype"), each("conv3x3", dtypes=DTYPES[:1], backends=("cpu",)))
def test_numbers_near_the_largest(backend: str, dtype: torch.dtype, method: str) -> None:
    """Differences and sums of two such numbers overflow; the convolution of one at a time does not."""
    c_in, c_out = METHODS[method]
    x = Draw(6, dtype, "cpu", exact=False).image((1, c_in, 8, 9)) * 1e38
    weight = torch.zeros(c_out, c_in, 3, 3)
    weight[:, 0, 1, 1], weight[:, 1, 0, 2] = 0.5, 0.25
    expected = truth.convolve(x.double(), weight.double(), None)
    torch.testing.assert_close(conv(x, weight, method=method).double(), expected, rtol=1e-6, atol=1e33)


@pytest.mark.parametrize("method", METHODS)
@CPU
def test_subnormal_numbers(backend: str, dtype: torch.dtype, method: str) -> None:
    """They count as they are or as zero, as the instruction set does; nothing else comes of them."""
    c_in, c_out = METHODS[method]
    smallest = torch.finfo(dtype).tiny
    x = (torch.rand(1, c_in, 8, 9, dtype=torch.float64) * smallest).to(dtype)
    weight = torch.zeros(c_out, c_in, 3, 3, dtype=dtype)
    weight[:, 0, 1, 1] = 0.5
    expected = truth.convolve(x.double(), weight.double(), None)
    got = conv(x, weight, method=method).double()
    assert (got - expected).abs().max() <= smallest
    if dtype == torch.float16:  # normal numbers of float32
        assert (got - expected).abs().max() <= smallest * torch.finfo(dtype).eps
    weight[:, 1, 2, 2] = 1.0
    x[:, 1] = 1.0
    got, ones = conv(x, weight, method=method)[..., :-1, :-1], torch.ones(1, c_out, 7, 8, dtype=dtype)
    if method in ("winograd3", "winograd4"):  # weights that no binary fraction is
        torch.testing.assert_close(got, ones, rtol=max(1e-6, torch.finfo(dtype).eps), atol=0.0)
    else:
        assert_same_bits(got, ones, "next to one")


@pytest.mark.parametrize(("channels", "float32_error"), [(64, 4.1e-7), (300, 4.2e-7)])
@CPU
def test_documented_errors(backend: str, dtype: torch.dtype, channels: int, float32_error: float) -> None:
    """Relative L2 errors, as csrc/cpu/conv_winograd.inl.h gives them; the rest is output rounding."""
    draw = Draw(7, dtype, "cpu", exact=False)
    x, weight = draw.image((1, channels, 20, 31)), draw.weight((64, channels, 3, 3))
    expected = truth.convolve(x.double(), weight.double(), None)
    error = relative_l2(conv(x, weight).double(), expected)
    if dtype == torch.float32:
        assert error < float32_error + (3e-8 if vsr_kernels.cpu_isa() == "portable" else 0)  # may be without FMA
    elif dtype == torch.bfloat16 and vsr_kernels.cpu_isa() == "avx512_bf16":
        assert error < 5.9e-3
    else:  # float32 until the output is rounded
        rounded = relative_l2(expected.to(dtype).double(), expected)
        assert error < 1.01 * rounded


@pytest.mark.parametrize("method", METHODS)
@CPU
def test_threads_change_no_bit(backend: str, dtype: torch.dtype, method: str) -> None:
    """On sizes that leave blocks for every thread."""
    c_in, c_out = METHODS[method]
    draw = Draw(8, dtype, "cpu", exact=False)
    x, weight, bias = draw.image((2, c_in, 61, 67)), draw.weight((c_out, c_in, 3, 3)), draw.bias(c_out)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            results.append(conv(x, weight, bias, method))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert_same_bits(other, results[0], "output")


@pytest.mark.isa
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_the_output_may_be_the_residual(dtype: torch.dtype, method: str) -> None:
    """Every value is read before it is written, once: what in-place additions of planned networks rest on."""
    c_in, c_out = METHODS[method]
    exact = method != "winograd4"

    def image(c: int, h: int, w: int) -> Tensor:
        return torch.randn(1, c, h, w).to(dtype).contiguous(memory_format=torch.channels_last)

    for size in SIZES:
        x, apart, inside = (image(c, *size) for c in (c_in, c_out + 9, c_out + 9))
        residual = inside.clone(memory_format=torch.preserve_format)
        weight, bias = torch.randn(c_out, c_in, 3, 3).to(dtype), torch.randn(c_out).to(dtype)
        kept = torch.randperm(c_out + 9)[:c_out]
        for out, onto in ((apart, residual), (inside, inside)):
            rest = (weight, bias, None, 0.0, None, kept, onto, "none", 1.0, 1, exact, None)
            with on("cpu"):
                torch.ops.vsr_kernels.conv3x3_into(out, x, *rest)
        assert_same_bits(inside, apart, f"{method} {size}")
