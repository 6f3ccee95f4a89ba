"""Records a network as a list of nodes, for the peers that run graphs, and counts its multiplications."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .networks import Network

Array = NDArray[Any]
Shape = tuple[int, int, int]


class UnsupportedError(Exception):
    """Why a peer cannot run a case."""


@dataclass(frozen=True)
class Blob:
    """An intermediate result of (1, C, H, W)."""

    name: str
    shape: Shape


@dataclass
class Node:
    """One operator: what it reads, what it writes, its settings and its constants."""

    kind: str
    inputs: list[Blob]
    output: Blob
    settings: dict[str, Any] = field(default_factory=dict)


class Recorder:
    """The :class:`cpu_peers.networks.Ops` whose tensors are :class:`Blob`.

    Attributes:
        inputs, outputs: of the recorded network.
        nodes: in an order in which they can run.
        flops: of its convolutions, done directly.
    """

    def __init__(self, network: Network, params: Mapping[str, Array], shapes: Sequence[Shape]) -> None:
        self.params = params
        self.nodes: list[Node] = []
        self.flops = 0
        self.inputs = [Blob(f"input{i}", shape) for i, shape in enumerate(shapes)]
        self.outputs: list[Blob] = list(network(self, *self.inputs))

    def _node(self, kind: str, inputs: Sequence[Blob], shape: Shape, **settings: Any) -> Blob:
        output = Blob(f"{kind}{len(self.nodes)}", shape)
        self.nodes.append(Node(kind, list(inputs), output, settings))
        return output

    def conv(self, x: Blob, name: str) -> Blob:
        """A node with weight and bias."""
        weight, bias = self.params[f"{name}.weight"], self.params[f"{name}.bias"]
        c_out, c_in, k, _ = weight.shape
        _, h, w = x.shape
        self.flops += 2 * c_out * c_in * k * k * h * w
        return self._node("conv", [x], (c_out, h, w), weight=weight, bias=bias)

    def rounded(self, x: Blob, name: str) -> Blob:
        """A node with a zero point."""
        return self._node("rounded", [x], x.shape, zero_point=self.params[f"{name}.zero_point"])

    def int8_conv(self, x: Blob, name: str) -> Blob:
        """A convolution node with scales."""
        made = self.conv(x, name)
        self.nodes[-1].settings["scale"] = self.params[f"{name}.scale"]
        return made

    def relu(self, x: Blob) -> Blob:
        """A leaky ReLU of slope 0."""
        return self.leaky_relu(x, 0.0)

    def leaky_relu(self, x: Blob, slope: float) -> Blob:
        """A node with a slope."""
        return self._node("leaky", [x], x.shape, slope=slope)

    def prelu(self, x: Blob, name: str) -> Blob:
        """A node with slopes."""
        return self._node("prelu", [x], x.shape, slopes=self.params[f"{name}.weight"])

    def add(self, x: Blob, y: Blob) -> Blob:
        """A node of two inputs."""
        return self._node("add", [x, y], x.shape)

    def affine(self, x: Blob, scale: Sequence[float], shift: Sequence[float]) -> Blob:
        """A node with factors and offsets (C,)."""
        return self._node("affine", [x], x.shape, scale=np.array(scale, np.float32), shift=np.array(shift, np.float32))

    def concat(self, parts: Sequence[Blob]) -> Blob:
        """A node of several inputs."""
        return self._node("concat", parts, (sum(part.shape[0] for part in parts), *parts[0].shape[1:]))

    def pixel_shuffle(self, x: Blob, r: int) -> Blob:
        """A node with a factor."""
        c, h, w = x.shape
        return self._node("shuffle", [x], (c // (r * r), h * r, w * r), r=r)

    def nearest(self, x: Blob, factor: int) -> Blob:
        """A resize node."""
        return self._resize(x, factor, "nearest", False)

    def bilinear(self, x: Blob, factor: int, align_corners: bool) -> Blob:
        """A resize node."""
        return self._resize(x, factor, "linear", align_corners)

    def _resize(self, x: Blob, factor: int, mode: str, align_corners: bool) -> Blob:
        c, h, w = x.shape
        settings = {"factor": factor, "mode": mode, "align_corners": align_corners}
        return self._node("resize", [x], (c, h * factor, w * factor), **settings)

    def halve(self, x: Blob) -> Blob:
        """A pooling node."""
        c, h, w = x.shape
        return self._node("halve", [x], (c, h // 2, w // 2))

    def warp(self, x: Blob, flow: Blob, padding: str) -> Blob:
        """A node that samples x on the grid of ``sampling_grid``, which another one makes of the flow."""
        _, h, w = x.shape
        rows, cols = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
        pixel = np.array([2 / (w - 1), 2 / (h - 1)])
        base = np.stack([cols, rows]) * pixel[:, None, None] - 1
        scaled = self.affine(flow, list(pixel), [0.0, 0.0])
        grid = self.add(scaled, self.constant(base.astype(np.float32)))
        return self._node("sample", [x, grid], x.shape, padding=padding)

    def constant(self, value: Array) -> Blob:
        """A node without inputs; ``value`` is (C, H, W)."""
        return self._node("constant", [], value.shape, value=value)

    def zeros(self, channels: int, like: Blob) -> Blob:
        """A constant."""
        return self.constant(np.zeros((channels, *like.shape[1:]), np.float32))

    def gather(self, x: Blob, name: str) -> Blob:
        """A node with channel numbers."""
        return self._pick(x, self.params[name])

    def scatter_add(self, x: Blob, name: str, y: Blob) -> Blob:
        """x plus a gather from y and a channel of zeros."""
        where = np.full(x.shape[0], y.shape[0])
        where[self.params[name]] = np.arange(y.shape[0])
        return self.add(x, self._pick(self.concat([y, self.zeros(1, y)]), where))

    def _pick(self, x: Blob, channels: Array) -> Blob:
        return self._node("gather", [x], (len(channels), *x.shape[1:]), channels=np.array(channels))

    def narrow(self, x: Blob) -> Blob:
        """x: graph peers choose precisions by themselves."""
        return x

    def wide(self, x: Blob) -> Blob:
        """x: graph peers choose precisions by themselves."""
        return x

    def part(self, function: Callable[..., Blob], *arguments: Any) -> Blob:
        """Recorded in place."""
        return function(self, *arguments)
