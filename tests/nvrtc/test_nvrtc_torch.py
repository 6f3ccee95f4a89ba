"""The backend nvrtc on tensors: what it launches, run in ptxvm; the generic kernel until a layer's own is compiled."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from ops.accuracy import assert_near, assert_same_bits
from torch import Tensor

import vsr_kernels
from ptxvm.cupy_calls import Machine
from vsr_kernels import backend, nvrtc, reference, registration

if (REASON := nvrtc.obstacle()) is not None:
    pytest.skip(REASON, allow_module_level=True)

import cupy_standin

from vsr_kernels.nvrtc import background, device, torch_operators
from vsr_kernels.ops import warp as ops_warp

FORWARD = ("conv3x3", "residual_block", "flow_warp", "flow_warp_concat", "sparse_conv3x3", "sparse_residual_block")
MOVES = ("pixel_shuffle", "pixel_unshuffle")

_on_the_cpu = torch.library.Library(registration.NVRTC, "IMPL")
for _name in (*FORWARD, *MOVES, "conv3x3_pack"):
    _on_the_cpu.impl(_name, getattr(torch_operators, _name), "CPU")


@pytest.fixture(autouse=True)
def machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Tensors of the CPU are the GPU's, and every operator is asked for there."""
    vsr_kernels.load()
    registration.run(registration.NVRTC)

    @contextmanager
    def gpu_of(x: Tensor) -> Iterator[device.Device]:
        yield device.device(0)

    with cupy_standin.launching() as machine:
        monkeypatch.setattr(torch_operators, "_gpu_of", gpu_of)
        shown = cupy_standin.showing(machine, torch_operators.TENSORS.view)
        monkeypatch.setattr(torch_operators.TENSORS, "view", shown, raising=False)
        monkeypatch.setattr(backend, "choose", lambda op, x: "nvrtc")
        monkeypatch.setattr(backend._state, "forced", "nvrtc")
        yield machine


def image(*shape: int, dtype: torch.dtype = torch.bfloat16, last: bool = True) -> Tensor:
    x = torch.randn(shape).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if last else x


