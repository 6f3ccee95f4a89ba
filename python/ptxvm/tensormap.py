"""Tensor maps and cp.async.bulk.tensor (tile mode, no interleave).

``encode`` plays the part of cuTensorMapEncodeTiled: it makes the 128 opaque bytes that a
kernel receives as a CUtensorMap.  The layout of those bytes is private to this package.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from .aliases import Array, Decoded
from .errors import KernelFault, LaunchError, Unsupported
from .mbarrier import barrier_keys, complete_bytes, publish
from .syntax import Group
from .wgmma import swizzle

if TYPE_CHECKING:
    from .machine import Machine
    from .program import Program
    from .syntax import Instruction

FORMAT = "<4sHHQ5Q5Q5H2x"
MAGIC = b"TMAP"
#: (address, shape, strides, box, element size, swizzle width)
MapFields: TypeAlias = tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...], int, int]


def encode(
    address: int,
    shape: Sequence[int],
    box: Sequence[int],
    itemsize: int,
    strides: Sequence[int] | None = None,
    swizzle_bytes: int = 16,
) -> bytes:
    """Bytes of a tensor map; ``shape``, ``box`` and ``strides`` (bytes) start with the innermost dimension.

    ``swizzle_bytes``: 16 (none), 32, 64 or 128.
    """
    rank = len(shape)
    if strides is None:
        strides = [itemsize]
        for extent in shape[:-1]:
            strides.append(strides[-1] * extent)
    if box[0] * itemsize % 16 or any(b > 256 for b in box) or any(s % 16 for s in strides[1:]) or address % 16:
        raise LaunchError(
            "cudaErrorInvalidValue", "a tensor map needs 16-byte rows, strides and address, boxes up to 256"
        )
    if swizzle_bytes > 16 and box[0] * itemsize > swizzle_bytes:
        raise LaunchError("cudaErrorInvalidValue", "the inner box is wider than the swizzle")
    ones = [1] * (5 - rank)
    fields = (*shape, *ones, *strides, *ones, *box, *ones)
    packed = struct.pack(FORMAT, MAGIC, rank, swizzle_bytes << 4 | itemsize, address, *fields)
    return packed.ljust(128, b"\0")


def decode_map(data: bytes) -> MapFields:
    """The fields of a map made by ``encode``."""
    magic, rank, packed, address, *rest = struct.unpack(FORMAT, data[: struct.calcsize(FORMAT)])
    if magic != MAGIC:
        raise KernelFault("this is not a tensor map made by tensormap.encode", 0)
    shape, strides, box = (tuple(rest[first : first + rank]) for first in (0, 5, 10))
    return address, shape, strides, box, packed & 15, packed >> 4


def box_cells(
    shape: Sequence[int], strides: Sequence[int], box: Sequence[int], start: Sequence[int]
) -> tuple[Array, Array]:
    """Per element of the box, innermost fastest: (inside the tensor, byte offset)."""
    grids = np.meshgrid(*[np.arange(b) + s for b, s in zip(box[::-1], start[::-1], strict=True)], indexing="ij")[::-1]
    inside = np.ones(grids[0].shape, bool)
    offset = np.zeros(grids[0].shape, np.int64)
    for index, extent, stride in zip(grids, shape, strides, strict=True):
        inside &= (index >= 0) & (index < extent)
        offset += index * stride
    return inside.reshape(-1), offset.reshape(-1)


def tensor_copy(program: Program, ins: Instruction) -> Decoded:
    """cp.async.bulk.tensor in either direction, done at once."""
    if ins.has("im2col", "tile::gather4", "multicast::cluster"):
        raise Unsupported("this form of bulk tensor copy")
    groups = [a for a in ins.args if isinstance(a, Group)]
    map_address = program.address(groups[0].items[0])
    coordinates = [program.reader(c, "s32") for c in groups[0].items[1].items]
    to_shared = not isinstance(ins.args[0], Group)
    shared = program.address(ins.args[0] if to_shared else ins.args[1])
    barrier = program.address(ins.args[2]) if to_shared else None
    spaces = [m for m in ins.mods if m.startswith("shared")]
    if not spaces:
        raise Unsupported("bulk tensor copy without shared memory")

    def run(m: Machine) -> None:
        maps, targets = map_address(m), shared(m)
        starts = [np.broadcast_to(c(m), (m.count,)) for c in coordinates]
        keys = barrier_keys(m, barrier) if barrier else []
        for position in range(m.count):
            where = np.array([position])
            start = [int(s[position]) for s in starts]
            description = m.run_on(where, functools.partial(read_map, m, maps[where]))
            count = m.run_on(
                where, functools.partial(move_box, m, description, start, int(targets[position]), to_shared)
            )
            if keys:
                m.run_on(where, functools.partial(publish, m, [keys[position]]))
                complete_bytes(m, keys[position], position, count)

    return run


def read_map(m: Machine, address: Array) -> MapFields:
    """The tensor map at one address, read by the single active lane."""
    words = [int(m.load("generic", address + np.uint64(8 * index), 8, 1)[0]) for index in range(16)]
    return decode_map(np.array(words, np.uint64).tobytes())


def move_box(m: Machine, description: MapFields, start: Sequence[int], shared: int, to_shared: bool) -> int:
    """Copy one box for the single active lane; returns its size in bytes."""
    address, shape, strides, box, size, width = description
    inside, offset = box_cells(shape, strides, box, start)
    cells = len(inside)
    where = np.uint64(address) + offset.astype(np.uint64)
    place = swizzle(shared + np.arange(cells) * size, width).astype(np.uint64)
    lane = int(m.active_lanes()[0])
    flat = m.shared.flatten(np.full(cells, m.block_of[lane]), place, size)
    kept = np.flatnonzero(inside)
    m.sel, m.count = np.full(len(kept), lane), len(kept)
    if to_shared:
        values = np.zeros(cells, f"u{size}")
        if len(kept):
            values[kept] = m.load("global", where[kept], size, 1)
        if m.shadow:
            m.shadow.write(flat, size, np.full(cells, lane))
        m.shared.store(flat, values, size)
    elif len(kept):
        if m.shadow:
            m.shadow.read(flat[kept], size, m.sel)
        m.store("global", where[kept], m.shared.load(flat, size)[kept], size, 1)
    return cells * size
