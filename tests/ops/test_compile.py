"""torch.compile and torch.export: one graph, the same values, dynamic sizes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import vsr_kernels
from ops.accuracy import assert_same_bits
from ops.cases import FLOW_WARP, MERGE_REP_BRANCHES, OPERATORS, Arguments, Case, branches_of, cases
from ops.on_backends import device_of, each, on, parameters
from ops.running import run
from vsr_kernels.backend import CPU_OPERATORS

#: One case per activation, residual and so on; sizes do not matter here.
SPARSE = 24


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """No test sees the graphs of another."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def small(case: Case) -> bool:
    return case.number % SPARSE == 0 and case.operator is not MERGE_REP_BRANCHES


def function_of(case: Case) -> Callable[[dict[str, Tensor]], Tensor]:
    """The public function as a function of its tensors alone."""
    others = case.arguments("cpu", exact=True).others
    return lambda tensors: case.operator.public(Arguments(tensors, others))[0]


@pytest.mark.parametrize(("backend", "case"), parameters(keep=small))
def test_one_graph(backend: str, case: Case) -> None:
    """fullgraph=True refuses graph breaks; forward and backward give the bits of the uncompiled call."""
    arguments = case.arguments(device_of(backend), exact=True)
    compiled = torch.compile(function_of(case), fullgraph=True, backend="aot_eager")
    with on(backend):
        expected, expected_gradients = run(case, case.operator.public, arguments)
        got, gradients = run(case, lambda a: (compiled(a.tensors),), arguments)
    assert_same_bits(got[0], expected[0], "output")
    assert got[0].stride() == expected[0].stride()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, expected_gradients[name], msg=lambda text, n=name: f"gradient of {n}: {text}"
        )


@pytest.mark.parametrize(("backend", "dtype"), each("merge_rep_branches", dtypes=(torch.float32,)))
def test_merge_in_one_graph(backend: str, dtype: torch.dtype) -> None:
    case = next(c for c in cases(MERGE_REP_BRANCHES) if c.dtype == dtype)
    branches = branches_of(case.arguments(device_of(backend), exact=False))
    compiled = torch.compile(
        lambda b: vsr_kernels.merge_rep_branches(b, identity=case.row["identity"]), fullgraph=True, backend="aot_eager"
    )
    with on(backend):
        expected = vsr_kernels.merge_rep_branches(branches, identity=case.row["identity"])
        for ours, theirs in zip(compiled(branches), expected, strict=True):
            assert_same_bits(ours, theirs, "merged")


