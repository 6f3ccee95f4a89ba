"""The CUDA 3x3 convolution, packing and launch code included, on the CPU, against a float64 reference.

ptxvm checks bounds, alignment, races, unfinished copies, reads of shared memory that nobody wrote, and bytes stored by
two blocks. Outputs start as NaN, so that whatever is not written shows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from operands import ACTIVATIONS, DTYPES, Bits, image, in_memory, longs, pixels, pointer, poisoned
from torch import Tensor

import ptxvm
from ptxvm.cudart import Library, device_attributes
from ptxvm.stats import Stats
from vsr_kernels import build

NEGATIVE_SLOPE = 0.1
INVALID_VALUE, MISALIGNED, NOT_SUPPORTED = 1, 716, 801


@dataclass(frozen=True)
class Case:
    """One call of the convolution."""

    c_in: int
    c_out: int
    r: int = 1
    n: int = 1
    h: int = 5
    w: int = 7
    dtype: torch.dtype = torch.bfloat16
    exact: bool = False  # float32 without TF32
    activation: str = "none"
    slopes: int = 0  # of prelu: 0 for one per channel
    bias: bool = True
    residual: bool = False
    scale: float = 1.0
    height: int = 0  # of the tile; 0 for the launcher's choice
    memory: str = "channels_last"  # of x: one of MEMORIES
    picked: int = 0  # the channels of x that c_in are picked from; 0: all
    total: int = 0  # the channels of out that c_out are added to; 0: all
    ordered: bool = True  # lists of channels ascend
    kept: bool = False
    transposed: bool = False  # the weight is that of the convolution whose data gradient this is
    weight_channels_last: bool = False

    def __str__(self) -> str:
        words = [f"{self.n}x{self.c_in}x{self.h}x{self.w}-{self.c_out}-r{self.r}-{self.activation}"]
        words += [self.memory] if self.memory != "channels_last" else []
        words += [f"tile{self.height}"] * bool(self.height) + ["residual"] * self.residual + ["kept"] * self.kept
        words += [f"of{self.picked}"] * bool(self.picked) + [f"onto{self.total}"] * bool(self.total)
        return "-".join(words)


def behind(x: Tensor, elements: int) -> Tensor:
    """The same numbers that many elements into a storage."""
    room = x.new_zeros(elements + x.numel())[elements:]
    return room.copy_(x.reshape(-1)).view(x.shape)


def cropped(x: Tensor, before: int, after: int, dimension: int) -> Tensor:
    """The same numbers as a part of a larger tensor, whose other elements are NaN."""
    shape = list(x.shape)
    shape[dimension] += before + after
    whole = x.new_full(shape, torch.nan)
    part = whole.narrow(dimension, before, x.shape[dimension])
    part.copy_(x)
    return part


def padded(x: Tensor, dimension: int) -> Tensor:
    """Dense channels_last pixels, but for one element behind each image (dimension 1) or row (2)."""
    dense = x.permute(0, 2, 3, 1).contiguous()
    flat = cropped(dense.flatten(dimension), 0, 1, dimension)
    return flat.unflatten(dimension, dense.shape[dimension:]).permute(0, 3, 1, 2)


#: Ways in which (N, C, H, W) lies in memory.
MEMORIES: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "contiguous": lambda x: x.contiguous(),
    "misaligned": lambda x: behind(x.permute(0, 2, 3, 1), 1).permute(0, 3, 1, 2),
    "channels": lambda x: cropped(x.permute(0, 2, 3, 1), 8, 16, 3).permute(0, 3, 1, 2),  # whole vectors
    "odd channels": lambda x: cropped(x.permute(0, 2, 3, 1), 1, 2, 3).permute(0, 3, 1, 2),
    "first channels": lambda x: cropped(x.permute(0, 2, 3, 1), 0, 3, 3).permute(0, 3, 1, 2),
    "odd rows": lambda x: padded(x, 2),
    "odd images": lambda x: padded(x, 1),
    "crop": lambda x: cropped(cropped(x.permute(0, 2, 3, 1), 1, 2, 2), 3, 0, 1).permute(0, 3, 1, 2),
    "planes": lambda x: cropped(cropped(x, 1, 2, 3), 2, 1, 1),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "expanded": lambda x: x[:1].permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).expand(x.shape),
}


class Inputs:
    """Random operands of a case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        rng = torch.Generator().manual_seed(case.c_in * 1000 + case.c_out)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=rng).to(case.dtype)

        def channels(count: int, of: int) -> Tensor | None:
            if of == 0:
                return None
            found = torch.randperm(of, generator=rng)[:count]
            return found.sort().values if case.ordered else found

        shuffled = (case.n, case.total or case.c_out // case.r**2, case.h * case.r, case.w * case.r)
        sizes = (case.c_in, case.c_out) if case.transposed else (case.c_out, case.c_in)
        self.x = MEMORIES[case.memory](normal(case.n, case.picked or case.c_in, case.h, case.w))
        self.weight = normal(*sizes, 3, 3) / max(1, 9 * case.c_in) ** 0.5
        if case.weight_channels_last:
            self.weight = self.weight.to(memory_format=torch.channels_last)
        self.bias = normal(case.c_out) if case.bias else None
        self.slope = normal(case.slopes or case.c_out) if case.activation == "prelu" else None
        self.residual = normal(*shuffled) if case.residual else None
        self.in_channels = channels(case.c_in, case.picked)
        self.out_channels = channels(case.c_out, case.total)

    def convolve(self, dtype: torch.dtype, prepare: Callable[[Tensor], Tensor]) -> Tensor:
        case = self.case
        bias = torch.zeros(case.c_out, dtype=dtype) if self.bias is None else self.bias.to(dtype)
        if case.c_in == 0:  # which PyTorch refuses
            return bias[None, :, None, None].expand(case.n, case.c_out, case.h, case.w)
        x, weight = self.x if self.in_channels is None else self.x[:, self.in_channels], prepare(self.weight).to(dtype)
        convolve = F.conv_transpose2d if case.transposed else F.conv2d
        return convolve(prepare(x).to(dtype), weight, bias, padding=1)

    def compute(self, dtype: torch.dtype, prepare: Callable[[Tensor], Tensor] = lambda t: t) -> tuple[Tensor, Tensor]:
        """The definition of the operator by PyTorch, in a dtype; ``prepare`` is applied to x and weight.

        Returns:
            The output, and what is kept.
        """
        case = self.case
        kept = F.pixel_shuffle(self.convolve(dtype, prepare), case.r)
        slope = None if self.slope is None else self.slope.to(dtype)
        if slope is not None and slope.numel() > 1:  # one per channel before the shuffle
            slope = F.pixel_shuffle(slope[None, :, None, None].expand(-1, -1, case.h, case.w), case.r)
        z = kept
        if case.activation == "relu":
            z = F.relu(z)
        elif case.activation == "leaky_relu":
            z = F.leaky_relu(z, NEGATIVE_SLOPE)
        elif slope is not None:
            z = torch.where(z > 0, z, z * slope)
        z = z * case.scale
        residual = None if self.residual is None else self.residual.to(dtype)
        if self.out_channels is not None:
            shape = (case.n, case.total, case.h, case.w)
            residual = torch.zeros(shape, dtype=dtype) if residual is None else residual
            return residual.index_add(1, self.out_channels, z), kept
        return z if residual is None else z + residual, kept

    def truth(self) -> tuple[Tensor, Tensor]:
        return self.compute(torch.float64)

    def low(self) -> tuple[Tensor, Tensor]:
        """What PyTorch makes of it in the arithmetic of the case."""
        if self.case.dtype == torch.float32 and not self.case.exact:
            return self.compute(torch.float32, round_to_tf32)
        return self.compute(self.case.dtype)


def round_to_tf32(x: Tensor) -> Tensor:
    """Ten bits of mantissa, ties away from zero."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def strided(x: Tensor) -> Bits:
    """Exactly the elements from the first to the last of a view, from the alignment that its offset leaves."""
    if x.numel() == 0:
        return in_memory(x)
    span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    offset = x.storage_offset()
    return in_memory(x.as_strided((offset + span,), (1,), 0))[offset:]


def packed_bytes(library: Library, case: Case) -> int:
    kind = (DTYPES.index(case.dtype), int(case.exact))
    size: int = library.call(
        "conv3x3_packed_bytes", *longs(case.c_in, case.c_out, case.r), *kind, restype=ctypes.c_int64
    )
    return size


def pack(library: Library, inputs: Inputs) -> Bits:
    case, weight = inputs.case, inputs.weight
    in_order = weight.permute(0, 2, 3, 1) if case.weight_channels_last else weight
    bias, slope = (None if t is None else in_memory(t) for t in (inputs.bias, inputs.slope))
    packed = poisoned((packed_bytes(library, case) // 2,), torch.float16)
    numbers = longs(case.c_in, case.c_out, case.r, *weight.stride(), 0 if slope is None else slope.size)
    kind = (ACTIVATIONS.index(case.activation), int(case.transposed), DTYPES.index(case.dtype), int(case.exact))
    arrays = [in_memory(in_order), pointer(bias), pointer(slope), packed]
    assert library.call("conv3x3_pack", *arrays, *numbers, NEGATIVE_SLOPE, *kind) == 0
    assert library.stats.unwritten(packed) == 0
    return packed


def launch(library: Library, inputs: Inputs, out_offset: int = 0, kept_offset: int = 0) -> tuple[int, Tensor, Tensor]:
    """Pack and convolve; the launcher's error, the output, and what is kept."""
    case = inputs.case
    packed = pack(library, inputs)
    shape = (case.n, case.h * case.r, case.w * case.r, case.c_out // case.r**2)
    out_shape = (*shape[:3], case.total or shape[3])
    out, kept = poisoned(out_shape, case.dtype, out_offset), poisoned(shape, case.dtype, kept_offset)
    lists = [None if t is None else t.numpy() for t in (inputs.in_channels, inputs.out_channels)]
    residual = None if inputs.residual is None else pixels(inputs.residual)
    arrays = [strided(inputs.x), packed, pointer(residual), out, pointer(kept if case.kept else None)]
    arrays += [*map(pointer, lists), np.array(inputs.x.stride(), np.int64)]
    sizes = longs(case.n, case.h, case.w, case.c_in, case.c_out, case.total, case.r)
    kind = (ACTIVATIONS.index(case.activation), DTYPES.index(case.dtype), int(case.exact))
    code = library.call("conv3x3", *arrays, *sizes, case.scale, *kind, case.height)
    return code, image(out, out_shape, case.dtype), image(kept, shape, case.dtype)


def check(library: Library, case: Case) -> None:
    """At most twice PyTorch's error in that arithmetic, plus one unit in the last place of the largest value."""
    inputs = Inputs(case)
    code, *found = launch(library, inputs)
    assert code == 0
    for name, out, truth, low in zip(("out", "kept"), found, inputs.truth(), inputs.low(), strict=True):
        if name == "kept" and not case.kept:
            continue
        assert torch.isfinite(out).all(), f"{case}: {int((~torch.isfinite(out)).sum())} values of {name} not written"
        error = (out.double() - truth).abs().max().item()
        allowed = 2 * (low.double() - truth).abs().max().item()
        allowed += torch.finfo(case.dtype).eps * truth.abs().max().item()
        assert error <= allowed, f"{case}: largest error of {name} {error:.3e}, allowed {allowed:.3e}"
    if case.height:
        rows = library.launches[-1].grid[1]
        assert rows == -(-case.h // case.height)


@pytest.fixture(scope="module")
def conv(library: Callable[[str], Library]) -> Library:
    return library("conv3x3_call")


SIZES = [(5, 7), (1, 1), (2, 19), (8, 16), (13, 3), (17, 33)]
OUTPUTS = [(3, 1), (12, 2), (48, 4), (64, 1), (37, 1), (64, 2), (100, 1), (100, 2), (48, 1), (12, 1), (16, 4), (27, 3)]
ARITHMETICS = {
    "bf16": (torch.bfloat16, False),
    "f16": (torch.float16, False),
    "tf32": (torch.float32, False),
    "f32": (torch.float32, True),
}


def sweep(values: Iterable[Any], quick: Iterable[Any]) -> list[Any]:
    """All values as parameters, of which every run takes the quick ones and `pytest -m slow` the others."""
    quick = list(quick)
    return [
        pytest.param(
            v,
            marks=[] if v in quick else [pytest.mark.slow],
            id="-".join(map(str, v)) if isinstance(v, tuple) else str(v),
        )
        for v in values
    ]


def channel_cases(dtype: torch.dtype, exact: bool) -> Iterator[Case]:
    """Every pair of channel counts, with the other properties in turn."""
    for i, c_in in enumerate((1, 3, 17, 24, 37, 64, 100)):
        for j, (c_out, r) in enumerate(OUTPUTS):
            if exact and (i + j) % 2:
                continue
            h, w = SIZES[(i + 2 * j) % len(SIZES)]
            yield Case(
                c_in,
                c_out,
                r,
                n=1 + (i * j) % 3,
                h=h,
                w=w,
                dtype=dtype,
                exact=exact,
                activation=ACTIVATIONS[(i + j) % 4],
                slopes=1 if j % 5 == 0 else 0,
                bias=j % 4 != 1,
                residual=(i + j // 2) % 2 == 0,
                scale=(1.0, 0.3)[(i + j // 3) % 2],
                memory="misaligned" if c_in == 24 and j % 2 else "channels_last",
                weight_channels_last=j % 3 == 0,
            )


QUICK_CHANNELS = [("bf16", 3), ("bf16", 37), ("f16", 3), ("tf32", 24), ("f32", 17)]


@pytest.mark.parametrize("which", sweep(product(ARITHMETICS, (1, 3, 17, 24, 37, 64, 100)), QUICK_CHANNELS))
def test_channels(conv: Library, which: tuple[str, int]) -> None:
    """Odd counts are loaded and stored by elements, others by vectors; runs that are no whole vectors are staged."""
    arithmetic, c_in = which
    for case in channel_cases(*ARITHMETICS[arithmetic]):
        if case.c_in == c_in:
            check(conv, case)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("scale", sweep([1.0, -0.5], [-0.5]))
def test_epilogues(conv: Library, activation: str, residual: bool, scale: float) -> None:
    """Each with each, for the three ways to store: vectors, staged, assembled."""
    case = Case(16, 64, h=9, w=17, activation=activation, residual=residual, scale=scale, kept=scale < 0)
    for c_out, r in ((64, 1), (32, 2), (48, 4), (75, 5)):
        check(conv, replace(case, c_out=c_out, r=r))
    check(conv, replace(case, dtype=torch.float32, c_out=48, r=4))


@pytest.mark.parametrize("arithmetic", sweep(ARITHMETICS, ["bf16"]))
def test_kept_values(conv: Library, arithmetic: str) -> None:
    """What is kept is before activation, scale and residual, and shuffled; the output does not change by it."""
    dtype, exact = ARITHMETICS[arithmetic]
    check(conv, Case(24, 64, h=5, w=9, dtype=dtype, exact=exact, activation="relu", kept=True))
    case = Case(17, 64, n=2, h=9, w=17, dtype=dtype, exact=exact, kept=True, scale=0.5)
    for c_out, r, activation in ((64, 2, "prelu"), (48, 4, "prelu"), (37, 1, "relu"), (75, 1, "leaky_relu")):
        one = replace(case, c_out=c_out, r=r, activation=activation, residual=r != 1)
        check(conv, one)
        kept, plain = (launch(conv, Inputs(replace(one, kept=kept)))[1] for kept in (True, False))
        assert torch.equal(kept, plain)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("arithmetic", sweep(["bf16", "f32"], ["bf16"]))
def test_strides(conv: Library, arithmetic: str, memory: str) -> None:
    """Pixels of any strides: whole vectors are copied, others are read by elements, along whichever way is dense."""
    dtype, exact = ARITHMETICS[arithmetic]
    for c_in, h, w in ((3, 9, 35), (64, 5, 24), (37, 3, 5)):
        check(conv, Case(c_in, 16, n=2, h=h, w=w, dtype=dtype, exact=exact, memory=memory))
    check(conv, Case(72, 64, h=3, w=18, dtype=dtype, exact=exact, memory=memory))


# (C_in, of how many channels, C_out, of how many channels); 0: all
LISTS = [(37, 64, 29, 0), (29, 0, 41, 64), (37, 64, 41, 64), (5, 100, 70, 131), (100, 131, 128, 200), (3, 7, 1, 3)]


QUICK_LISTS = [*product(["bf16"], LISTS), *product(ARITHMETICS, LISTS[2:3])]


@pytest.mark.parametrize("which", sweep(product(ARITHMETICS, LISTS), QUICK_LISTS))
def test_lists_of_channels(conv: Library, which: tuple[str, tuple[int, int, int, int]]) -> None:
    """Picked channels, and channels of the residual that the rest is added to; the others are copied."""
    arithmetic, (c_in, picked, c_out, total) = which
    dtype, exact = ARITHMETICS[arithmetic]
    case = Case(c_in, c_out, h=9, w=19, dtype=dtype, exact=exact, picked=picked, total=total, activation="relu")
    check(conv, replace(case, residual=True, n=2, scale=0.5))
    check(conv, replace(case, ordered=False, memory="contiguous", bias=False))
    check(conv, replace(case, residual=True, kept=True, activation="prelu", h=2, w=1))


@pytest.mark.parametrize("which", sweep(product([8, 12, 16], [(40, 24), (24, 40), (40, 56)]), [(12, (24, 40))]))
def test_lists_at_every_tile_height(conv: Library, which: tuple[int, tuple[int, int]]) -> None:
    height, (c_in, c_out) = which
    check(conv, Case(c_in, c_out, h=17, w=33, picked=64, total=64, residual=True, height=height))


def test_copied_channels_are_copied(conv: Library) -> None:
    """NaN and infinity in channels that nothing is added to stay there, and do not pass to the others."""
    inputs = Inputs(Case(8, 20, h=3, w=5, total=72, residual=True))
    assert inputs.residual is not None
    assert inputs.out_channels is not None
    rest = torch.ones(72, dtype=torch.bool)
    rest[inputs.out_channels] = False
    inputs.residual[:, rest] = torch.tensor([torch.nan, torch.inf, -0.0, 1.0], dtype=torch.bfloat16).repeat(13)[
        :, None, None
    ]
    _, out, _ = launch(conv, inputs)
    assert torch.equal(out[:, rest].isnan(), inputs.residual[:, rest].isnan())
    finite = ~inputs.residual[:, rest].isnan()
    found, copied = (t[:, rest].contiguous().view(torch.int16)[finite] for t in (out, inputs.residual))
    assert torch.equal(found, copied)
    assert out[:, ~rest].isfinite().all()


@pytest.mark.parametrize("arithmetic", sweep(ARITHMETICS, ["bf16"]))
def test_data_gradient(conv: Library, arithmetic: str) -> None:
    """By the same kernel with the weight packed the other way round, against PyTorch's autograd in float64."""
    dtype, exact = ARITHMETICS[arithmetic]
    for c_in, c_out, channels_last in ((3, 24, False), (24, 37, True), (67, 12, False)):
        case = Case(c_out, c_in, n=2, h=6, w=17, dtype=dtype, exact=exact, bias=False, transposed=True)
        case = replace(case, weight_channels_last=channels_last)
        inputs = Inputs(case)
        x = torch.zeros(2, c_in, 6, 17, dtype=torch.float64, requires_grad=True)
        F.conv2d(x, inputs.weight.double(), padding=1).backward(inputs.x.double())
        assert x.grad is not None
        assert torch.allclose(inputs.truth()[0], x.grad, rtol=1e-12, atol=1e-12)
        check(conv, case)


def test_data_gradient_of_picked_channels(conv: Library) -> None:
    """The gradient of x[:, in_channels] goes back onto zeros, or onto the gradient of a sum that x is part of."""
    case = Case(29, 37, n=2, h=6, w=17, bias=False, transposed=True, picked=64, total=64)
    check(conv, case)
    check(conv, replace(case, residual=True))


def heights(library: Library, c_out: int, dtype: torch.dtype) -> list[int]:
    found = np.zeros(8, np.int32)
    count = library.call("conv3x3_heights", ctypes.c_int64(c_out), DTYPES.index(dtype), found)
    return [int(h) for h in found[:count]]


@pytest.mark.parametrize(
    "channels", sweep([(64, 64, 1), (64, 48, 4), (32, 32, 1), (64, 12, 2), (64, 3, 1)], [(32, 32, 1)])
)
def test_every_tile_height(conv: Library, channels: tuple[int, int, int]) -> None:
    """Images that end inside a tile, at its edge, and one row and column behind it."""
    c_in, c_out, r = channels
    found = heights(conv, c_out, torch.bfloat16)
    assert found == {64: [8, 10, 12, 14, 16], 48: [8, 12, 16], 32: [8, 12, 16]}.get(c_out, [8, 16])
    for height in found:
        for h, w in ((height, 32), (height + 1, 33), (2 * height - 1, 17)):
            check(conv, Case(c_in, c_out, r, h=h, w=w, height=height, activation="relu", residual=w == 17))


def test_no_input_channels(conv: Library) -> None:
    """A sum of nothing is the bias."""
    check(conv, Case(0, 64))
    check(conv, Case(0, 3))


def test_nothing_to_do(conv: Library) -> None:
    before = len(conv.launches)
    for case in (Case(8, 64, n=0), Case(8, 64, h=0)):
        assert launch(conv, Inputs(case))[0] == 0
    assert [at.kernel for at in conv.launches[before:]] == [conv.launches[before].kernel] * 2  # the packing only


def test_nan_and_infinity_pass(conv: Library) -> None:
    """As in PyTorch: relu keeps NaN, and a pixel that is not finite spoils its neighbours only.

    float32 as a sum of products makes NaN of what is infinite, since the parts of a weight may differ in sign.
    """
    for dtype, exact in ARITHMETICS.values():
        for activation in ("none", "relu", "leaky_relu"):
            inputs = Inputs(Case(8, 8, h=6, w=20, dtype=dtype, exact=exact, activation=activation))
            inputs.x[0, 3, 1, 2], inputs.x[0, 1, 4, 9], inputs.x[0, 2, 4, 15] = torch.nan, torch.inf, -torch.inf
            _, out, _ = launch(conv, inputs)
            expected, _ = inputs.compute(dtype)
            if exact:
                sums = inputs.convolve(dtype, lambda t: t)
                assert out[sums.isfinite()].isfinite().all()
                assert not out[~expected.isfinite()].isfinite().any()
                continue
            assert torch.equal(out.isnan(), expected.isnan())
            assert torch.equal(out.isinf(), expected.isinf())
            assert torch.equal(out[out.isinf()], expected[out.isinf()])


def test_same_bits_for_every_tile_height(conv: Library) -> None:
    """The order of the sums does not depend on how the image is cut."""
    inputs = [Inputs(Case(64, 64, h=9, w=5, height=height)) for height in (8, 10, 12, 14, 16)]
    first, *others = [launch(conv, each)[1] for each in inputs]
    assert all(torch.equal(first, other) for other in others)


@contextmanager
def device(library: Library, number: int) -> Iterator[None]:
    """The limits of another device, for the same code."""
    before, simulated = library.device, ptxvm.DEVICES[number]
    try:
        for each in (library, *library.modules):
            each.device = simulated
        library.attributes = device_attributes(simulated)
        yield
    finally:
        for each in (library, *library.modules):
            each.device = before
        library.attributes = device_attributes(before)


@pytest.mark.parametrize("number", [75, 86, 90, 120])
def test_launches_within_the_limits_of_devices(conv: Library, number: int) -> None:
    """The tile is one that fits the device's shared memory, also where outputs are assembled there."""
    dtype = torch.float16 if number == 75 else torch.bfloat16
    with device(conv, number):
        for case in (Case(64, 64, h=65, w=17), Case(24, 29, h=65, w=17, total=64), Case(64, 48, 4, h=65, w=17)):
            check(conv, replace(case, dtype=dtype))
        if number == 75:
            for dtype in (torch.bfloat16, torch.float32):
                assert launch(conv, Inputs(Case(8, 64, dtype=dtype)))[0] == NOT_SUPPORTED


def test_refusals(conv: Library) -> None:
    """What the launchers say before they launch anything."""
    case = Case(8, 64, height=11)
    assert launch(conv, Inputs(case))[0] == INVALID_VALUE
    assert launch(conv, Inputs(replace(case, height=8)), out_offset=1)[0] == MISALIGNED
    assert launch(conv, Inputs(replace(case, c_out=3, height=8)), out_offset=1)[0] == 0
    assert launch(conv, Inputs(replace(case, kept=True, height=8)), kept_offset=1)[0] == MISALIGNED
    listed = replace(case, total=72, height=8)
    assert launch(conv, Inputs(replace(listed, kept=True)), kept_offset=1)[0] == MISALIGNED
    assert launch(conv, Inputs(listed), out_offset=1)[0] == 0
    assert launch(conv, Inputs(replace(listed, c_out=16, r=2)))[0] == INVALID_VALUE


@pytest.mark.slow
def test_turing(toolkit: object) -> None:
    """sm_75: float16 only, products of half the depth, loads in place of asynchronous copies."""

    source = Path(__file__).with_name("kernels") / "conv3x3_call.cu"
    options = ["-I", str(build.source_root()), "--expt-relaxed-constexpr"]
    library = Library.build([source], arch="sm_75", options=options)
    library.options = {"check_uninitialized": True, "check_equal_stores": True}
    for case in channel_cases(torch.float16, False):
        check(library, case)
    for height in heights(library, 64, torch.float16)[:-1]:  # the highest tile needs more shared memory than there is
        check(library, Case(64, 64, h=17, w=17, dtype=torch.float16, height=height))


# Packing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize(("c_in", "c_out", "r"), [(1, 3, 1), (17, 12, 2), (64, 64, 2), (100, 100, 1), (67, 48, 4)])
def test_packing_holds_every_weight_once(conv: Library, arithmetic: str, c_in: int, c_out: int, r: int) -> None:
    dtype, exact = ARITHMETICS[arithmetic]
    numbers = [*longs(c_in, c_out, r), DTYPES.index(dtype), int(exact)]
    count = conv.call("conv3x3_places", *numbers, ctypes.c_void_p(0), restype=ctypes.c_int64)
    places = np.zeros((count, 5), np.int64)
    conv.call("conv3x3_places", *numbers, places, restype=ctypes.c_int64)
    held = places[places[:, 0] >= 0]
    parts = 2 if exact else 1
    assert len(held) == len(np.unique(held, axis=0)) == c_out * c_in * 9 * parts
    assert (held.min(0) == 0).all()
    assert (held.max(0) == [c_out - 1, c_in - 1, 2, 2, parts - 1]).all()


# Tile heights --------------------------------------------------------------------------------------------------------

A100, RTX4090, H100, T4 = (108, 163, 164), (128, 99, 100), (132, 227, 228), (40, 64, 64)


def height(
    library: Library, device: tuple[int, int, int], *nhw: int, c: int = 64, dtype: int = 2, listed: bool = False
) -> int:
    multiprocessors, block, whole = device
    numbers = [*longs(c, c), dtype, 0, *longs(*nhw), int(listed), multiprocessors, block << 10, whole << 10]
    found: int = library.call("conv3x3_height", *numbers)
    return found


def test_height_fills_the_last_round(conv: Library) -> None:
    """64 channels at 180x320: 300 tiles of 12 rows in 3 rounds of 108, 360 of 10 in 3 of 128, 260 of 14 in 2 of 132."""
    assert height(conv, A100, 1, 180, 320) == 12
    assert height(conv, RTX4090, 1, 180, 320) == 10
    assert height(conv, H100, 1, 180, 320) == 14


def test_height_where_rounds_do_not_matter(conv: Library) -> None:
    """Low images take low tiles, many rounds the tallest; shared memory bounds both."""
    assert height(conv, A100, 1, 8, 1600) == 8
    assert height(conv, A100, 100, 320, 320) == 16
    assert height(conv, T4, 100, 560, 320, dtype=1) == 14
    assert height(conv, T4, 100, 560, 320, c=32, dtype=1) == 16
    assert height(conv, T4, 100, 560, 320, c=32, dtype=1, listed=True) == 12
    assert height(conv, (40, 16, 16), 1, 180, 320) == 0


def test_height_of_more_than_32_bits(conv: Library) -> None:
    assert height(conv, A100, 2**20, 2**20, 2**20) == 16
    assert height(conv, A100, 1, 2**31 - 64, 16, c=2**20) in (8, 10, 12, 14, 16)


# Counts --------------------------------------------------------------------------------------------------------------


def work(library: Library, case: Case) -> tuple[Stats, int]:
    """What one call does, without checks, and its warp-wide matrix instructions."""
    library.options, checks = {"check_shared": False, "check_races": False}, library.options
    try:
        assert launch(library, Inputs(case))[0] == 0
    finally:
        library.options = checks
    return library.stats, sum(count for name, count in library.stats.by_opcode.items() if name.startswith("mma"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "instructions", "wavefronts"),
    [
        (Case(3, 64, memory="contiguous", activation="relu"), 4.2, 1.03),
        (Case(64, 64, memory="contiguous", activation="relu"), 2.9, 1.03),
        (Case(37, 64, picked=64, activation="relu"), 3.1, 1.0),
        (Case(64, 29, total=64, residual=True), 3.8, 1.15),
    ],
    ids=str,
)
def test_work_by_elements(conv: Library, case: Case, instructions: float, wavefronts: float) -> None:
    """Where x is read by elements (rows of a tile end within a warp), or outputs are assembled.

    Gates a kernel against its own past; test_kernel_counts.py holds the other kernels.
    """
    stats, products = work(conv, replace(case, h=180, w=320, height=16))
    assert stats.shared_wavefronts <= wavefronts * stats.shared_ideal_wavefronts
    assert stats.global_store_efficiency == 1.0
    assert (stats.warp_instructions - products) / products <= instructions
