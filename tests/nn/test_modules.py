"""Each module: the arguments and keys of what it replaces, the values of the plain modules, and a life as a module."""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vsr_kernels
from vsr_kernels.nn import (
    Conv3x3,
    Conv7x7,
    FlowWarp,
    PixelShuffleConv,
    RepConv3x3,
    ResidualBlock,
    SparseConv3x3,
    SparseResidualBlock,
    rep,
)

from .plain import ResidualBlockNoBN

BACKENDS = [
    pytest.param(
        name,
        marks=[
            pytest.mark.skipif(
                not status.available or "conv3x3" not in status.operators, reason=f"{name}: {status.detail}"
            ),
            *([pytest.mark.gpu] if name == "cuda" else []),
        ],
    )
    for name, status in vsr_kernels.backends().items()
]


@pytest.fixture(params=BACKENDS)
def device(request: pytest.FixtureRequest) -> Any:
    """Run on each backend; the device where its tensors live."""
    with vsr_kernels.use_backend(request.param):
        yield torch.device("cuda" if request.param == "cuda" else "cpu")


def near(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def image(*shape: int, device: torch.device | str = "cpu") -> Tensor:
    return torch.randn(shape).to(device)


# Conv3x3


def test_conv3x3_takes_the_arguments_of_conv2d() -> None:
    """By position as well, with the same names and defaults; what is new comes after, by keyword."""
    ours, theirs = (inspect.signature(kind).parameters for kind in (Conv3x3, nn.Conv2d))
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        if name in ("kernel_size", "padding"):
            assert ours[name].default == {"kernel_size": 3, "padding": 1}[name]
        else:
            assert ours[name].default == parameter.default
    assert all(p.kind is p.KEYWORD_ONLY for p in list(ours.values())[len(theirs) :])


@pytest.mark.parametrize("bias", [True, False])
def test_conv3x3_is_conv2d(device: torch.device, bias: bool) -> None:
    """The same initial values from the same seed, the same keys, and an instance of nn.Conv2d."""
    torch.manual_seed(1)
    theirs = nn.Conv2d(5, 7, 3, 1, 1, bias=bias).to(device)
    torch.manual_seed(1)
    ours = Conv3x3(5, 7, 3, 1, 1, bias=bias).to(device)
    assert isinstance(ours, nn.Conv2d)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor)
    x = image(2, 5, 6, 8, device=device)
    near(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"activation": "relu"}, lambda m, z: F.relu(z)),
        ({"activation": "leaky_relu"}, lambda m, z: F.leaky_relu(z, 0.01)),
        ({"activation": "leaky_relu", "slope": 0.3}, lambda m, z: F.leaky_relu(z, 0.3)),
        ({"activation": "prelu"}, lambda m, z: F.prelu(z, torch.full_like(m.slope, 0.25))),
        ({"activation": "prelu", "slope": 0.7}, lambda m, z: F.prelu(z, torch.full_like(m.slope, 0.7))),
    ],
    ids=["relu", "leaky", "leaky-0.3", "prelu", "prelu-0.7"],
)
def test_conv3x3_activates_and_adds(
    device: torch.device, settings: dict[str, Any], expected: Callable[[Conv3x3, Tensor], Tensor]
) -> None:
    made = Conv3x3(5, 7, **settings).to(device)
    x, residual = image(2, 5, 6, 8, device=device), image(2, 7, 6, 8, device=device)
    z = F.conv2d(x, made.weight, made.bias, padding=1)
    near(made(x), expected(made, z))
    near(made(x, residual), expected(made, z) + residual)
    keys = ["weight", "bias"] + (["slope"] if settings["activation"] == "prelu" else [])
    assert sorted(made.state_dict()) == sorted(keys)
    if settings["activation"] == "prelu":
        assert made.slope.shape == (7,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_size": 5}, "Conv3x3: kernel_size: expected 3, got 5"),
        ({"kernel_size": (3, 1)}, "Conv3x3: kernel_size: expected 3, got (3, 1)"),
        ({"stride": 2}, "Conv3x3: stride: expected 1, got 2"),
        ({"padding": 0}, "Conv3x3: padding: expected 1, got 0"),
        ({"padding": "valid"}, "Conv3x3: padding: expected 1, got 'valid'"),
        ({"dilation": 2}, "Conv3x3: dilation: expected 1, got 2"),
        ({"groups": 5}, "Conv3x3: groups: expected 1, got 5"),
        ({"padding_mode": "reflect"}, "Conv3x3: padding_mode: expected 'zeros', got 'reflect'"),
        ({"activation": "relu", "slope": 0.1}, "Conv3x3: slope: expected None for activation 'relu', got 0.1"),
        (
            {"activation": "gelu"},
            "Conv3x3: activation: expected one of none, relu, leaky_relu, prelu, got 'gelu'",
        ),
    ],
)
def test_conv3x3_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Conv3x3(5, 5, **settings)
    assert str(caught.value) == message


