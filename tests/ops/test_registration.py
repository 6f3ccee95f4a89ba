"""What PyTorch asks of a custom operator: opcheck, and fake results of the same strides as the real ones."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

import vsr_kernels
from ops import truth
from ops.cases import CONV7X7, FLOW_WARP, MERGE_REP_BRANCHES, OPERATORS, Case
from ops.inputs import Draw
from ops.on_backends import device_of, each, few, on, parameters
from ops.samples import SAMPLES, Sample, conv_samples
from vsr_kernels import build

LOW = (torch.float32, torch.bfloat16, torch.float16)
REGISTERED = sorted(
    schema.name.split("::")[1]
    for schema in torch._C._jit_get_all_schemas()
    if schema.name.startswith("vsr_kernels::") and schema.overload_name == ""
)
needs_library = pytest.mark.skipif(
    not vsr_kernels.backends()["cpu"].available, reason="no compiled operators: " + vsr_kernels.backends()["cpu"].detail
)


#: Operators that take and return no tensor.
NUMBERS = (
    "conv3x3_cpu_packed_bytes",
    "conv3x3_packed_bytes",
    "conv7x7_packed_bytes",
    "conv_chain_packed_bytes",
    "cpu_isa",
    "quantized_conv3x3_packed_bytes",
)

#: Operators that write into memory that is there: tests/planning calls them.
INTO = ("conv3x3_into", "conv7x7_into", "flow_warp_into", "pixel_shuffle_into", "quantized_conv3x3_into")

#: Operators that the functions call on CUDA only.
CUDA_ONLY = ("conv_chain", "conv_chain_pack")

#: Operators without CUDA kernels.
CPU_ONLY = ("conv7x7", "conv7x7_pack", "quantized_conv3x3", "quantized_conv3x3_pack")

#: What is PyTorch's own where gradients are asked for.
PYTORCHS = (CONV7X7, MERGE_REP_BRANCHES)

#: Operators that are a backward, or none that is differentiated: their samples need no gradient.
BACKWARD = (
    "conv3x3_backward",
    "conv3x3_epilogue_backward",
    "conv3x3_pack",
    "flow_warp_backward",
    *CUDA_ONLY,
    *CPU_ONLY,
)


def obstacle_of(operator: str, backend: str) -> str | None:
    """Why a registered operator cannot be called here on a backend, or None."""
    status = vsr_kernels.backends()[backend]
    if not status.available:
        return status.detail
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"vsr_kernels::{operator}", backend.upper()):
        return f"no kernel of {operator}"
    return None


@needs_library
def test_every_registered_operator_has_samples() -> None:
    assert sorted([*SAMPLES, *NUMBERS, *INTO]) == REGISTERED


@needs_library
def test_every_operator_has_its_kernels() -> None:
    """Those of the CPU, and where _C_cuda was built those of CUDA, whether or not there is a GPU."""
    backends = ["cpu"] + ["cuda"] * (build.installed_object("_C_cuda") is not None and torch.version.cuda is not None)
    for backend in backends:
        missing = [
            name
            for name in SAMPLES
            if not torch._C._dispatch_has_kernel_for_dispatch_key(f"vsr_kernels::{name}", backend.upper())
        ]
        assert sorted(missing) == sorted(CUDA_ONLY if backend == "cpu" else CPU_ONLY)


CALLS = [
    pytest.param(name, backend, marks=[pytest.mark.gpu] if backend == "cuda" else [], id=f"{name}-{backend}")
    for name, backend in itertools.product(SAMPLES, ("cpu", "cuda"))
    if name not in (CUDA_ONLY if backend == "cpu" else CPU_ONLY)
]


@pytest.mark.parametrize(("operator", "backend"), CALLS)
def test_opcheck(operator: str, backend: str) -> None:
    """Schema, autograd registration, fake tensors, and ahead-of-time autograd with dynamic shapes.

    The first sample without gradients, the others with.
    """
    why_not = obstacle_of(operator, backend)
    if why_not is not None:
        pytest.skip(f"{backend}: {why_not}")
    overload = getattr(torch.ops.vsr_kernels, operator).default
    draw = Draw(11, torch.float32, device_of(backend), exact=True)
    for i, sample in enumerate(SAMPLES[operator](draw)):
        if operator not in BACKWARD and i > 0:
            sample = pytree.tree_map_only(Tensor, with_gradient, sample)
        torch.library.opcheck(overload, sample)


@pytest.mark.parametrize("need", list(itertools.product((False, True), repeat=3)), ids=str)
@pytest.mark.parametrize(("backend", "dtype"), each("conv3x3", dtypes=LOW, backends=("cpu", "cuda")))
def test_what_is_not_needed_is_empty(backend: str, dtype: torch.dtype, need: tuple[bool, bool, bool]) -> None:
    """Each gradient of a convolution, by itself and with the others, is the same."""
    for *arguments, _, _, _, exact in SAMPLES["conv3x3_backward"](Draw(19, dtype, device_of(backend), exact=True)):
        every = torch.ops.vsr_kernels.conv3x3_backward(*arguments, True, True, True, exact)
        found = torch.ops.vsr_kernels.conv3x3_backward(*arguments, *need, exact)
        for wanted, got, expected in zip(need, found, every, strict=True):
            torch.testing.assert_close(got, expected if wanted else expected.new_empty(0))


def with_gradient(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize(("operator", "backend"), CALLS)
def test_fake_results_are_laid_out_like_real_ones(operator: str, backend: str, dtype: torch.dtype) -> None:
    why_not = obstacle_of(operator, backend)
    if why_not is not None:
        pytest.skip(f"{backend}: {why_not}")
    overload = getattr(torch.ops.vsr_kernels, operator).default
    for sample in SAMPLES[operator](Draw(12, dtype, device_of(backend), exact=True)):
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
    [p for p in parameters([o for o in OPERATORS if o not in PYTORCHS]) if p.values[0] != "reference"],
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
        x, weight, bias, slope, number, residual, activation, scale, r, keep, *_ = trained
        out, kept = overload(*trained)
        wide = {id(t): with_gradient(t.double().cpu()) for t in (x, weight, bias, slope, residual) if t is not None}
        true = {name: wide.get(id(t)) for name, t in (("x", x), ("w", weight), ("b", bias), ("s", slope))}
        z = truth.convolve(true["x"], true["w"], true["b"])
        expected = truth.shuffle(truth.activate(z, activation, true["s"] if slope is not None else number), r) * scale
        if residual is not None:
            expected = expected + wide[id(residual)]
        torch.testing.assert_close(out.double().cpu(), expected, rtol=1e-5, atol=1e-5)
        if keep:
            torch.testing.assert_close(kept.double().cpu(), truth.shuffle(z, r), rtol=1e-5, atol=1e-5)
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
        x, at = sample[0].detach().requires_grad_(), next(i for i, value in enumerate(sample) if value is True)
        with pytest.raises(RuntimeError, match=rf"vsr_kernels::{operator}: keep_\w+: expected True.*got False"):
            getattr(torch.ops.vsr_kernels, operator)(x, *sample[1:at], False, *sample[at + 1 :])[0].sum().backward()


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
