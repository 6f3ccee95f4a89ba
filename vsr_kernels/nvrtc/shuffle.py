"""pixel_shuffle and pixel_unshuffle with their channels and factor as constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..checks import fail
from .launch import MAX_GRID, Arguments, Launch, View, element_bytes, long, longs

#: Threads of a block: kShuffleThreads.
THREADS = 256
#: Channels and factor that have a kernel of their own: ShuffleColours.
COLOURS = (3, 4)
#: Shared memory of a stretch of pixels, at most and for choice: kMost and kGood of choose_stretch.
MOST, GOOD = 48 << 10, 16 << 10

_ELEMENTS = {2: "uint16_t", 4: "uint32_t", 8: "uint64_t"}


@dataclass(frozen=True)
class PixelShuffle:
    """The kernel of a shuffle.

    Attributes:
        size: bytes of an element.
        channels: after the shuffle.
        r: factor.
        channels_last: memory format of both tensors, else contiguous.
        inverse: unshuffle.
        form: which kernel of csrc/cuda/pixel_shuffle_kernel.cuh: ``channels_last``, ``contiguous``, ``colours``,
            ``rows`` or ``elements``.
        pixels: of ``rows``: pixels that are staged at once.
        on_vectors: of ``rows``: whether they are moved in vectors of 16 bytes.
    """

    size: int
    channels: int
    r: int
    channels_last: bool
    inverse: bool
    form: str
    pixels: int = 0
    on_vectors: bool = False

    entry = "pixel_shuffle"

    @property
    def source(self) -> str:
        """CUDA C++ of the kernel ``(source, destination, n, h, w, units, pixels, stretches)``, the last two 32-bit."""
        element, inverse = _ELEMENTS[self.size], str(self.inverse).lower()
        blocks, asserted = "", "true"
        if self.form in ("channels_last", "contiguous"):
            call = f"shuffle_{self.form}<{element}, {self.r}, {inverse}>(p, units)"
            blocks = ", cuda::kShuffleVectorBlocks" if self.form == "channels_last" else ""
        elif self.form == "colours":
            call = f"shuffle_colours<{element}, {inverse}>(p, stretches)"
            blocks = ", cuda::kShuffleColourBlocks"
            asserted = f"cuda::ShuffleColours<{element}>::kPixels == {self.pixels}"
        elif self.form == "rows":
            vectors = str(self.on_vectors).lower()
            call = f"shuffle_rows<{element}, {vectors}, {inverse}>(p, pixels, stretches)"
            stretch = f"cuda::choose_stretch({self.channels}, {self.r}, {self.size}, 0, {vectors})"
            asserted = f"{stretch}.pixels == {self.pixels} && {stretch}.vectors == {vectors}"
        else:
            call = f"shuffle_elements<{element}>(p, units)"
        return "\n".join(
            [
                '#include "cuda/pixel_shuffle_kernel.cuh"',
                "",
                "using namespace vsr;",
                "",
                f"static_assert(cuda::kShuffleThreads == {THREADS});",
                f"static_assert({asserted});",
                "",
                f'extern "C" __global__ void __launch_bounds__(cuda::kShuffleThreads{blocks})',
                f"{self.entry}(const char* source, char* destination, int64_t n, int64_t h, int64_t w, int64_t units,",
                "    int pixels, int stretches) {",
                f"  const PixelShuffle p{{source, destination, n, {self.channels}, h, w, {self.r}, {self.size}, "
                f"{str(self.channels_last).lower()}, {inverse}}};",
                f"  cuda::{call};",
                "}",
                "",
            ]
        )


def pixel_shuffle(x: View, out: View, r: int, *, channels_last: bool, inverse: bool) -> Launch:
    """The launch of a checked call on tensors that are not empty, both dense in one format.

    Args:
        x: (N, C r^2, H, W), or (N, C, r H, r W) if ``inverse``.
        out: the other of the two.
        r: factor.
        channels_last: the format, else contiguous.
        inverse: unshuffle.

    Raises:
        ValueError: the tensors are too large for one launch.
    """
    n, _, h, w = (out if inverse else x).shape
    c = (x if inverse else out).shape[1]
    size = element_bytes(x.dtype)
    form, pixels, on_vectors = _form(size, c, r, w, channels_last, x.on_vectors and out.on_vectors)
    units, stretches, shared = 0, 1, 0
    staged = min(pixels, w)
    if form in ("colours", "rows"):
        stretches = -(-w // staged) if form == "rows" else -(-w // pixels)
        blocks = n * h * stretches
        shared = staged * c * r * r * size if form == "rows" else 0
    else:
        per_vector = 16 // size
        if form == "channels_last":
            units = n * h * w * (c // per_vector)
        elif form == "contiguous":
            units = n * c * r * h * (w // per_vector)
        else:
            units = n * c * r * r * h * w
        blocks = -(-units // THREADS)
    if blocks > MAX_GRID[0]:
        op = "pixel_unshuffle" if inverse else "pixel_shuffle"
        fail(op, "x", f"at most {MAX_GRID[0]} blocks of {THREADS} threads", f"shape {x.shape}")
    kernel = PixelShuffle(size, c, r, channels_last, inverse, form, pixels, on_vectors)
    arguments: Arguments = (x, out, *longs((n, h, w)), long(units), np.int32(staged), np.int32(stretches))
    return Launch(kernel, (blocks, 1, 1), (THREADS, 1, 1), shared, arguments)


def _form(size: int, c: int, r: int, w: int, channels_last: bool, on_vectors: bool) -> tuple[str, int, bool]:
    """As launch_typed in csrc/cuda/pixel_shuffle.cu; the pixels of a stretch, and whether it is moved in vectors."""
    if on_vectors and r in (2, 3, 4) and (c if channels_last else w) * size % 16 == 0:
        return ("channels_last" if channels_last else "contiguous"), 0, False
    if not channels_last:
        return "elements", 0, False
    group = 16 // (COLOURS[1] * size)  # pixels whose channels are whole vectors
    if size <= 4 and on_vectors and (c, r) == COLOURS and w % group == 0:
        return "colours", group * THREADS // COLOURS[1], False
    run = r * c * size
    part = run & -run
    whole = 1 if part >= 16 else 16 // part
    if run * r > MOST:
        return "elements", 0, False
    good = max(1, GOOD // (run * r))
    pixels = whole if good < whole else good // whole * whole
    if on_vectors and w % whole == 0 and pixels * run * r <= MOST:
        return "rows", pixels, True
    return "rows", good, False
