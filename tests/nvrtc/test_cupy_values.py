"""The operators on CuPy arrays: choice, compilation, grids, arguments and launches, run in ptxvm; no GPU, no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from arrays import Call, calls, draw, dtype_of, laid_out, name_of
from judging import judge

from vsr_kernels import nvrtc

if (REASON := nvrtc.obstacle()) is not None:
    pytest.skip(REASON, allow_module_level=True)

import cupy_standin
from cupy_standin import on_device
from test_numpy_without_torch import BLOCK, python

import vsr_kernels.cupy as vk
from ptxvm.cupy_calls import Machine

pytestmark = pytest.mark.usefixtures("machine")


def run(call: Call) -> Any:
    name, arguments = call
    lists = ("in_channels", "out_channels")
    return getattr(vk, name)(**{k: v if k in lists else on_device(v) for k, v in arguments.items()})


SMALL = calls(2, 9, 3, 5)


@pytest.mark.parametrize("number", range(len(SMALL)), ids=[name_of(call) for call in SMALL])
def test_values(number: int) -> None:
    """Contiguous float32, then pixels side by side in 16 bits."""
    judge(SMALL[number], run(SMALL[number]))
    name, arguments = calls(1, 8, 4, 9, dtype_of("bfloat16") if number % 2 else np.float16)[number]
    last = {k: laid_out(v, "channels_last") if k in ("x", "residual") else v for k, v in arguments.items()}
    judge((name, arguments), run((name, last)))


@pytest.mark.parametrize("layout", ["sliced", "reversed", "expanded"])
def test_layouts(layout: str) -> None:
    """Read where they lie, the reversed ones too."""
    x, weight = draw(1, (2, 8, 3, 5)), draw(2, (3, 8, 3, 3), scale=0.1)
    flow = draw(3, (2, 2, 3, 5), scale=2.0)
    values = laid_out(x, layout).copy()
    for name, others in (("conv3x3", {"weight": weight}), ("flow_warp", {"flow": flow}), ("pixel_shuffle", {"r": 2})):
        given = {k: on_device(v) for k, v in others.items()}
        out = getattr(vk, name)(on_device_as_it_lies(x, layout), **given)
        judge((name, {"x": values, **others}), out)


def on_device_as_it_lies(x: Any, layout: str) -> Any:
    """The view itself in memory of the device, with what lies around it."""
    base = x if layout == "expanded" else laid_out(x, layout).base
    there = on_device(base if layout != "reversed" else np.ascontiguousarray(x[:, :, ::-1, ::-1]))
    if layout == "expanded":
        return np.broadcast_to(there[:1], x.shape, subok=True)
    if layout == "reversed":
        return there[:, :, ::-1, ::-1]
    view = there.transpose(0, 3, 1, 2)[:, 1 : x.shape[1] + 1, :, 1 : x.shape[3] + 1]
    view[...] = x
    return view


def test_kept_weights_and_results_in_given_memory(machine: Machine) -> None:
    """Packed once; a result that begins on no multiple of 16 bytes is put there from elsewhere."""
    x, weight, packed = draw(1, (1, 8, 3, 5)), draw(2, (8, 8, 3, 3), scale=0.1), vk.PackedWeights()
    given = on_device(x), on_device(weight)
    room = cupy_standin.empty((3 * 5 * 8 + 1,), np.float32)
    for out in (room[:-1], room[1:]):
        image = out.reshape(1, 3, 5, 8).transpose(0, 3, 1, 2)
        assert vk.conv3x3(*given, packed=packed, out=image) is image
        judge(("conv3x3", {"x": x, "weight": weight}), image)
    assert [name for name, *_ in machine.launches] == ["conv3x3_pack", "conv3x3", "conv3x3"]
    packed.clear()
    vk.conv3x3(*given, packed=packed)
    assert machine.launches[-2][0] == "conv3x3_pack"


def test_nothing_to_launch(machine: Machine) -> None:
    x, y = on_device(draw(1, (0, 8, 3, 5))), on_device(draw(1, (1, 4, 3, 5)))
    none = on_device(np.zeros((0, 4, 3, 3), np.float32))
    assert vk.conv3x3(x, on_device(draw(2, (4, 8, 3, 3)))).shape == (0, 4, 3, 5)
    assert vk.flow_warp(x, x[:, :2]).shape == x.shape
    assert vk.pixel_shuffle(x, 2).shape == (0, 2, 6, 10)
    kept = vk.sparse_conv3x3(y, none, out_channels=[], residual=y)
    assert np.array_equal(kept, y)
    assert not machine.launches


def test_neither_torch_nor_a_gpu_is_needed_to_import() -> None:
    python(
        BLOCK
        + """
import vsr_kernels
assert "cupy" not in sys.modules
import vsr_kernels.cupy
assert "torch" not in sys.modules
from vsr_kernels import nvrtc
assert nvrtc.compile_kernel(nvrtc.PixelShuffle(2, 8, 2, True, False, "channels_last"), "sm_90").suffix == ".cubin"
assert "torch" not in sys.modules
"""
    )


def test_without_cupy() -> None:
    said = python(
        """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "cupy" else found(name, package)
try:
    import vsr_kernels.cupy
except ImportError as error:
    print(error)
"""
    )
    assert said == "vsr_kernels.cupy: the package cupy is not installed: pip install 'vsr-kernels[cupy]'\n"


def test_more_shared_memory_than_kernels_have_by_default(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """High tiles are chosen where few multiprocessors have much to do; a launch has to ask for their memory."""
    monkeypatch.setitem(cupy_standin.PROPERTIES, "multiProcessorCount", 1)
    x, weight = draw(1, (1, 64, 16, 16), np.float16), draw(2, (64, 64, 3, 3), np.float16, 0.05)
    judge(
        ("conv3x3", {"x": x, "weight": weight}), vk.conv3x3(on_device(laid_out(x, "channels_last")), on_device(weight))
    )
    assert machine.launches[-1][2] > 48 << 10
