"""What PyTorch asks of a custom operator: opcheck, and fake results of the same strides as the real ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

import vsr_kernels
from ops import truth
from ops.cases import ACTIVATIONS, FLOW_WARP, MERGE_REP_BRANCHES, OPERATORS, Case
from ops.inputs import Draw
from ops.on_backends import device_of, each, few, on, parameters

Sample = tuple[Any, ...]
LOW = (torch.float32, torch.bfloat16, torch.float16)
REGISTERED = sorted(
    schema.name.split("::")[1]
    for schema in torch._C._jit_get_all_schemas()
    if schema.name.startswith("vsr_kernels::") and schema.overload_name == ""
)
needs_library = pytest.mark.skipif(
    not vsr_kernels.backends()["cpu"].available, reason="no compiled operators: " + vsr_kernels.backends()["cpu"].detail
)


def slope_arguments(activation: str, draw: Draw, channels: int) -> tuple[str, Tensor | None, float]:
    """Name, tensor slope and number as the schemas take them."""
    if activation.startswith("leaky"):
        return "leaky_relu", None, -0.5 if activation.endswith("negative") else 0.125
    if activation.startswith("prelu"):
        return "prelu", draw.slope(1 if activation == "prelu_one" else channels), 0.0
    return activation, None, 0.0


def conv_samples(draw: Draw) -> Iterator[Sample]:
    x, weight, bias = draw.image((2, 3, 5, 4), "sliced"), draw.weight((4, 3, 3, 3)), draw.bias(4)
    for i, activation in enumerate((*ACTIVATIONS, *ACTIVATIONS)):
        r, residual = 1 + i % 2, i >= len(ACTIVATIONS)
        name, slope, number = slope_arguments(activation, draw, 4)
        other = draw.image((2, 4 // r**2, 5 * r, 4 * r)) if residual else None
        yield x, weight, None if residual else bias, slope, number, other, name, 0.5 if residual else 1.0, r, True
    yield x, weight, bias, None, 0.0, None, "relu", 1.0, 1, False  # the output's sign is enough
    yield x, weight, bias, None, 0.0, x.new_ones(2, 4, 5, 4), "none", 0.5, 1, False


def epilogue_samples(draw: Draw) -> Iterator[Sample]:
    for activation, r in itertools.product(ACTIVATIONS, (1, 2)):
        name, slope, number = slope_arguments(activation, draw, 8)
        grad, saved = draw.image((2, 8 // r**2, 3 * r, 4 * r), "channels_last"), draw.image((2, 8, 3, 4))
        yield grad, saved, slope, name, number, 0.5, r, False
        if name in ("relu", "leaky_relu") and number >= 0:
            yield grad, draw.image((2, 8 // r**2, 3 * r, 4 * r)), slope, name, number, 1.0, r, True


def block_samples(draw: Draw) -> Iterator[Sample]:
    x, weight1, weight2 = (
        draw.image((2, 3, 5, 4), "channels_last"),
        draw.weight((6, 3, 3, 3)),
        draw.weight((3, 6, 3, 3)),
    )
    for i, activation in enumerate(ACTIVATIONS):
        name, slope, number = slope_arguments(activation, draw, 6)
        bias1, bias2 = (draw.bias(6), draw.bias(3)) if i % 2 else (None, None)
        yield x, weight1, bias1, weight2, bias2, slope, number, name, 1.0 if i % 3 else 0.5, True


def sparse_conv_samples(draw: Draw) -> Iterator[Sample]:
    x, residual = draw.image((2, 5, 4, 3)), draw.image((2, 6, 4, 3), "transposed")
    gather, scatter = torch.tensor([4, 0, 2]), torch.tensor([5, 1])
    for i, activation in enumerate(ACTIVATIONS):
        name, slope, number = slope_arguments(activation, draw, 2)
        weight, all_weight = draw.weight((2, 3, 3, 3)), draw.weight((2, 5, 3, 3))
        yield x, weight, draw.bias(2), slope, number, gather, scatter, residual, name, True
        if i % 2:
            yield x, all_weight, None, slope, number, None, None, residual[:, :2], name, True
        else:
            yield x, weight, None, slope, number, gather, None, None, name, True


def sparse_block_samples(draw: Draw) -> Iterator[Sample]:
    x, gather, scatter = draw.image((2, 5, 4, 3)), torch.tensor([4, 0]), torch.tensor([3, 1, 0])
    for activation in ACTIVATIONS:
        name, slope, number = slope_arguments(activation, draw, 6)
        weight1, weight2 = draw.weight((6, 2, 3, 3)), draw.weight((3, 6, 3, 3))
        yield x, weight1, draw.bias(6), weight2, draw.bias(3), slope, number, gather, scatter, name, True


def warp_samples(draw: Draw) -> Iterator[Sample]:
    for interpolation, padding in itertools.product(("bilinear", "nearest"), ("zeros", "border")):
        for layout in ("contiguous", "channels_last"):
            flow = draw.flow((2, 2, 4, 5), 1.0, torch.float32, "sliced")
            yield draw.image((2, 3, 4, 5), layout), flow, interpolation, padding


def warp_backward_samples(draw: Draw) -> Iterator[Sample]:
    for x, flow, interpolation, padding in warp_samples(draw):
        for need_x, need_flow in ((True, True), (True, False), (False, True)):
            yield draw.image((2, 3, 4, 5), "transposed"), x, flow, interpolation, padding, need_x, need_flow


def shuffle_samples(draw: Draw, *, inverse: bool) -> Iterator[Sample]:
    for r, layout in itertools.product((1, 2, 3), ("contiguous", "channels_last", "sliced")):
        yield draw.image((2, 2, 3 * r, 4 * r) if inverse else (2, 2 * r * r, 3, 4), layout), r


SAMPLES = {
    "conv3x3": conv_samples,
    "conv3x3_epilogue_backward": epilogue_samples,
    "flow_warp": warp_samples,
    "flow_warp_backward": warp_backward_samples,
    "pixel_shuffle": lambda draw: shuffle_samples(draw, inverse=False),
    "pixel_unshuffle": lambda draw: shuffle_samples(draw, inverse=True),
    "residual_block": block_samples,
    "sparse_conv3x3": sparse_conv_samples,
    "sparse_residual_block": sparse_block_samples,
    "cpu_isa": lambda draw: iter(()),  # takes and returns no tensor
}

#: Operators that are a backward: they refuse to be differentiated, so their samples need no gradient.
BACKWARD = ("conv3x3_epilogue_backward", "flow_warp_backward")


def public_name(operator: str) -> str:
    """The function whose kernels a registered operator belongs to."""
    return operator.removesuffix("_epilogue_backward").removesuffix("_backward")


@needs_library
def test_every_registered_operator_has_samples() -> None:
    assert sorted(SAMPLES) == REGISTERED


@pytest.mark.parametrize("operator", [name for name in SAMPLES if name != "cpu_isa"])
@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_opcheck(operator: str, backend: str, request: pytest.FixtureRequest) -> None:
    """Schema, autograd registration, fake tensors, and ahead-of-time autograd with dynamic shapes.

    The first sample without gradients, the others with.
    """
    status = vsr_kernels.backends()[backend]
    if public_name(operator) not in status.operators or not status.available:
        pytest.skip(f"{backend}: {status.detail}")
    overload = getattr(torch.ops.vsr_kernels, operator).default
    draw = Draw(11, torch.float32, device_of(backend), exact=True)
    for i, sample in enumerate(SAMPLES[operator](draw)):
        if operator not in BACKWARD and i > 0:
            sample = pytree.tree_map_only(Tensor, with_gradient, sample)
        torch.library.opcheck(overload, sample)


def with_gradient(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor


@needs_library
@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("operator", [name for name in SAMPLES if name != "cpu_isa"])
def test_fake_results_are_laid_out_like_real_ones(operator: str, dtype: torch.dtype) -> None:
    overload = getattr(torch.ops.vsr_kernels, operator).default
    for sample in SAMPLES[operator](Draw(12, dtype, "cpu", exact=True)):
        check_fake(overload, sample, overload(*sample))


def check_fake(overload: Any, sample: Sample, real: Any) -> None:
    """Compare shape, dtype, device and strides of fake and real outputs."""
    with FakeTensorMode() as mode:
        fake = overload(*pytree.tree_map_only(Tensor, mode.from_tensor, sample))
    reals, fakes = pytree.tree_leaves(real), pytree.tree_leaves(fake)
    for theirs, ours in zip(reals, fakes, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        assert ours.device == theirs.device
        assert ours.stride() == theirs.stride()


@pytest.mark.parametrize(
    ("backend", "case"),
    [p for p in parameters([o for o in OPERATORS if o is not MERGE_REP_BRANCHES]) if p.values[0] != "reference"],
)
def test_fake_results_for_every_layout(backend: str, case: Case) -> None:
    """The public functions on fake tensors of every layout and size, and their gradients."""
    if case.dtype == torch.float64:
        pytest.skip("float64 runs as reference, which is made of PyTorch's own operators")
    arguments = case.arguments(device_of(backend), exact=True).detached(requires_grad=True)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = {k: mode.from_tensor(t).detach().requires_grad_() for k, t in arguments.tensors.items()}
    with on(backend):
        (real,) = case.operator.public(arguments)
        arguments.tensors = fakes
        with mode:
            (fake,) = case.operator.public(arguments)
    assert fake.shape == real.shape
    assert fake.dtype == real.dtype
    assert fake.stride() == real.stride()


@pytest.mark.parametrize(("backend", "dtype"), each("conv3x3", dtypes=LOW[:1], backends=("cpu", "cuda")))
def test_scale_comes_before_the_residual(backend: str, dtype: torch.dtype) -> None:
    """The schema has a factor that the public function lacks: with every activation, with and without a shuffle."""
    overload = torch.ops.vsr_kernels.conv3x3.default
    for sample in conv_samples(Draw(16, dtype, device_of(backend), exact=True)):
        trained = pytree.tree_map_only(Tensor, with_gradient, sample)
        x, weight, bias, slope, number, residual, activation, scale, r, _ = trained
        out, kept = overload(*trained)
        wide = {id(t): with_gradient(t.double().cpu()) for t in (x, weight, bias, slope, residual) if t is not None}
        true = {name: wide.get(id(t)) for name, t in (("x", x), ("w", weight), ("b", bias), ("s", slope))}
        z = truth.convolve(true["x"], true["w"], true["b"])
        expected = truth.shuffle(truth.activate(z, activation, true["s"] if slope is not None else number), r) * scale
        if residual is not None:
            expected = expected + wide[id(residual)]
        torch.testing.assert_close(out.double().cpu(), expected, rtol=1e-5, atol=1e-5)
        if trained[-1]:
            torch.testing.assert_close(kept.double().cpu(), z, rtol=1e-5, atol=1e-5)
        leaves = [t for t in (x, weight, bias, slope, residual) if t is not None]
        grad = Draw(17, dtype, device_of(backend), exact=True).gradient(tuple(out.shape))
        found = torch.autograd.grad(out, leaves, grad)
        for ours, theirs in zip(
            found, torch.autograd.grad(expected, list(wide.values()), grad.double().cpu()), strict=True
        ):
            torch.testing.assert_close(ours.double().cpu(), theirs, rtol=1e-5, atol=1e-4)


@needs_library
@pytest.mark.parametrize("dtype", LOW)
def test_fake_gradients_of_every_layout(dtype: torch.dtype) -> None:
    """flow_warp_backward keeps the format of x."""
    for shape, layout, gradient in itertools.product(
        ((2, 3, 4, 5), (2, 1, 4, 5), (1, 3, 1, 1)),
        ("contiguous", "channels_last", "sliced", "transposed", "channel_slice", "expanded_batch"),
        ("contiguous", "channels_last", "one_number"),
    ):
        draw = Draw(13, dtype, "cpu", exact=True)
        x, grad = draw.image(shape, layout), draw.image(shape, gradient)
        flow = draw.flow((shape[0], 2, *shape[2:]), 1.0, torch.float32)
        sample = (grad, x, flow, "bilinear", "zeros", True, True)
        check_fake(
            torch.ops.vsr_kernels.flow_warp_backward.default, sample, torch.ops.vsr_kernels.flow_warp_backward(*sample)
        )


@needs_library
@pytest.mark.parametrize("operator", ["conv3x3", "residual_block", "sparse_conv3x3", "sparse_residual_block"])
def test_training_without_kept_values_is_refused(operator: str) -> None:
    """A direct call that forgets to keep what the backward needs says so, instead of a wrong gradient."""
    draw = Draw(14, torch.float32, "cpu", exact=True)
    for sample in SAMPLES[operator](draw):
        if "prelu" not in sample:
            continue
        x = sample[0].detach().requires_grad_()
        with pytest.raises(RuntimeError, match=rf"vsr_kernels::{operator}: keep_\w+: expected True.*got False"):
            getattr(torch.ops.vsr_kernels, operator)(x, *sample[1:-1], False)[0].sum().backward()


@pytest.mark.parametrize(("backend", "case"), parameters([FLOW_WARP], few))
def test_warp_gradients_keep_formats(backend: str, case: Case) -> None:
    """Gradients arrive in shapes and dtypes of the arguments, x's also in its memory format."""
    if backend == "reference" or case.dtype == torch.float64:
        pytest.skip("PyTorch chooses the format of its gradients")
    arguments = case.arguments(device_of(backend), exact=True).detached(requires_grad=True)
    x, flow = arguments.tensors.values()
    with on(backend):
        (out,) = case.operator.public(arguments)
    grad_x, grad_flow = torch.autograd.grad(out.sum(), [x, flow])
    interleaved = x.stride(1) == 1 and not x.is_contiguous()
    assert grad_x.is_contiguous(memory_format=torch.channels_last if interleaved else torch.contiguous_format)
    assert (grad_x.shape, grad_x.dtype) == (x.shape, x.dtype)
    assert (grad_flow.shape, grad_flow.dtype) == (flow.shape, flow.dtype)


@pytest.mark.parametrize(("operator", "backend", "dtype"), each("conv3x3", "flow_warp", dtypes=LOW, backends=("cpu",)))
def test_operators_stay_operators(operator: str, backend: str, dtype: torch.dtype) -> None:
    """A trace shows the operator itself, so that compilers see one node and not its parts."""
    draw = Draw(15, dtype, device_of(backend), exact=True)
    x, weight, flow = draw.image((1, 3, 4, 4)), draw.weight((2, 3, 3, 3)), draw.flow((1, 2, 4, 4), 1.0, dtype)
    calls = {"conv3x3": lambda: vsr_kernels.conv3x3(x, weight), "flow_warp": lambda: vsr_kernels.flow_warp(x, flow)}
    with on(backend), torch.profiler.profile() as record:
        calls[operator]()
    assert any(event.name == f"vsr_kernels::{operator}" for event in record.events())
