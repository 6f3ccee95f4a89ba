"""Empty tensors, NaN and infinity, flows that point far away, and strides beyond 32 bits."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import vsr_kernels
from ops.accuracy import assert_same_bits
from ops.cases import ACTIVATIONS, DTYPES
from ops.inputs import Draw
from ops.on_backends import device_of, each, on

FUNCTIONS = (
    "conv3x3",
    "conv7x7",
    "residual_block",
    "flow_warp",
    "pixel_shuffle",
    "pixel_unshuffle",
    "sparse_conv3x3",
    "sparse_residual_block",
)


def call_with(operator: str, x: Tensor) -> tuple[Callable[[], Tensor], dict[str, Tensor], tuple[int, ...]]:
    """A call on x (N, C, H, W), its differentiable tensors, and the shape it has to give."""
    n, c, h, w = x.shape
    draw = Draw(3, x.dtype, x.device.type, exact=True)
    tensors = {"x": x}
    if operator == "conv3x3":
        tensors |= {"weight": draw.weight((8, c, 3, 3)), "bias": draw.bias(8), "slope": draw.slope(8)}
        tensors["residual"] = draw.image((n, 2, 2 * h, 2 * w))
        return (
            lambda: vsr_kernels.conv3x3(**tensors, activation="prelu", pixel_shuffle=2),
            tensors,
            (n, 2, 2 * h, 2 * w),
        )
    if operator == "conv7x7":
        tensors |= {"weight": draw.weight((8, c, 7, 7)), "bias": draw.bias(8)}
        return lambda: vsr_kernels.conv7x7(**tensors, activation="relu"), tensors, (n, 8, h, w)
    if operator == "residual_block":
        tensors |= {"weight1": draw.weight((5, c, 3, 3)), "bias1": draw.bias(5)}
        tensors |= {"weight2": draw.weight((c, 5, 3, 3)), "bias2": draw.bias(c)}
        return lambda: vsr_kernels.residual_block(**tensors), tensors, (n, c, h, w)
    if operator == "flow_warp":
        tensors["flow"] = draw.flow((n, 2, h, w), 1.0, x.dtype)
        return lambda: vsr_kernels.flow_warp(**tensors), tensors, (n, c, h, w)
    if operator == "pixel_shuffle":
        return lambda: vsr_kernels.pixel_shuffle(x, 2), tensors, (n, c // 4, 2 * h, 2 * w)
    if operator == "pixel_unshuffle":
        return lambda: vsr_kernels.pixel_unshuffle(x, 2), tensors, (n, 4 * c, h // 2, w // 2)
    if operator == "sparse_conv3x3":
        tensors |= {"weight": draw.weight((2, 3, 3, 3)), "bias": draw.bias(2), "residual": draw.image((n, 6, h, w))}
        kept = {"in_channels": [0, 3, 1], "out_channels": [5, 2]}
        return lambda: vsr_kernels.sparse_conv3x3(**tensors, **kept, activation="relu"), tensors, (n, 6, h, w)
    tensors |= {"weight1": draw.weight((5, 3, 3, 3)), "bias1": draw.bias(5)}
    tensors |= {"weight2": draw.weight((2, 5, 3, 3)), "bias2": draw.bias(2)}
    kept = {"in_channels": [0, 3, 1], "out_channels": [1, 2]}
    return lambda: vsr_kernels.sparse_residual_block(**tensors, **kept), tensors, (n, c, h, w)


@pytest.mark.parametrize("shape", [(0, 4, 8, 8), (2, 4, 0, 4), (2, 4, 6, 0)], ids=["no-image", "no-row", "no-column"])
@pytest.mark.parametrize(("operator", "backend", "dtype"), each(*FUNCTIONS))
def test_empty(operator: str, backend: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """An image of no pixels gives one; gradients of weights are zero then."""
    run, tensors, expected = call_with(operator, torch.zeros(shape, dtype=dtype, device=device_of(backend)))
    with on(backend):
        assert run().shape == expected
        for tensor in tensors.values():
            tensor.requires_grad_()
        out = run()
        assert out.shape == expected
        assert out.dtype == dtype
        out.sum().backward()
    for name, tensor in tensors.items():
        assert tensor.grad is not None, name
        assert tensor.grad.shape == tensor.shape
        assert not tensor.grad.any(), name


@pytest.mark.parametrize("kept", [([], [2, 0]), ([3, 1], []), ([], [])], ids=["none-read", "none-written", "neither"])
@pytest.mark.parametrize(("backend", "dtype"), each("sparse_residual_block"))
def test_block_pruned_to_nothing(backend: str, dtype: torch.dtype, kept: tuple[list[int], list[int]]) -> None:
    """A convolution that reads no channel gives its bias; one that writes none leaves x."""
    gather, scatter = kept
    draw = Draw(4, dtype, device_of(backend), exact=True)
    tensors = {"x": draw.image((2, 4, 5, 6))}
    tensors |= {"weight1": draw.weight((3, len(gather), 3, 3)), "bias1": draw.bias(3)}
    tensors |= {"weight2": draw.weight((len(scatter), 3, 3, 3)), "bias2": draw.bias(len(scatter))}
    expected = tensors["x"].double().cpu().clone()
    if scatter:
        hidden = tensors["bias1"].double().cpu().relu()[None, :, None, None].expand(2, 3, 5, 6)
        weight2, bias2 = tensors["weight2"].double().cpu(), tensors["bias2"].double().cpu()
        expected[:, scatter] += nn.functional.conv2d(hidden, weight2, bias2, padding=1)
    for tensor in tensors.values():
        tensor.requires_grad_()
    with on(backend):
        got = vsr_kernels.sparse_residual_block(**tensors, in_channels=gather, out_channels=scatter)
        got.sum().backward()
    torch.testing.assert_close(
        got.double().cpu(), expected, rtol=2 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps
    )
    assert torch.equal(tensors["x"].grad, torch.ones_like(tensors["x"]))


@pytest.mark.parametrize(
    ("operator", "backend", "dtype"), each("flow_warp", "pixel_shuffle", "pixel_unshuffle", dtypes=(torch.float32,))
)
def test_no_channels(operator: str, backend: str, dtype: torch.dtype) -> None:
    run, _, expected = call_with(operator, torch.zeros(2, 0, 4, 6, dtype=dtype, device=device_of(backend)))
    with on(backend):
        assert run().shape == expected


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("backend", "dtype"), each("conv3x3"))
def test_nan_and_infinity_pass(backend: str, dtype: torch.dtype, activation: str) -> None:
    """Where PyTorch gives NaN or infinity, so does the operator, and nowhere else."""
    draw = Draw(5, dtype, device_of(backend), exact=True)
    x, weight, bias = draw.image((2, 5, 9, 8)), draw.weight((4, 5, 3, 3)), draw.bias(4)
    residual = draw.image((2, 4, 9, 8))
    x[0, 0, 1, 1], x[0, 1, 7, 6], x[1, 2, 0, 0] = torch.nan, torch.inf, -torch.inf
    residual[1, 0, 8, 7], residual[1, 1, 8, 7] = torch.nan, -torch.inf
    name, slope = activation.split("_")[0], None
    if name == "leaky":
        name, slope = "leaky_relu", -0.5 if activation.endswith("negative") else 0.125
    elif name == "prelu":
        slope = draw.slope(1 if activation == "prelu_one" else 4)
    z = nn.functional.conv2d(x.double().cpu(), weight.double().cpu(), bias.double().cpu(), padding=1)
    left = {"none": 1.0, "relu": 0.0}.get(name, slope)
    if isinstance(left, Tensor):
        left = left.double().cpu()[None, :, None, None]
    activated = z.relu() if name == "relu" else torch.where(z > 0, z, z * left)
    expected = activated + residual.double().cpu()
    with on(backend):
        got = vsr_kernels.conv3x3(x, weight, bias, activation=name, slope=slope, residual=residual).double().cpu()
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.isposinf(), expected.isposinf())
    assert torch.equal(got.isneginf(), expected.isneginf())
    assert expected.isnan().any()
    assert expected.isinf().any()


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize(("backend", "dtype"), each("conv7x7"))
def test_nan_and_infinity_pass_7x7(backend: str, dtype: torch.dtype, activation: str) -> None:
    """Likewise; the ends of the kernel reach three pixels, a tile five or more."""
    draw = Draw(5, dtype, device_of(backend), exact=True)
    x, weight, bias = draw.image((2, 5, 19, 27)), draw.weight((70, 5, 7, 7)), draw.bias(70)
    x[0, 0, 1, 1], x[0, 1, 17, 6], x[1, 2, 0, 26] = torch.nan, torch.inf, -torch.inf
    z = nn.functional.conv2d(x.double().cpu(), weight.double().cpu(), bias.double().cpu(), padding=3)
    expected = z.relu() if activation == "relu" else z
    with on(backend):
        got = vsr_kernels.conv7x7(x, weight, bias, activation=activation).double().cpu()
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.isposinf(), expected.isposinf())
    assert torch.equal(got.isneginf(), expected.isneginf())
    finite, near = expected.isfinite(), 1e-5 if dtype.itemsize >= 4 else 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(got[finite], expected[finite], rtol=near, atol=near)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 6e4, -6e4])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize(("backend", "dtype"), each("flow_warp"))
def test_flow_to_nowhere(backend: str, dtype: torch.dtype, interpolation: str, value: float) -> None:
    """Such pixels are outside: zero, or the border. Their neighbours do not notice; no gradient reaches the flow."""
    hit = torch.zeros(5, 9, dtype=torch.bool, device=device_of(backend))
    hit[2, 4] = True
    beyond = value > 0
    settings = itertools.product((0, 1), ("zeros", "border"), (torch.contiguous_format, torch.channels_last))
    for channel, padding, memory in settings:
        x = Draw(6, dtype, device_of(backend), exact=True).image((1, 6, 5, 9)).contiguous(memory_format=memory)
        flow = x.new_zeros(1, 2, 5, 9)
        flow[0, channel, 2, 4] = value
        row, col = (2, 8 * beyond) if channel == 0 else (4 * beyond, 4)
        expected = x[0, :, row, col] if padding == "border" else torch.zeros_like(x[0, :, 0, 0])
        ours, where = x.clone().requires_grad_(), flow.requires_grad_()
        with on(backend):
            got = vsr_kernels.flow_warp(ours, where, interpolation=interpolation, padding=padding)
            got.sum().backward()
        torch.testing.assert_close(got[..., ~hit], x[..., ~hit], rtol=0, atol=1e-5)
        torch.testing.assert_close(got[0, :, 2, 4], expected, rtol=0, atol=1e-5)
        assert torch.isfinite(ours.grad).all()
        assert torch.isfinite(where.grad).all()
        assert where.grad[0, channel, 2, 4] == 0
        assert padding == "border" or not where.grad[0, :, 2, 4].any()


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize(("backend", "dtype"), each("flow_warp"))
def test_flow_beyond_integers(backend: str, dtype: torch.dtype, padding: str) -> None:
    """Coordinates that fit no integer type are far outside like any other."""
    x = Draw(6, dtype, device_of(backend), exact=True).image((1, 6, 5, 9))
    wide = torch.promote_types(dtype, torch.float32)
    for value in (1e10, -1e10, 3e38, -3e38, 2.0**31, -(2.0**31), 2.0**63):
        flow = torch.full((1, 2, 5, 9), value, dtype=wide, device=x.device)
        corner = x[:, :, -1:, -1:] if value > 0 else x[:, :, :1, :1]
        with on(backend):
            got = vsr_kernels.flow_warp(x, flow, padding=padding)
        expected = corner.expand_as(x) if padding == "border" else torch.zeros_like(x)
        assert_same_bits(got + 0.0, expected, f"warp by {value}")


@pytest.fixture(scope="module")
def vast() -> Tensor:
    """More than 2^32 bfloat16 elements of address space; the pages that are not written cost no memory."""
    no_reserve = 0x4000
    elements = 2**32 + 2**20
    try:
        memory = mmap.mmap(-1, 2 * elements, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    except OSError as error:
        pytest.skip(f"no address space of {2 * elements} bytes: {error}")
    return torch.frombuffer(memory, dtype=torch.bfloat16)


def far_apart(values: Tensor, dimension: int, vast: Tensor) -> Tensor:
    """The same values with 2^32 elements between the two halves of a dimension of size two."""
    assert values.shape[dimension] == 2
    strides = list(values.stride())
    strides[dimension] = 2**32
    return vast.as_strided(values.shape, strides, 16).copy_(values)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dimension", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("operator", "backend", "dtype"), each(*FUNCTIONS, dtypes=(torch.bfloat16,), backends=("cpu", "reference"))
)
def test_strides_beyond_32_bits(
    operator: str, backend: str, dtype: torch.dtype, dimension: int, memory: torch.memory_format, vast: Tensor
) -> None:
    """Elements that are 2^32 elements apart: an index of 32 bits would find the first of two twice."""
    shape = [2, 8, 8, 10]  # large enough for kernels of 7x7 taps, but along a dimension of two
    shape[dimension] = 2
    if shape[1] < 4 and (operator == "pixel_shuffle" or operator.startswith("sparse")):
        pytest.skip("this operator needs four channels")
    values = Draw(7, dtype, "cpu", exact=True).image(tuple(shape)).contiguous(memory_format=memory)
    run_far, _, _ = call_with(operator, far_apart(values, dimension, vast))
    run_near, _, _ = call_with(operator, values)
    with on(backend):
        assert_same_bits(run_far(), run_near(), "output")


@pytest.mark.parametrize("dimension", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("backend", "dtype"), each("flow_warp", dtypes=(torch.bfloat16,), backends=("cpu", "reference"))
)
def test_flow_strides_beyond_32_bits(backend: str, dtype: torch.dtype, dimension: int, vast: Tensor) -> None:
    draw = Draw(8, dtype, "cpu", exact=True)
    shape = [2, 2, 5, 4]
    shape[dimension] = 2
    x, flow = draw.image((shape[0], 3, *shape[2:])), draw.flow(tuple(shape), 1.0, dtype)
    with on(backend):
        got = vsr_kernels.flow_warp(x, far_apart(flow, dimension, vast))
        assert_same_bits(got, vsr_kernels.flow_warp(x, flow), "output")


def test_fake_results_of_more_than_32_bits() -> None:
    """Shapes are worked out in 64 bits; nothing is allocated on the meta device."""
    x = torch.empty(1, 64, 40000, 40000, device="meta", dtype=DTYPES[1])
    weight = torch.empty(256, 64, 3, 3, device="meta", dtype=DTYPES[1])
    if "conv3x3" not in vsr_kernels.backends()["cpu"].operators:
        pytest.skip("no compiled operators: " + vsr_kernels.backends()["cpu"].detail)
    out, kept = torch.ops.vsr_kernels.conv3x3(x, weight, None, None, 0.0, None, "relu", 1.0, 2, True, True, None)
    assert out.shape == kept.shape == (1, 64, 80000, 80000)
    assert out.stride() == (64 * 80000 * 80000, 1, 64 * 80000, 64)
    assert torch.ops.vsr_kernels.pixel_shuffle(x, 8).shape == (1, 1, 320000, 320000)
