"""Every operator with its cases: sizes, layouts, dtypes and epilogues, chosen so that every two of them meet."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

import vsr_kernels
from ops import truth
from ops.inputs import GRADIENT_LAYOUTS, IMAGE_LAYOUTS, VECTOR_LAYOUTS, WEIGHT_LAYOUTS, Draw
from ops.pairwise import Row, pairwise
from vsr_kernels import RepBranch, reference
from vsr_kernels.ops.warp import flow_warp_concat

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
BATCHES = (1, 2, 3)
SIZES = (1, 2, 3, 7, 17, 33, 180)
CHANNELS = (1, 3, 8, 17, 24, 37, 48, 64, 100)
ACTIVATIONS = ("none", "relu", "leaky_relu", "leaky_relu_negative", "prelu_one", "prelu_each")
VECTORS = ("dense", None, *VECTOR_LAYOUTS[1:])

#: Multiplications of one case at most, so that the float64 truth takes a fraction of a second.
WORK = 8e7


@dataclass
class Arguments:
    """Arguments of one call, by the parameter names of the public function."""

    tensors: dict[str, Tensor] = field(default_factory=dict)  # the differentiable ones
    others: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """Of the tensors."""
        return next(iter(self.tensors.values())).device.type

    def wide(self) -> Arguments:
        """The same values in float64 on the CPU, dense."""
        return Arguments({k: t.detach().double().cpu().contiguous() for k, t in self.tensors.items()}, self.others)

    def channels_last(self) -> Arguments:
        """The same values, images and weights in dense channels_last memory."""
        dense = {
            k: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t.contiguous()
            for k, t in self.tensors.items()
        }
        return Arguments(dense, self.others)

    def detached(self, requires_grad: bool = False) -> Arguments:
        """The same memory as new leaves."""
        return Arguments({k: t.detach().requires_grad_(requires_grad) for k, t in self.tensors.items()}, self.others)


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator.

    Attributes:
        name: of the public function.
        axes: what varies between cases; the cheapest value first.
        allowed: whether a combination is meaningful and cheap enough.
        arguments: draws the arguments of a case.
        public, plain, exact: the function under test, PyTorch doing the same, and the truth; all take Arguments and
            return a tuple of tensors.
        bitwise: results only move values, so they must be exact.
        judged_wide: what ``public`` returns is float64, computed from the operator's results.
    """

    name: str
    axes: Mapping[str, Sequence[Any]]
    allowed: Callable[[Row], bool]
    arguments: Callable[[Row, Draw], Arguments]
    public: Callable[[Arguments], tuple[Tensor, ...]]
    plain: Callable[[Arguments], tuple[Tensor, ...]]
    exact: Callable[[Arguments], tuple[Tensor, ...]]
    bitwise: bool = False
    judged_wide: bool = False

    def output_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Of what ``public`` returns for inputs of ``dtype``."""
        return torch.float64 if self.judged_wide else dtype


@dataclass(frozen=True, eq=False)
class Case:
    """One operator on one combination of the axes."""

    operator: Operator
    number: int
    row: Row

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.row["dtype"]
        return dtype

    @property
    def label(self) -> str:
        return f"{self.number:03d}-" + "-".join(
            f"{name}={str(value).removeprefix('torch.')}" for name, value in self.row.items()
        )

    def arguments(self, device: str, *, exact: bool, apart: bool = False) -> Arguments:
        """Draw the arguments; ``exact`` and ``apart`` as in :class:`ops.inputs.Draw`."""
        seed = zlib.crc32(f"{self.operator.name} {self.number}".encode())
        return self.operator.arguments(self.row, Draw(seed, self.dtype, device, exact=exact, apart=apart))


def _activation(row: Row, channels: int, draw: Draw, arguments: Arguments) -> None:
    """Add ``activation`` and ``slope``."""
    name = row["activation"]
    arguments.others["activation"] = name.split("_negative")[0] if name.startswith("leaky") else name.split("_")[0]
    if name.startswith("leaky"):
        arguments.others["slope"] = -0.5 if name.endswith("negative") else 0.125
    elif name.startswith("prelu"):
        arguments.tensors["slope"] = draw.slope(1 if name == "prelu_one" else channels, row["vector"] or "dense")


def _vector(row: Row, name: str, size: int, draw: Draw, arguments: Arguments) -> None:
    """Add a bias, or None."""
    if row["vector"] is None:
        arguments.others[name] = None
    else:
        arguments.tensors[name] = draw.bias(size, row["vector"])


def _call(function: Callable[..., Tensor], arguments: Arguments) -> tuple[Tensor, ...]:
    return (function(**arguments.tensors, **arguments.others),)


def _as_tensors(function: Callable[..., Tensor], arguments: Arguments) -> tuple[Tensor, ...]:
    """The reference functions take checked arguments: channel lists are tensors there."""
    others = dict(arguments.others)
    for name in ("in_channels", "out_channels"):
        if name in others and others[name] is not None:
            others[name] = torch.as_tensor(others[name])
    return (function(**arguments.tensors, **others),)


def _as_lists(function: Callable[..., Tensor], arguments: Arguments) -> tuple[Tensor, ...]:
    """The truth takes lists."""
    others = dict(arguments.others)
    for name in ("in_channels", "out_channels"):
        if isinstance(others.get(name), Tensor):
            others[name] = others[name].tolist()
    return (function(**arguments.tensors, **others),)


COMMON = {"dtype": DTYPES, "n": BATCHES, "h": SIZES, "w": SIZES}
LAYOUTS = {"layout": IMAGE_LAYOUTS, "gradient": GRADIENT_LAYOUTS}


# conv3x3


def _conv_arguments(row: Row, draw: Draw) -> Arguments:
    n, h, w, r = row["n"], row["h"], row["w"], row["r"]
    wide = row["c_out"] * r * r
    made = Arguments()
    made.tensors["x"] = draw.image((n, row["c_in"], h, w), row["layout"])
    made.tensors["weight"] = draw.weight((wide, row["c_in"], 3, 3), row["weight"])
    _vector(row, "bias", wide, draw, made)
    _activation(row, wide, draw, made)
    if row["residual"] is not None:
        made.tensors["residual"] = draw.image((n, row["c_out"], h * r, w * r), row["residual"])
    made.others["pixel_shuffle"] = r
    return made


CONV3X3 = Operator(
    "conv3x3",
    {
        **COMMON,
        "c_in": CHANNELS,
        "c_out": CHANNELS,
        "r": (1, 2, 3),
        "activation": ACTIVATIONS,
        "residual": (None, "contiguous", "channels_last", "sliced", "expanded_batch"),
        "vector": VECTORS,
        "weight": WEIGHT_LAYOUTS,
        **LAYOUTS,
    },
    lambda row: 9 * row["n"] * row["h"] * row["w"] * row["c_in"] * row["c_out"] * row["r"] ** 2 <= WORK,
    _conv_arguments,
    lambda a: _call(vsr_kernels.conv3x3, a),
    lambda a: _call(reference.conv3x3, a),
    lambda a: _call(truth.conv3x3, a),
)


# conv7x7


def _conv7x7_arguments(row: Row, draw: Draw) -> Arguments:
    made = Arguments()
    made.tensors["x"] = draw.image((row["n"], row["c_in"], row["h"], row["w"]), row["layout"])
    made.tensors["weight"] = draw.weight((row["c_out"], row["c_in"], 7, 7), row["weight"])
    _vector(row, "bias", row["c_out"], draw, made)
    made.others["activation"] = row["activation"]
    return made


CONV7X7 = Operator(
    "conv7x7",
    {
        **COMMON,
        "c_in": CHANNELS,
        "c_out": CHANNELS,
        "activation": ("none", "relu"),
        "vector": VECTORS,
        "weight": WEIGHT_LAYOUTS,
        **LAYOUTS,
    },
    lambda row: 49 * row["n"] * row["h"] * row["w"] * row["c_in"] * row["c_out"] <= WORK,
    _conv7x7_arguments,
    lambda a: _call(vsr_kernels.conv7x7, a),
    lambda a: _call(reference.conv7x7, a),
    lambda a: _call(truth.conv7x7, a),
)


# residual_block


def _block_arguments(row: Row, draw: Draw) -> Arguments:
    c, c_mid = row["c"], row["c_mid"]
    made = Arguments()
    made.tensors["x"] = draw.image((row["n"], c, row["h"], row["w"]), row["layout"])
    made.tensors["weight1"] = draw.weight((c_mid, c, 3, 3), row["weight"])
    _vector(row, "bias1", c_mid, draw, made)
    made.tensors["weight2"] = draw.weight((c, c_mid, 3, 3), row["weight"])
    _vector(row, "bias2", c, draw, made)
    _activation(row, c_mid, draw, made)
    made.others["scale"] = row["scale"]
    return made


RESIDUAL_BLOCK = Operator(
    "residual_block",
    {
        **COMMON,
        "c": CHANNELS,
        "c_mid": CHANNELS,
        "activation": ACTIVATIONS,
        "scale": (1.0, 0.5, -2, 0.0),
        "vector": VECTORS,
        "weight": WEIGHT_LAYOUTS,
        **LAYOUTS,
    },
    lambda row: 18 * row["n"] * row["h"] * row["w"] * row["c"] * row["c_mid"] <= WORK,
    _block_arguments,
    lambda a: _call(vsr_kernels.residual_block, a),
    lambda a: _call(reference.residual_block, a),
    lambda a: _call(truth.residual_block, a),
)


# sparse_conv3x3 and sparse_residual_block


def _kept(total: int, share: float, draw: Draw, form: str) -> list[int] | Tensor:
    """At least one of ``total`` channel numbers, in no order."""
    count = max(1, int(total * share))
    kept = torch.randperm(total, generator=draw.generator)[:count]
    return kept if form == "tensor" else kept.tolist()


def _sparse_arguments(row: Row, draw: Draw) -> Arguments:
    n, h, w, c, c_res = row["n"], row["h"], row["w"], row["c"], row["c_res"]
    made = Arguments()
    made.tensors["x"] = draw.image((n, c, h, w), row["layout"])
    gather = None if row["in_share"] is None else _kept(c, row["in_share"], draw, row["form"])
    scatter = None if row["out_share"] is None else _kept(c_res, row["out_share"], draw, row["form"])
    narrow = c_res if scatter is None else len(scatter)
    made.tensors["weight"] = draw.weight((narrow, c if gather is None else len(gather), 3, 3), row["weight"])
    _vector(row, "bias", narrow, draw, made)
    _activation(row, narrow, draw, made)
    if row["residual"] is not None:
        made.tensors["residual"] = draw.image((n, c_res, h, w), row["residual"])
    made.others |= {"in_channels": gather, "out_channels": scatter}
    return made


SPARSE_CONV3X3 = Operator(
    "sparse_conv3x3",
    {
        **COMMON,
        "c": CHANNELS,
        "c_res": CHANNELS,
        "in_share": (0.5, None, 0.0, 0.9, 1.0),
        "out_share": (0.5, None, 0.0, 0.9, 1.0),
        "form": ("list", "tensor"),
        "activation": ACTIVATIONS,
        "residual": ("channels_last", None, "contiguous", "sliced", "expanded_batch"),
        "vector": VECTORS,
        "weight": WEIGHT_LAYOUTS,
        **LAYOUTS,
    },
    lambda row: (
        9 * row["n"] * row["h"] * row["w"] * row["c"] * row["c_res"] <= WORK
        and (row["residual"] is not None or row["out_share"] is None)
    ),
    _sparse_arguments,
    lambda a: _call(vsr_kernels.sparse_conv3x3, a),
    lambda a: _as_tensors(reference.sparse_conv3x3, a),
    lambda a: _as_lists(truth.sparse_conv3x3, a),
)


def _sparse_block_arguments(row: Row, draw: Draw) -> Arguments:
    c, c_mid = row["c"], row["c_mid"]
    made = Arguments()
    made.tensors["x"] = draw.image((row["n"], c, row["h"], row["w"]), row["layout"])
    gather = _kept(c, row["in_share"], draw, row["form"])
    scatter = _kept(c, row["out_share"], draw, row["form"])
    made.tensors["weight1"] = draw.weight((c_mid, len(gather), 3, 3), row["weight"])
    _vector(row, "bias1", c_mid, draw, made)
    made.tensors["weight2"] = draw.weight((len(scatter), c_mid, 3, 3), row["weight"])
    _vector(row, "bias2", len(scatter), draw, made)
    _activation(row, c_mid, draw, made)
    made.others |= {"in_channels": gather, "out_channels": scatter}
    return made


SPARSE_RESIDUAL_BLOCK = Operator(
    "sparse_residual_block",
    {
        **COMMON,
        "c": CHANNELS,
        "c_mid": CHANNELS,
        "in_share": (0.5, 0.0, 0.9, 1.0),
        "out_share": (0.5, 0.0, 0.9, 1.0),
        "form": ("list", "tensor"),
        "activation": ACTIVATIONS,
        "vector": VECTORS,
        "weight": WEIGHT_LAYOUTS,
        **LAYOUTS,
    },
    lambda row: 18 * row["n"] * row["h"] * row["w"] * row["c"] * row["c_mid"] <= WORK,
    _sparse_block_arguments,
    lambda a: _call(vsr_kernels.sparse_residual_block, a),
    lambda a: _as_tensors(reference.sparse_residual_block, a),
    lambda a: _as_lists(truth.sparse_residual_block, a),
)


# flow_warp


def _warp_arguments(row: Row, draw: Draw) -> Arguments:
    n, h, w = row["n"], row["h"], row["w"]
    reach = {"near": 0.7, "image": float(max(h, w)), "far": 3e4}[row["reach"]]
    dtype = row["dtype"] if row["flow_dtype"] == "same" else torch.float32
    return Arguments(
        {
            "x": draw.image((n, row["c"], h, w), row["layout"]),
            "flow": draw.flow((n, 2, h, w), reach, dtype, row["flow_layout"]),
        },
        {"interpolation": row["interpolation"], "padding": row["padding"]},
    )


FLOW_WARP = Operator(
    "flow_warp",
    {
        **COMMON,
        "c": CHANNELS,
        "reach": ("near", "image", "far"),
        "interpolation": ("bilinear", "nearest"),
        "padding": ("zeros", "border"),
        "flow_dtype": ("same", "float32"),
        "flow_layout": ("contiguous", "channels_last", "sliced", "transposed", "expanded_columns"),
        **LAYOUTS,
    },
    lambda row: row["n"] * row["h"] * row["w"] * row["c"] <= WORK / 50,
    _warp_arguments,
    lambda a: _call(vsr_kernels.flow_warp, a),
    lambda a: _call(reference.flow_warp, a),
    lambda a: _call(truth.flow_warp, a),
)


# flow_warp_concat, which the package keeps to itself


def _concat_arguments(row: Row, draw: Draw) -> Arguments:
    made = _warp_arguments(row, draw)
    made.tensors["y"] = draw.image((row["n"], row["c_y"], row["h"], row["w"]), row["y_layout"])
    made.others["warp_first"] = row["warp_first"]
    return made


FLOW_WARP_CONCAT = Operator(
    "flow_warp_concat",
    {
        **FLOW_WARP.axes,
        "c_y": (3, 1, 8, 64),
        "warp_first": (True, False),
        "y_layout": ("channels_last", "contiguous", "sliced", "expanded_batch"),
    },
    lambda row: row["n"] * row["h"] * row["w"] * (row["c"] + row["c_y"]) <= WORK / 400,
    _concat_arguments,
    lambda a: _call(flow_warp_concat, a),
    lambda a: _call(reference.flow_warp_concat, a),
    lambda a: _call(truth.flow_warp_concat, a),
)


# pixel_shuffle and pixel_unshuffle


def _shuffle_axes() -> dict[str, Sequence[Any]]:
    return {**COMMON, "c": CHANNELS, "r": (1, 2, 3, 4), **LAYOUTS}


def _small_shuffle(row: Row) -> bool:
    return bool(row["n"] * row["h"] * row["w"] * row["c"] * row["r"] ** 2 <= WORK / 50)


def _shuffle_call(function: Callable[[Tensor, int], Tensor], a: Arguments) -> tuple[Tensor, ...]:
    return (function(a.tensors["x"], a.others["r"]),)


PIXEL_SHUFFLE = Operator(
    "pixel_shuffle",
    _shuffle_axes(),
    _small_shuffle,
    lambda row, draw: Arguments(
        {"x": draw.image((row["n"], row["c"] * row["r"] ** 2, row["h"], row["w"]), row["layout"])}, {"r": row["r"]}
    ),
    lambda a: _shuffle_call(vsr_kernels.pixel_shuffle, a),
    lambda a: _shuffle_call(reference.pixel_shuffle, a),
    lambda a: _shuffle_call(truth.shuffle, a),
    bitwise=True,
)

PIXEL_UNSHUFFLE = Operator(
    "pixel_unshuffle",
    _shuffle_axes(),
    _small_shuffle,
    lambda row, draw: Arguments(
        {"x": draw.image((row["n"], row["c"], row["h"] * row["r"], row["w"] * row["r"]), row["layout"])},
        {"r": row["r"]},
    ),
    lambda a: _shuffle_call(vsr_kernels.pixel_unshuffle, a),
    lambda a: _shuffle_call(reference.pixel_unshuffle, a),
    lambda a: _shuffle_call(truth.unshuffle, a),
    bitwise=True,
)


# merge_rep_branches: what it returns is judged by what the merged kernel does to an image


def _merge_arguments(row: Row, draw: Draw) -> Arguments:
    c_in, c_out, c_mid = row["c_in"], row["c_out"], row["c_mid"]
    made = Arguments()
    for i in range(row["branches"]):
        made.tensors |= {
            f"{i}.conv3_weight": draw.weight((c_mid, c_in, 3, 3), row["weight"]),
            f"{i}.conv3_bias": draw.bias(c_mid),
            f"{i}.bn_weight": draw.bias(c_mid),
            f"{i}.bn_bias": draw.bias(c_mid),
            f"{i}.bn_mean": draw.bias(c_mid),
            f"{i}.bn_var": draw.bias(c_mid).abs() + 0.5,
            f"{i}.conv1_weight": draw.weight((c_out, c_mid, 1, 1), row["weight"]),
            f"{i}.conv1_bias": draw.bias(c_out),
        }
    made.others["identity"] = row["identity"]
    return made


def branches_of(arguments: Arguments) -> list[RepBranch]:
    """The branches of :func:`vsr_kernels.merge_rep_branches`, from flat names."""
    count = 1 + max(int(name.split(".")[0]) for name in arguments.tensors)
    return [
        RepBranch(**{k.split(".")[1]: t for k, t in arguments.tensors.items() if k.startswith(f"{i}.")}, bn_eps=1e-3)
        for i in range(count)
    ]


def run_branches(branches: Sequence[RepBranch], identity: bool, x: Tensor) -> Tensor:
    """The branches as RepSR trains them, with population statistics: conv3x3, batch norm, conv1x1, summed."""
    out = x if identity else x.new_zeros(())
    for b in branches:
        wide = truth.convolve(x, b.conv3_weight, b.conv3_bias)
        spread = (b.bn_var + b.bn_eps).sqrt()[:, None, None]
        normed = (wide - b.bn_mean[:, None, None]) / spread * b.bn_weight[:, None, None] + b.bn_bias[:, None, None]
        out = out + torch.einsum("om,nmhw->nohw", b.conv1_weight.flatten(1), normed) + b.conv1_bias[:, None, None]
    return out


def probe(arguments: Arguments, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve images with a merged kernel, in float64: one with borders and one of a single pixel."""
    weight, bias = weight.double().cpu(), bias.double().cpu()
    return torch.cat([truth.convolve(x, weight, bias).flatten(1) for x in _probes(arguments)], 1)


