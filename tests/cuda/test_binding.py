"""The CUDA binding of convolutions and flow warp, from the schema to the kernels, on the CPU.

``csrc/torch/conv_cuda.cpp`` and ``warp_cuda.cpp`` are compiled for CPU tensors and linked with the launchers and
kernels, which ptxvm runs: what they allocate, check, pack and pass on is what a GPU would get. Every operator is called
with the samples of its schema and compared with the CPU operator. Memory is that of PyTorch, with NaN in all of it that
is new; ptxvm knows the bounds of each tensor.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ops.inputs import Draw
from ops.samples import SAMPLES
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

import vsr_kernels
from ptxvm.cudart import Library
from ptxvm.names import demangle, function_name
from vsr_kernels import build
from vsr_kernels.backend import CPU_OPERATORS

HERE = Path(__file__).with_name("binding")
CONVOLUTIONS = ["conv3x3", "conv3x3_epilogue", "conv3x3_pack", "conv3x3_wgrad", "residual_block", "thin_net"]
COMMON = [*CONVOLUTIONS, "flow_warp", "flow_warp_backward"]
OWN = {
    torch.float32: ["conv3x3_f32", "conv3x3_wgrad_f32"],
    torch.bfloat16: ["conv3x3_bf16", "conv3x3_wgrad_bf16", "residual_block_bf16", "thin_net_bf16"],
}

pytestmark = pytest.mark.skipif(
    not vsr_kernels.backends()["cpu"].available, reason="no compiled operators: " + vsr_kernels.backends()["cpu"].detail
)


class Bound(Library):
    """Kernels may touch the memory that CPU tensors have at the moment of a launch, and no other."""

    dtype: torch.dtype

    def _launch(self, name: bytes, grid: Any, block: Any, args: Any, shared: int) -> int:
        most = 1000
        addresses, sizes = (ctypes.c_ulonglong * most)(), (ctypes.c_ulonglong * most)()
        count = self.handle.noted_memory(addresses, sizes, most)
        assert count < most
        for i in range(count):
            self.memory.attach_host(addresses[i], sizes[i], f"tensor of {sizes[i]} bytes")
        try:
            return super()._launch(name, grid, block, args, shared)
        finally:
            for i in range(count):
                self.memory.free(addresses[i])

    def operator(self, name: str, *arguments: Any) -> Any:
        """Call an operator of this binding; faults of kernels are raised as they are."""
        self.error = None
        try:
            return getattr(getattr(torch.ops, namespace(self.dtype)), name)(*arguments)
        except RuntimeError as error:
            raise self.error or error from None

    def kernels(self, first: int) -> list[str]:
        """Names of the kernels that were launched from one launch on."""
        names = demangle([at.kernel for at in self.launches[first:]])
        return [function_name(name).split("<")[0].split("::")[-1] for name in names]


def namespace(dtype: torch.dtype) -> str:
    """Of the operators; a process can define them once."""
    return "vsr_kernels_on_ptxvm_" + str(dtype).removeprefix("torch.")


def compile_objects(toolkit: Path, folder: Path, dtype: torch.dtype) -> list[Path]:
    """The operators, and the allocator of their tensors."""
    includes = [HERE, build.source_root(), Path(torch.__file__).parent / "include", toolkit / "include"]
    flags = {
        "operators": [*build.STABLE_ABI, "-DUSE_CUDA", f"-DVSR_NAMESPACE={namespace(dtype)}"],
        "memory": [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"],
    }
    objects = []
    for name in flags:
        objects.append(folder / f"{name}.o")
        command = ["c++", "-c", "-O1", "-std=c++20", "-fPIC", *flags[name], *(f"-I{path}" for path in includes)]
        command += [str(HERE / f"{name}.cpp"), "-o", str(objects[-1])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return objects


@pytest.fixture(
    scope="module", params=[torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=["f32", "bf16"]
)
def bound(request: pytest.FixtureRequest, toolkit: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bound]:
    """The binding with the kernels of one dtype; PyTorch's allocator notes the memory of CPU tensors meanwhile."""
    dtype, folder = request.param, tmp_path_factory.mktemp("binding")
    sources = [build.source_root() / "cuda" / f"{name}.cu" for name in COMMON + OWN[dtype]]
    libraries = Path(torch.__file__).parent / "lib"
    options = ["-I", str(build.source_root()), "--expt-relaxed-constexpr", "-L", str(libraries), "-ltorch_cpu", "-lc10"]
    os.environ["CUDA_HOME"], before = str(toolkit), os.environ.get("CUDA_HOME")
    try:
        made = Bound.build([*sources, *compile_objects(toolkit, folder, dtype)], options=options)
    finally:
        os.environ.pop("CUDA_HOME") if before is None else os.environ.update(CUDA_HOME=before)
    assert isinstance(made, Bound)
    made.dtype = dtype
    made.options = {"check_uninitialized": True, "check_equal_stores": True}
    made.handle.note_memory(1)
    yield made
    made.handle.note_memory(0)


