"""Memory: inputs are left alone, outputs hold nothing uninitialised and lie as documented."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import vsr_kernels
from ops.accuracy import assert_same_bits
from ops.cases import (
    CONV3X3,
    CONV7X7,
    FLOW_WARP,
    MERGE_REP_BRANCHES,
    OPERATORS,
    PIXEL_SHUFFLE,
    PIXEL_UNSHUFFLE,
    RESIDUAL_BLOCK,
    SPARSE_CONV3X3,
    SPARSE_RESIDUAL_BLOCK,
    Case,
    cases,
)
from ops.on_backends import device_of, each, few, on, parameters
from ops.running import run

COMPILED = [op for op in OPERATORS if op is not MERGE_REP_BRANCHES]
FEW = parameters(COMPILED, few)
#: 7x7 convolutions that train are PyTorch's.
TRAINING_TOO = [op for op in COMPILED if op is not CONV7X7]


def storage_bits(tensor: Tensor) -> Tensor:
    """A copy of everything in the memory that a tensor is a view of."""
    whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return whole.set_(tensor.untyped_storage()).clone()


@pytest.mark.parametrize(("backend", "case"), FEW)
def test_inputs_are_left_alone(backend: str, case: Case) -> None:
    arguments = case.arguments(device_of(backend), exact=True).detached(requires_grad=True)
    before = {name: (storage_bits(t), t._version) for name, t in arguments.tensors.items()}
    with on(backend):
        run(case, case.operator.public, arguments)
    for name, tensor in arguments.tensors.items():
        bits, version = before[name]
        assert torch.equal(storage_bits(tensor), bits), name
        assert tensor._version == version, name


@pytest.mark.parametrize(("backend", "case"), FEW)
def test_outputs_share_no_memory_with_inputs(backend: str, case: Case) -> None:
    """With and without gradients; also where there is nothing to compute, as a shuffle by one."""
    arguments = case.arguments(device_of(backend), exact=True)
    memory = {t.untyped_storage().data_ptr(): name for name, t in arguments.tensors.items()}
    for leaves in (arguments.detached(), arguments.detached(requires_grad=True)):
        with on(backend):
            (out,) = case.operator.public(leaves)
        assert out.untyped_storage().data_ptr() not in memory, memory[out.untyped_storage().data_ptr()]


@contextmanager
def new_memory_is_nan() -> Iterator[None]:
    """Fill what ``empty`` allocates with NaN, in Python and in C++: PyTorch does it when asked for determinism."""
    was = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = was


def test_new_memory_is_nan_in_python() -> None:
    x = torch.zeros(3)
    with new_memory_is_nan():
        made = (torch.empty(3), x.new_empty(3), torch.empty_like(x), torch.empty_strided((3,), (2,)))
    assert all(t.isnan().all() for t in made)


@pytest.mark.parametrize(
    ("operator", "backend", "dtype"),
    each("pixel_shuffle", "conv3x3", "flow_warp", dtypes=(torch.float32,), backends=("cpu", "cuda")),
)
def test_new_memory_is_nan_in_cpp(operator: str, backend: str, dtype: torch.dtype) -> None:
    """The allocations of the compiled operators pass through PyTorch's ``empty``, which fills them."""
    x = torch.zeros(1, 4, 6, 6, dtype=dtype, device=device_of(backend))
    call = {
        "pixel_shuffle": lambda: vsr_kernels.pixel_shuffle(x, 2),
        "conv3x3": lambda: vsr_kernels.conv3x3(x, x.new_zeros(4, 4, 3, 3), activation="relu", pixel_shuffle=2),
        "flow_warp": lambda: vsr_kernels.flow_warp(x, x.new_zeros(1, 2, 6, 6)),
    }[operator]
    with new_memory_is_nan(), on(backend), profile(activities=[ProfilerActivity.CPU]) as record:
        call()
    names = [event.name for event in record.events()]
    inside = names[names.index(f"vsr_kernels::{operator}") :]
    assert "aten::fill_" in inside