@pytest.mark.parametrize("padding", [1, (1, 1), "same"])
def test_conv3x3_accepts_other_spellings(padding: Any) -> None:
    assert Conv3x3(2, 3, (3, 3), (1, 1), padding, (1, 1))(image(1, 2, 4, 5)).shape == (1, 3, 4, 5)


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (None, "none"),
        (nn.Identity(), "none"),
        (nn.ReLU(), "relu"),
        (nn.LeakyReLU(0.3), "leaky_relu"),
        (nn.PReLU(), "prelu"),
        (nn.PReLU(7, init=0.4), "prelu"),
    ],
    ids=["none", "identity", "relu", "leaky", "prelu-one", "prelu-each"],
)
def test_conv3x3_from_modules(device: torch.device, activation: nn.Module | None, name: str) -> None:
    """Takes parameters over without a copy, so an optimizer that holds them goes on; keeps train or eval mode."""
    conv = nn.Conv2d(5, 7, 3, 1, "same", bias=activation is not None).to(device).eval()
    activation = activation if activation is None else activation.to(device)
    made = Conv3x3.from_module(conv, activation)
    assert made.activation == name
    assert made.weight is conv.weight
    assert made.bias is conv.bias
    assert not made.training
    assert (made.in_channels, made.out_channels) == (5, 7)
    if isinstance(activation, nn.PReLU):
        assert made.slope is activation.weight
    x = image(2, 5, 6, 8, device=device)
    near(made(x), conv(x) if activation is None else activation(conv(x)))


