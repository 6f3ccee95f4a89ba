"""Values of the NumPy operators: against float64, against the torch operators, in every layout, with any threads."""

from __future__ import annotations

import copy
import os
import pickle
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import plain
import pytest
from arrays import LAYOUTS, Call, calls, draw, dtype_of, laid_out, name_of
from judging import by_torch, judge, tensor
from numpy.typing import NDArray

import vsr_kernels

vk = pytest.importorskip("vsr_kernels.numpy", exc_type=ImportError)

Array = NDArray[Any]
SIZES = [(1, 1, 1, 1), (2, 3, 7, 2), (1, 24, 5, 33), (1, 37, 17, 3), (2, 64, 9, 11)]
CALLS = [call for size in SIZES for call in calls(*size)]
SMALL = calls(2, 5, 6, 7)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = vk.get_num_threads()
    vk.set_num_threads(1)
    yield
    vk.set_num_threads(before)


def run(call: Call) -> Array:
    name, arguments = call
    return getattr(vk, name)(**arguments)


@pytest.mark.parametrize("call", CALLS, ids=name_of)
def test_values(call: Call) -> None:
    """At most twice PyTorch's error against float64, plus one unit of the largest value."""
    check(call)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("number", range(len(SMALL)), ids=[name_of(call) for call in SMALL])
def test_values_in_16_bits(number: int, dtype: str) -> None:
    check(calls(2, 17, 6, 7, dtype_of(dtype))[number])


def check(call: Call) -> None:
    judge(call, run(call))


@pytest.mark.parametrize("call", SMALL, ids=name_of)
def test_the_torch_operators_give_the_same_bits(call: Call) -> None:
    name, arguments = call
    with vsr_kernels.use_backend("cpu"):
        theirs = getattr(vsr_kernels, name)(**{key: tensor(value) for key, value in arguments.items()}).numpy()
    ours = run(call)
    assert np.array_equal(ours, theirs)
    if min(ours.shape) > 1:
        assert ours.strides == theirs.strides


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("call", SMALL, ids=name_of)
def test_layouts(call: Call, layout: str) -> None:
    """All images in any memory, vectors and kernels in reverse: the same bits, and nothing given is changed."""
    name, arguments = call
    moved = {}
    for key, value in arguments.items():
        moved[key] = value
        if isinstance(value, np.ndarray) and value.ndim == 4:
            moved[key] = laid_out(value, layout)
        elif isinstance(value, np.ndarray):
            moved[key] = np.ascontiguousarray(value[::-1])[::-1]
    dense = {key: value.copy() if isinstance(value, np.ndarray) else value for key, value in moved.items()}
    got = run((name, moved))
    assert np.array_equal(got, run((name, dense)))
    for key, value in moved.items():
        assert np.array_equal(value, dense[key])


@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_formats_of_results(layout: str) -> None:
    """Convolutions return channels_last, the others the format of their input."""
    for name, arguments in SMALL:
        x = laid_out(arguments["x"], layout)
        got = getattr(vk, name)(**(arguments | {"x": x}))
        last = layout == "channels_last" or "conv" in name or "block" in name
        assert (got.transpose(0, 2, 3, 1) if last else got).flags.c_contiguous


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (1, 4, 0, 3), (1, 4, 3, 0)])
def test_empty_images(shape: tuple[int, ...]) -> None:
    for call in calls(*shape):
        got = run(call)
        assert got.size == 0
        assert got.shape == by_torch(call).shape


def test_no_channels() -> None:
    """No inputs leave the bias; no outputs leave the residual."""
    bias, residual = draw(1, (3,)), draw(2, (1, 4, 2, 2))
    got = vk.conv3x3(np.zeros((1, 0, 2, 2), np.float32), np.zeros((3, 0, 3, 3), np.float32), bias)
    assert np.array_equal(got, np.broadcast_to(bias[:, None, None], (1, 3, 2, 2)))
    none = np.zeros((0, 4, 3, 3), np.float32)
    assert np.array_equal(vk.sparse_conv3x3(residual, none, out_channels=[], residual=residual), residual)


def test_float64_is_moved_only() -> None:
    x = draw(1, (1, 8, 3, 5), np.float64)
    assert np.array_equal(vk.pixel_shuffle(x, 2), plain.shuffle(x, 2))
    assert np.array_equal(vk.pixel_unshuffle(vk.pixel_shuffle(x, 2), 2), x)


# Given results


@pytest.mark.parametrize("call", SMALL, ids=name_of)
def test_out(call: Call) -> None:
    """Written to and returned, the same bits, every element."""
    name, arguments = call
    expected = run(call)
    out = np.full_like(expected, np.nan)  # keeps the format
    assert getattr(vk, name)(**arguments, out=out) is out
    assert np.array_equal(out, expected)


def test_a_warp_into_a_slice() -> None:
    """Such as into its half of what a convolution will read."""
    (_, arguments) = next(call for call in SMALL if call[0] == "flow_warp")
    both = np.zeros((2, 6, 7, 12), np.float32).transpose(0, 3, 1, 2)
    vk.flow_warp(**arguments, out=both[:, 3:8])
    assert np.array_equal(both[:, 3:8], vk.flow_warp(**arguments))
    assert not both[:, :3].any()
    assert not both[:, 8:].any()


# Packing