def on_cpu(name: str, *arguments: Any) -> Any:
    """The CPU operator. Convolutions in float32: in bfloat16 the CPU rounds more often than CUDA does."""
    if "warp" in name:
        return getattr(torch.ops.vsr_kernels, name)(*arguments)

    def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    given = [t.dtype for t in pytree.tree_leaves(arguments) if isinstance(t, Tensor) and t.is_floating_point()]
    wide = pytree.tree_map_only(Tensor, lambda t: cast(t, torch.float32), arguments)
    found = getattr(torch.ops.vsr_kernels, name)(*wide)
    return pytree.tree_map_only(Tensor, lambda t: cast(t, given[0]), found)


def assert_same(got: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Values of exact samples, whose sums float32 holds exactly; layouts as well."""
    assert got.stride() == expected.stride()
    loose = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    largest = expected.abs().max().item() if expected.numel() else 0.0
    torch.testing.assert_close(got, expected, rtol=loose, atol=loose * max(1.0, largest / 4))


COMPARED = [
    name
    for name in SAMPLES
    if torch._C._dispatch_has_kernel_for_dispatch_key(f"vsr_kernels::{name}", "CPU")
    and name.removesuffix("_pack") not in CPU_OPERATORS
]
COMPARED = [name for name in COMPARED if "conv" in name or "block" in name or "warp" in name]
COMPARED.remove("conv3x3_pack")  # whose bytes are each backend's own


@pytest.mark.parametrize("operator", COMPARED)
def test_samples(bound: Bound, operator: str) -> None:
    """Results are those of the CPU operator: shapes, strides, values, and what is left empty."""
    for sample in SAMPLES[operator](Draw(51, bound.dtype, "cpu", exact=True)):
        expected = on_cpu(operator, *sample)
        results = bound.operator(operator, *sample)
        one = isinstance(expected, Tensor)
        for got, wanted in zip([results] if one else results, [expected] if one else expected, strict=True):
            assert_same(got, wanted, bound.dtype)


@pytest.mark.parametrize("size", [(0, 3, 4, 5), (1, 0, 4, 5), (1, 3, 0, 5), (1, 1, 1, 1), (2, 16, 3, 9)], ids=str)
def test_gradients_of_a_warp(bound: Bound, size: tuple[int, int, int, int]) -> None:
    """Alone, together and deterministic: one launch, one more to round 16 bits, two more to be deterministic."""
    draw = Draw(60, bound.dtype, "cpu", exact=True)
    x, grad = draw.image(size, "channels_last"), draw.gradient(size, "channels_last")
    flow = draw.flow((size[0], 2, *size[2:]), 1.0, torch.float32)
    rounds = int(bound.dtype != torch.float32)
    for need, deterministic, count in (
        ((True, True), False, 1 + rounds),
        ((True, False), True, 3),
        ((False, True), True, 1),
        ((True, True), True, 3),
    ):
        before, arguments = len(bound.launches), (grad, x, flow, "bilinear", "border", *need, deterministic)
        expected = on_cpu("flow_warp_backward", *arguments)
        for got, wanted in zip(bound.operator("flow_warp_backward", *arguments), expected, strict=True):
            assert_same(got, wanted, bound.dtype)
        assert len(bound.launches) - before == (count if x.numel() else 0)


def test_packed_beforehand(bound: Bound) -> None:
    """The same results, without the launches that pack; sizes are those that fake tensors have."""
    draw = Draw(52, bound.dtype, "cpu", exact=True)
    x, weight, bias, slope = draw.image((1, 5, 4, 6)), draw.weight((12, 5, 3, 3)), draw.bias(12), draw.slope(12)
    settings = (0.0, "prelu", 2, True)
    packed = bound.operator("conv3x3_pack", weight, bias, slope, *settings, False)
    size = torch.ops.vsr_kernels.conv3x3_packed_bytes(5, 12, 2, weight.element_size(), True)  # as fake kernels ask
    assert (packed.shape, packed.dtype) == ((size,), torch.uint8)
    rest = (None, "prelu", 1.0, 2, False, True)
    before = len(bound.launches)
    plain, _ = bound.operator("conv3x3", x, weight, bias, slope, 0.0, *rest, None)
    assert bound.kernels(before) == ["pack_kernel", "conv3x3_kernel"]
    before = len(bound.launches)
    assert torch.equal(bound.operator("conv3x3", x, weight, bias, slope, 0.0, *rest, packed)[0], plain)
    assert bound.kernels(before) == ["conv3x3_kernel"]


def test_packed_for_another_call(bound: Bound) -> None:
    """A packing of other sizes is refused before it is read."""
    draw = Draw(53, bound.dtype, "cpu", exact=True)
    x, weight = draw.image((1, 5, 4, 6)), draw.weight((12, 5, 3, 3))
    packed = bound.operator("conv3x3_pack", weight, None, None, 0.0, "none", 1, True, False)
    rest = (None, None, 0.0, None, "none", 1.0, 1, False, True)
    for other in (packed[:-16], packed.view(torch.int16), packed.view(torch.float32)[:0]):
        with pytest.raises(RuntimeError, match="conv3x3: packed: expected"):
            bound.operator("conv3x3", x, weight, *rest, other)


def test_a_block_is_what_its_plan_says(bound: Bound) -> None:
    """Launches of a block: packed in each call or before, in one launch or two, and with channel lists."""
    draw = Draw(54, bound.dtype, "cpu", exact=True)
    x, weight = draw.image((1, 32, 6, 7), "channels_last"), draw.weight((32, 32, 3, 3))
    packed = bound.operator("conv3x3_pack", weight, None, None, 0.0, "none", 1, True, False)
    fused = bound.dtype != torch.float32
    once = ["residual_block_kernel"] if fused else ["conv3x3_kernel"] * 2
    for given, kernels in (((None, None), ["pack_kernel"] * 2 + once), ((packed, packed), once)):
        before = len(bound.launches)
        out, _ = bound.operator(
            "residual_block", x, weight, None, weight, None, None, 0.0, "none", 0.5, False, True, *given
        )
        assert bound.kernels(before) == kernels
        expected = on_cpu(
            "residual_block", x, weight, None, weight, None, None, 0.0, "none", 0.5, False, True, None, None
        )
        assert_same(out, expected[0], bound.dtype)


@pytest.mark.parametrize("channels", [8, 24, 48])
def test_blocks_whose_plans_pack_otherwise(bound: Bound, channels: int) -> None:
    """One launch may pad channels to more than two do; a packing for two is not used for it then."""
    draw = Draw(55, bound.dtype, "cpu", exact=True)
    x, weight = draw.image((1, channels, 4, 5), "channels_last"), draw.weight((channels, channels, 3, 3))
    packed = bound.operator("conv3x3_pack", weight, None, None, 0.0, "relu", 1, True, False)
    plain = bound.operator("conv3x3_pack", weight, None, None, 0.0, "none", 1, True, False)
    arguments = (x, weight, None, weight, None, None, 0.0, "relu", 1.0, True, True)
    for got, expected in zip(
        bound.operator("residual_block", *arguments, packed, plain),
        on_cpu("residual_block", *arguments, None, None),
        strict=True,
    ):
        assert_same(got, expected, bound.dtype)


def test_launches_of_a_backward(bound: Bound) -> None:
    """What is not needed is not computed; all at once are a packing, a convolution and two for the weight."""
    draw = Draw(56, bound.dtype, "cpu", exact=True)
    x, weight, grad = draw.image((1, 5, 4, 6)), draw.weight((4, 5, 3, 3)), draw.image((1, 4, 4, 6))
    for need, count in (
        ((True, False, False), 2),
        ((False, True, False), 2),
        ((False, True, True), 2),
        ((True, True, True), 4),
        ((False, False, True), 0),  # PyTorch's own sum
    ):
        before = len(bound.launches)
        bound.operator("conv3x3_backward", grad, x, weight, None, *need, True)
        assert len(bound.launches) - before == count


def layer_by_layer(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    slopes: list[Tensor],
    number: float,
    activation: str,
    residual: Tensor | None,
    r: int,
) -> Tensor:
    """What a chain computes, by the CPU operator."""
    for i, weight in enumerate(weights):
        last = i == len(weights) - 1
        bias, slope = biases[i] if biases else None, slopes[i] if slopes and not last else None
        rest = (residual, "none", 1.0, r) if last else (None, activation, 1.0, 1)
        x, _ = on_cpu("conv3x3", x, weight, bias, slope, number, *rest, False, True, None)
    return x


@pytest.mark.parametrize("packed_before", [False, True])
def test_chains(bound: Bound, packed_before: bool) -> None:
    """Every activation, with weights packed in the call or before."""
    for *operands, residual, r, exact, _ in SAMPLES["conv_chain"](Draw(61, bound.dtype, "cpu", exact=True)):
        weights, biases, slopes, number, activation = operands[1:]
        packing = (weights, biases, slopes, number, activation, r, exact)
        packed = bound.operator("conv_chain_pack", *packing) if packed_before else None
        before = len(bound.launches)
        out = bound.operator("conv_chain", *operands, residual, r, exact, packed)
        assert_same(out, layer_by_layer(*operands, residual, r), bound.dtype)
        thin = bound.dtype != torch.float32 and len(weights) > 1
        ran = ["thin_net_kernel"] if thin else ["conv3x3_kernel"] * len(weights)
        assert [name for name in bound.kernels(before) if name != "pack_kernel"] == ran
        assert ("pack_kernel" in bound.kernels(before)) != packed_before
        with FakeTensorMode() as mode:
            fakes = pytree.tree_map_only(Tensor, mode.from_tensor, packing)
            fake = torch.ops.vsr_kernels.conv_chain_pack(*fakes)
        assert packed is None or (packed.shape, packed.dtype) == (fake.shape, fake.dtype)


def test_a_chain_with_a_wide_layer(bound: Bound) -> None:
    """Thin layers before and behind it go together, and the last one's 48 channels are packed for both launches."""
    draw = Draw(62, bound.dtype, "cpu", exact=True)
    channels, x = (3, 16, 16, 24, 16, 16, 48), draw.image((1, 3, 6, 5))
    weights = [draw.weight((b, a, 3, 3)) for a, b in itertools.pairwise(channels)]
    weights = [weight / 64 for weight in weights]
    operands = (x, weights, [], [], 0.25, "leaky_relu")
    before = len(bound.launches)
    out = bound.operator("conv_chain", *operands, None, 4, True, None)
    torch.testing.assert_close(out, layer_by_layer(*operands, None, 4), rtol=3e-2, atol=1e-2)
    single, thin = "conv3x3_kernel", "thin_net_kernel"
    ran = [name for name in bound.kernels(before) if name != "pack_kernel"]
    assert ran == [single] * 6 if bound.dtype == torch.float32 else ran[0] == thin and single in ran and len(ran) < 6


def test_chains_of_nothing(bound: Bound) -> None:
    draw = Draw(63, bound.dtype, "cpu", exact=True)
    weights = [draw.weight((4, 3, 3, 3)), draw.weight((4, 4, 3, 3))]
    before = len(bound.launches)
    for size in ((0, 3, 4, 5), (1, 3, 0, 5)):
        out = bound.operator("conv_chain", draw.image(size), weights, [], [], 0.0, "relu", None, 2, True, None)
        assert out.shape == (size[0], 1, 2 * size[2], 2 * size[3])
    assert len(bound.launches) == before


def test_wrong_chains(bound: Bound) -> None:
    """Counts and shapes that do not fit each other, before any launch."""
    x, weight = torch.zeros(1, 4, 5, 6, dtype=bound.dtype), torch.zeros(4, 4, 3, 3, dtype=bound.dtype)
    bias, other = torch.zeros(4, dtype=bound.dtype), torch.zeros(4, 5, 3, 3, dtype=bound.dtype)
    packed = bound.operator("conv_chain_pack", [weight, weight], [], [], 0.0, "relu", 1, True)
    wrong: list[tuple[tuple[Any, ...], str]] = [
        (([], [], [], 0.0, "relu", None, 1, True, None), "weights: expected at least one"),
        (([weight, other], [], [], 0.0, "relu", None, 1, True, None), "weight: expected shape"),
        (([weight, weight], [bias], [], 0.0, "relu", None, 1, True, None), "biases: expected none or 2"),
        (([weight, weight], [], [], 0.0, "prelu", None, 1, True, None), "slopes: expected 1, got 0"),
        (([weight, weight], [], [bias], 0.0, "relu", None, 1, True, None), "slopes: expected 0, got 1"),
        (([weight, weight], [], [], 0.0, "relu", x, 2, True, None), "residual: expected shape"),
        (([weight, weight], [], [], 0.0, "relu", None, 1, True, packed[16:]), "packed: expected shape"),
        (([weight, weight], [], [], 0.0, "tanh", None, 1, True, None), "activation: expected none"),
    ]
    before = len(bound.launches)
    for arguments, message in wrong:
        with pytest.raises(RuntimeError, match=f"conv_chain: {message}"):
            bound.operator("conv_chain", x, *arguments)
    with pytest.raises(RuntimeError, match="conv_chain: weight: expected shape"):
        bound.operator("conv_chain", x[:, :3], [weight], [], [], 0.0, "relu", None, 1, True, None)
    assert len(bound.launches) == before


SAVED = (True, True, None)  # the last arguments of a convolution: keep_preactivation, exact, packed
BLOCK = ("relu", 1.0, True, True, None, None)  # of a block: activation, scale, keep_hidden, exact and twice packed
SIZES = [(0, 3, 4, 5), (1, 0, 4, 5), (1, 3, 0, 5), (1, 3, 4, 0), (1, 1, 1, 1), (2, 3, 1, 9)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_empty_and_tiny_tensors(bound: Bound, size: tuple[int, int, int, int]) -> None:
    """No launch for nothing; sums of nothing are the bias, and gradients of nothing are zero."""
    n, c, h, w = size
    draw = Draw(57, bound.dtype, "cpu", exact=True)
    x, weight, bias, slope = draw.image(size), draw.weight((8, c, 3, 3)), draw.bias(8), draw.slope(8)
    residual, grad = draw.image((n, 2, 2 * h, 2 * w)), draw.image((n, 8, h, w))
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("conv3x3", (x, weight, bias, slope, 0.0, residual, "prelu", 1.0, 2, *SAVED)),
        ("conv3x3_backward", (grad, x, weight, None, True, True, True, True)),
        ("conv3x3_epilogue_backward", (residual, residual, slope, "prelu", 0.0, 1.0, 2)),
        (
            "residual_block",
            (x, weight, bias, draw.weight((c, 8, 3, 3)), None, None, 0.0, "relu", 1.0, True, True, None, None),
        ),
    ]
    for name, arguments in calls:
        expected = on_cpu(name, *arguments)
        for got, wanted in zip(bound.operator(name, *arguments), expected, strict=True):
            assert_same(got, wanted, bound.dtype)


def test_no_output_channels(bound: Bound) -> None:
    """Nothing is added to the residual, which is copied."""
    draw = Draw(58, bound.dtype, "cpu", exact=True)
    x, residual, none = draw.image((1, 3, 4, 5)), draw.image((1, 6, 4, 5)), torch.zeros(0, dtype=torch.int64)
    out, _ = bound.operator(
        "sparse_conv3x3", x, draw.weight((0, 3, 3, 3)), None, None, 0.0, None, none, residual, "none", False, True, None
    )
    assert torch.equal(out, residual)


@pytest.mark.parametrize(
    "layout", ["contiguous", "sliced", "transposed", "channel_slice", "misaligned", "expanded_batch"]
)
def test_layouts(bound: Bound, layout: str) -> None:
    """Every tensor in every layout, at sizes whose kernels use vectors."""
    draw = Draw(59, bound.dtype, "cpu", exact=True)
    x, residual, weight = (
        draw.image((2, 16, 4, 5), layout),
        draw.image((2, 16, 4, 5), layout),
        draw.weight((16, 16, 3, 3)),
    )
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("conv3x3", (x, weight, None, None, 0.0, residual, "relu", 0.5, 1, *SAVED)),
        ("conv3x3_backward", (residual, x, weight, None, True, True, True, True)),
        ("conv3x3_epilogue_backward", (residual, x, None, "relu", 0.0, 1.0, 2)),
        ("residual_block", (x, weight, None, weight, None, None, 0.0, *BLOCK)),
    ]
    for name, arguments in calls:
        if name == "conv3x3_epilogue_backward":
            arguments = tuple(t[:, :, :, :4] if isinstance(t, Tensor) else t for t in arguments)
        expected = on_cpu(name, *arguments)
        for got, wanted in zip(bound.operator(name, *arguments), expected, strict=True):
            assert_same(got, wanted, bound.dtype)


def test_both_bindings_check_alike(bound: Bound) -> None:
    """The checks are shared; one of each is enough to see that both call them."""
    x, weight = torch.zeros(2, 4, 6, 8, dtype=bound.dtype), torch.zeros(8, 4, 3, 3, dtype=bound.dtype)
    wrong: list[tuple[str, tuple[Any, ...], str]] = [
        (
            "conv3x3",
            (x, weight[:, :3], None, None, 0.0, None, "none", 1.0, 1, False, True, None),
            "weight: expected shape",
        ),
        ("conv3x3_backward", (x, x, weight, None, True, True, True, True), "grad: expected shape"),
        ("conv3x3_epilogue_backward", (x, x[:1], None, "relu", 0.0, 1.0, 1), "saved: expected shape"),
        (
            "residual_block",
            (x, weight, None, weight, None, None, 0.0, "relu", 1.0, True, True, None, None),
            "weight: expected shape",
        ),
        ("conv3x3_pack", (weight, None, None, 0.0, "relu", 1, True, True), "transposed: expected neither"),
    ]
    before = len(bound.launches)
    for name, arguments, message in wrong:
        with pytest.raises(RuntimeError, match=f"{name}: {message}"):
            bound.operator(name, *arguments)
    assert len(bound.launches) == before
