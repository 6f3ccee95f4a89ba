"""The networks of the benchmark, written once; every peer runs or records them through its own :class:`Ops`.

Tensors are logical (1, C, H, W). Parameters are found by name, under the keys of the public checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Ops(Protocol[T]):
    """The operators that the networks are made of, on whatever a peer calls a tensor."""

    def conv(self, x: T, name: str) -> T:
        """Convolution with ``name.weight`` (C_out, C_in, k, k), ``name.bias`` and padding k // 2."""

    def rounded(self, x: T, name: str) -> T:
        """x as uint8: rounded, plus ``name.zero_point``, clamped; what reads it sees that zero point as zero."""

    def int8_conv(self, x: T, name: str) -> T:
        """Convolution of a rounded x with ``name.weight`` (int8) times ``name.scale`` (C_out,), and ``name.bias``."""

    def relu(self, x: T) -> T:
        """max(x, 0); x is not used again."""

    def leaky_relu(self, x: T, slope: float) -> T:
        """x is not used again."""

    def prelu(self, x: T, name: str) -> T:
        """With the slopes ``name.weight`` (C,)."""

    def add(self, x: T, y: T) -> T:
        """x + y."""

    def affine(self, x: T, scale: Sequence[float], shift: Sequence[float]) -> T:
        """x * scale + shift, by channel."""

    def concat(self, parts: Sequence[T]) -> T:
        """Side by side in channels."""

    def pixel_shuffle(self, x: T, r: int) -> T:
        """(C r^2, H, W) -> (C, r H, r W)."""

    def nearest(self, x: T, factor: int) -> T:
        """Enlarged by repetition."""

    def bilinear(self, x: T, factor: int, align_corners: bool) -> T:
        """Enlarged by bilinear interpolation."""

    def halve(self, x: T) -> T:
        """Means of 2x2 pixels."""

    def warp(self, x: T, flow: T, padding: str) -> T:
        """x at its pixel grid plus flow (2, H, W) in pixels; ``zeros`` or ``border`` outside."""

    def zeros(self, channels: int, like: T) -> T:
        """(channels, H, W) of ``like``, in the working precision."""

    def gather(self, x: T, name: str) -> T:
        """The channels that ``name`` lists."""

    def scatter_add(self, x: T, name: str, y: T) -> T:
        """x with y added to the channels that ``name`` lists."""

    def narrow(self, x: T) -> T:
        """In the working precision, where a peer leaves that to its user."""

    def wide(self, x: T) -> T:
        """In float32, where a peer leaves that to its user."""

    def part(self, function: Callable[..., T], *arguments: Any) -> T:
        """``function(self, *arguments)``: a part that occurs several times and may be compiled once."""


Network = Callable[..., Sequence[Any]]


def compact(ops: Ops[T], x: T, *, convs: int, scale: int) -> list[T]:
    """SRVGGNetCompact of Real-ESRGAN: ``convs`` convolutions with PReLU, one more, pixel shuffle, skip."""
    y = x = ops.narrow(x)
    for index in range(convs):
        y = ops.prelu(ops.conv(y, f"body.{2 * index}"), f"body.{2 * index + 1}")
    y = ops.pixel_shuffle(ops.conv(y, f"body.{2 * convs}"), scale)
    return [ops.add(y, ops.nearest(x, scale))]


def compact_int8(ops: Ops[T], x: T, *, convs: int, scale: int) -> list[T]:
    """The same, all but the first convolution in int8; numbers between layers are in quanta."""
    y = ops.prelu(ops.conv(ops.narrow(x), "body.0"), "slope.0")
    for index in range(1, convs):
        y = ops.prelu(ops.int8_conv(ops.rounded(y, f"body.{index}"), f"body.{index}"), f"slope.{index}")
    y = ops.int8_conv(ops.rounded(y, f"body.{convs}"), f"body.{convs}")
    return [ops.add(ops.pixel_shuffle(y, scale), ops.nearest(x, scale))]