@pytest.mark.parametrize(
    ("conv", "activation", "message"),
    [
        (nn.Conv2d(4, 4, 1), None, "Conv3x3: kernel_size: expected 3, got (1, 1)"),
        (nn.Conv2d(4, 4, 3, 2, 1), None, "Conv3x3: stride: expected 1, got (2, 2)"),
        (nn.Conv2d(4, 4, 3, 1, 1, groups=2), None, "Conv3x3: groups: expected 1, got 2"),
        (
            nn.Conv2d(4, 4, 3, 1, 1),
            nn.GELU(),
            "Conv3x3: activation: expected ReLU, LeakyReLU, PReLU(4) or none, got GELU(approximate='none')",
        ),
        (
            nn.Conv2d(4, 4, 3, 1, 1),
            nn.PReLU(3),
            "Conv3x3: activation: expected ReLU, LeakyReLU, PReLU(4) or none, got PReLU(num_parameters=3)",
        ),
    ],
)
def test_conv3x3_cannot_replace(conv: nn.Conv2d, activation: nn.Module | None, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Conv3x3.from_module(conv, activation)
    assert str(caught.value) == message


# Conv7x7


@pytest.mark.parametrize("bias", [True, False])
def test_conv7x7_is_conv2d(bias: bool) -> None:
    """The same initial values, keys and results; what a checkpoint of nn.Conv2d holds fits."""
    torch.manual_seed(1)
    theirs = nn.Conv2d(5, 7, 7, 1, 3, bias=bias)
    torch.manual_seed(1)
    ours = Conv7x7(5, 7, bias=bias, activation="relu")
    assert isinstance(ours, nn.Conv2d)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = image(2, 5, 9, 8)
    near(ours(x), theirs(x).relu())  # PyTorch's, for the sake of gradients
    with torch.no_grad():
        near(ours.eval()(x), theirs(x).relu())


def test_conv7x7_from_modules() -> None:
    """The parameters themselves; what it cannot replace is named."""
    conv = nn.Conv2d(5, 7, 7, padding="same", bias=False)
    made = Conv7x7.from_module(conv, nn.ReLU()).eval()
    assert made.weight is conv.weight
    x = image(1, 5, 9, 6)
    near(made(x), conv(x).relu())
    with pytest.raises(ValueError, match=r"Conv7x7: padding: expected 3, got \(2, 2\)"):
        Conv7x7.from_module(nn.Conv2d(5, 7, 7, padding=2))
    with pytest.raises(ValueError, match="Conv7x7: activation: expected none or relu, got 'leaky_relu'"):
        Conv7x7.from_module(conv, nn.LeakyReLU())


# PixelShuffleConv


@pytest.mark.parametrize("r", [1, 2, 3])
def test_pixel_shuffle_conv(device: torch.device, r: int) -> None:
    """Convolution, activation, shuffle and sum; the convolution's keys, shapes and initial values."""
    torch.manual_seed(2)
    conv = nn.Conv2d(5, 4 * r * r, 3, 1, 1).to(device)
    torch.manual_seed(2)
    made = PixelShuffleConv(5, 4, r).to(device)
    assert {k: v.shape for k, v in made.state_dict().items()} == {k: v.shape for k, v in conv.state_dict().items()}
    assert torch.equal(made.weight, conv.weight)
    x, residual = image(2, 5, 6, 8, device=device), image(2, 4, 6 * r, 8 * r, device=device)
    near(made(x), F.pixel_shuffle(conv(x), r))
    near(made(x, residual), F.pixel_shuffle(conv(x), r) + residual)
    activated = PixelShuffleConv(5, 4, r, bias=False, activation="prelu", slope=0.5).to(device)
    assert activated.bias is None
    assert activated.slope.shape == (4 * r * r,)
    near(activated(x), F.pixel_shuffle(F.leaky_relu(F.conv2d(x, activated.weight, padding=1), 0.5), r))


def test_pixel_shuffle_conv_from_modules(device: torch.device) -> None:
    conv, shuffle = nn.Conv2d(5, 12, 3, 1, 1).to(device), nn.PixelShuffle(2)
    made = PixelShuffleConv.from_module(conv, shuffle)
    assert made.weight is conv.weight
    assert made.bias is conv.bias
    x = image(2, 5, 6, 8, device=device)
    near(made(x), shuffle(conv(x)))
    with pytest.raises(
        ValueError, match=r"PixelShuffleConv: module: expected output channels divisible by r\^2 = 9, got 12"
    ):
        PixelShuffleConv.from_module(conv, nn.PixelShuffle(3))
    with pytest.raises(ValueError, match="kernel_size: expected 3"):
        PixelShuffleConv.from_module(nn.Conv2d(5, 12, 5, 1, 2), shuffle)


@pytest.mark.parametrize("r", [0, -1, 2.0])
def test_pixel_shuffle_conv_refuses(r: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="PixelShuffleConv: upscale_factor: expected an integer"):
        PixelShuffleConv(4, 4, r)


# ResidualBlock


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_residual_block(device: torch.device, scale: float) -> None:
    theirs = ResidualBlockNoBN(6, scale).to(device)
    ours = ResidualBlock(6, scale).to(device)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = image(2, 6, 7, 9, device=device)
    near(ours(x), theirs(x))


def test_residual_block_defaults() -> None:
    parameters = inspect.signature(ResidualBlock).parameters
    assert [(name, parameters[name].default) for name in ("num_feat", "res_scale")] == [
        ("num_feat", 64),
        ("res_scale", 1.0),
    ]


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(), nn.LeakyReLU(0.2), nn.PReLU(), nn.PReLU(6)],
    ids=["relu", "leaky", "prelu-one", "prelu-each"],
)
def test_residual_block_from_module(device: torch.device, activation: nn.Module) -> None:
    theirs = ResidualBlockNoBN(6, 0.5, activation).to(device).eval()
    ours = ResidualBlock.from_module(theirs)
    assert ours.conv1.weight is theirs.conv1.weight
    assert ours.conv2.bias is theirs.conv2.bias
    assert not ours.training
    x = image(2, 6, 7, 9, device=device)
    near(ours(x), theirs(x))


def test_residual_block_cannot_replace() -> None:
    with pytest.raises(ValueError, match=r"ResidualBlock: module: expected convolutions conv1 and conv2.*got Linear"):
        ResidualBlock.from_module(nn.Linear(3, 3))
    strided = ResidualBlockNoBN(6)
    strided.conv1 = nn.Conv2d(6, 6, 3, 2, 1)
    with pytest.raises(ValueError, match="stride: expected 1"):
        ResidualBlock.from_module(strided)
    narrow = ResidualBlockNoBN(6)
    narrow.conv2 = nn.Conv2d(6, 4, 3, 1, 1)
    with pytest.raises(ValueError, match="expected as many channels out as in"):
        ResidualBlock.from_module(narrow)
    apart = ResidualBlockNoBN(6)
    apart.conv2 = nn.Conv2d(5, 6, 3, 1, 1)
    with pytest.raises(ValueError, match="channels"):
        ResidualBlock.from_module(apart)