def test_packed_weights_are_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And anew for another array or setting, or after clear()."""
    packings = []
    original = vk._numpy.pack
    monkeypatch.setattr(vk._numpy, "pack", lambda *args: packings.append(1) or original(*args))
    x, weight, slope = draw(1, (1, 8, 5, 5)), draw(2, (12, 8, 3, 3)), draw(3, (12,))
    packed = vk.PackedWeights()

    def count(**settings: Any) -> int:
        before = len(packings)
        given = {"weight": weight, "packed": packed} | settings
        expected = vk.conv3x3(x, **{key: value for key, value in given.items() if key not in ("packed", "slot")})
        assert np.array_equal(vk.conv3x3(x, **given), expected)
        return len(packings) - before

    assert [count(), count(), count(slot=1), count(), count(slot=1)] == [1, 0, 1, 0, 0]
    assert [count(activation="relu"), count(activation="relu"), count()] == [1, 0, 1]
    assert [count(activation="prelu", slope=slope), count(activation="prelu", slope=slope)] == [1, 0]
    assert [count(activation="prelu", slope=slope.copy()), count(pixel_shuffle=2), count(), count()] == [1, 1, 1, 0]
    assert [count(weight=weight.copy()), count(weight=weight)] == [1, 1]
    packed.clear()
    assert count() == 1
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert count(packed=other) == 1


def test_packed_blocks() -> None:
    packed = vk.PackedWeights()
    for call in SMALL:
        if call[0].endswith("block") or call[0] == "sparse_conv3x3":
            packed.clear()
            for _ in range(2):
                assert np.array_equal(getattr(vk, call[0])(**call[1], packed=packed), run(call))


def test_a_packing_of_other_weights_is_refused() -> None:
    """The private call answers for its buffers, whoever makes it."""
    x, weight = np.zeros((1, 2, 2, 8), np.float32).transpose(0, 3, 1, 2), np.zeros((8, 8, 3, 3), np.float32)
    small = vk.PackedWeights().get(0, weight[:2], None)
    rest = (None, None, 0.0, None, None, None, "none", 1.0, 1, "float32")
    with pytest.raises(ValueError, match="the packing is of other weights"):
        vk._numpy.conv3x3(x.copy(), x, weight, *rest, small)


# Threads


def test_results_do_not_depend_on_threads() -> None:
    work = calls(2, 24, 40, 50)
    expected = [run(call) for call in work]
    for count in (2, 3, 8):
        vk.set_num_threads(count)
        assert vk.get_num_threads() == count
        for call, one in zip(work, expected, strict=True):
            assert np.array_equal(run(call), one)


def test_many_callers() -> None:
    """Only one of them has the threads at a time; every result is right."""
    vk.set_num_threads(3)
    work = calls(1, 16, 24, 24)
    expected = [run(call) for call in work]
    wrong: list[str] = []

    def caller() -> None:
        for call, one in [*zip(work, expected, strict=True)] * 5:
            if not np.array_equal(run(call), one):
                wrong.append(call[0])

    threads = [threading.Thread(target=caller) for _ in range(4)]
    for thread in threads:
        thread.start()
    for count in (1, 2, 3, 4):
        vk.set_num_threads(count)
    for thread in threads:
        thread.join()
    assert not wrong


def test_other_threads_run_meanwhile() -> None:
    """A thread takes steps in the middle of a kernel; without the interpreter's lock it would wait for the end."""
    image = laid_out(draw(1, (1, 64, 256, 256)), "channels_last")
    out, weight = np.zeros((1, 256, 256, 64), np.float32).transpose(0, 3, 1, 2), draw(2, (64, 64, 3, 3))
    rest = (None, None, 0.0, None, None, None, "none", 1.0, 1, "float32", None)
    steps: list[float] = []
    stop = threading.Event()

    def walk() -> None:
        while not stop.wait(0.001):
            steps.append(time.perf_counter())

    def steps_in_the_middle() -> int:
        start = time.perf_counter()
        vk._numpy.conv3x3(out, image, weight, *rest)
        end = time.perf_counter()
        quarter = (end - start) / 4
        return sum(start + quarter < step < end - quarter for step in steps)

    walker = threading.Thread(target=walk)
    walker.start()
    try:
        assert any(steps_in_the_middle() for _ in range(5))  # machines may be busy
    finally:
        stop.set()
        walker.join()


def test_a_forked_child_has_threads_of_its_own() -> None:
    """The workers do not come along; waiting for them to end would be for ever."""
    vk.set_num_threads(3)
    call = calls(1, 16, 24, 24)[0]
    expected = run(call)
    child = os.fork()
    if child == 0:
        vk.set_num_threads(2)
        os._exit(0 if np.array_equal(run(call), expected) else 1)
    limit = time.monotonic() + 30
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < limit:
        time.sleep(0.01)
    if done == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert done == (child, 0)


@pytest.mark.parametrize(
    ("count", "kind", "message"),
    [
        (0, ValueError, "set_num_threads: count: expected an integer >= 1, got 0"),
        (2.0, TypeError, "set_num_threads: count: expected an integer, got float"),
        (True, TypeError, "set_num_threads: count: expected an integer, got bool"),
    ],
)
def test_thread_counts_that_are_none(count: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        vk.set_num_threads(count)
    assert str(caught.value) == message


def test_the_instruction_set_is_torchs() -> None:
    assert vk.cpu_isa() == vsr_kernels.cpu_isa()
