"""What the argument checks of all interfaces share: one message form, the names of modes, shapes. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ACTIVATIONS = ("none", "relu", "leaky_relu", "prelu")
INTERPOLATIONS = ("bilinear", "nearest")
PADDINGS = ("zeros", "border")


def fail(op: str, argument: str, expected: str, given: object, kind: type[Exception] = ValueError) -> None:
    """Raise ``kind`` with the one message form that all operators use."""
    raise kind(f"{op}: {argument}: expected {expected}, got {given}")


def shaped(op: str, name: str, t: Any, shape: Sequence[int | None], meaning: str) -> None:
    """Check the shape of a tensor or an array; None stands for any size. ``meaning`` is the shape in words."""
    given = tuple(t.shape)
    if len(given) != len(shape) or any(
        want is not None and got != want for got, want in zip(given, shape, strict=True)
    ):
        numbers = "(" + ", ".join("*" if s is None else str(s) for s in shape) + ("," if len(shape) == 1 else "") + ")"
        fail(op, name, f"shape {numbers} = {meaning}", given)


def distinct_channels(op: str, name: str, channels: Sequence[int], limit: int) -> None:
    """Check channel numbers: in [0, limit), none twice."""
    outside = [c for c in channels if not 0 <= c < limit]
    if outside:
        fail(op, name, f"channel numbers in [0, {limit})", outside[:5])
    if len(set(channels)) != len(channels):
        twice = sorted(c for c in set(channels) if channels.count(c) > 1)
        fail(op, name, "distinct channel numbers", twice[:5])


def warp_mode(op: str, interpolation: str, padding: str) -> None:
    """Check how a warp reads between pixels and outside of the image."""
    if interpolation not in INTERPOLATIONS:
        fail(op, "interpolation", " or ".join(INTERPOLATIONS), repr(interpolation))
    if padding not in PADDINGS:
        fail(op, "padding", " or ".join(PADDINGS), repr(padding))