# FlowWarp


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_flow_warp(interpolation: str, padding: str) -> None:
    """Equal to grid_sample(align_corners=True) on the pixel grid."""
    x, flow = image(2, 3, 8, 9), (image(2, 2, 8, 9) * 12).round() / 4 + 0.1
    rows, cols = torch.meshgrid(torch.arange(8.0), torch.arange(9.0), indexing="ij")
    grid = torch.stack([(cols + flow[:, 0]) / 4 - 1, (rows + flow[:, 1]) / 3.5 - 1], dim=-1)
    expected = F.grid_sample(x, grid, mode=interpolation, padding_mode=padding, align_corners=True)
    module = FlowWarp(interpolation, padding)
    near(module(x, flow), expected)
    assert not list(module.state_dict())
    assert f"interpolation={interpolation}, padding={padding}" in str(module)


@pytest.mark.parametrize(("arguments", "name"), [(("cubic",), "interpolation"), (("nearest", "wrap"), "padding")])
def test_flow_warp_refuses(arguments: tuple[str, ...], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected"):
        FlowWarp(*arguments)(image(1, 1, 2, 2), image(1, 2, 2, 2))


# RepConv3x3


def settle(module: nn.Module) -> None:
    """Give batch norms statistics and parameters as after some training."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)


def branches_by_hand(module: RepConv3x3, x: Tensor) -> Tensor:
    """The sum of its branches, run as plain modules."""
    out = x if module.identity else 0
    for branch in module.branches:
        out = out + branch.conv1(branch.bn(branch.conv3(x)))
    return out


@pytest.mark.parametrize(("c_in", "c_out"), [(4, 4), (3, 5)])
@pytest.mark.parametrize("size", [(6, 7), (1, 1)])
def test_rep_conv(device: torch.device, c_in: int, c_out: int, size: tuple[int, int]) -> None:
    """Training runs the branches and moves their statistics; evaluation and the merged module equal the branches."""
    module = RepConv3x3(c_in, c_out).to(device)
    settle(module)
    assert module.identity == (c_in == c_out)
    x = image(2, c_in, *size, device=device)
    twin = copy.deepcopy(module)
    near(module(x), branches_by_hand(twin, x))
    for ours, theirs in zip(module.buffers(), twin.buffers(), strict=True):
        near(ours, theirs)
    module.eval()
    expected = branches_by_hand(module, x)
    near(module(x), expected)
    merged = module.merge()
    assert isinstance(merged, Conv3x3)
    assert not merged.training
    assert sorted(merged.state_dict()) == ["bias", "weight"]
    near(merged(x), expected)


def test_rep_conv_evaluates_one_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is the point of merging: the branches run while training only."""
    module, calls = RepConv3x3(4, 4), []

    def counted(*arguments: Tensor) -> Tensor:
        calls.append(arguments[1].shape)
        return vsr_kernels.conv3x3(*arguments)

    monkeypatch.setattr(rep, "conv3x3", counted)
    module(image(1, 4, 5, 6))
    assert calls == [(8, 4, 3, 3), (8, 4, 3, 3)]
    calls.clear()
    module.eval()(image(1, 4, 5, 6))
    assert calls == [(4, 4, 3, 3)]


def test_rep_conv_width() -> None:
    module = RepConv3x3(4, 6, expansion=3, branches=1)
    assert len(module.branches) == 1
    assert module.branches[0].conv3.weight.shape == (18, 4, 3, 3)
    assert module.branches[0].conv1.weight.shape == (6, 18, 1, 1)


def test_rep_conv_trains_through_the_merge(device: torch.device) -> None:
    """In eval mode gradients reach every branch, as through the branches with population statistics."""
    module = RepConv3x3(4, 4).to(device)
    settle(module)
    module.eval()
    x = image(2, 4, 6, 7, device=device)
    parameters = list(module.parameters())
    got = torch.autograd.grad(module(x).square().sum(), parameters)
    expected = torch.autograd.grad(branches_by_hand(module, x).square().sum(), parameters)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_rep_conv_does_not_merge_while_training() -> None:
    with pytest.raises(RuntimeError, match="RepConv3x3: merge: expected eval mode, got train mode"):
        RepConv3x3(3, 3).merge()


# Sparse modules

IN_KEPT, OUT_KEPT = [5, 0, 2], [1, 4]


def test_sparse_conv(device: torch.device) -> None:
    """A dense convolution cut down: its kept weights, added to the kept channels."""
    dense = nn.Conv2d(6, 5, 3, 1, 1).to(device).eval()
    made = SparseConv3x3.from_module(dense, in_kept=IN_KEPT, out_kept=OUT_KEPT)
    assert not made.training
    assert made.weight.shape == (2, 3, 3, 3)
    assert sorted(made.state_dict()) == ["bias", "in_kept", "out_kept", "weight"]
    x, residual = image(2, 6, 5, 7, device=device), image(2, 5, 5, 7, device=device)
    only = torch.zeros_like(x)
    only[:, IN_KEPT] = x[:, IN_KEPT]
    expected = residual.clone()
    expected[:, OUT_KEPT] += dense(only)[:, OUT_KEPT]
    near(made(x, residual), expected)
    near(SparseConv3x3.from_module(dense)(x), dense(x))
    near(SparseConv3x3.from_module(dense)(x, residual), dense(x) + residual)


@pytest.mark.parametrize("bias", [True, False])
def test_sparse_conv_alone(device: torch.device, bias: bool) -> None:
    made = SparseConv3x3(6, 5, in_kept=torch.tensor(IN_KEPT), bias=bias, activation="leaky_relu", slope=0.2).to(device)
    assert made.weight.shape == (5, 3, 3, 3)
    x = image(2, 6, 5, 7, device=device)
    near(made(x), F.leaky_relu(F.conv2d(x[:, IN_KEPT], made.weight, made.bias, padding=1), 0.2))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_sparse_block_from_module(device: torch.device, scale: float) -> None:
    dense = ResidualBlockNoBN(6, scale).to(device)
    hidden = [3, 0, 5, 1]
    if scale != 1.0:
        with pytest.raises(ValueError, match=r"SparseResidualBlock: module: expected res_scale 1, got 0\.5"):
            SparseResidualBlock.from_module(dense, in_kept=IN_KEPT, out_kept=OUT_KEPT, hidden_kept=hidden)
        return
    made = SparseResidualBlock.from_module(dense, in_kept=IN_KEPT, out_kept=OUT_KEPT, hidden_kept=hidden)
    keys = ["conv1.bias", "conv1.weight", "conv2.bias", "conv2.weight", "in_kept", "out_kept"]
    assert sorted(made.state_dict()) == keys
    x = image(2, 6, 5, 7, device=device)
    only = torch.zeros_like(x)
    only[:, IN_KEPT] = x[:, IN_KEPT]
    mask = torch.zeros(6, device=device)
    mask[hidden] = 1
    inner = F.relu(dense.conv1(only)) * mask[:, None, None]
    expected = x.clone()
    expected[:, OUT_KEPT] += dense.conv2(inner)[:, OUT_KEPT]
    near(made(x), expected)


def test_sparse_block_activations(device: torch.device) -> None:
    x = image(2, 6, 5, 7, device=device)
    for settings in ({"activation": "leaky_relu", "slope": 0.2}, {"activation": "prelu", "slope": 0.2}):
        made = SparseResidualBlock(6, in_kept=IN_KEPT, out_kept=OUT_KEPT, hidden=4, **settings).to(device)
        expected = x.clone()
        expected[:, OUT_KEPT] += made.conv2(F.leaky_relu(made.conv1(x[:, IN_KEPT]), 0.2))
        near(made(x), expected)
    dense = ResidualBlockNoBN(6, 1.0, nn.PReLU())
    with pytest.raises(ValueError, match="expected activation none, relu or leaky_relu, got prelu"):
        SparseResidualBlock.from_module(dense, in_kept=IN_KEPT, out_kept=OUT_KEPT, hidden_kept=[0])


@pytest.mark.parametrize(
    ("kept", "shown"),
    [([0, 6], r"\[0, 6\]"), ([-1], r"\[-1\]"), ([2, 2], r"\[2, 2\]"), (torch.tensor([[1]]), r"\[\[1\]\]")],
)
def test_sparse_modules_refuse_channels(kept: Any, shown: str) -> None:
    message = rf"expected distinct channel numbers in \[0, 6\), got {shown}"
    for name, make in (
        ("SparseConv3x3: in_kept", lambda: SparseConv3x3(6, 6, in_kept=kept)),
        ("SparseConv3x3: out_kept", lambda: SparseConv3x3(6, 6, out_kept=kept)),
        ("SparseResidualBlock: in_kept", lambda: SparseResidualBlock(6, in_kept=kept, out_kept=[0], hidden=2)),
        ("SparseResidualBlock: out_kept", lambda: SparseResidualBlock(6, in_kept=[0], out_kept=kept, hidden=2)),
    ):
        with pytest.raises(ValueError, match=f"^{name}: {message}"):
            make()


# All modules

MODULES: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: Conv3x3(6, 6, activation="prelu"),
    "conv-leaky": lambda: Conv3x3(6, 6, activation="leaky_relu", slope=0.1),
    "conv7x7": lambda: Conv7x7(6, 6, activation="relu"),
    "shuffle-conv": lambda: PixelShuffleConv(6, 3, 2, activation="relu"),
    "block": lambda: ResidualBlock(6, 0.5, activation="prelu"),
    "rep": lambda: RepConv3x3(6, 6),
    "sparse-conv": lambda: SparseConv3x3(6, 4, in_kept=IN_KEPT, activation="prelu"),
    "sparse-block": lambda: SparseResidualBlock(6, in_kept=IN_KEPT, out_kept=OUT_KEPT, hidden=4),
}


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> nn.Module:
    made = MODULES[request.param]()
    settle(made)
    return made


