"""Layers compiled at run time: NVRTC's PTX on the CPU, against a float64 reference and beside the compiled kernels.

The generic kernel runs the same call, in ptxvm too and with the same packed weights: it must take more instructions,
and its output must be the same to the bit. What Python chooses for a launch must be what the C++ launchers choose.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from operands import DTYPES, image, longs, pixels, poisoned
from test_conv3x3 import Case, Inputs, launch, pack, packed_bytes, strided
from test_pixel_shuffle import SHAPES, call, family_of, in_memory, problem

from ptxvm.cudart import Library
from ptxvm.cupy_calls import Machine
from ptxvm.stats import Stats
from vsr_kernels import nvrtc
from vsr_kernels.nvrtc import background, compiler, conv, shuffle, warp
from vsr_kernels.nvrtc.launch import Launch, Limits, View
from vsr_kernels.nvrtc.layout import Layout

#: Layers of pruned networks. Products of the arithmetic are the same; what is around them is not.
CASES = [
    Case(37, 29, h=11, w=19, picked=64, activation="relu"),
    Case(29, 41, h=11, w=19, picked=48, total=64, residual=True, activation="prelu", ordered=False),
    Case(41, 37, h=9, w=16, activation="leaky_relu", residual=True, scale=0.3),
    Case(67, 53, h=8, w=16, n=2, picked=72, total=72, residual=True, dtype=torch.float16),
    Case(11, 5, h=9, w=33, picked=13, total=7, residual=True, activation="relu"),
    Case(19, 48, 4, h=5, w=18, activation="relu"),
    Case(5, 12, 2, h=5, w=9, dtype=torch.float32, exact=True, residual=True, memory="contiguous"),
]

needs_nvrtc = pytest.mark.skipif(nvrtc.obstacle() is not None, reason=str(nvrtc.obstacle()))


def view(bits: Any, shape: tuple[int, ...], strides: tuple[int, ...], dtype: str) -> View:
    return View(bits.ctypes.data, shape, strides, dtype, bits)


def dense(bits: Any, n: int, c: int, h: int, w: int, dtype: str) -> View:
    """Of (N, H, W, C) in memory."""
    return view(bits, (n, c, h, w), (h * w * c, 1, w * c, c), dtype)


def run(made: Launch, **options: Any) -> Stats:
    """A launch in ptxvm, with the grid, shared memory and arguments that it says, and what was counted."""
    machine = Machine(check_uninitialized=True, check_equal_stores=True, **options)
    values = []
    for value in made.arguments:
        if isinstance(value, View):
            machine.show(value.pointer, value.shape, value.strides, value.owner.itemsize, value.owner)
            values.append(np.uint64(value.pointer))
        else:
            values.append(np.uint64(0) if value is None else value)
    function = machine.raw_module(path=str(nvrtc.compile_kernel(made.kernel, "compute_80"))).get_function(
        made.kernel.entry
    )
    function.max_dynamic_shared_size_bytes = made.shared_bytes
    function(made.grid, made.block, tuple(values), shared_mem=made.shared_bytes)
    return machine.launches[-1][3]


def limits_of(library: Library) -> Limits:
    device = library.device
    capability = (device.major, device.minor)
    return Limits(capability, device.multiprocessors, device.shared_optin, device.shared_per_multiprocessor)


def specialised(library: Library, inputs: Inputs) -> tuple[Launch, Any]:
    """The launch for a case, and the bits of its output."""
    case, dtype = inputs.case, str(inputs.case.dtype).removeprefix("torch.")
    sizes = (case.n, case.total or case.c_out // case.r**2, case.h * case.r, case.w * case.r)
    out = poisoned((sizes[0], sizes[2], sizes[3], sizes[1]), case.dtype)
    packed = pack(library, inputs)
    residual = None if inputs.residual is None else dense(pixels(inputs.residual), *sizes, dtype)
    lists = [None if t is None else tuple(t.tolist()) for t in (inputs.in_channels, inputs.out_channels)]
    made = conv.conv3x3(
        view(strided(inputs.x), tuple(inputs.x.shape), tuple(inputs.x.stride()), dtype),
        view(packed, packed.shape, (1,), "uint16"),
        residual,
        dense(out, *sizes, dtype),
        limits_of(library),
        c_out=case.c_out,
        in_channels=lists[0],
        out_channels=lists[1],
        activation=case.activation,
        scale=case.scale,
        r=case.r,
        exact=case.exact,
    )
    return made, out


@pytest.fixture(scope="module")
def convolution(library: Callable[[str], Library]) -> Library:
    reason = nvrtc.obstacle()
    if reason is not None:
        pytest.skip(reason)
    return library("conv3x3_call")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VSR_KERNELS_CACHE_DIR", str(tmp_path))
    return tmp_path / "nvrtc"


@dataclass(frozen=True)
class Found:
    ours: Stats
    generic: Stats


def check(library: Library, case: Case) -> Found:
    inputs = Inputs(case)
    made, bits = specialised(library, inputs)
    stats = run(made)
    n, c, h, w = inputs.truth()[0].shape
    out = image(bits, (n, h, w, c), case.dtype)
    truth, low = inputs.truth()[0], inputs.low()[0]
    error = (out.double() - truth).abs().max().item()
    allowed = 2 * (low.double() - truth).abs().max().item() + torch.finfo(case.dtype).eps * truth.abs().max().item()
    assert error <= allowed, f"{case}: largest error {error:.3e}, allowed {allowed:.3e}"
    code, generic, _ = launch(library, inputs)
    assert code == 0
    assert torch.equal(out, generic)
    assert library.launches[-1].grid == made.grid
    assert library.launches[-1].shared_bytes == made.shared_bytes
    return Found(stats, library.stats)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_odd_shapes(convolution: Library, case: Case) -> None:
    found = check(convolution, case)
    assert found.ours.mma_instructions == found.generic.mma_instructions
    assert found.ours.warp_instructions < found.generic.warp_instructions


def test_a_gathered_tile_takes_two_thirds_of_the_instructions(convolution: Library) -> None:
    found = check(convolution, Case(37, 41, h=8, w=16, picked=64, total=64, residual=True, activation="relu"))
    assert found.ours.warp_instructions < 0.7 * found.generic.warp_instructions


def test_layouts_and_tiles_are_the_compiled_ones(convolution: Library) -> None:
    """Bytes of packed weights for many layers, and rows of a tile for many images on three GPUs."""
    for c_in, (c_out, r), (dtype, exact) in itertools.product(
        (0, 1, 16, 37, 64, 65, 100, 200),
        ((1, 1), (8, 1), (12, 2), (33, 1), (48, 4), (64, 1), (75, 5), (97, 1), (128, 1)),
        ((torch.bfloat16, False), (torch.float32, False), (torch.float32, True)),
    ):
        layout = Layout.of(c_in, c_out, r, str(dtype).removeprefix("torch."), exact)
        assert layout.packed_bytes == packed_bytes(convolution, Case(c_in, c_out, r, dtype=dtype, exact=exact))
    gpus = (Limits((7, 5), 40, 65536, 65536), Limits((8, 0), 108, 166912, 167936), Limits((9, 0), 132, 232448, 233472))
    for limits, c_out, (n, h, w), listed, dtype in itertools.product(
        gpus,
        (8, 29, 48, 64, 100),
        ((1, 1, 1), (1, 180, 320), (2, 270, 480), (1, 540, 960), (7, 96, 96)),
        (False, True),
        (torch.float16, torch.float32),
    ):
        numbers = longs(64, c_out), DTYPES.index(dtype), 1, longs(n, h, w), int(listed), limits[1:]
        theirs = convolution.call("conv3x3_height", *numbers[0], *numbers[1:3], *numbers[3], numbers[4], *numbers[5])
        assert Layout.of(64, c_out, 1, str(dtype).removeprefix("torch."), True).rows(n, h, w, listed, limits) == theirs


@needs_nvrtc
@pytest.mark.parametrize(
    ("shape", "r", "size", "last", "inverse"),
    [
        (SHAPES[1], 2, 2, True, False),
        (SHAPES[0], 3, 4, False, True),
        ((1, 3, 2, 264), 4, 2, True, False),  # a stretch and a part of one
        ((2, 3, 2, 131), 4, 4, True, True),
        (SHAPES[4], 5, 4, True, False),
        ((1, 3, 2, 408), 2, 2, True, True),
        (SHAPES[4], 2, 8, False, False),
    ],
)
def test_shuffles(
    library: Callable[[str], Library], shape: tuple[int, int, int, int], r: int, size: int, last: bool, inverse: bool
) -> None:
    """Every byte right, by the kernel and the grid of the compiled launcher."""
    packed, shuffled = problem(shape, r, size)
    source = in_memory(shuffled if inverse else packed, last)
    expected = in_memory(packed if inverse else shuffled, last)
    n, c, h, w = shape
    both = (n, c * r * r, h, w), (n, c, h * r, w * r)
    views = []
    target = np.zeros_like(expected)
    target = in_memory(target.reshape(1, -1, 1, 1), False)
    for bits, sizes in zip((source, target), both[::-1] if inverse else both, strict=True):
        _, d, i, j = sizes
        strides = (i * j * d, 1, j * d, d) if last else (d * i * j, i * j, j, 1)
        views.append(view(bits, sizes, strides, f"uint{8 * size}"))
    made = shuffle.pixel_shuffle(*views, r, channels_last=last, inverse=inverse)
    run(made)
    assert (target == expected).all()
    theirs = library("pixel_shuffle_call")
    assert call(theirs, source, target, shape, r, size, last, inverse) == 0
    assert made.kernel.form == family_of(shape, r, size, last)
    assert theirs.launches[-1].grid == made.grid
    assert theirs.launches[-1].shared_bytes == made.shared_bytes


def test_vectors_of_a_warp_are_the_compiled_ones(library: Callable[[str], Library]) -> None:
    """For alignments of images, rows and pixels; channels side by side, with others between pixels, or in planes."""
    theirs = library("flow_warp_call")
    n, h, w = 1, 2, 3
    for c, size, offset, gap, room in itertools.product((3, 6, 8, 37, 64), (2, 4), (0, 1), (0, 1, 2), (0, 1, 8)):
        pitch = -(-c // max(room, 1)) * max(room, 1)  # elements from a pixel to the next
        strides = (h * w * pitch + gap, 1, w * pitch + gap, pitch) if room else (h * w * c, h * w, w, 1)
        memory = np.zeros(4096, {2: np.float16, 4: np.float32}[size])
        x = memory[-memory.ctypes.data % 256 // size + offset :]
        image = view(x, (n, c, h, w), strides, str(memory.dtype))
        launch = warp.flow_warp(image, image, image, nearest=False, border=False)
        numbers = np.array([n, c, h, w]), np.array(strides * 3)
        plan = theirs.call("flow_warp_plan", x, x, *numbers, {2: 1, 4: 0}[size])
        assert launch.kernel.vector == plan // 100, (c, size, offset, gap, room)


LAYER = nvrtc.Conv3x3("bfloat16", 5, 3)


@needs_nvrtc
def test_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = nvrtc.compile_kernel(LAYER, "compute_80")
    assert [first] == list(cache.iterdir())
    assert first.suffix == ".ptx"
    assert b".entry conv3x3" in first.read_bytes()
    compiled: list[str] = []
    monkeypatch.setattr(compiler, "_compile", lambda entry, source, arch: compiled.append(arch) or b"new")
    assert nvrtc.compile_kernel(LAYER, "compute_80") == first
    others = [
        nvrtc.compile_kernel(replace(LAYER, activation="relu"), "compute_80"),
        nvrtc.compile_kernel(LAYER, "compute_90"),
        nvrtc.compile_kernel(LAYER, "sm_90"),
    ]
    assert compiled == ["compute_80", "compute_90", "sm_90"]
    monkeypatch.setattr(compiler, "OPTIONS", (*compiler.OPTIONS, "-lineinfo"))
    others.append(nvrtc.compile_kernel(LAYER, "compute_80"))
    assert {file.read_bytes() for file in others} == {b"new"}
    assert sorted([first, *others]) == sorted(cache.iterdir())


@needs_nvrtc
def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled lies somewhere all the same."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("VSR_KERNELS_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(compiler, "_compile", lambda entry, source, arch: b"new")
    assert nvrtc.compile_kernel(LAYER, "compute_80").read_bytes() == b"new"


@needs_nvrtc
def test_a_failed_compilation_says_why(cache: Path) -> None:
    with pytest.raises(RuntimeError, match=r"nvrtc\.compile_kernel: NVRTC failed for compute_1"):
        nvrtc.compile_kernel(LAYER, "compute_1")
    assert not cache.exists()


def test_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"nvrtc\.compile_kernel: the package cupy is not installed"):
        nvrtc.compile_kernel(LAYER, "compute_80")


def test_one_thread_compiles_while_calls_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kernel once, one after the other, and not in the caller's thread."""
    at_work, done = threading.Event(), threading.Event()
    made: list[tuple[object, str, bool]] = []

    def compile_kernel(kernel: object, arch: str) -> Path:
        at_work.set()
        assert done.wait(60)
        made.append((kernel, arch, threading.current_thread() is threading.main_thread()))
        return Path(arch)

    monkeypatch.setattr(background, "compile_kernel", compile_kernel)
    found = background.Compilations()
    other = replace(LAYER, activation="relu")
    assert not found.ready(LAYER, "sm_80")
    assert at_work.wait(60)
    assert not found.ready(LAYER, "sm_80")
    assert not found.ready(other, "sm_80")
    done.set()
    found.join()
    assert found.ready(LAYER, "sm_80")
    assert found.ready(other, "sm_80")
    assert found.wait(LAYER, "sm_80") == Path("sm_80")
    assert made == [(LAYER, "sm_80", False), (other, "sm_80", False)]
    assert found.wait(LAYER, "sm_90") == Path("sm_90")
    assert made[-1] == (LAYER, "sm_90", True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float64"}, "dtype: expected one of float16, bfloat16, float32, got 'float64'"),
        ({"activation": "gelu"}, "activation: expected one of none, relu, leaky_relu, prelu, got 'gelu'"),
        ({"c_in": -1}, "c_in: expected at least 0, got -1"),
        ({"c_out": 0}, "c_out: expected at least 1, got 0"),
        ({"r": 2}, "c_out: expected a multiple of r^2 = 4, got 3"),
        ({"rows": 10}, "rows: expected one of 8, 16, got 10"),
        ({"in_channels": (1, 2)}, "in_channels: expected c_in = 5 channel numbers, or None for none, got 2"),
        ({"in_channels": (1, 2, 3, 4, 4)}, "in_channels: expected distinct channel numbers, got [4]"),
        ({"c_total": 4}, "c_total: expected 0 exactly where out_channels is None, got 4"),
        ({"out_channels": (1, 2, 4), "c_total": 4}, "out_channels: expected channel numbers in [0, 4), got [4]"),
        ({"out_channels": (0, 1, 2), "c_total": 4}, "residual: expected True where out_channels is given, got False"),
        ({"c_out": 8, "out_on_vectors": False}, "out_on_vectors: expected True where pixels of the output are whole"),
    ],
)
def test_bad_constants(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"nvrtc.Conv3x3: {message}")):
        replace(LAYER, **change)


def test_images_that_are_too_large() -> None:
    """Said before anything is compiled; the compiled launchers cut them into several launches."""
    x = View(0, (65536, 8, 4, 4), (128, 1, 32, 8), "float16", None)
    with pytest.raises(ValueError, match=r"flow_warp: x: expected at most 65535 images of 524280 rows, got shape"):
        warp.flow_warp(x, x, x, nearest=False, border=False)
    with pytest.raises(ValueError, match=r"conv3x3: x: expected a grid of at most"):
        LAYER.grid(65536, 4, 4)
    x = View(2, (1, 8, 2**19, 2**20), (0, 0, 0, 0), "float16", None)
    with pytest.raises(ValueError, match="pixel_shuffle: x: expected at most 2147483647 blocks of 256 threads, got"):
        shuffle.pixel_shuffle(x, x._replace(shape=(1, 2, 2**20, 2**21)), 2, channels_last=False, inverse=False)
