"""Simulated memory: global buffers with guard gaps, and per-block shared storage."""

from __future__ import annotations

import bisect
import ctypes

import numpy as np

from .aliases import Array, ScalarType, Values
from .errors import LaunchError, Misaligned, OutOfBounds

# Generic addresses of shared, local and parameter memory live in windows of their
# own, far above any global (or host) address.
SHARED_WINDOW = 1 << 56
LOCAL_WINDOW = 2 << 56
PARAM_WINDOW = 3 << 56
WINDOW_BITS = 56
FIRST_ADDRESS = 0x7F00_0000_0000
GUARD = 4096
UINT: dict[int, ScalarType] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
ONES = {1: np.uint8(1), 2: np.uint16(0x0101), 4: np.uint32(0x01010101), 8: np.uint64(0x0101010101010101)}


class Typed:
    """A flat byte array that can be viewed as rows of ``n`` elements of ``size`` bytes."""

    def __init__(self, data: Array) -> None:
        self.data = data
        self.views: dict[tuple[int, int], Array] = {}

    def view(self, size: int, n: int = 1) -> Array:
        """The bytes as elements of ``size`` bytes, in rows of ``n``."""
        key = (size, n)
        if key not in self.views:
            rows = len(self.data) // (size * n)
            flat = self.data[: rows * size * n].view(UINT[size])
            self.views[key] = flat if n == 1 else flat.reshape(rows, n)
        return self.views[key]

    def load(self, offset: Array, size: int, n: int = 1) -> Array:
        """Elements at byte offsets (already checked): shape (L,) or (L, n)."""
        return self.view(size, n)[offset // (size * n)]

    def store(self, offset: Array, values: Values, size: int, n: int = 1) -> None:
        """Store elements at byte offsets (already checked)."""
        self.view(size, n)[offset // (size * n)] = values


class Region(Typed):
    """One global buffer; ``origin`` is the address of ``data[0]`` (at most ``base``)."""

    def __init__(self, base: int, size: int, data: Array, name: str, origin: int | None = None) -> None:
        super().__init__(data)
        self.base, self.size, self.name = base, size, name
        self.end = base + size
        self.origin = base if origin is None else origin
        self.clear_marks()

    def clear_marks(self) -> None:
        """Forget which bytes were read and written."""
        self.read_marks = self.write_marks = None

    def mark(self, offset: Array, nbytes: int, write: bool) -> None:
        """Remember that ``nbytes`` at each offset were read or written."""
        attribute = "write_marks" if write else "read_marks"
        marks = getattr(self, attribute)
        if marks is None:
            marks = Typed(np.zeros(len(self.data), np.uint8))
            setattr(self, attribute, marks)
        size = min(nbytes, 8)
        n = nbytes // size
        marks.view(size, n)[offset // nbytes] = ONES[size]

    def marked(self, write: bool) -> int:
        """Number of distinct bytes touched so far."""
        marks = self.write_marks if write else self.read_marks
        return 0 if marks is None else int(np.count_nonzero(marks.data))


class Memory:
    """Global memory: buffers at distinct 256-byte-aligned addresses with guard gaps."""

    def __init__(self) -> None:
        self.regions: list[Region] = []  # by address
        self.bases: list[int] = []
        self.top = FIRST_ADDRESS

    def _insert(self, region: Region) -> Region:
        at = bisect.bisect(self.bases, region.base)
        before = self.regions[at - 1] if at else None
        after = self.regions[at] if at < len(self.regions) else None
        if (before and before.end > region.base) or (after and region.end > after.base):
            raise ValueError(f"buffer {region.name} overlaps another one")
        self.regions.insert(at, region)
        self.bases.insert(at, region.base)
        return region

    def _reserve(self, size: int) -> int:
        base = self.top
        self.top += (size + 255) // 256 * 256 + GUARD
        return base

    def alloc(self, nbytes: int, name: str = "buffer", fill: int = 0xCD) -> int:
        """A new buffer filled with ``fill``; returns its device address."""
        base = self._reserve(nbytes)
        data = np.full((nbytes + 31) // 32 * 32, fill, np.uint8)
        self._insert(Region(base, nbytes, data, name))
        return base

    def attach(self, array: Array, name: str = "array") -> int:
        """Make a C-contiguous array readable and writable in place; returns its address."""
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} is not C-contiguous")
        base = self._reserve(array.nbytes)
        self._insert(Region(base, array.nbytes, array.reshape(-1).view(np.uint8), name))
        return base

    def attach_host(self, address: int, nbytes: int, name: str = "host buffer") -> Region:
        """Make host memory visible at its own address (the fake-runtime mode)."""
        origin = address // 32 * 32
        length = (address + nbytes + 31) // 32 * 32 - origin
        data = np.ctypeslib.as_array((ctypes.c_uint8 * length).from_address(origin))
        return self._insert(Region(address, nbytes, data, name, origin))

    def free(self, address: int) -> None:
        """Forget a buffer."""
        at = self.bases.index(address)
        del self.bases[at], self.regions[at]

    def region(self, address: int) -> Region | None:
        """The buffer that contains an address, or None."""
        at = bisect.bisect(self.bases, address) - 1
        if at >= 0 and address < max(self.regions[at].end, self.regions[at].base + 1):
            return self.regions[at]
        return None

    def copy_in(self, address: int, array: Array) -> None:
        """Host to device."""
        region, offset = self._span(address, array.nbytes)
        region.data[offset : offset + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def copy_out(self, address: int, array: Array) -> None:
        """Device to host, into ``array``."""
        region, offset = self._span(address, array.nbytes)
        array.reshape(-1).view(np.uint8)[:] = region.data[offset : offset + array.nbytes]

    def _span(self, address: int, nbytes: int) -> tuple[Region, int]:
        region = self.region(address)
        if region is None or address + nbytes > region.end:
            raise LaunchError("cudaErrorInvalidValue", f"{nbytes} bytes at {address:#x} are not in one buffer")
        return region, address - region.origin

    def resolve(self, address: Array, nbytes: int) -> list[tuple[Region, Array | None, Array]]:
        """Split lane addresses by buffer: yields (region, lane positions or None, offsets)."""
        check_alignment(address, nbytes, "global")
        low, high = int(address.min()), int(address.max())
        region = self.region(low)
        if region is not None and high + nbytes <= region.end:
            return [(region, None, (address - np.uint64(region.origin)).astype(np.int64))]
        return self._resolve_many(address, nbytes)

    def _resolve_many(self, address: Array, nbytes: int) -> list[tuple[Region, Array | None, Array]]:
        at = np.searchsorted(np.array(self.bases, np.uint64), address, side="right") - 1
        ends = np.array([r.end for r in self.regions] + [0], np.uint64)
        bad = (at < 0) | (address + np.uint64(nbytes) > ends[at])
        if bad.any():
            lane = int(np.flatnonzero(bad)[0])
            raise OutOfBounds(self.describe(int(address[lane]), nbytes), lane)
        found: list[tuple[Region, Array | None, Array]] = []
        for index in np.unique(at):
            lanes = np.flatnonzero(at == index)
            region = self.regions[index]
            found.append((region, lanes, (address[lanes] - np.uint64(region.origin)).astype(np.int64)))
        return found

    def describe(self, address: int, nbytes: int) -> str:
        """A sentence about an address that is in no buffer."""
        message = f"{nbytes}-byte global access at {address:#x} is outside every buffer"
        at = bisect.bisect(self.bases, address) - 1
        if at >= 0:
            region = self.regions[at]
            message += f"; it is at byte {address - region.base} of {region.name} ({region.size} bytes)"
        return message


def check_alignment(address: Array, nbytes: int, space: str) -> None:
    """Raise for the first address that is not a multiple of the access size."""
    if nbytes > 1:
        low_bits = np.bitwise_or.reduce(address) & address.dtype.type(nbytes - 1)
        if low_bits:
            lane = int(np.flatnonzero(address & address.dtype.type(nbytes - 1))[0])
            raise Misaligned(f"{nbytes}-byte {space} access at {int(address[lane]):#x} is misaligned", lane)


class BlockStorage(Typed):
    """One equal-sized row of bytes per owner: shared memory per block, local per thread."""

    def __init__(self, owners: int, size: int, space: str) -> None:
        self.size, self.space = size, space
        self.stride = (size + 31) // 32 * 32
        super().__init__(np.full(owners * self.stride, 0xCD, np.uint8))

    def flatten(self, owner: Array, address: Array, nbytes: int) -> Array:
        """Check window-relative addresses and turn them into offsets into ``data``."""
        check_alignment(address, nbytes, self.space)
        address = address.astype(np.int64)
        if len(address) and (int(address.max()) + nbytes > self.size or int(address.min()) < 0):
            lane = int(np.flatnonzero((address + nbytes > self.size) | (address < 0))[0])
            raise OutOfBounds(
                f"{nbytes}-byte {self.space} access at {int(address[lane]):#x} is outside "
                f"the {self.size} bytes of {self.space} memory",
                lane,
            )
        return owner * self.stride + address