def weight(c_out: int, c_in: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return (torch.randn(c_out, c_in, 3, 3) / (9 * c_in) ** 0.5).to(dtype)


def compare(op: str, *tensors: Tensor | None, **settings: Any) -> Tensor:
    """The public function against float64, with the error of the reference in the same dtype as the measure."""

    def cast(value: Any, dtype: torch.dtype) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    x = tensors[0]
    assert x is not None
    function = getattr(ops_warp if op == "flow_warp_concat" else vsr_kernels, op)
    ours = function(*tensors, **settings)
    plain = {name: torch.tensor(v) if name in ("in_channels", "out_channels") else v for name, v in settings.items()}
    low, true = (
        getattr(reference, op)(*(cast(t, d) for t in tensors), **{k: cast(v, d) for k, v in plain.items()})
        for d in (x.dtype, torch.float64)
    )
    assert_near(ours, true, [low], op, x.dtype)
    return ours


class TestForced:
    """Every operator waits for its kernels, and they are what runs."""

    @pytest.mark.cell("conv3x3", "nvrtc", "bfloat16")
    def test_conv3x3(self, machine: Machine) -> None:
        x, w, slope, y = image(2, 5, 3, 4, last=False), weight(12, 5), torch.rand(12).bfloat16(), image(2, 3, 6, 8)
        packed = vsr_kernels.PackedWeights()
        settings = {"activation": "prelu", "slope": slope, "residual": y, "pixel_shuffle": 2, "packed": packed}
        first = vsr_kernels.conv3x3(x, w, slope, **settings)
        del settings["packed"]
        assert_same_bits(first, compare("conv3x3", x, w, slope, **settings), "packed by itself")
        assert [name for name, *_ in machine.launches] == ["conv3x3_pack", "conv3x3"] * 2

    @pytest.mark.cell("residual_block", "nvrtc", "float32")
    def test_residual_block(self) -> None:
        dtype = torch.float32
        tensors = image(1, 6, 4, 5, dtype=dtype), weight(7, 6, dtype), torch.randn(7), weight(6, 7, dtype), None
        compare("residual_block", *tensors, activation="leaky_relu", slope=0.1, scale=0.5)

    def test_a_block_without_hidden_channels(self) -> None:
        compare("residual_block", image(1, 6, 4, 5), weight(0, 6), None, weight(6, 0), torch.randn(6).bfloat16())

    @pytest.mark.cell("sparse_conv3x3", "nvrtc", "bfloat16")
    def test_sparse_conv3x3(self) -> None:
        lists = {"in_channels": [6, 1, 3], "out_channels": [0, 5]}
        x, y = image(1, 8, 4, 5), image(1, 8, 4, 5)
        compare("sparse_conv3x3", x, weight(2, 3), None, **lists, residual=y, activation="relu")

    @pytest.mark.cell("sparse_residual_block", "nvrtc", "bfloat16")
    def test_sparse_residual_block(self) -> None:
        lists = {"in_channels": [4, 0, 2], "out_channels": [3, 5]}
        compare("sparse_residual_block", image(1, 6, 4, 5), weight(5, 3), None, weight(2, 5), None, **lists)

    @pytest.mark.parametrize(("w1", "w2"), [((0, 3), (2, 0)), ((5, 0), (2, 5)), ((5, 3), (0, 5))])
    def test_layers_that_lost_all_channels(self, w1: tuple[int, int], w2: tuple[int, int]) -> None:
        lists = {"in_channels": list(range(w1[1])), "out_channels": list(range(w2[0]))}
        bias = torch.randn(w2[0]).bfloat16()
        x = image(1, 6, 2, 3)
        ours = vsr_kernels.sparse_residual_block(x, weight(*w1), None, weight(*w2), bias, **lists)
        expected = x.clone()
        expected[:, lists["out_channels"]] += bias[:, None, None]
        assert_same_bits(ours, expected, "the residual and the last bias")

    @pytest.mark.cell("flow_warp", "nvrtc", "bfloat16")
    def test_warps(self) -> None:
        x, flow, y = image(1, 8, 4, 5), torch.randn(1, 2, 4, 5) * 2, image(1, 2, 4, 5)
        compare("flow_warp", x, flow, padding="border")
        compare("flow_warp_concat", x, flow, y, warp_first=False)

    @pytest.mark.cell("pixel_shuffle", "nvrtc", "bfloat16")
    @pytest.mark.cell("pixel_unshuffle", "nvrtc", "bfloat16")
    def test_shuffles_and_their_gradients(self, machine: Machine) -> None:
        x = image(1, 8, 2, 3, last=False).requires_grad_()
        out = vsr_kernels.pixel_shuffle(x, 2)
        assert_same_bits(out, torch.pixel_shuffle(x, 2), "shuffle")
        (grad,) = torch.autograd.grad(out, x, out.detach())
        assert_same_bits(grad, x, "its gradient puts everything back")
        assert len(machine.launches) == 2

    def test_empty_images(self, machine: Machine) -> None:
        x = image(0, 8, 4, 5)
        assert vsr_kernels.conv3x3(x, weight(4, 8)).shape == (0, 4, 4, 5)
        assert vsr_kernels.sparse_conv3x3(x, weight(4, 2), in_channels=[0, 3]).shape == (0, 4, 4, 5)
        assert vsr_kernels.pixel_shuffle(x, 2).shape == (0, 2, 8, 10)
        assert vsr_kernels.flow_warp(x, x[:, :2]).shape == x.shape
        assert not machine.launches

    def test_autocast(self) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            assert vsr_kernels.conv3x3(image(1, 8, 2, 3, dtype=torch.float32), weight(4, 8)).dtype == torch.bfloat16

    @pytest.mark.parametrize("op", ["conv3x3", "sparse_conv3x3"])
    def test_gradients_are_refused_before_a_launch(self, op: str, machine: Machine) -> None:
        w = weight(4, 8).requires_grad_()
        message = rf"{op}: use_backend\('nvrtc'\): no kernel: gradients are not compiled at run time"
        with pytest.raises(RuntimeError, match=message):
            getattr(vsr_kernels, op)(image(1, 8, 2, 3), w)
        assert not machine.launches
        with torch.no_grad():
            getattr(vsr_kernels, op)(image(1, 8, 2, 3), w)

    def test_fake_tensors(self) -> None:
        """What the tracer believes is what the operators return."""
        ops = getattr(torch.ops, registration.NVRTC)
        x, w = image(1, 8, 2, 3), weight(4, 8)
        packed = ops.conv3x3_pack(w, None, None, 0.0, "none", 1, True, False)
        for op, arguments in (
            (ops.conv3x3_pack, (w, None, None, 0.0, "none", 1, True, False)),
            (ops.conv3x3, (x, w, None, None, 0.0, None, "relu", 1.0, 2, False, True, None)),
            (ops.sparse_conv3x3, (x, w, None, None, 0.0, None, None, None, "relu", False, True, packed)),
            (ops.flow_warp, (x, x[:, :2], "bilinear", "zeros")),
            (ops.pixel_shuffle, (x, 2)),
        ):
            torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))

    def test_lists_out_of_range(self) -> None:
        ops = getattr(torch.ops, registration.NVRTC)
        lists = torch.tensor([1, 8]), None
        with pytest.raises(ValueError, match=r"sparse_conv3x3: in_channels: expected channel numbers in \[0, 8\)"):
            ops.sparse_conv3x3(
                image(1, 8, 2, 3), weight(4, 2), None, None, 0.0, *lists, None, "none", False, True, None
            )


