"""What is timed: networks with real weights on real frames, and operators on random numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import networks
from .networks import Network

_CALIBRATED = (96, 160)  # of a picture, to quantize a network on
_INT8_SLOPE = re.compile(r"^body\.(\d+)\.slope$")

Array = NDArray[Any]
Params = dict[str, Array]
Inputs = list[Array]

REAL_COMPACT, REAL_BASICVSR, CLIP = "animevideov3", "basicvsr-vimeo-bi", "city"
REAL_REPSR, REAL_REPSR_C16 = "repsr-m4c32-x4", "repsr-m4c16-x2"


@dataclass(frozen=True)
class Case:
    """One section of the report.

    Attributes:
        name: As the command line takes it.
        title: As the report shows it.
        network: What is computed, on any peer's tensors.
        make: Draws or fetches the inputs, float32 (C, H, W) each, and the parameters. Runs in one process, which hands
            the arrays to all others.
        whole: A whole network: every peer takes and returns float32 NCHW, and the time includes its conversions. Else
            an operator: every peer gets its own layout, and conversions are shown apart.
        ours: What module of this package does it; see :mod:`cpu_peers.ours`.
        memory: Bound by memory: judged by bytes rather than by products.
        beside: Another case that this package also runs in the same section; beside a quantized one, in both other
            precisions.
        quantized: In int8 only.
    """

    name: str
    title: str
    network: Network
    make: Callable[[], tuple[Inputs, Params]]
    ours: str
    whole: bool = False
    memory: bool = False
    beside: str | None = None
    quantized: bool = False


def _generator() -> np.random.Generator:
    return np.random.default_rng(0)


def _normal(*shape: int) -> Array:
    return _generator().standard_normal(shape, np.float32)


def _conv(g: np.random.Generator, name: str, c_in: int, c_out: int, gain: float = 1.0) -> Params:
    """Weight and bias of a 3x3 convolution that keeps the size of the numbers, times ``gain``."""
    weight = g.standard_normal((c_out, c_in, 3, 3), np.float32) * np.float32(gain / (9 * c_in) ** 0.5)
    return {f"{name}.weight": weight, f"{name}.bias": g.standard_normal(c_out, np.float32) * np.float32(0.1)}


def _blocks(g: np.random.Generator, prefix: str, blocks: int, width: int) -> Params:
    params: Params = {}
    for index in range(blocks):
        params |= _conv(g, f"{prefix}{index}.conv1", width, width) | _conv(g, f"{prefix}{index}.conv2", width, width)
    return params


def _make_chain(height: int, width: int, channels: int, blocks: int) -> tuple[Inputs, Params]:
    return [_normal(channels, height, width)], _blocks(_generator(), "", blocks, channels)


def _make_pruned(height: int, width: int, channels: int, blocks: int) -> tuple[Inputs, Params]:
    """Half of the channels, one more or one less: random sets of odd sizes that differ from block to block."""
    g = _generator()
    params: Params = {}
    half = channels // 2

    def size() -> int:
        return half + int(g.choice([-1, 1]))

    def some() -> Array:
        return np.sort(g.permutation(channels)[: size()])

    for index in range(blocks):
        kept_in, hidden, kept_out = some(), size(), some()
        params |= {f"{index}.in_kept": kept_in, f"{index}.out_kept": kept_out}
        params |= _conv(g, f"{index}.conv1", len(kept_in), hidden) | _conv(g, f"{index}.conv2", hidden, len(kept_out))
    return [_normal(channels, height, width)], params


def _make_trunk(height: int, width: int, channels: int, blocks: int) -> tuple[Inputs, Params]:
    g = _generator()
    params = _conv(g, "main.0", channels + 3, channels) | _blocks(g, "main.2.", blocks, channels)
    return [_normal(channels + 3, height, width)], params


def _make_compact(height: int, width: int, channels: int, convs: int) -> tuple[Inputs, Params]:
    """Random weights, a random picture."""
    g = _generator()
    params: Params = {}
    for index in range(convs):
        params |= _conv(g, f"body.{2 * index}", channels if index else 3, channels, 1.4)
        params[f"body.{2 * index + 1}.weight"] = g.uniform(0.05, 0.4, channels).astype(np.float32)
    params |= _conv(g, f"body.{2 * convs}", channels, 48, 0.2)
    return [g.random((3, height, width), np.float32)], params


def _make_real(name: str, height: int, width: int) -> tuple[Inputs, Params]:
    from vsr.models import load_model

    state = load_model(name).state_dict()
    return _frames(1, height, width), {key: value.contiguous().numpy() for key, value in state.items()}


def _make_int8(make: Callable[[], tuple[Inputs, Params]], scale: int) -> tuple[Inputs, Params]:
    """Another case's network, quantized on the middle of its picture."""
    import torch

    from vsr.models import SRVGGNet
    from vsr.quantization import quantize

    (image,), params = make()
    last = max(int(key.split(".")[1]) for key in params)
    model = SRVGGNet(len(params["body.0.weight"]), last // 2 - 1, scale).eval()
    model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in params.items()})
    top, left = (max(0, size - side) // 2 for size, side in zip(image.shape[1:], _CALIBRATED, strict=True))
    patch = torch.from_numpy(image[None, :, top : top + _CALIBRATED[0], left : left + _CALIBRATED[1]])
    state = quantize(model, [patch]).state_dict()
    return [image], {_INT8_SLOPE.sub(r"slope.\1.weight", key): v.contiguous().numpy() for key, v in state.items()}


def _make_real_basicvsr(height: int, width: int, count: int) -> tuple[Inputs, Params]:
    from vsr.models import load_model

    state = load_model(REAL_BASICVSR).state_dict()
    return _frames(count, height, width), {key: value.contiguous().numpy() for key, value in state.items()}


def _make_basicvsr(height: int, width: int, count: int, channels: int) -> tuple[Inputs, Params]:
    """Random weights with one block per direction, random frames."""
    import torch

    from vsr.models import BasicVSR

    torch.manual_seed(0)
    state = BasicVSR(channels, 1).state_dict()
    g = _generator()
    return [g.random((3, height, width), np.float32) for _ in range(count)], {k: v.numpy() for k, v in state.items()}


def _frames(count: int, height: int, width: int) -> Inputs:
    """The middle of the first frames of a real clip, reduced to 1/2 by MATLAB bicubic."""
    import torch

    from vsr.data.clips import fetch_clip
    from vsr.data.degrade import imresize
    from vsr.inference import VideoReader

    frames = []
    with VideoReader(fetch_clip(CLIP)) as reader:
        for frame in reader:
            frames.append(torch.from_numpy(frame.image).permute(2, 0, 1).float() / 255)
            if len(frames) == count:
                break
    small = imresize(torch.stack(frames), 0.5)
    top, left = (small.shape[2] - height) // 2, (small.shape[3] - width) // 2
    return list(small[:, :, top : top + height, left : left + width].contiguous().numpy())


def _make_warp(height: int, width: int, channels: int) -> tuple[Inputs, Params]:
    """A smooth flow, as real motion is, of some pixels."""
    import torch
    import torch.nn.functional as F

    torch.manual_seed(0)
    flow = F.interpolate(torch.randn(1, 2, 6, 10), size=(height, width), mode="bicubic")[0] * 4
    return [_normal(channels, height, width), flow.numpy()], {}


def _make_shuffle(height: int, width: int, channels: int) -> tuple[Inputs, Params]:
    return [_normal(channels, height, width)], {}


def cases(smoke: bool) -> dict[str, Case]:
    """All cases by name; with ``smoke``, tiny ones with random weights that take no time and fetch nothing."""
    size, medium, large = ((16, 24), (20, 28), (24, 32)) if smoke else ((180, 320), (360, 640), (720, 1280))
    odd = (13, 23) if smoke else (179, 317)
    wide, narrow, convs, blocks = (8, 8, 3, 2) if smoke else (64, 32, 17, 4)
    trunk_blocks, width_of_repsr, blocks_of_repsr = (2, 8, 2) if smoke else (10, 32, 4)
    clip = (32, 64) if smoke else (64, 128)
    count, vsr_blocks = (2, 1) if smoke else (3, 30)

    def compact(name: str, shape: tuple[int, int]) -> Case:
        make = partial(_make_compact, *shape, wide, convs) if smoke else partial(_make_real, REAL_COMPACT, *shape)
        title = f"SRVGGNet {wide} x {convs - 1} x4, {_size(shape)}" + (f", {REAL_COMPACT}" if not smoke else "")
        return Case(name, title, partial(networks.compact, convs=convs, scale=4), make, "compact", whole=True)

    def int8(beside: Case, convs: int, scale: int, make: Callable[[], tuple[Inputs, Params]]) -> Case:
        network, made = partial(networks.compact_int8, convs=convs, scale=scale), partial(_make_int8, make, scale)
        title = f"{beside.title.split(', random')[0]}, all but the first convolution int8"
        name = f"{beside.name}-int8"
        return Case(name, title, network, made, "compact_int8", whole=True, beside=beside.name, quantized=True)

    def chain(name: str, shape: tuple[int, int]) -> Case:
        make = partial(_make_chain, *shape, wide, blocks)
        return Case(
            name, f"{_chain(wide, blocks)}, {_size(shape)}", partial(networks.chain, blocks=blocks), make, "chain"
        )

    plain = compact("compact", size)
    repsr = Case(
        "repsr",
        f"RepSR M{blocks_of_repsr}C{width_of_repsr} x4, {_size(size)}, random weights",
        partial(networks.compact, convs=blocks_of_repsr + 1, scale=4),
        partial(_make_compact, *size, width_of_repsr, blocks_of_repsr + 1),
        "compact",
        whole=True,
    )
    c16_scale = 4 if smoke else 2
    repsr_c16 = Case(
        "repsr-c16",
        f"RepSR M{blocks_of_repsr}C16 x{c16_scale}, {_size(size)}" + ("" if smoke else f", {REAL_REPSR_C16}"),
        partial(networks.compact, convs=blocks_of_repsr + 1, scale=c16_scale),
        partial(_make_compact, *size, 16, blocks_of_repsr + 1) if smoke else partial(_make_real, REAL_REPSR_C16, *size),
        "compact",
        whole=True,
    )
    make_repsr = repsr.make if smoke else partial(_make_real, REAL_REPSR, *size)
    all_cases: Sequence[Case] = (
        plain,
        compact("compact-odd", odd),
        repsr,
        repsr_c16,
        int8(plain, convs, 4, plain.make),
        int8(repsr, blocks_of_repsr + 1, 4, make_repsr),
        int8(repsr_c16, blocks_of_repsr + 1, c16_scale, repsr_c16.make),
        Case(
            "basicvsr",
            f"BasicVSR x4, {count} frames {_size(clip)}" + ("" if smoke else f" of {CLIP}, {REAL_BASICVSR}"),
            partial(networks.basicvsr, width=wide, blocks=vsr_blocks),
            partial(_make_basicvsr, *clip, count, wide) if smoke else partial(_make_real_basicvsr, *clip, count),
            "basicvsr",
            whole=True,
        ),
        chain("chain", size),
        chain("chain-medium", medium),
        chain("chain-large", large),
        Case(
            "trunk",
            f"BasicVSR trunk {narrow} x {trunk_blocks}, {_size(size)}",
            partial(networks.trunk, blocks=trunk_blocks),
            partial(_make_trunk, *size, narrow, trunk_blocks),
            "trunk",
        ),
        Case(
            "pruned",
            f"{_chain(wide, blocks)}, pruned by half to odd sets, {_size(size)}",
            partial(networks.pruned_chain, blocks=blocks),
            partial(_make_pruned, *size, wide, blocks),
            "pruned",
            beside="chain",
        ),
        Case(
            "flow_warp",
            f"flow_warp {wide} channels, {_size(size)}",
            networks.flow_warp,
            partial(_make_warp, *size, wide),
            "flow_warp",
            memory=True,
        ),
        Case(
            "pixel_shuffle",
            f"pixel_shuffle {4 * wide} -> {wide}, {_size(size)}",
            networks.pixel_shuffle,
            partial(_make_shuffle, *size, 4 * wide),
            "pixel_shuffle",
            memory=True,
        ),
    )
    return {case.name: case for case in all_cases}


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _chain(width: int, blocks: int) -> str:
    return f"{2 * blocks} convolutions of {width} channels, residual every second"