def chain(ops: Ops[T], x: T, *, blocks: int, prefix: str = "") -> list[T]:
    """Residual blocks: convolution, ReLU, convolution, sum."""
    for index in range(blocks):
        y = ops.relu(ops.conv(x, f"{prefix}{index}.conv1"))
        x = ops.add(x, ops.conv(y, f"{prefix}{index}.conv2"))
    return [x]


def pruned_chain(ops: Ops[T], x: T, *, blocks: int) -> list[T]:
    """Residual blocks that read and write kept channels only."""
    for index in range(blocks):
        y = ops.relu(ops.conv(ops.gather(x, f"{index}.in_kept"), f"{index}.conv1"))
        x = ops.scatter_add(x, f"{index}.out_kept", ops.conv(y, f"{index}.conv2"))
    return [x]


def trunk(ops: Ops[T], x: T, *, blocks: int, prefix: str = "main.") -> list[T]:
    """BasicVSR's trunk: convolution, leaky ReLU, residual blocks."""
    x = ops.leaky_relu(ops.conv(x, f"{prefix}0"), 0.1)
    return chain(ops, x, blocks=blocks, prefix=f"{prefix}2.")


def flow_warp(ops: Ops[T], x: T, flow: T) -> list[T]:
    """Backward warp, zeros outside."""
    return [ops.warp(x, flow, "zeros")]


def pixel_shuffle(ops: Ops[T], x: T) -> list[T]:
    """By 2."""
    return [ops.pixel_shuffle(x, 2)]


def basicvsr(ops: Ops[T], *frames: T, width: int, blocks: int) -> list[T]:
    """BasicVSR x4 on frames whose sides are multiples of 32, which SPyNet takes without resizing."""
    images = [ops.narrow(frame) for frame in frames]
    state = ops.zeros(width, frames[0])
    behind = []
    for i in reversed(range(len(frames))):
        if i + 1 < len(frames):
            state = ops.warp(state, ops.part(_spynet, frames[i], frames[i + 1]), "zeros")
        state = ops.part(_propagate, "backward_trunk", blocks, images[i], state)
        behind.append(state)
    state = ops.zeros(width, frames[0])
    outputs = []
    for i in range(len(frames)):
        if i > 0:
            state = ops.warp(state, ops.part(_spynet, frames[i], frames[i - 1]), "zeros")
        state = ops.part(_propagate, "forward_trunk", blocks, images[i], state)
        outputs.append(ops.part(_reconstruct, frames[i], behind[-1 - i], state))
    return outputs


def _propagate(ops: Ops[T], name: str, blocks: int, image: T, state: T) -> T:
    return trunk(ops, ops.concat([image, state]), blocks=blocks, prefix=f"{name}.main.")[0]


def _reconstruct(ops: Ops[T], frame: T, behind: T, ahead: T) -> T:
    y = ops.leaky_relu(ops.conv(ops.concat([behind, ahead]), "fusion"), 0.1)
    for name in ("upconv1", "upconv2"):
        y = ops.leaky_relu(ops.pixel_shuffle(ops.conv(y, name), 2), 0.1)
    y = ops.conv(ops.leaky_relu(ops.conv(y, "conv_hr"), 0.1), "conv_last")
    return ops.add(ops.bilinear(frame, 4, False), ops.wide(y))


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _spynet(ops: Ops[T], ref: T, supp: T) -> T:
    pyramids = []
    for image in (ref, supp):
        normal = ops.affine(image, [1 / s for s in _STD], [-m / s for m, s in zip(_MEAN, _STD, strict=True)])
        levels = [normal]
        for _ in range(5):
            levels.append(ops.halve(levels[-1]))
        pyramids.append(levels[::-1])
    flow = ops.wide(ops.zeros(2, pyramids[0][0]))
    for level, (a, b) in enumerate(zip(*pyramids, strict=True)):
        warped = b
        if level > 0:
            flow = ops.affine(ops.bilinear(flow, 2, True), [2.0, 2.0], [0.0, 0.0])
            warped = ops.warp(b, flow, "border")
        y = ops.concat([a, warped, flow])
        for layer in range(5):
            y = ops.conv(y, f"spynet.basic_module.{level}.basic_module.{2 * layer}")
            y = ops.relu(y) if layer < 4 else y
        flow = ops.add(flow, ops.wide(y))
    return flow