class TestUntilItIsCompiled:
    """Without being forced: the generic kernel, until the kernel of the layer is there."""

    @pytest.fixture(autouse=True)
    def chosen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The compiled operators, which on tensors of the CPU are those of the CPU."""
        if not vsr_kernels.backends()["cpu"].available:
            pytest.skip("no compiled operators")
        monkeypatch.setattr(backend._state, "forced", None)
        monkeypatch.setattr(backend._state, "nvrtc_error", "")
        monkeypatch.setattr(backend, "choose", lambda op, x: "cuda")
        monkeypatch.setattr(backend, "generic", lambda op: "cuda")

    X, LISTS = (1, 8, 4, 5), {"in_channels": [4, 0, 2], "out_channels": [3, 5]}

    def test_block(self, machine: Machine) -> None:
        tensors = image(*self.X), weight(5, 3), None, weight(2, 5), None
        generic = compare("sparse_residual_block", *tensors, **self.LISTS)
        assert not machine.launches
        device.COMPILATIONS.join()
        special = compare("sparse_residual_block", *tensors, **self.LISTS)
        assert [name for name, *_ in machine.launches] == ["conv3x3_pack", "conv3x3"] * 2
        assert_near(special, generic.double(), [], "both", torch.bfloat16)

    def test_a_kernel_that_cannot_be_compiled(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(kernel: object, arch: str) -> Path:
            raise RuntimeError("says the test")

        monkeypatch.setattr(background, "compile_kernel", fail)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                compare("sparse_conv3x3", image(*self.X), weight(2, 3), None, in_channels=[4, 0, 2])
                device.COMPILATIONS.join()
        said = [str(w.message) for w in caught]
        assert said == [
            f"vsr_kernels.nvrtc: {name} for compute_80 is not used: says the test"
            for name in ("conv3x3_pack", "conv3x3")
        ]
        assert not machine.launches

    def test_what_is_left_to_the_generic_kernel(self, machine: Machine) -> None:
        """Whole vectors of unlisted channels, gradients, and what use_backend has chosen."""
        x, w = image(1, 8, 2, 3), weight(8, 8)
        found = [backend.specialised("op", "cuda", x, pruned=p, differentiated=d) for p, d in ((0, 0), (1, 1), (1, 0))]
        assert found == ["cuda", "cuda", "nvrtc"]
        assert backend.specialised("op", "cpu", x, pruned=True, differentiated=False) == "cpu"
        vsr_kernels.sparse_conv3x3(x, w)
        vsr_kernels.sparse_conv3x3(x, weight(8, 2).requires_grad_(), in_channels=[0, 1])
        backend._state.forced = "cuda"
        vsr_kernels.sparse_conv3x3(x, weight(8, 2), in_channels=[0, 1])
        device.COMPILATIONS.join()
        assert not device.COMPILATIONS._made
        assert not machine.launches

    def test_larger_than_one_launch(self, machine: Machine) -> None:
        x = image(1, 2, 1, 1).expand(65536, 2, 1, 1)
        assert vsr_kernels.sparse_conv3x3(x, weight(3, 1), in_channels=[1]).shape == (65536, 3, 1, 1)
        assert not device.COMPILATIONS._made


def test_lists_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And again when they were changed in place or are another tensor of the same number."""
    read = torch_operators._Read()
    channels = torch.tensor([3, 1])
    assert read.get(channels) is None
    assert read.read(channels) == read.get(channels) == (3, 1)
    channels[0] = 2
    assert read.get(channels) is None
    assert read.read(channels) == (2, 1)
    assert len(read._known) == 1
    del channels
    assert not read._known
    with torch.inference_mode():
        nobody_counts = torch.tensor([5])
        assert read.read(nobody_counts) == (5,)
        assert read.get(nobody_counts) is None


def test_another_packing_is_refused(machine: Machine) -> None:
    ops = getattr(torch.ops, registration.NVRTC)
    packed = ops.conv3x3_pack(weight(4, 8), None, None, 0.0, "none", 1, True, False)
    with pytest.raises(ValueError, match=r"^conv3x3: packed: expected the \d+ bytes that packing these weights gives"):
        ops.conv3x3(image(1, 8, 2, 3), weight(12, 8), None, None, 0.0, None, "none", 1.0, 1, False, True, packed)
    assert [name for name, *_ in machine.launches] == ["conv3x3_pack"]
