"""Gradients beyond their values: finite differences, second derivatives, gradients of odd layouts."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import vsr_kernels
from ops.cases import ACTIVATIONS
from ops.inputs import GRADIENT_LAYOUTS, IMAGE_LAYOUTS, Draw, lay_out
from ops.on_backends import device_of, each, on
from vsr_kernels import RepBranch

F64 = torch.float64


def leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def settings_of(activation: str, draw: Draw, channels: int) -> tuple[dict[str, object], list[Tensor]]:
    """Keyword arguments of an activation, and its slope as a leaf if that is a tensor."""
    if activation.startswith("prelu"):
        return {"activation": "prelu"}, [leaf(draw.slope(1 if activation == "prelu_one" else channels))]
    if activation.startswith("leaky"):
        return {"activation": "leaky_relu", "slope": -0.5 if activation.endswith("negative") else 0.125}, []
    return {"activation": activation}, []


def check(function: Callable[..., object], *tensors: Tensor) -> None:
    """First and second derivatives against finite differences."""
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_conv3x3(activation: str) -> None:
    draw = Draw(31, F64, "cpu", exact=True)  # no value before the activation is near its kink
    settings, slope = settings_of(activation, draw, 4)
    tensors = [draw.image((1, 2, 3, 2)), draw.weight((4, 2, 3, 3)), draw.bias(4), draw.image((1, 1, 6, 4))]

    def function(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, *slope: Tensor) -> Tensor:
        named = dict(settings, slope=slope[0]) if slope else settings
        return vsr_kernels.conv3x3(x, weight, bias, residual=residual, pixel_shuffle=2, **named)

    check(function, *map(leaf, tensors), *slope)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_residual_block(activation: str) -> None:
    draw = Draw(32, F64, "cpu", exact=True)
    settings, slope = settings_of(activation, draw, 3)
    tensors = [
        draw.image((1, 2, 3, 2)),
        draw.weight((3, 2, 3, 3)),
        draw.bias(3),
        draw.weight((2, 3, 3, 3)),
        draw.bias(2),
    ]

    def function(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, *slope: Tensor) -> Tensor:
        named = dict(settings, slope=slope[0]) if slope else settings
        return vsr_kernels.residual_block(x, w1, b1, w2, b2, scale=0.5, **named)

    check(function, *map(leaf, tensors), *slope)


@pytest.mark.parametrize("scattered", [False, True])
def test_sparse_conv3x3(scattered: bool) -> None:
    draw = Draw(33, F64, "cpu", exact=True)
    tensors = [draw.image((1, 4, 3, 2)), draw.weight((2, 2, 3, 3)), draw.bias(2), draw.slope(2)]
    tensors.append(draw.image((1, 4 if scattered else 2, 3, 2)))
    check(
        lambda x, weight, bias, slope, residual: vsr_kernels.sparse_conv3x3(
            x,
            weight,
            bias,
            in_channels=[3, 0],
            out_channels=[2, 1] if scattered else None,
            residual=residual,
            activation="prelu",
            slope=slope,
        ),
        *map(leaf, tensors),
    )


def test_sparse_residual_block() -> None:
    draw = Draw(34, F64, "cpu", exact=True)
    tensors = [
        draw.image((1, 4, 3, 2)),
        draw.weight((3, 2, 3, 3)),
        draw.bias(3),
        draw.weight((2, 3, 3, 3)),
        draw.bias(2),
    ]
    check(
        lambda x, w1, b1, w2, b2: vsr_kernels.sparse_residual_block(
            x, w1, b1, w2, b2, in_channels=[3, 0], out_channels=[2, 1]
        ),
        *map(leaf, tensors),
    )


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_flow_warp(interpolation: str, padding: str) -> None:
    draw = Draw(35, F64, "cpu", exact=True)  # no coordinate is near a whole or a half
    tensors = [leaf(draw.image((1, 2, 3, 4))), leaf(draw.flow((1, 2, 3, 4), 1.5, F64))]
    assert torch.autograd.gradcheck(
        lambda x, flow: vsr_kernels.flow_warp(x, flow, interpolation=interpolation, padding=padding), tensors
    )


def test_shuffles() -> None:
    x = leaf(Draw(36, F64, "cpu", exact=True).image((1, 4, 2, 4)))
    check(lambda x: vsr_kernels.pixel_shuffle(x, 2), x)
    check(lambda x: vsr_kernels.pixel_unshuffle(x, 2), x)


def test_merge_rep_branches() -> None:
    draw = Draw(37, F64, "cpu", exact=True)
    vectors = [draw.bias(3) for _ in range(4)] + [draw.bias(3).abs() + 0.5]
    tensors = [draw.weight((3, 2, 3, 3)), *vectors, draw.weight((2, 3, 1, 1)), draw.bias(2)]
    check(
        lambda *t: vsr_kernels.merge_rep_branches([RepBranch(*t[:6], 1e-3, *t[6:])], identity=True),
        *map(leaf, tensors),
    )


def twice(out: Tensor, x: Tensor) -> None:
    """Differentiate the squared gradient."""
    (gradient,) = torch.autograd.grad((out**2).sum(), x, create_graph=True)
    (gradient**2).sum().backward()


@pytest.mark.parametrize(
    ("operator", "backend", "dtype"),
    each(
        "conv3x3",
        "residual_block",
        "flow_warp",
        "sparse_conv3x3",
        "sparse_residual_block",
        dtypes=(torch.float32,),
        backends=("cpu", "cuda"),
    ),
)
def test_second_derivatives_are_refused(operator: str, backend: str, dtype: torch.dtype) -> None:
    """The message names what has no derivative and what to use instead."""
    draw = Draw(38, dtype, device_of(backend), exact=True)
    x, weight, flow = draw.image((1, 4, 5, 6)), draw.weight((4, 4, 3, 3)), draw.flow((1, 2, 5, 6), 1.0, dtype)
    calls = {
        "conv3x3": lambda x: vsr_kernels.conv3x3(x, weight, activation="relu"),
        "residual_block": lambda x: vsr_kernels.residual_block(x, weight, None, weight, None),
        "flow_warp": lambda x: vsr_kernels.flow_warp(x, flow),
        "sparse_conv3x3": lambda x: vsr_kernels.sparse_conv3x3(x, weight, activation="relu"),
        "sparse_residual_block": lambda x: vsr_kernels.sparse_residual_block(
            x, weight, None, weight, None, in_channels=range(4), out_channels=range(4)
        ),
    }
    x = leaf(x)
    with on(backend):
        out = calls[operator](x)
    with pytest.raises(RuntimeError, match=r"vsr_kernels::\w+_backward is not differentiable twice.*use_backend"):
        twice(out, x)
    with on("reference"):
        twice(calls[operator](x), x)
    assert x.grad is not None


@pytest.mark.parametrize(
    ("operator", "backend", "dtype"), each("pixel_shuffle", "pixel_unshuffle", dtypes=(torch.float32,))
)
def test_second_derivatives_of_shuffles(operator: str, backend: str, dtype: torch.dtype) -> None:
    """Shuffles are linear and invert each other, so theirs exist: d/dx sum((2 x)^2) = 8 x."""
    x = leaf(Draw(39, dtype, device_of(backend), exact=True).image((1, 4, 2, 4)))
    with on(backend):
        twice(getattr(vsr_kernels, operator)(x, 2), x)
    torch.testing.assert_close(x.grad, 8 * x.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["cuda", "cpu"])
def test_warp_gradient_of_every_layout(backend: str, dtype: torch.dtype) -> None:
    """All layouts of x and of the incoming gradient, which the kernels have to bring into one."""
    if "flow_warp" not in vsr_kernels.backends()[backend].operators or not vsr_kernels.backends()[backend].available:
        pytest.skip(f"{backend}: {vsr_kernels.backends()[backend].detail}")
    draw = Draw(40, dtype, device_of(backend), exact=True)
    flow = draw.flow((2, 2, 5, 6), 1.0, torch.float32)
    for layout, incoming in itertools.product(IMAGE_LAYOUTS, GRADIENT_LAYOUTS):
        x, grad = draw.image((2, 3, 5, 6), layout), draw.gradient((2, 3, 5, 6), incoming)
        found = []
        for y, g in ((x, grad), (x.contiguous(), grad.contiguous())):
            leaves = leaf(y), leaf(flow)
            with on(backend):
                found.append(torch.autograd.grad(vsr_kernels.flow_warp(*leaves), leaves, g))
        for ours, theirs in zip(*found, strict=True):
            assert torch.equal(ours, theirs), (layout, incoming)


@pytest.mark.parametrize(("backend", "dtype"), each("conv3x3", dtypes=(torch.float32,)))
def test_gradients_add_up(backend: str, dtype: torch.dtype) -> None:
    """A tensor in two roles gets both gradients: x is also the residual, weight1 is weight2."""
    draw = Draw(41, dtype, device_of(backend), exact=True)
    x, weight = leaf(draw.image((1, 4, 5, 6))), leaf(draw.weight((4, 4, 3, 3)))
    with on(backend):
        out = vsr_kernels.conv3x3(x, weight, residual=x) + vsr_kernels.residual_block(x, weight, None, weight, None)
        found = torch.autograd.grad(out.sum(), [x, weight])
    wide_x, wide = leaf(x.double()), leaf(weight.double())
    with on("reference"):
        out = vsr_kernels.conv3x3(wide_x, wide, residual=wide_x)
        out = out + vsr_kernels.residual_block(wide_x, wide, None, wide, None)
    for ours, theirs in zip(found, torch.autograd.grad(out.sum(), [wide_x, wide]), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("backend", "dtype"), each("residual_block", dtypes=(torch.float32,)))
def test_checkpointing(backend: str, dtype: torch.dtype) -> None:
    """Recomputing a block in the backward gives the same gradients."""
    draw = Draw(42, dtype, device_of(backend), exact=True)
    x, weight = leaf(draw.image((1, 4, 5, 6))), leaf(draw.weight((4, 4, 3, 3)))

    def block(x: Tensor) -> Tensor:
        return vsr_kernels.residual_block(x, weight, None, weight, None)

    with on(backend):
        plain = torch.autograd.grad(block(block(x)).sum(), [x, weight])
        out = torch.utils.checkpoint.checkpoint(block, block(x), use_reentrant=False)
        again = torch.autograd.grad(out.sum(), [x, weight])
    for ours, theirs in zip(again, plain, strict=True):
        assert torch.equal(ours, theirs)


def test_the_layouts_of_gradients_are_what_they_are_called() -> None:
    values = torch.randn(2, 3, 4, 5)
    assert lay_out(values, "one_number").stride() == (0, 0, 0, 0)
    assert lay_out(values, "expanded_batch").stride(0) == 0
    assert lay_out(values, "transposed").stride(2) == 1