def test_copies_are_alike_and_apart(module: nn.Module) -> None:
    """deepcopy, pickle through torch.save, and a state_dict loaded into a fresh module."""
    x = image(1, 6, 4, 5)
    module.eval()
    expected = module(x)
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    pickled = torch.load(stream, weights_only=False)  # bytes of this very test
    weights = io.BytesIO()
    torch.save(module.state_dict(), weights)
    weights.seek(0)
    fresh = copy.deepcopy(module)
    for parameter in fresh.parameters():
        nn.init.zeros_(parameter)
    fresh.load_state_dict(torch.load(weights, weights_only=True))
    copied = copy.deepcopy(module)
    for other in (copied, pickled, fresh):
        assert torch.equal(other(x), expected)
        assert not other.training
    for parameter in copied.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(module(x), expected)


def test_training_reaches_every_parameter(device: torch.device, module: nn.Module) -> None:
    """Some steps lower a loss, and no parameter stays what it was."""
    module.to(device).train()
    x = image(2, 6, 8, 8, device=device)
    with torch.no_grad():
        target = image(*module(x).shape, device=device) / 4
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.mse_loss(module(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    for name, parameter in module.named_parameters():
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_modules_change_dtype(device: torch.device, module: nn.Module, dtype: torch.dtype) -> None:
    """Channel numbers stay integers."""
    module.eval()
    expected = module(image(1, 6, 4, 5)) if device.type == "cpu" else None
    torch.manual_seed(0)
    module.to(device, dtype)
    x = torch.randn(1, 6, 4, 5)
    torch.manual_seed(0)
    got = module(x.to(device, dtype))
    assert got.dtype == dtype
    if expected is not None:
        near_enough = 0.1 if dtype == torch.bfloat16 else 2e-2
        reference = copy.deepcopy(module).float()(x)
        torch.testing.assert_close(got.float(), reference, rtol=near_enough, atol=near_enough)


def test_modules_compile(device: torch.device, module: nn.Module) -> None:
    module.to(device).eval()
    x = image(1, 6, 4, 5, device=device)
    torch.compiler.reset()
    assert torch.equal(torch.compile(module, fullgraph=True, backend="aot_eager")(x), module(x))


def test_modules_are_made_on_meta() -> None:
    """Where nothing is allocated, for models that are loaded piece by piece."""
    with torch.device("meta"):
        made = [Conv3x3(6, 6, activation="prelu"), PixelShuffleConv(6, 3, 2), ResidualBlock(6), RepConv3x3(6, 6)]
    for one in made:
        assert all(p.device.type == "meta" for p in one.parameters())


def test_modules_describe_themselves() -> None:
    """print(model) shows what was fused into a convolution."""
    assert str(Conv7x7(6, 6)) == str(nn.Conv2d(6, 6, 7, 1, 3)).replace("Conv2d", "Conv7x7")
    assert "activation=relu" in str(Conv7x7(6, 6, activation="relu"))
    assert "6, 3, upscale_factor=2, activation=relu" in str(PixelShuffleConv(6, 3, 2, activation="relu"))
    assert "activation=leaky_relu" in str(Conv3x3(6, 6, activation="leaky_relu"))
    assert "activation=prelu" in str(ResidualBlock(6, activation="prelu"))
    assert str(Conv3x3(6, 6)) == str(nn.Conv2d(6, 6, 3, 1, 1)).replace("Conv2d", "Conv3x3")