@pytest.mark.parametrize(("backend", "case"), FEW)
def test_every_element_is_written(backend: str, case: Case) -> None:
    """Outputs and gradients do not depend on what was in their memory."""
    arguments = case.arguments(device_of(backend), exact=True)
    with on(backend):
        clean, clean_gradients = run(case, case.operator.public, arguments)
        with new_memory_is_nan():
            got, gradients = run(case, case.operator.public, arguments)
    for ours, theirs in zip(got, clean, strict=True):
        assert_same_bits(ours, theirs, "output")
    for name, gradient in gradients.items():
        assert_same_bits(gradient, clean_gradients[name], f"gradient of {name}")


def is_dense(x: Tensor, memory: torch.memory_format) -> bool:
    return x.is_contiguous(memory_format=memory)


CONVOLUTIONS = [CONV3X3, RESIDUAL_BLOCK, SPARSE_CONV3X3, SPARSE_RESIDUAL_BLOCK]


@pytest.mark.parametrize(("backend", "case"), [p for p in parameters(CONVOLUTIONS, few) if p.values[0] != "reference"])
def test_convolutions_return_channels_last(backend: str, case: Case) -> None:
    """Whatever the layout of their inputs; with and without gradients."""
    if case.dtype == torch.float64:
        pytest.skip("float64 runs as reference, whose format is PyTorch's choice")
    arguments = case.arguments(device_of(backend), exact=True)
    for leaves in (arguments.detached(), arguments.detached(requires_grad=True)):
        with on(backend):
            (out,) = case.operator.public(leaves)
        assert is_dense(out, torch.channels_last)


@pytest.mark.parametrize(("backend", "case"), parameters([FLOW_WARP, PIXEL_SHUFFLE, PIXEL_UNSHUFFLE], few))
def test_movers_keep_the_format_of_x(backend: str, case: Case) -> None:
    arguments = case.arguments(device_of(backend), exact=True)
    x = arguments.tensors["x"]
    with on(backend):
        (out,) = case.operator.public(arguments)
    interleaved = x.stride(1) == 1 and not x.is_contiguous()
    assert interleaved or case.row["layout"] != "channels_last" or x.is_contiguous()
    assert is_dense(out, torch.channels_last if interleaved else torch.contiguous_format)


@pytest.mark.parametrize(("backend", "case"), parameters(TRAINING_TOO, few))
def test_inference_gives_what_training_gives(backend: str, case: Case) -> None:
    """Keeping values for the backward, or a graph of none of them, changes no bit of the output."""
    arguments = case.arguments(device_of(backend), exact=True)
    with on(backend):
        (trained,) = case.operator.public(arguments.detached(requires_grad=True))
        with torch.inference_mode():
            (inferred,) = case.operator.public(arguments)
        (plain,) = case.operator.public(arguments)
    assert_same_bits(inferred, trained, "output in inference mode")
    assert_same_bits(plain, trained, "output without gradients")


@pytest.mark.parametrize(("backend", "case"), parameters(COMPILED, lambda case: case.number % 12 == 0))
def test_each_gradient_alone(backend: str, case: Case) -> None:
    """Asking for one gradient only gives the same one as asking for all."""
    arguments = case.arguments(device_of(backend), exact=True)
    with on(backend):
        _, everything = run(case, case.operator.public, arguments)
        for name in arguments.tensors:
            _, alone = run(case, case.operator.public, arguments, only=name)
            torch.testing.assert_close(alone[name], everything[name], msg=lambda text, n=name: f"{n}: {text}")


def test_cases_leave_gaps() -> None:
    """The layouts under test are what they are called, or the tests above test nothing."""
    for operator in COMPILED:
        layouts: dict[str, list[Tensor]] = {}
        for case in cases(operator):
            if max(case.row["h"], case.row["w"]) > 50:
                continue
            x = case.arguments("cpu", exact=True).tensors["x"]
            if min(x.shape) > 1:
                layouts.setdefault(case.row["layout"], []).append(x)
        assert all(not x.is_contiguous() for x in layouts["sliced"])
        assert all(x.is_contiguous(memory_format=torch.channels_last) for x in layouts["channels_last"])
        assert all(x.stride(0) == 0 for x in layouts["expanded_batch"])
        assert all(x.stride(3) == 0 for x in layouts["expanded_columns"])
        assert all(x.stride(2) == 1 for x in layouts["transposed"])
        assert all(x.data_ptr() % 16 for x in layouts["misaligned"])
        assert all(x.stride(1) == 1 and x.stride(3) == x.shape[1] + 5 for x in layouts["channel_slice"])
