"""What only a GPU can show: streams, captured graphs, and that nothing waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from ops.accuracy import assert_same_bits
from ops.cases import OPERATORS, Arguments, Case, cases
from ops.on_backends import each, on
from vsr_kernels.nn import Conv3x3, PixelShuffleConv, ResidualBlock, SparseConv3x3, SparseResidualBlock

CONVOLUTIONS = ("conv3x3", "residual_block", "sparse_conv3x3", "sparse_residual_block")
HALF = (torch.float16,)


def a_case(name: str) -> Case:
    operator = next(o for o in OPERATORS if o.name == name)
    return next(c for c in cases(operator) if c.dtype == torch.float16)


def on_gpu(name: str) -> tuple[Case, Arguments]:
    """The arguments of a case, whose channel lists, if any, are on the GPU as well."""
    case = a_case(name)
    arguments = case.arguments("cuda", exact=True)
    lists = {k: v for k, v in arguments.others.items() if k.endswith("_channels") and v is not None}
    arguments.others |= {k: torch.as_tensor(v, device="cuda") for k, v in lists.items()}
    return case, arguments


def a_call(name: str) -> Callable[[], Tensor]:
    case, arguments = on_gpu(name)
    return lambda: case.operator.public(arguments)[0]


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever waits for the device raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("name", "backend", "dtype"), each(*CONVOLUTIONS, dtypes=HALF, backends=("cuda",)))
def test_nothing_waits(name: str, backend: str, dtype: torch.dtype) -> None:
    call = a_call(name)
    with on(backend), no_waiting():
        call()


@pytest.mark.parametrize(("name", "backend", "dtype"), each(*CONVOLUTIONS, dtypes=HALF, backends=("cuda",)))
def test_side_streams(name: str, backend: str, dtype: torch.dtype) -> None:
    """Results are those of the default stream."""
    call = a_call(name)
    side = torch.cuda.Stream()
    with on(backend):
        expected = call()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            got = call()
        side.synchronize()
    assert_same_bits(got, expected, "output")


@pytest.mark.parametrize(("name", "backend", "dtype"), each(*CONVOLUTIONS, dtypes=HALF, backends=("cuda",)))
def test_captured_calls(name: str, backend: str, dtype: torch.dtype) -> None:
    """A captured call packs its weights again in every replay, and so follows their changes."""
    case, arguments = on_gpu(name)
    graph = torch.cuda.CUDAGraph()
    with on(backend), torch.no_grad():
        case.operator.public(arguments)
        with torch.cuda.graph(graph):
            (got,) = case.operator.public(arguments)
        for tensor in arguments.tensors.values():
            if not any(stride == 0 for stride in tensor.stride()):
                tensor.mul_(2)
        graph.replay()
        assert_same_bits(got, case.operator.public(arguments)[0], "output")


MODULES: dict[str, Callable[[], nn.Module]] = {
    "conv3x3": lambda: nn.Sequential(Conv3x3(16, 16, activation="prelu"), PixelShuffleConv(16, 4, 2)),
    "residual_block": lambda: ResidualBlock(16),
    "sparse_conv3x3": lambda: SparseConv3x3(16, 16, in_kept=[1, 2, 9]),
    "sparse_residual_block": lambda: SparseResidualBlock(16, in_kept=[1, 2], out_kept=[0, 15], hidden=8),
}


@pytest.mark.parametrize(("name", "backend", "dtype"), each(*MODULES, dtypes=HALF, backends=("cuda",)))
def test_modules_pack_once(name: str, backend: str, dtype: torch.dtype) -> None:
    """In eval mode, until their weights change; the results are those of packing in every call."""
    module = MODULES[name]().to("cuda", dtype).eval()
    x = torch.randn(1, 16, 9, 7, device="cuda", dtype=dtype)
    with on(backend), torch.no_grad():
        with torch.profiler.profile() as first:
            module(x)
        with torch.profiler.profile() as second:
            kept = module(x)
        assert_same_bits(kept, module.train()(x), "output")
        module.eval()(x)
        next(module.parameters()).mul_(2)
        assert_same_bits(module(x), module.train()(x), "output after a change")

    def packings(profile: torch.profiler.profile) -> int:
        return sum(event.name == "vsr_kernels::conv3x3_pack" for event in profile.events())

    assert packings(first) > 0
    assert packings(second) == 0


@pytest.mark.parametrize(("name", "backend", "dtype"), each(*MODULES, dtypes=HALF, backends=("cuda",)))
def test_captured_modules(name: str, backend: str, dtype: torch.dtype) -> None:
    """A graph reads the packing that was made before it, whatever becomes of the module's own."""
    module = MODULES[name]().to("cuda", dtype).eval()
    x = torch.randn(1, 16, 9, 7, device="cuda", dtype=dtype)
    graph = torch.cuda.CUDAGraph()
    with on(backend), torch.no_grad():
        expected = module(x)
        with torch.cuda.graph(graph):
            got = module(x)
        for parameter in module.parameters():
            parameter.mul_(2)
        module(x)
        graph.replay()
        assert_same_bits(got, expected, "output")