class Net(nn.Module):
    """Every operator once, the way a super-resolution network uses them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Parameter(torch.randn(8, 3, 3, 3) / 5)
        self.slope = nn.Parameter(torch.rand(8) / 4)
        self.inner = nn.Parameter(torch.randn(8, 8, 3, 3) / 9)
        self.narrow = nn.Parameter(torch.randn(4, 3, 3, 3) / 5)
        self.widen = nn.Parameter(torch.randn(2, 4, 3, 3) / 6)
        self.tail = nn.Parameter(torch.randn(12, 8, 3, 3) / 9)

    def forward(self, x: Tensor, flow: Tensor) -> Tensor:
        y = vsr_kernels.conv3x3(x, self.head, activation="prelu", slope=self.slope)
        y = vsr_kernels.flow_warp(y, flow)
        y = vsr_kernels.residual_block(y, self.inner, None, self.inner, None, scale=0.5)
        y = vsr_kernels.sparse_residual_block(
            y, self.narrow, None, self.widen, None, in_channels=[5, 0, 2], out_channels=[1, 7]
        )
        y = vsr_kernels.sparse_conv3x3(y, self.inner, residual=y, activation="leaky_relu", slope=0.1)
        y = vsr_kernels.pixel_unshuffle(vsr_kernels.pixel_shuffle(y, 2), 2)
        return vsr_kernels.conv3x3(y, self.tail, pixel_shuffle=2)


def frames(backend: str, height: int, width: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(2, 3, height, width, device=device_of(backend))
    return x, torch.randn(2, 2, height, width, device=device_of(backend))


EVERYWHERE = each("conv3x3", dtypes=(torch.float32,))


@pytest.mark.parametrize(("backend", "dtype"), EVERYWHERE)
def test_sizes_that_change(backend: str, dtype: torch.dtype) -> None:
    """One dynamic graph serves every size."""
    graphs: list[torch.fx.GraphModule] = []

    def counting(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    net = Net().to(device_of(backend))
    compiled = torch.compile(net, fullgraph=True, backend=counting, dynamic=True)
    with on(backend), torch.no_grad():
        for size in ((6, 8), (9, 7), (12, 5)):
            x, flow = frames(backend, *size)
            assert_same_bits(compiled(x, flow), net(x, flow), f"output for {size}")
    assert len(graphs) == 1


@pytest.mark.parametrize(("backend", "dtype"), EVERYWHERE)
def test_export_for_training(backend: str, dtype: torch.dtype) -> None:
    """A program exported with gradients enabled can be trained."""
    net = Net().to(device_of(backend))
    with on(backend):
        program = torch.export.export(net, frames(backend, 6, 8)).module()
        x, flow = frames(backend, 6, 8)
        net(x, flow).sum().backward()
        program(x, flow).sum().backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(program.get_parameter(name).grad, parameter.grad)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("backend", "dtype"), EVERYWHERE)
def test_export(backend: str, dtype: torch.dtype, strict: bool) -> None:
    """A program exported for inference runs on a size that was not seen, without this package's Python functions."""
    net = Net().to(device_of(backend))
    sizes = {2: torch.export.Dim("height", min=2, max=64), 3: torch.export.Dim("width", min=2, max=64)}
    with on(backend), torch.no_grad():
        program = torch.export.export(net, frames(backend, 6, 8), dynamic_shapes=(sizes, sizes), strict=strict)
        x, flow = frames(backend, 9, 7)
        expected = net(x, flow)
        assert_same_bits(program.module()(x, flow), expected, "output")
    assert_same_bits(program.module()(x, flow), expected, "output where gradients are enabled")
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    if backend != "reference":
        has = set(vsr_kernels.backends()[backend].operators) - set(CPU_OPERATORS)  # which are not in this network
        assert {f"vsr_kernels.{name}.default" for name in has} <= names


@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize(("backend", "dtype"), each("conv3x3", dtypes=(torch.float32,), backends=("cpu", "cuda")))
def test_inductor(backend: str, dtype: torch.dtype, request: pytest.FixtureRequest) -> None:
    """The default compiler relies on the strides that fake kernels promise, in the code it writes around operators.

    In a process of its own, because compiled code and its workers live as long as the process does.
    """
    if "VSR_TEST_CHILD" not in os.environ:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", request.node.nodeid]
        done = subprocess.run(
            command,
            cwd=request.config.rootpath,
            env=os.environ | {"VSR_TEST_CHILD": "1"},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return
    net = Net().to(device_of(backend))

    def around(x: Tensor, flow: Tensor) -> Tensor:
        y = net(x, flow)
        return y.sigmoid() * 2 + y.flip(1)

    x, flow = frames(backend, 6, 8)
    with on(backend), torch.no_grad():
        got = torch.compile(around, fullgraph=True)(x, flow)
        torch.testing.assert_close(got, around(x, flow), rtol=1e-5, atol=1e-5)


def test_nothing_is_built_while_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the operators would have to be compiled first, tracing says what to call."""
    monkeypatch.setattr(vsr_kernels.backend._state, "ready", False)
    compiled = torch.compile(lambda x: vsr_kernels.pixel_shuffle(x, 2), fullgraph=True, backend="eager")
    with pytest.raises(RuntimeError, match=r"call vsr_kernels\.load\(\) before tracing"):
        compiled(torch.zeros(1, 4, 2, 2))


def test_some_cases_are_compiled() -> None:
    """The selection above holds each operator, and a warp of each interpolation."""
    chosen = [case for operator in OPERATORS for case in cases(operator) if small(case)]
    assert {case.operator for case in chosen} == set(OPERATORS) - {MERGE_REP_BRANCHES}
    assert {case.row["interpolation"] for case in chosen if case.operator is FLOW_WARP} == {"bilinear", "nearest"}
