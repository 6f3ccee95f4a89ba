"""Bad input raises before anything runs, in one form: operator, argument, what was expected, what was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import vsr_kernels
from ops.on_backends import on
from vsr_kernels import RepBranch
from vsr_kernels.ops.warp import flow_warp_concat

Mistake = tuple[str, type[Exception], dict[str, Any], str]


def zeros(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


X = zeros(2, 4, 6, 8)
HALF = zeros(1, dtype=torch.float16)
META = zeros(8, device="meta")
UNPACKED = (True, None)  # the arguments exact and packed of the convolutions
PLAIN = (1.0, 1, False, *UNPACKED)  # and before them scale, pixel_shuffle and keep_preactivation of conv3x3

#: Arguments that are right; each mistake replaces some of them.
GOOD: dict[str, dict[str, Any]] = {
    "conv3x3": {"x": X, "weight": zeros(8, 4, 3, 3)},
    "conv7x7": {"x": X, "weight": zeros(8, 4, 7, 7)},
    "residual_block": {
        "x": X,
        "weight1": zeros(5, 4, 3, 3),
        "bias1": None,
        "weight2": zeros(4, 5, 3, 3),
        "bias2": None,
    },
    "flow_warp": {"x": X, "flow": zeros(2, 2, 6, 8)},
    "pixel_shuffle": {"x": X, "r": 2},
    "pixel_unshuffle": {"x": X, "r": 2},
    "sparse_conv3x3": {
        "x": X,
        "weight": zeros(2, 3, 3, 3),
        "in_channels": [0, 3, 1],
        "out_channels": [5, 0],
        "residual": zeros(2, 6, 6, 8),
    },
    "sparse_residual_block": {
        "x": X,
        "weight1": zeros(5, 2, 3, 3),
        "bias1": None,
        "weight2": zeros(3, 5, 3, 3),
        "bias2": None,
        "in_channels": [0, 2],
        "out_channels": [1, 3, 0],
    },
}

BRANCH = RepBranch(
    zeros(6, 3, 3, 3), zeros(6), zeros(6), zeros(6), zeros(6), zeros(6), 1e-5, zeros(3, 6, 1, 1), zeros(3)
)


def image_mistakes(operator: str, name: str) -> list[Mistake]:
    """What can be wrong with an image whatever the operator."""
    return [
        (operator, TypeError, {name: [1.0]}, f"{name}: expected a tensor (N, C, H, W), got list"),
        (
            operator,
            TypeError,
            {name: X.int()},
            f"{name}: expected float32, float16, bfloat16 or float64, got torch.int32",
        ),
        (operator, ValueError, {name: X[0]}, f"{name}: expected 4 dimensions (N, C, H, W), got shape (4, 6, 8)"),
    ]


def activation_mistakes(operator: str, channels: int) -> list[Mistake]:
    return [
        (
            operator,
            ValueError,
            {"activation": "gelu"},
            "activation: expected one of none, relu, leaky_relu, prelu, got 'gelu'",
        ),
        (operator, TypeError, {"activation": "leaky_relu"}, "slope: expected a number for leaky_relu, got NoneType"),
        (
            operator,
            TypeError,
            {"activation": "leaky_relu", "slope": True},
            "slope: expected a number for leaky_relu, got bool",
        ),
        (operator, TypeError, {"activation": "prelu", "slope": 0.1}, "slope: expected a tensor, got float"),
        (
            operator,
            ValueError,
            {"activation": "prelu", "slope": zeros(channels + 1)},
            f"slope: expected shape (1,) or ({channels},) for prelu, got ({channels + 1},)",
        ),
        (
            operator,
            ValueError,
            {"activation": "prelu", "slope": zeros(1, 1)},
            f"slope: expected shape (1,) or ({channels},) for prelu, got (1, 1)",
        ),
        (
            operator,
            TypeError,
            {"activation": "prelu", "slope": HALF},
            "slope: expected torch.float32, got torch.float16",
        ),
        (
            operator,
            TypeError,
            {"activation": "relu", "slope": 0.1},
            "slope: expected None for activation 'relu', got float",
        ),
    ]


def list_mistakes(operator: str, name: str, limit: int) -> list[Mistake]:
    """What can be wrong with a list of channels."""
    return [
        (
            operator,
            TypeError,
            {name: [0.0, 1.0]},
            f"{name}: expected a sequence of integers or an int64 tensor, got list",
        ),
        (operator, TypeError, {name: 3}, f"{name}: expected a sequence of integers or an int64 tensor, got int"),
        (
            operator,
            TypeError,
            {name: torch.tensor([0, 1], dtype=torch.int32)},
            f"{name}: expected dtype torch.int64, got torch.int32",
        ),
        (operator, ValueError, {name: torch.tensor([[0, 1]])}, f"{name}: expected one dimension, got shape (1, 2)"),
        (
            operator,
            ValueError,
            {name: [0, limit, -1]},
            f"{name}: expected channel numbers in [0, {limit}), got [{limit}, -1]",
        ),
        (operator, ValueError, {name: [2, 1, 2]}, f"{name}: expected distinct channel numbers, got [2]"),
        (
            operator,
            ValueError,
            {name: torch.tensor([2, 1, 2])},
            f"{name}: expected distinct channel numbers, got [2]",
        ),
        (operator, ValueError, {name: META.long()}, f"{name}: expected device cpu or cpu, got meta"),
    ]


MISTAKES: list[Mistake] = [
    *(mistake for operator in GOOD for mistake in image_mistakes(operator, "x")),
    *activation_mistakes("conv3x3", 8),
    *activation_mistakes("residual_block", 5),
    *activation_mistakes("sparse_conv3x3", 2),
    *activation_mistakes("sparse_residual_block", 5),
    *list_mistakes("sparse_conv3x3", "in_channels", 4),
    *list_mistakes("sparse_conv3x3", "out_channels", 6),
    *list_mistakes("sparse_residual_block", "in_channels", 4),
    *list_mistakes("sparse_residual_block", "out_channels", 4),
    ("conv3x3", TypeError, {"weight": None}, "weight: expected a tensor, got NoneType"),
    (
        "conv3x3",
        ValueError,
        {"weight": zeros(8, 3, 3, 3)},
        "weight: expected shape (*, 4, 3, 3) = (C_out, C_in of x, 3, 3), got (8, 3, 3, 3)",
    ),
    (
        "conv3x3",
        ValueError,
        {"weight": zeros(8, 4, 5, 5)},
        "weight: expected shape (*, 4, 3, 3) = (C_out, C_in of x, 3, 3), got (8, 4, 5, 5)",
    ),
    ("conv3x3", TypeError, {"weight": zeros(8, 4, 3, 3).half()}, "weight: expected torch.float32, got torch.float16"),
    ("conv3x3", ValueError, {"weight": zeros(8, 4, 3, 3, device="meta")}, "weight: expected device cpu as x, got meta"),
    ("conv3x3", ValueError, {"bias": zeros(4)}, "bias: expected shape (8,) = (C_out,), got (4,)"),
    ("conv3x3", TypeError, {"bias": zeros(8).double()}, "bias: expected torch.float32, got torch.float64"),
    ("conv3x3", ValueError, {"bias": META}, "bias: expected device cpu as x, got meta"),
    ("conv3x3", TypeError, {"pixel_shuffle": 2.0}, "pixel_shuffle: expected an integer, got float"),
    ("conv3x3", TypeError, {"pixel_shuffle": True}, "pixel_shuffle: expected an integer, got bool"),
    ("conv3x3", ValueError, {"pixel_shuffle": 0}, "pixel_shuffle: expected an integer >= 1, got 0"),
    (
        "conv3x3",
        ValueError,
        {"pixel_shuffle": 3},
        "weight: expected C_out divisible by r^2 = 9, got shape (8, 4, 3, 3)",
    ),
    (
        "conv3x3",
        ValueError,
        {"residual": X},
        "residual: expected shape (2, 8, 6, 8) = (N, C_out / r^2, r H, r W), got (2, 4, 6, 8)",
    ),
    (
        "conv3x3",
        ValueError,
        {"residual": zeros(2, 2, 6, 8), "pixel_shuffle": 2},
        "residual: expected shape (2, 2, 12, 16) = (N, C_out / r^2, r H, r W), got (2, 2, 6, 8)",
    ),
    (
        "conv3x3",
        TypeError,
        {"residual": zeros(2, 8, 6, 8).half()},
        "residual: expected torch.float32, got torch.float16",
    ),
    ("residual_block", TypeError, {"scale": "1"}, "scale: expected a number, got str"),
    ("residual_block", TypeError, {"scale": True}, "scale: expected a number, got bool"),
    (
        "residual_block",
        ValueError,
        {"weight1": zeros(5, 3, 3, 3)},
        "weight1: expected shape (*, 4, 3, 3) = (C_out, C of x, 3, 3), got (5, 3, 3, 3)",
    ),
    (
        "residual_block",
        ValueError,
        {"weight2": zeros(4, 6, 3, 3)},
        "weight2: expected shape (4, 5, 3, 3) = (C, C_mid, 3, 3), got (4, 6, 3, 3)",
    ),
    ("residual_block", ValueError, {"bias1": zeros(4)}, "bias1: expected shape (5,) = (C_mid,), got (4,)"),
    ("residual_block", ValueError, {"bias2": zeros(5)}, "bias2: expected shape (4,) = (C,), got (5,)"),
    ("residual_block", TypeError, {"weight2": "w"}, "weight2: expected a tensor, got str"),
    *image_mistakes("conv7x7", "x"),
    (
        "conv7x7",
        ValueError,
        {"weight": zeros(8, 4, 3, 3)},
        "weight: expected shape (*, 4, 7, 7) = (C_out, C_in of x, 7, 7), got (8, 4, 3, 3)",
    ),
    ("conv7x7", TypeError, {"weight": HALF}, "weight: expected torch.float32, got torch.float16"),
    ("conv7x7", ValueError, {"bias": zeros(4)}, "bias: expected shape (8,) = (C_out,), got (4,)"),
    ("conv7x7", ValueError, {"activation": "prelu"}, "activation: expected none or relu, got 'prelu'"),
    ("flow_warp", TypeError, {"flow": None}, "flow: expected a tensor, got NoneType"),
    (
        "flow_warp",
        ValueError,
        {"flow": zeros(2, 6, 8, 2)},
        "flow: expected shape (2, 2, 6, 8) = (N, 2, H, W) as x, got (2, 6, 8, 2)",
    ),
    ("flow_warp", TypeError, {"flow": zeros(2, 2, 6, 8).half()}, "flow: expected torch.float32, got torch.float16"),
    (
        "flow_warp",
        TypeError,
        {"x": X.half(), "flow": zeros(2, 2, 6, 8).bfloat16()},
        "flow: expected torch.float32 or torch.float16, got torch.bfloat16",
    ),
    (
        "flow_warp",
        ValueError,
        {"interpolation": "bicubic"},
        "interpolation: expected bilinear or nearest, got 'bicubic'",
    ),
    ("flow_warp", ValueError, {"padding": "reflection"}, "padding: expected zeros or border, got 'reflection'"),
    ("flow_warp", ValueError, {"flow": zeros(2, 2, 6, 8, device="meta")}, "flow: expected device cpu as x, got meta"),
    *(
        (name, kind, {"r": r}, message)
        for name in ("pixel_shuffle", "pixel_unshuffle")
        for kind, r, message in (
            (TypeError, 2.0, "r: expected an integer, got float"),
            (TypeError, None, "r: expected an integer, got NoneType"),
            (ValueError, 0, "r: expected an integer >= 1, got 0"),
            (ValueError, -2, "r: expected an integer >= 1, got -2"),
        )
    ),
    ("pixel_shuffle", ValueError, {"r": 3}, "x: expected channels divisible by r^2 = 9, got shape (2, 4, 6, 8)"),
    (
        "pixel_unshuffle",
        ValueError,
        {"r": 4},
        "x: expected height and width divisible by r = 4, got shape (2, 4, 6, 8)",
    ),
    (
        "sparse_conv3x3",
        ValueError,
        {"in_channels": [0, 3]},
        "weight: expected shape (*, 2, 3, 3) = (C_out, len(in_channels), 3, 3), got (2, 3, 3, 3)",
    ),
    (
        "sparse_conv3x3",
        ValueError,
        {"in_channels": None},
        "weight: expected shape (*, 4, 3, 3) = (C_out, C of x, 3, 3), got (2, 3, 3, 3)",
    ),
    ("sparse_conv3x3", ValueError, {"bias": zeros(3)}, "bias: expected shape (2,) = (C_out,), got (3,)"),
    (
        "sparse_conv3x3",
        ValueError,
        {"out_channels": [1, 2, 3]},
        "out_channels: expected shape (2,) = (C_out,) of weight, got (3,)",
    ),
    (
        "sparse_conv3x3",
        TypeError,
        {"residual": None},
        "residual: expected a tensor where out_channels is given, got None",
    ),
    (
        "sparse_conv3x3",
        ValueError,
        {"residual": zeros(2, 6, 6, 7)},
        "residual: expected shape (2, *, 6, 8) = (N, C_res, H, W), got (2, 6, 6, 7)",
    ),
    (
        "sparse_conv3x3",
        ValueError,
        {"out_channels": None},
        "residual: expected shape (2, 2, 6, 8) = (N, C_res, H, W), got (2, 6, 6, 8)",
    ),
    (
        "sparse_residual_block",
        ValueError,
        {"weight1": zeros(5, 4, 3, 3)},
        "weight1: expected shape (*, 2, 3, 3) = (C_out, len(in_channels), 3, 3), got (5, 4, 3, 3)",
    ),
    (
        "sparse_residual_block",
        ValueError,
        {"weight2": zeros(4, 5, 3, 3)},
        "weight2: expected shape (3, 5, 3, 3) = (len(out_channels), C_mid, 3, 3), got (4, 5, 3, 3)",
    ),
    ("sparse_residual_block", ValueError, {"bias1": zeros(3)}, "bias1: expected shape (5,) = (C_mid,), got (3,)"),
    (
        "sparse_residual_block",
        ValueError,
        {"bias2": zeros(5)},
        "bias2: expected shape (3,) = (len(out_channels),), got (5,)",
    ),
    (
        "merge_rep_branches",
        ValueError,
        {"branches": []},
        "branches: expected at least one RepBranch, got none",
    ),
    ("merge_rep_branches", TypeError, {"branches": [3]}, "branches[0]: expected a RepBranch, got int"),
    (
        "merge_rep_branches",
        ValueError,
        {"branches": [BRANCH._replace(conv3_weight=zeros(6, 3, 1, 1))]},
        "branches[0].conv3_weight: expected shape (*, *, 3, 3) = (C_mid, C_in, 3, 3), got (6, 3, 1, 1)",
    ),
    (
        "merge_rep_branches",
        ValueError,
        {"branches": [BRANCH, BRANCH._replace(conv3_weight=zeros(6, 4, 3, 3))]},
        "branches[1].conv3_weight: expected shape (*, 3, 3, 3) = (C_mid, C_in, 3, 3), got (6, 4, 3, 3)",
    ),
    *(
        (
            "merge_rep_branches",
            ValueError,
            {"branches": [BRANCH._replace(**{name: zeros(5)})]},
            f"branches[0].{name}: expected shape (6,) = (C_mid,), got (5,)",
        )
        for name in ("conv3_bias", "bn_weight", "bn_bias", "bn_mean", "bn_var")
    ),
    (
        "merge_rep_branches",
        ValueError,
        {"branches": [BRANCH._replace(conv1_weight=zeros(3, 5, 1, 1))]},
        "branches[0].conv1_weight: expected shape (*, 6, 1, 1) = (C_out, C_mid, 1, 1), got (3, 5, 1, 1)",
    ),
    (
        "merge_rep_branches",
        ValueError,
        {"branches": [BRANCH, BRANCH._replace(conv1_weight=zeros(4, 6, 1, 1))]},
        "branches[1].conv1_weight: expected shape (3, 6, 1, 1) = (C_out, C_mid, 1, 1), got (4, 6, 1, 1)",
    ),
    (
        "merge_rep_branches",
        ValueError,
        {"branches": [BRANCH._replace(conv1_bias=zeros(6))]},
        "branches[0].conv1_bias: expected shape (3,) = (C_out,), got (6,)",
    ),
    (
        "merge_rep_branches",
        TypeError,
        {"branches": [BRANCH._replace(bn_var=zeros(6).double())]},
        "branches[0].bn_var: expected torch.float32, got torch.float64",
    ),
    (
        "merge_rep_branches",
        TypeError,
        {"branches": [BRANCH._replace(conv3_weight="w")]},
        "branches[0].conv3_weight: expected a tensor, got str",
    ),
    (
        "merge_rep_branches",
        TypeError,
        {"branches": [BRANCH._replace(bn_mean=None)]},
        "branches[0].bn_mean: expected a tensor, got NoneType",
    ),
    (
        "merge_rep_branches",
        ValueError,
        {"branches": [BRANCH._replace(conv1_weight=zeros(4, 6, 1, 1), conv1_bias=zeros(4))]},
        "identity: expected False where C_in = 3 and C_out = 4 differ, got True",
    ),
]


@pytest.mark.parametrize(
    ("operator", "kind", "changes", "message"), MISTAKES, ids=[f"{m[0]}-{m[3].split(',')[0]}" for m in MISTAKES]
)
def test_message(operator: str, kind: type[Exception], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(kind) as caught:
        getattr(vsr_kernels, operator)(**(GOOD.get(operator, {}) | changes))
    assert str(caught.value) == f"{operator}: {message}"


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (ValueError, {"x": X[0]}, "x: expected 4 dimensions (N, C, H, W), got shape (4, 6, 8)"),
        (TypeError, {"flow": zeros(2, 2, 6, 8).half()}, "flow: expected torch.float32, got torch.float16"),
        (TypeError, {"y": None}, "y: expected a tensor (N, C, H, W), got NoneType"),
        (TypeError, {"y": X.half()}, "y: expected torch.float32, got torch.float16"),
        (ValueError, {"y": X[:1]}, "y: expected shape (2, *, 6, 8) = (N, C_y, H, W) as x, got (1, 4, 6, 8)"),
        (ValueError, {"y": zeros(2, 4, 6, 8, device="meta")}, "y: expected device cpu as x, got meta"),
        (ValueError, {"padding": "reflection"}, "padding: expected zeros or border, got 'reflection'"),
    ],
)
def test_message_of_the_concatenating_warp(kind: type[Exception], changes: dict[str, Any], message: str) -> None:
    """The package keeps this operator to itself; it checks as the others do."""
    good = {"x": X, "flow": zeros(2, 2, 6, 8), "y": zeros(2, 3, 6, 8)}
    assert flow_warp_concat(**good).shape == (2, 7, 6, 8)
    with pytest.raises(kind) as caught:
        flow_warp_concat(**(good | changes))
    assert str(caught.value) == f"flow_warp_concat: {message}"


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("operator", GOOD)
def test_good_arguments_pass(operator: str, backend: str) -> None:
    """What the mistakes are made in is right."""
    if not vsr_kernels.backends()[backend].available:
        pytest.skip(vsr_kernels.backends()[backend].detail)
    with on(backend):
        getattr(vsr_kernels, operator)(**GOOD[operator])
        vsr_kernels.merge_rep_branches([BRANCH])


#: Direct calls of the registered operators, which must not leave their buffers either.
DIRECT: list[tuple[str, Callable[[Any], object], str]] = [
    ("pixel_shuffle", lambda ops: ops.pixel_shuffle(X, 3), "channels divisible by r^2"),
    ("conv7x7", lambda ops: ops.conv7x7(X, zeros(8, 4, 3, 3), None, False, *UNPACKED), "shape"),
    ("conv7x7", lambda ops: ops.conv7x7(X, zeros(8, 4, 7, 7), zeros(9), False, *UNPACKED), "shape"),
    ("conv7x7", lambda ops: ops.conv7x7(X, zeros(8, 4, 7, 7), None, False, True, zeros(9)), "shape"),
    ("conv7x7_pack", lambda ops: ops.conv7x7_pack(zeros(8, 4, 7, 5), None, True), "shape"),
    ("conv7x7_into", lambda ops: ops.conv7x7_into(X, X, zeros(8, 4, 7, 7), None, True, *UNPACKED), "shape"),
    ("pixel_shuffle", lambda ops: ops.pixel_shuffle(X, 0), "an integer >= 1, got 0"),
    ("pixel_shuffle", lambda ops: ops.pixel_shuffle(X[0], 2), "4 dimensions (N, C, H, W), got shape (4, 6, 8)"),
    ("pixel_unshuffle", lambda ops: ops.pixel_unshuffle(X, 5), "height and width divisible by r"),
    ("flow_warp", lambda ops: ops.flow_warp(X, X, "bilinear", "zeros"), "shape (2, 2, 6, 8), got (2, 4, 6, 8)"),
    ("flow_warp", lambda ops: ops.flow_warp(X, X[:, :2], "cubic", "zeros"), "bilinear or nearest, got cubic"),
    ("flow_warp", lambda ops: ops.flow_warp(X, X[:, :2], "nearest", "none"), "zeros or border, got none"),
    ("flow_warp", lambda ops: ops.flow_warp(X, X[:, :2].half(), "nearest", "zeros"), "float32 or the dtype of x"),
    (
        "flow_warp_concat",
        lambda ops: ops.flow_warp_concat(X, X[:, :2], X[..., :7], True, "nearest", "zeros"),
        "shape (2, 4, 6, 8), got (2, 4, 6, 7)",
    ),
    (
        "flow_warp_concat",
        lambda ops: ops.flow_warp_concat(X, X[:, :2], X.half(), True, "nearest", "zeros"),
        "the dtype of x, got another",
    ),
    (
        "flow_warp_concat",
        lambda ops: ops.flow_warp_concat(X, X[:, :2], X[0], True, "nearest", "zeros"),
        "4 dimensions (N, C, H, W), got shape (4, 6, 8)",
    ),
    (
        "flow_warp_backward",
        lambda ops: ops.flow_warp_backward(X[:, :3], X, X[:, :2], "nearest", "zeros", True, True),
        "shape (2, 4, 6, 8), got (2, 3, 6, 8)",
    ),
    (
        "conv3x3",
        lambda ops: ops.conv3x3(X, zeros(8, 5, 3, 3), None, None, 0.0, None, "none", *PLAIN),
        "shape (8, 4, 3, 3), got (8, 5, 3, 3)",
    ),
    (
        "conv3x3",
        lambda ops: ops.conv3x3(X, zeros(8, 4, 3, 3), zeros(7), None, 0.0, None, "none", *PLAIN),
        "shape (8), got (7)",
    ),
    (
        "conv3x3",
        lambda ops: ops.conv3x3(X, zeros(8, 4, 3, 3), None, None, 0.0, X, "none", *PLAIN),
        "shape (2, 8, 6, 8), got (2, 4, 6, 8)",
    ),
    (
        "conv3x3",
        lambda ops: ops.conv3x3(X, zeros(4, 4, 3, 3), None, None, 0.0, X.half(), "none", *PLAIN),
        "the dtype of x, got another",
    ),
    (
        "conv3x3",
        lambda ops: ops.conv3x3(X, zeros(8, 4, 3, 3), zeros(8).half(), None, 0.0, None, "none", *PLAIN),
        "the dtype of x, got another",
    ),
    (
        "conv3x3",
        lambda ops: ops.conv3x3(X, zeros(8, 4, 3, 3), None, zeros(8).half(), 0.0, None, "prelu", *PLAIN),
        "the dtype of x, got another",
    ),
    (
        "conv3x3",
        lambda ops: ops.conv3x3(X, zeros(8, 4, 3, 3), None, None, 0.0, None, "gelu", *PLAIN),
        "none, relu, leaky_relu or prelu, got gelu",
    ),
    (
        "sparse_conv3x3",
        lambda ops: ops.sparse_conv3x3(
            X, zeros(2, 4, 3, 3), None, None, 0.0, None, torch.tensor([1, 2]), None, "none", False, *UNPACKED
        ),
        "a tensor where out_channels is given, got none",
    ),
    (
        "sparse_conv3x3",
        lambda ops: ops.sparse_conv3x3(
            X, zeros(2, 4, 3, 3), None, None, 0.0, None, torch.tensor([1, 2, 3]), X, "none", False, *UNPACKED
        ),
        "shape (2), got (3)",
    ),
    (
        "flow_warp_backward",
        lambda ops: ops.flow_warp_backward(X.half(), X, X[:, :2], "nearest", "zeros", True, True),
        "the dtype of x, got another",
    ),
    (
        "conv3x3_epilogue_backward",
        lambda ops: ops.conv3x3_epilogue_backward(X, X.half(), None, "relu", 0.0, 1.0, 1),
        "the dtype of x, got another",
    ),
    (
        "conv3x3",
        lambda ops: ops.conv3x3(X, zeros(8, 4, 3, 3), None, zeros(3), 0.0, None, "prelu", *PLAIN),
        "shape (1,) or (8,), got (3)",
    ),
    (
        "conv3x3",
        lambda ops: ops.conv3x3(X, zeros(8, 4, 3, 3), None, None, 0.0, None, "prelu", *PLAIN),
        "a tensor for prelu, got none",
    ),
    (
        "conv3x3",
        lambda ops: ops.conv3x3(X, zeros(8, 4, 3, 3), None, None, 0.0, None, "relu", 1.0, 3, False, True, None),
        "C_out divisible by r^2, got C_out = 8 and r = 3",
    ),
    (
        "conv3x3",
        lambda ops: ops.conv3x3(X, zeros(8, 4, 3, 3).half(), None, None, 0.0, None, "relu", *PLAIN),
        "the dtype of x",
    ),
    (
        "conv3x3",
        lambda ops: ops.conv3x3(X.double(), zeros(8, 4, 3, 3).double(), None, None, 0.0, None, "none", *PLAIN),
        "float32, float16 or bfloat16",
    ),
    (
        "sparse_conv3x3",
        lambda ops: ops.sparse_conv3x3(
            X, zeros(2, 2, 3, 3), None, None, 0.0, torch.tensor([0, 4]), None, None, "none", False, *UNPACKED
        ),
        "channel numbers in [0, 4), got 4",
    ),
    (
        "sparse_conv3x3",
        lambda ops: ops.sparse_conv3x3(
            X, zeros(2, 4, 3, 3), None, None, 0.0, None, torch.tensor([-1, 2]), X, "none", False, *UNPACKED
        ),
        "channel numbers in [0, 4), got -1",
    ),
    (
        "sparse_residual_block",
        lambda ops: ops.sparse_residual_block(
            X, zeros(5, 1, 3, 3), None, zeros(2, 5, 3, 3), None, None, 0.0, torch.tensor([0]), torch.tensor([1, 9]),
            "relu", False, *UNPACKED, None,
        ),
        "channel numbers in [0, 4), got 9",
    ),
    (
        "conv3x3",
        lambda ops: ops.conv3x3(X, zeros(8, 4, 3, 3), None, None, 0.0, None, "relu", 1.0, 1, False, True, zeros(8)),
        "shape (",  # as long as the instruction set has it
    ),
    (
        "conv3x3_backward",
        lambda ops: ops.conv3x3_backward(zeros(2, 8, 6, 7), X, zeros(8, 4, 3, 3), None, True, True, True, True),
        "shape (2, 8, 6, 8), got (2, 8, 6, 7)",
    ),
    (
        "conv3x3_backward",
        lambda ops: ops.conv3x3_backward(zeros(2, 8, 6, 8), X, zeros(8, 3, 3, 3), None, True, True, True, True),
        "shape (8, 4, 3, 3), got (8, 3, 3, 3)",
    ),
    (
        "conv3x3_backward",
        lambda ops: ops.conv3x3_backward(
            zeros(2, 8, 6, 8), X, zeros(8, 2, 3, 3), torch.tensor([0, 4]), True, True, True, True
        ),
        "channel numbers in [0, 4), got 4",
    ),
    (
        "conv3x3_backward",
        lambda ops: ops.conv3x3_backward(zeros(2, 8, 6, 8).half(), X, zeros(8, 4, 3, 3), None, True, True, True, True),
        "the dtype of x, got another",
    ),
    (
        "conv3x3_epilogue_backward",
        lambda ops: ops.conv3x3_epilogue_backward(X, zeros(2, 4, 6, 7), None, "relu", 0.0, 1.0, 1),
        "shape (2, 4, 6, 8), got (2, 4, 6, 7)",
    ),
    (
        "conv3x3_epilogue_backward",
        lambda ops: ops.conv3x3_epilogue_backward(X, X, None, "relu", 0.0, 1.0, 4),
        "height and width divisible by r = 4",
    ),
]  # fmt: skip


@pytest.mark.skipif(
    not vsr_kernels.backends()["cpu"].available, reason="no compiled operators: " + vsr_kernels.backends()["cpu"].detail
)
@pytest.mark.parametrize(
    ("operator", "call", "message"), DIRECT, ids=[f"{i}-{d[0]}-{d[2]}" for i, d in enumerate(DIRECT)]
)
def test_message_of_a_direct_call(operator: str, call: Callable[[Any], object], message: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        call(torch.ops.vsr_kernels)
    assert f"{operator}: " in str(caught.value)
    assert f"expected {message}" in str(caught.value)
