"""All rows of the table, and those that gates hold."""

from __future__ import annotations

from . import block, conv, gradient, shuffle, warp
from .case import Case
from .conv import Conv
from .shuffle import Shuffle

SIZE = (180, 320)  # of the LR frames of the usual benchmarks
LARGE = (360, 640)


def table_cases() -> list[Case]:
    """The rows of docs/gpu-model.md: what a caller gets, with the tile that the launcher chooses for the device."""
    return [
        conv.case("conv64", "conv 64→64 + ReLU, 180x320", Conv(64, 64, *SIZE)),
        conv.case(
            "conv64-residual",
            "conv 64→64 + PReLU + residual, 180x320",
            Conv(64, 64, *SIZE, activation="prelu", residual=True),
        ),
        conv.case("tail", "conv 64→48 + pixel_shuffle(4), 180x320", Conv(64, 48, *SIZE, r=4, activation="none")),
        conv.case("conv32", "conv 32→32 + ReLU, 360x640", Conv(32, 32, *LARGE)),
        block.fused_case("block64", 64, *SIZE),
        block.two_case("block64-two", 64, *SIZE),
        block.fused_case("block32", 32, *LARGE),
        block.two_case("block32-two", 32, *LARGE),
        conv.sparse_case("sparse", *SIZE),
        warp.case("warp", *SIZE, gradient=False),
        gradient.case("gradient", 64, 64, *SIZE),
        warp.case("warp-gradient", *SIZE, gradient=True),
        shuffle.case("shuffle", Shuffle(256, 2, *SIZE)),
        shuffle.case("shuffle-thin", Shuffle(48, 4, *SIZE)),
    ]


def gate_cases(h: int, w: int) -> list[Case]:
    """The rows that gates hold, with the tile that does most work per instruction."""
    return [
        conv.case("conv64", f"conv 64→64, {h}x{w}, tile 16x16", Conv(64, 64, h, w, height=16)),
        conv.case("conv64-low", f"conv 64→64, {h}x{w}, tile 10x16", Conv(64, 64, h, w, height=10), baseline=False),
        conv.case(
            "conv64-residual",
            f"conv 64→64 + PReLU + residual, {h}x{w}, tile 16x16",
            Conv(64, 64, h, w, activation="prelu", residual=True, height=16),
        ),
        conv.case(
            "tail",
            f"conv 64→48 + pixel_shuffle(4), {h}x{w}, tile 16x16",
            Conv(64, 48, h, w, r=4, activation="none", height=16),
        ),
        conv.case("conv32", f"conv 32→32, {h}x{w}, tile 16x32", Conv(32, 32, h, w, height=16)),
        block.fused_case("block64", 64, h, w, height=14),
        block.fused_case("block32", 32, h, w, height=14),
        conv.sparse_case("sparse", h, w),
        warp.case("warp", h, w, gradient=False),
        gradient.case("gradient", 64, 64, h, w),
        warp.case("warp-gradient", h, w, gradient=True),
        shuffle.case("shuffle", Shuffle(256, 2, h, w)),
        shuffle.case("shuffle-thin", Shuffle(48, 4, h, w)),
    ]
