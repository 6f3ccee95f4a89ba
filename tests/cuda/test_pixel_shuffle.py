"""The CUDA pixel shuffle, launch code included, on the CPU: every byte right, in bounds and written by one block."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

import ptxvm
from ptxvm.cudart import Library

Array = npt.NDArray[np.unsignedinteger]
DTYPES = {2: np.uint16, 4: np.uint32, 8: np.uint64}
INVALID_VALUE, INVALID_CONFIGURATION = 1, 9

# (N, C, H, W) with C after and H, W before the shuffle. 8 and 16 hold whole vectors of 16 bytes of every size.
SHAPES = [(1, 8, 3, 16), (2, 16, 5, 8), (1, 3, 5, 7), (2, 1, 1, 1), (3, 5, 2, 33)]


@pytest.fixture(scope="module")
def shuffle(library: Callable[[str], Library]) -> Library:
    return library("pixel_shuffle_call")


def problem(shape: tuple[int, int, int, int], r: int, size: int) -> tuple[Array, Array]:
    """A packed tensor (N, C r^2, H, W) and the shuffled one (N, C, H r, W r)."""
    n, c, h, w = shape
    packed = np.random.default_rng(r).integers(0, 256, (n, c * r * r, h, w, size), np.uint8).view(DTYPES[size])[..., 0]
    shuffled = packed.reshape(n, c, r, r, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c, h * r, w * r)
    return packed, shuffled


def in_memory(x: Array, channels_last: bool, misaligned: bool = False) -> Array:
    """The elements in the order of memory, from the start of a sector of 32 bytes or one element behind it."""
    ordered = np.ascontiguousarray(x.transpose(0, 2, 3, 1) if channels_last else x).reshape(-1)
    backing = np.empty(ordered.size + 64 // x.itemsize, x.dtype)
    first = -(backing.ctypes.data // x.itemsize) % (32 // x.itemsize) + misaligned
    placed = backing[first : first + ordered.size]
    placed[:] = ordered
    return placed


def family_of(shape: tuple[int, int, int, int], r: int, size: int, last: bool) -> str:
    """The kernels that take dense and aligned tensors, but for pixels too large to be staged."""
    _, c, _, w = shape
    if r in (2, 3, 4) and (c if last else w) % (16 // size) == 0:
        return "channels_last" if last else "contiguous"
    if not last:
        return "elements"
    return "colours" if (c, r) == (3, 4) and size <= 4 and w * size % 4 == 0 else "rows"


def call(
    library: Library, source: Array, target: Array, shape: tuple[int, ...], r: int, size: int, last: bool, inverse: bool
) -> int:
    numbers = [ctypes.c_int64(value) for value in (*shape, r, size)]
    code: int = library.call("pixel_shuffle", source, target, *numbers, int(last), int(inverse))
    return code


@pytest.mark.parametrize("inverse", [False, True], ids=["shuffle", "unshuffle"])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("r", range(1, 6))
@pytest.mark.parametrize("size", DTYPES)
def test_every_byte(shuffle: Library, size: int, r: int, last: bool, inverse: bool) -> None:
    for shape in SHAPES:
        packed, shuffled = problem(shape, r, size)
        source = in_memory(shuffled if inverse else packed, last)
        expected = in_memory(packed if inverse else shuffled, last)
        target = ptxvm.poison(in_memory(expected.reshape(1, -1, 1, 1), False))
        assert call(shuffle, source, target, shape, r, size, last, inverse) == 0
        assert (target == expected).all()
        launch = shuffle.launches[-1]
        assert f"shuffle_{family_of(shape, r, size, last)}_kernel" in launch.kernel
        stats = launch.stats
        assert stats.unwritten(target) == 0
        assert stats.global_load_bytes == stats.unique_read_bytes == source.nbytes
        assert stats.global_store_bytes == stats.unique_write_bytes == target.nbytes


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("which", ["source", "target"])
def test_addresses_that_are_no_multiple_of_16(shuffle: Library, which: str, last: bool) -> None:
    shape, r, size = (1, 8, 3, 16), 2, 2
    packed, shuffled = problem(shape, r, size)
    source = in_memory(packed, last, misaligned=which == "source")
    expected = in_memory(shuffled, last)
    target = ptxvm.poison(in_memory(expected.reshape(1, -1, 1, 1), False, misaligned=which == "target"))
    assert call(shuffle, source, target, shape, r, size, last, False) == 0
    assert (target == expected).all()
    assert f"shuffle_{'rows' if last else 'elements'}_kernel" in shuffle.launches[-1].kernel


@pytest.mark.parametrize("inverse", [False, True], ids=["shuffle", "unshuffle"])
@pytest.mark.parametrize(
    ("shape", "r", "size", "family"),
    [
        ((2, 3, 4, 400), 4, 2, "colours"),  # the last layer of a network: several stretches of a row
        ((1, 3, 3, 401), 4, 2, "rows"),  # rows that are no whole vectors
        ((2, 3, 2, 131), 4, 4, "colours"),
        ((1, 3, 2, 400), 4, 8, "rows"),
        ((1, 3, 2, 408), 2, 2, "rows"),
        ((1, 7, 2, 24), 5, 4, "rows"),
        ((1, 1001, 1, 4), 3, 2, "rows"),  # more of one pixel than is good
        ((1, 1001, 1, 2), 5, 2, "elements"),  # a pixel that shared memory cannot hold
    ],
)
def test_few_channels(
    shuffle: Library, shape: tuple[int, int, int, int], r: int, size: int, family: str, inverse: bool
) -> None:
    packed, shuffled = problem(shape, r, size)
    source, expected = (
        in_memory(shuffled if inverse else packed, True),
        in_memory(packed if inverse else shuffled, True),
    )
    target = ptxvm.poison(in_memory(expected.reshape(1, -1, 1, 1), False))
    assert call(shuffle, source, target, shape, r, size, True, inverse) == 0
    assert (target == expected).all()
    assert f"shuffle_{family}_kernel" in shuffle.launches[-1].kernel
    stats = shuffle.launches[-1].stats
    assert stats.unwritten(target) == 0
    assert stats.global_load_bytes == stats.unique_read_bytes == source.nbytes


@pytest.mark.parametrize("inverse", [False, True], ids=["shuffle", "unshuffle"])
@pytest.mark.parametrize("size", [2, 4])
def test_three_colours_by_four_cost_what_they_must(shuffle: Library, size: int, inverse: bool) -> None:
    """No bank conflicts, in whole stretches and in the last one of a row; every sector is asked of memory once."""
    shape, r = (1, 3, 3, 320), 4
    packed, shuffled = problem(shape, r, size)
    source, target = (in_memory(x, True) for x in ((shuffled, packed) if inverse else (packed, shuffled)))
    assert call(shuffle, source, target, shape, r, size, True, inverse) == 0
    stats = shuffle.stats
    assert stats.blocks > 3
    assert stats.shared_wavefronts == stats.shared_ideal_wavefronts
    assert 32 * stats.global_load_sectors == 32 * stats.global_store_sectors == source.nbytes


def test_problems_without_elements_launch_nothing(shuffle: Library) -> None:
    before = len(shuffle.launches)
    x = np.zeros(1, np.uint16)
    for shape in [(0, 8, 3, 16), (1, 0, 3, 16), (1, 8, 0, 16), (1, 8, 3, 0), (0, 3, 3, 16)]:
        for last, r in ((False, 2), (True, 2), (True, 4)):
            assert call(shuffle, x, x, shape, r, 2, last, False) == 0
    assert len(shuffle.launches) == before


def test_what_cannot_be_launched_is_an_error(shuffle: Library) -> None:
    x = np.zeros(1, np.uint16)
    assert call(shuffle, x, x, (1, 1, 1, 1), 1, 3, False, False) == INVALID_VALUE
    assert call(shuffle, x, x, ((1 << 40) + 1, 1, 1, 1), 1, 2, False, False) == INVALID_CONFIGURATION


def test_several_blocks_read_no_sector_twice(shuffle: Library) -> None:
    """Whole sectors on both sides: what the vectors of a block do not share is asked of memory once."""
    shape, r, size = (1, 16, 32, 64), 2, 2
    packed, shuffled = problem(shape, r, size)
    for last in (False, True):
        source, expected = in_memory(packed, last), in_memory(shuffled, last)
        target = ptxvm.poison(in_memory(expected.reshape(1, -1, 1, 1), False))
        assert call(shuffle, source, target, shape, r, size, last, False) == 0
        assert (target == expected).all()
        stats = shuffle.stats
        assert stats.blocks > 1
        assert 32 * stats.block_load_sectors == source.nbytes
        assert 32 * stats.block_store_sectors == target.nbytes
