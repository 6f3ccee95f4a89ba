"""The CUDA chain of thin convolutions, packing and launch code included, on the CPU, against a float64 reference.

ptxvm checks bounds, alignment, races, unfinished copies, reads of shared memory that nobody wrote, and bytes stored by
two blocks. Outputs start as NaN, so that whatever is not written shows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from operands import ACTIVATIONS, DTYPES, Bits, image, in_memory, longs, pixels, pointer, poisoned
from torch import Tensor

from ptxvm.cudart import Library
from vsr_kernels import build, reference

INVALID_VALUE, NOT_SUPPORTED = 1, 801
NEGATIVE_SLOPE = 0.1


@dataclass(frozen=True)
class Case:
    """One call of the chain."""

    channels: tuple[int, ...]  # of x and of what every layer gives
    activations: tuple[str, ...] = ("relu", "relu", "relu", "none")  # the last ones count
    r: int = 1
    n: int = 1
    h: int = 5
    w: int = 7
    dtype: torch.dtype = torch.bfloat16
    slopes: int = 0  # of prelu: 0 for one per channel
    bias: bool = True
    residual: bool = False
    scale: float = 1.0
    keep: str = ""  # of the first layer: "before" its activation, "after"
    contiguous: bool = False  # x in the order of NCHW, not of channels_last
    offset: int = 0  # elements by which x and the output miss their alignment
    rows: int = 0  # of a tile; 0 for the launcher's choice

    @property
    def layers(self) -> int:
        return len(self.channels) - 1

    @property
    def named(self) -> tuple[str, ...]:
        return self.activations[-self.layers :]

    def __str__(self) -> str:
        chain = "-".join(map(str, self.channels))
        return f"{chain}-r{self.r}-{self.n}x{self.h}x{self.w}-{self.named[0]}-{str(self.dtype)[6:]}-tile{self.rows}"


class Inputs:
    """Random operands of a case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        rng = torch.Generator().manual_seed(sum(case.channels) + 1000 * case.layers)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=rng).to(case.dtype)

        pairs = list(zip(case.channels[:-1], case.channels[1:], strict=True))
        r = case.r
        self.x = normal(case.n, case.channels[0], case.h, case.w)
        self.weights = [normal(c_out, c_in, 3, 3) / (5 * c_in) ** 0.5 for c_in, c_out in pairs]
        self.biases = [normal(c_out) / 4 if case.bias else None for _, c_out in pairs]
        self.slopes = [
            normal(case.slopes or c_out) if name == "prelu" else None
            for name, (_, c_out) in zip(case.named, pairs, strict=True)
        ]
        self.residual = normal(case.n, case.channels[-1] // r**2, r * case.h, r * case.w) if case.residual else None

    def layer(
        self, x: Tensor, number: int, dtype: torch.dtype, activation: str | None = None, **more: object
    ) -> Tensor:
        name = activation or self.case.named[number]
        bias, slope = self.biases[number], self.slopes[number]
        value: float | Tensor | None = None if slope is None or name != "prelu" else slope.to(dtype)
        return reference.conv3x3(
            x.to(dtype),
            self.weights[number].to(dtype),
            None if bias is None else bias.to(dtype),
            activation=name,
            slope=NEGATIVE_SLOPE if name == "leaky_relu" else value,
            **more,  # type: ignore[arg-type]
        )

    def compute(self, dtype: torch.dtype) -> Tensor:
        """The chain by PyTorch, in a dtype."""
        x, last = self.x, self.case.layers - 1
        for number in range(last):
            x = self.layer(x, number, dtype)
        residual = None if self.residual is None else self.residual.to(dtype)
        return self.layer(x, last, dtype, residual=residual, scale=self.case.scale, pixel_shuffle=self.case.r)

    def kept(self, dtype: torch.dtype) -> Tensor:
        return self.layer(self.x, 0, dtype, "none" if self.case.keep == "before" else None)


@dataclass
class Outcome:
    code: int
    out: Tensor
    kept: Tensor | None


def whole(nbytes: int) -> int:
    return -(-nbytes // 16) * 16


def counts(case: Case) -> list[object]:
    return [case.layers, *longs(case.channels[0]), np.array(case.channels[1:], np.int64), *longs(case.r)]


def pack(library: Library, inputs: Inputs) -> Bits:
    """All layers, one after the other."""
    case, dtype = inputs.case, DTYPES.index(inputs.case.dtype)
    parts = []
    for number in range(case.layers):
        size = library.call("chain_packed_bytes", *counts(case), number, dtype, restype=ctypes.c_int64)
        packed = poisoned((whole(size) // 2,), torch.int16)
        bias, slope = inputs.biases[number], inputs.slopes[number]
        arrays = [pointer(None if t is None else in_memory(t)) for t in (bias, slope)]
        slopes = longs(0 if slope is None else slope.numel())
        activation = ACTIVATIONS.index(case.named[number])
        operands = [in_memory(inputs.weights[number]), *arrays, packed]
        code = library.call("chain_pack", *operands, *counts(case), number, *slopes, NEGATIVE_SLOPE, activation, dtype)
        assert code == 0
        parts.append(torch.from_numpy(packed.view(np.int16)))
    return in_memory(torch.cat(parts))


def run(library: Library, inputs: Inputs) -> Outcome:
    """Pack and run; the launcher's error, the output and what was kept."""
    case, r = inputs.case, inputs.case.r
    x = inputs.x if case.contiguous else inputs.x.to(memory_format=torch.channels_last)
    shape = (case.n, r * case.h, r * case.w, case.channels[-1] // r**2)
    between = (case.n, case.h, case.w, case.channels[1])
    residual = None if inputs.residual is None else pixels(inputs.residual, case.offset)
    out = poisoned(shape, case.dtype, case.offset)
    kept = poisoned(between, case.dtype) if case.keep else None
    c = x.shape[1]
    strides = x.stride() if case.contiguous else (case.h * case.w * c, 1, case.w * c, c)
    code = library.call(
        "conv_chain",
        *[in_memory(x, case.offset) if case.contiguous else pixels(x, case.offset), pointer(residual), out],
        *[pointer(kept), pack(library, inputs), *counts(case)],
        np.array([ACTIVATIONS.index(name) for name in case.named], np.int32),
        *longs(case.n, case.h, case.w, *strides),
        *[case.scale, DTYPES.index(case.dtype), int(case.keep == "before"), case.rows],
    )
    return Outcome(code, image(out, shape, case.dtype), None if kept is None else image(kept, between, case.dtype))


def assert_near(case: Case, what: str, got: Tensor, truth: Tensor, low: Tensor) -> None:
    """At most twice PyTorch's error in that dtype, plus one unit in the last place of the largest value."""
    assert torch.isfinite(got).all(), f"{case}: {int((~torch.isfinite(got)).sum())} values of {what} were not written"
    error = (got.double() - truth).abs().max().item()
    allowed = 2 * (low.double() - truth).abs().max().item() + torch.finfo(case.dtype).eps * truth.abs().max().item()
    assert error <= allowed, f"{case}: largest error of {what} {error:.3e}, allowed {allowed:.3e}"


def check(library: Library, case: Case) -> Outcome:
    inputs = Inputs(case)
    before = len(library.launches)
    outcome = run(library, inputs)
    assert outcome.code == 0, f"{case}: error {outcome.code}"
    assert len(library.launches) - before == case.layers + 1  # all but one pack
    assert_near(case, "out", outcome.out, inputs.compute(torch.float64), inputs.compute(case.dtype))
    if outcome.kept is not None:
        assert_near(case, "kept", outcome.kept, inputs.kept(torch.float64), inputs.kept(case.dtype))
    return outcome


@pytest.fixture(scope="module")
def chain(library: Callable[[str], Library]) -> Library:
    return library("thin_net_call")


REPSR = (16, 16, 16, 16, 48)


@pytest.mark.parametrize("layers", [2, 3, 4])
@pytest.mark.parametrize("rows", [8, 16])
def test_layers(chain: Library, layers: int, rows: int) -> None:
    """Images of one tile, of several and of less than one, in both dtypes."""
    for h, w in ((1, 1), (9, 27), (2, 40)):
        case = Case((16,) * (layers + 1), h=h, w=w, rows=rows)
        check(chain, case)
        check(chain, replace(case, dtype=torch.float16, n=2, residual=True, scale=-0.5))


@pytest.mark.parametrize("layers", [2, 4])
def test_images_of_whole_tiles(chain: Library, layers: int) -> None:
    """Three by three tiles, so that one has no edge of the image."""
    width = 32 - 2 * (layers - 1)
    check(chain, Case((16,) * (layers + 1), h=24, w=3 * width, rows=8))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(chain: Library, activation: str) -> None:
    """After every layer, the last included; with no bias, one slope, and either side of the activation kept."""
    case = Case((8, 16, 12, 16), (activation,) * 4, h=7, w=33, residual=True)
    check(chain, case)
    check(chain, replace(case, slopes=1, bias=False, keep="before"))
    check(chain, replace(case, activations=("none", activation, "relu", activation), keep="after", dtype=torch.float16))


@pytest.mark.parametrize(
    ("channels", "r"),
    [((16, 16, 48), 4), ((16, 16, 16, 16, 48), 4), ((16, 16, 12), 2), ((3, 16, 27), 3), ((8, 16, 3), 1)]
    + [((1, 5, 7, 10), 1), ((16, 16, 16, 32), 2), ((3, 16, 16, 16, 12), 2), ((15, 1, 33), 1), ((2, 3, 4), 2)],
)
def test_outputs(chain: Library, channels: tuple[int, ...], r: int) -> None:
    """Runs of neighbouring channels that are stored in fours, twos and one by one; odd counts between layers."""
    case = Case(channels, r=r, h=6, w=37, residual=True, activations=("prelu",) * 4)
    check(chain, case)
    check(chain, replace(case, residual=False, offset=1, keep="after", activations=("leaky_relu",) * 4))


@pytest.mark.parametrize("c", [3, 8, 16])
def test_strides_of_x(chain: Library, c: int) -> None:
    """The order of NCHW is read by elements; so is what misses the alignment of vectors."""
    for contiguous in (False, True):
        for offset in (0, 1):
            check(chain, Case((c, 16, 16), n=2, h=5, w=35, contiguous=contiguous, offset=offset))


def test_rows_of_a_tile_and_pictures_to_share(chain: Library) -> None:
    """Blocks that stay take the tiles of all pictures in turn: here two of them for eight tiles."""
    multiprocessors, chain.attributes[16] = chain.attributes[16], 1
    try:
        for rows in (8, 24):
            check(chain, Case(REPSR, r=4, n=2, h=10, w=29, rows=rows))
            assert chain.launches[-1].grid[0] < 8
    finally:
        chain.attributes[16] = multiprocessors


def test_padding_between_layers_is_zero(chain: Library) -> None:
    """Not act(bias): with no weights in the first layer, the output counts the pixels of the neighbourhood."""
    inputs = Inputs(Case((16, 16, 16), h=4, w=4, activations=("none", "none")))
    inputs.weights[0].zero_()
    inputs.weights[1].fill_(1.0)
    inputs.biases = [torch.full((16,), 0.5).bfloat16(), torch.zeros(16).bfloat16()]
    counted = torch.tensor([4.0, 6.0, 6.0, 4.0]).outer(torch.tensor([2.0, 3.0, 3.0, 2.0])) / 2
    assert torch.equal(run(chain, inputs).out[0, 0].float(), counted * 8)


def test_nan_stays_in_its_neighbourhood(chain: Library) -> None:
    inputs = Inputs(Case((16,) * 5, h=20, w=40))
    inputs.x[0, 0, 9, 25] = torch.nan
    spoiled = run(chain, inputs).out.isnan().any(1)[0]
    rows, columns = torch.arange(20)[:, None], torch.arange(40)[None, :]
    assert torch.equal(spoiled, ((rows - 9).abs() <= 4) & ((columns - 25).abs() <= 4))


def test_same_bits_for_every_tile(chain: Library) -> None:
    first, *others = [run(chain, Inputs(Case(REPSR, r=4, h=17, w=30, rows=rows))).out for rows in (8, 16, 24)]
    assert all(torch.equal(first, other) for other in others)


def test_refusals_and_nothing_to_do(chain: Library) -> None:
    """float32, too many layers or channels, tiles that no kernel makes."""
    case = Case((16, 16, 16))
    for refused in ({"channels": (17, 16, 16)}, {"channels": (16, 17, 16)}, {"channels": (16, 16, 49)}):
        assert run(chain, Inputs(replace(case, **refused))).code == NOT_SUPPORTED  # type: ignore[arg-type]
    assert run(chain, Inputs(replace(case, rows=7))).code == INVALID_VALUE
    assert run(chain, Inputs(replace(case, rows=512))).code == INVALID_VALUE
    before = len(chain.launches)
    for empty in ({"n": 0}, {"h": 0}, {"w": 0}):
        assert run(chain, Inputs(replace(case, **empty))).code == 0  # type: ignore[arg-type]
    assert len(chain.launches) - before == 6  # the packing only


@pytest.mark.slow
def test_turing(toolkit: Path) -> None:
    """Code for sm_75: products of half the depth, loads in place of asynchronous copies."""
    source = Path(__file__).with_name("kernels") / "thin_net_call.cu"
    options = ["-I", str(build.source_root()), "--expt-relaxed-constexpr"]
    turing = Library.build([source], arch="sm_75", options=options)
    turing.options = {"check_uninitialized": True, "check_equal_stores": True}
    for layers in (2, 3, 4):
        for c in (3, 16):
            channels = (c, *[16] * (layers - 1), 48)
            check(turing, Case(channels, r=4, h=11, w=31, dtype=torch.float16, residual=True))
    assert run(turing, Inputs(Case((16, 16, 16)))).code == NOT_SUPPORTED


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 26), (17, 33), (33, 61), (8, 52), (9, 53)])
@pytest.mark.parametrize("layers", [2, 3, 4])
def test_every_size(chain: Library, layers: int, size: tuple[int, int]) -> None:
    for i, rows in enumerate((8, 16, 24)):
        for dtype in (torch.bfloat16, torch.float16):
            channels = ((3, 16, 7)[i], *(16, 9, 13)[: layers - 1], (48, 3, 12)[i])
            names = tuple(ACTIVATIONS[(i + k) % 4] for k in range(4))
            r = (4, 1, 2)[i]
            check(chain, Case(channels, names, r, 3, *size, dtype=dtype, residual=i % 2 == 0, rows=rows))


# The choice of a plan -------------------------------------------------------------------------------------------------

# Capability, multiprocessors, KiB of shared memory per block and multiprocessor, MiB of L2.
A100, RTX4090, H100, T4 = (80, 108, 163, 164, 40), (89, 128, 99, 100, 72), (90, 132, 227, 228, 50), (75, 40, 64, 64, 4)
DEVICES = [A100, RTX4090, H100, T4]


def numbers(device: tuple[int, int, int, int, int]) -> list[object]:
    capability, multiprocessors, per_block, everything, l2 = device
    return [capability, multiprocessors, per_block << 10, everything << 10, *longs(l2 << 20)]


def cut(
    library: Library,
    device: tuple[int, int, int, int, int],
    channels: tuple[int, ...],
    size: tuple[int, int, int],
    r: int = 1,
    dtype: torch.dtype = torch.float16,
) -> list[int]:
    """How many layers each launch has."""
    found = np.zeros(len(channels), np.int32)
    count = library.call(
        "chain_cut",
        np.array(channels, np.int64),
        len(channels) - 1,
        *longs(r, *size),
        DTYPES.index(dtype),
        *numbers(device),
        found,
    )
    return found[:count].tolist()


def test_cut(chain: Library) -> None:
    """Launches and bytes are what thin nets take time for; what the kernel cannot do goes layer by layer."""
    for device in (A100, H100):
        for size in ((1, 180, 320), (1, 720, 1280), (4, 64, 64)):
            for channels in (REPSR, (3, 16, 16, 16, 16, 16, 48)):  # the latter is M4C16
                launches = cut(chain, device, channels, size, 4)
                assert sum(launches) == len(channels) - 1 and len(launches) <= 2
    for device in DEVICES:
        assert len(cut(chain, device, REPSR, (1, 64, 64), 4)) <= 2
        assert cut(chain, device, REPSR, (1, 64, 64), 4, torch.float32) == [1] * 4
        assert cut(chain, device, (3, 64, 64, 48), (1, 180, 320), 4) == [1] * 3
        # What takes 24 channels is in no launch of thin layers, though what gives them may end one.
        launches = cut(chain, device, (16, 16, 24, 16, 16, 48), (1, 64, 64), 4)
        ends = [sum(launches[: i + 1]) for i in range(len(launches))]
        assert 2 in ends and 3 in ends and ends[-1] == 5
    assert cut(chain, (80, 108, 16, 16, 40), REPSR, (1, 180, 320), 4) == [1] * 4  # no tile fits
    assert cut(chain, A100, (3, 48), (1, 9, 9), 4) == [1]


def test_a_cut_costs_the_least(chain: Library) -> None:
    """Whatever a long network begins with, its end is cut as a shorter network would be."""
    channels = (3, *[16] * 10, 12)
    for device in DEVICES:
        launches = cut(chain, device, channels, (1, 360, 640), 2)
        assert sum(launches) == len(channels) - 1 and max(launches) <= 4
        behind = channels[launches[0] :]
        assert cut(chain, device, behind, (1, 360, 640), 2) == launches[1:]


def test_where_packed_weights_lie(chain: Library) -> None:
    """One after the other, twice where the two kinds of launch read other orders, once where they agree."""
    found = np.zeros((4, 6), np.int64)
    channels = np.array((3, 16, 16, 24, 48), np.int64)
    total = chain.call(
        "chain_packing", channels, 4, *longs(4), DTYPES.index(torch.float16), found, restype=ctypes.c_int64
    )
    end = 0
    for alone_at, columns, alone_bytes, thin_at, thin_columns, thin_bytes in found.tolist():
        assert alone_at == end and alone_at % 16 == 0
        end += alone_bytes
        if thin_at >= 0 and thin_columns != columns:
            assert thin_at == end and thin_at % 16 == 0
            end += thin_bytes
        elif thin_at >= 0:
            assert thin_at == alone_at and thin_bytes == alone_bytes
    assert end == total
    assert [row[3] >= 0 for row in found.tolist()] == [True, True, True, False]


def test_rows(chain: Library) -> None:
    """Low tiles for small images, and where shared memory is short."""

    def rows(device: tuple[int, int, int, int, int], h: int, w: int) -> int:
        found: int = chain.call("chain_rows", *counts(Case(REPSR, r=4)), *longs(1, h, w), *numbers(device))
        return found

    assert rows(A100, 64, 64) == 8
    assert rows(A100, 2000, 2000) >= 16
    assert rows(T4, 2000, 2000) == 8
    assert rows((80, 108, 16, 16, 40), 64, 64) == 0


# Counts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [(48, 78), pytest.param((180, 320), marks=pytest.mark.slow)], ids=["part", "frame"])
@pytest.mark.parametrize(
    ("case", "instructions", "shared_bytes", "asked"),
    [
        (Case((16, 16, 16, 16, 16), rows=24), 4.0, 126, 2.0),
        (Case(REPSR, r=4, residual=True, rows=24), 5.0, 126, 1.9),
    ],
    ids=str,
)
def test_work(
    chain: Library, case: Case, frame: tuple[int, int], instructions: float, shared_bytes: float, asked: float
) -> None:
    """PTX instructions and bytes of shared memory read per MMA, sectors asked of the L2 over the least there are.

    Gates the kernel against its own past; no bank conflicts.
    """
    h, w = frame
    inputs = Inputs(replace(case, h=h, w=w))
    chain.options, checks = {"check_shared": False, "check_races": False}, chain.options
    try:
        run(chain, inputs)
    finally:
        chain.options = checks
    stats = chain.stats
    done = sum(count for name, count in stats.by_opcode.items() if name.startswith("mma"))
    ends = case.channels[0] + case.channels[-1] * (1 + case.residual)
    assert stats.shared_wavefronts == stats.shared_ideal_wavefronts
    assert (stats.warp_instructions - done) / done <= instructions
    assert stats.shared_load_bytes / done <= shared_bytes
    assert 32 * (stats.global_load_sectors + stats.global_store_sectors) / (2 * h * w * ends) <= asked
