"""The backend nvrtc and the operators on CuPy arrays, where there is a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from arrays import Call, calls, name_of
from judging import judge
from ops.accuracy import assert_near, assert_same_bits
from ops.cases import OPERATORS as FAMILIES
from ops.cases import cases

import vsr_kernels
from vsr_kernels import backend, nvrtc

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(nvrtc.obstacle() is not None, reason=str(nvrtc.obstacle())),
]

#: Every fortieth case of each operator, in the dtypes that kernels have.
CASES = [
    case
    for family in FAMILIES
    if family.name in backend.OPERATORS
    for case in cases(family)
    if case.dtype != torch.float64 and case.number % 40 == 0
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operator.name}-{case.label}")
def test_values(case: Any) -> None:
    arguments = case.arguments("cuda", exact=False)
    with torch.no_grad(), vsr_kernels.use_backend("nvrtc"):
        got = case.operator.public(arguments)
    truth, low = case.operator.exact(arguments.wide()), case.operator.plain(arguments)
    for ours, true, plain in zip(got, truth, low, strict=True):
        assert_near(ours, true, [plain], case.operator.name, case.dtype)


def test_a_layer_changes_to_its_own_kernel() -> None:
    """Without a difference in its results where the other one is the compiled kernel."""
    if not vsr_kernels.backends()["cuda"].available:
        pytest.skip(vsr_kernels.backends()["cuda"].detail)
    from vsr_kernels.nvrtc import device, torch_operators

    x = torch.randn(1, 64, 33, 47, device="cuda").half().contiguous(memory_format=torch.channels_last)
    module = vsr_kernels.nn.SparseConv3x3(64, 64, in_kept=range(0, 64, 3), out_kept=range(5, 50)).cuda().half().eval()
    with torch.no_grad():
        first = module(x, x)
        device.COMPILATIONS.join()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            second = module(x, x)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            third = module(x, x)
        graph.replay()
    torch.cuda.synchronize()
    with torch_operators._gpu_of(x) as gpu:
        assert gpu._functions
    assert_same_bits(second, first, "the layer's kernel")
    assert_same_bits(third, first, "captured")


@pytest.mark.parametrize("call", calls(2, 37, 17, 33), ids=name_of)
def test_cupy_arrays(call: Call) -> None:
    cupy = pytest.importorskip("cupy")
    import vsr_kernels.cupy as vk

    name, arguments = call
    lists = ("in_channels", "out_channels")
    given = {k: cupy.asarray(v) if isinstance(v, np.ndarray) and k not in lists else v for k, v in arguments.items()}
    with cupy.cuda.Stream() as stream:
        got = getattr(vk, name)(**given)
        stream.synchronize()
    judge(call, got.get())
