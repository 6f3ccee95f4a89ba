"""How a convolution is cut into blocks, as csrc/core/conv3x3.h has it; the kernels' sources assert these figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .launch import Limits, element_bytes

#: Shared memory that the system takes of each block, and blocks that registers leave on a multiprocessor.
_RESERVED, _BLOCKS = 1024, 3


class Layout(NamedTuple):
    """The layout of a convolution: ``Conv3x3Layout``."""

    c_in: int
    c_out: int
    r: int
    element_bytes: int
    parts: int

    @classmethod
    def of(cls, c_in: int, c_out: int, r: int, dtype: str, exact: bool) -> Layout:
        """Of a convolution; ``exact`` says how float32 is multiplied."""
        return cls(c_in, c_out, r, element_bytes(dtype), 2 if dtype == "float32" and exact else 1)

    @property
    def columns(self) -> int:
        """Output channels of a block."""
        for columns in (8, 16, 32, 48):
            if self.c_out <= columns:
                return columns
        return 48 if -(-self.c_out // 48) * 48 < -(-self.c_out // 64) * 64 else 64

    @property
    def column_blocks(self) -> int:
        """Blocks that share the output channels of a tile."""
        return -(-self.c_out // self.columns)

    @property
    def width(self) -> int:
        """Pixels of a row of a tile."""
        return 16 if self.columns >= 48 else 32

    @property
    def heights(self) -> tuple[int, ...]:
        """Rows that a tile may have."""
        if self.element_bytes == 4:
            return (8,)
        return (8, 10, 12, 14, 16) if self.columns == 64 else (8, 12, 16) if self.columns >= 32 else (8, 16)

    @property
    def run_bytes(self) -> int:
        """What a pixel writes side by side."""
        return self.c_out // self.r * self.element_bytes

    @property
    def vectors(self) -> bool:
        """Whether that is whole vectors of 16 bytes."""
        return self.run_bytes % 16 == 0

    @property
    def packed_columns(self) -> int:
        """Columns with a bias and a slope."""
        return self.column_blocks * self.columns

    @property
    def packed_weights(self) -> int:
        """Bytes of the packed weights alone."""
        return self.column_blocks * sum(self._stages()) * self._stage_bytes

    @property
    def packed_bytes(self) -> int:
        """Bytes of packed weights, biases and slopes."""
        return self.packed_weights + 8 * self.packed_columns

    @property
    def _pixel_bytes(self) -> int:
        return 128 if self.columns >= 48 else 64

    @property
    def _stage_bytes(self) -> int:
        return (1 if self.columns >= 32 else 2) * 3 * self.parts * self.columns * 32

    def _read_bytes(self, rows: int) -> int:
        """A tile with its halo, and the stages of weights that are there or on their way."""
        stages = 4 if self.parts == 1 else 2
        return (rows + 2) * (self.width + 2) * self._pixel_bytes + stages * self._stage_bytes

    def _assembled_bytes(self, rows: int) -> int:
        """The sums of a tile, and the places of 64 channels."""
        return (rows * self.width * self.columns + 64) * 4

    def _stages(self) -> Iterator[int]:
        """Of each block of input channels."""
        block, step = self._pixel_bytes // self.element_bytes, 32 // self.element_bytes
        step *= 1 if self.columns >= 32 else 2
        for first in range(0, max(self.c_in, 1), block):
            channels = max(1, min(block, self.c_in - first))
            yield 3 * -(-channels // step)

    def shared_bytes(self, rows: int, listed: bool) -> int:
        """Dynamic shared memory of a block; ``listed``: outputs go to a list of channels."""
        needed = [self._read_bytes(rows)]
        if not self.vectors and self.column_blocks == 1:
            needed.append(rows * self.r * (-(-self.width * self.run_bytes // 16) * 16 + 32))
        if listed or not (self.vectors or self.column_blocks == 1):
            needed.append(self._assembled_bytes(rows))
        return max(needed)

    def rows(self, n: int, h: int, w: int, listed: bool, limits: Limits) -> int:
        """Rows of a tile with the least work on the busiest multiprocessor: ``conv_tile_height``; 0 if none fits."""
        best: tuple[int, int] | None = None
        chosen = 0
        for rows in self.heights:
            shared = max(self._read_bytes(rows), self._assembled_bytes(rows) if listed else 0)
            if shared > limits.shared_per_block:
                continue
            tiles = n * self.column_blocks * -(-h // rows) * -(-w // self.width)
            cost = -(-tiles // limits.multiprocessors) * (rows + 1)
            blocks = min(limits.shared_per_multiprocessor // (shared + _RESERVED), _BLOCKS)
            if best is None or (cost, -blocks) < best:
                best, chosen = (cost, -blocks), rows
        return chosen