def _probes(arguments: Arguments) -> list[Tensor]:
    c_in = arguments.tensors["0.conv3_weight"].shape[1]
    draw = Draw(1, torch.float64, "cpu", exact=False)
    return [draw.image((2, c_in, 5, 4)), draw.image((2, c_in, 1, 1))]


def _merge_truth(a: Arguments) -> tuple[Tensor, ...]:
    images = [run_branches(branches_of(a), a.others["identity"], x).flatten(1) for x in _probes(a)]
    return (torch.cat(images, 1),)


def _merged(function: Callable[..., tuple[Tensor, Tensor]], a: Arguments) -> tuple[Tensor, ...]:
    weight, bias = function(branches_of(a), identity=a.others["identity"])
    dtype = a.tensors["0.conv3_weight"].dtype
    assert weight.dtype == dtype and bias.dtype == dtype
    return (probe(a, weight, bias),)


MERGE_REP_BRANCHES = Operator(
    "merge_rep_branches",
    {
        "dtype": DTYPES,
        "c_in": CHANNELS,
        "c_out": CHANNELS,
        "c_mid": (8, 1, 17, 64, 128),
        "branches": (2, 1, 3),
        "identity": (True, False),
        "weight": WEIGHT_LAYOUTS,
    },
    lambda row: row["c_in"] == row["c_out"] or not row["identity"],
    _merge_arguments,
    lambda a: _merged(vsr_kernels.merge_rep_branches, a),
    lambda a: _merged(reference.merge_rep_branches, a),
    _merge_truth,
    judged_wide=True,
)

OPERATORS = (
    CONV3X3,
    CONV7X7,
    RESIDUAL_BLOCK,
    FLOW_WARP,
    FLOW_WARP_CONCAT,
    PIXEL_SHUFFLE,
    PIXEL_UNSHUFFLE,
    SPARSE_CONV3X3,
    SPARSE_RESIDUAL_BLOCK,
    MERGE_REP_BRANCHES,
)


@cache
def cases(operator: Operator) -> tuple[Case, ...]:
    """The cases of an operator."""
    rows = pairwise(operator.axes, operator.allowed)
    return tuple(Case(operator, number, row) for number, row in enumerate(rows))
