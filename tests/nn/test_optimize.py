"""optimize(model): the same values from a copy with fused modules, and a report that says what was done."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import vsr_kernels
from vsr_kernels.nn import Conv3x3, PixelShuffleConv, ResidualBlock

from .plain import ResidualBlockNoBN


class Upsampler(nn.Module):
    """A small network with each kind of module that is replaced, and each that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, 1, 1)
        self.act = nn.LeakyReLU(0.1)
        self.body = nn.Sequential(
            ResidualBlockNoBN(8),
            nn.Conv2d(8, 8, 3, 1, 1),
            nn.PReLU(8),
            nn.Conv2d(8, 8, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 3, 1, 1, bias=False),
            nn.GELU(),
            nn.Conv2d(8, 8, 1),
            nn.ReLU(),
        )
        self.tail = nn.Sequential(nn.Conv2d(8, 12, 3, 1, 1), nn.PixelShuffle(2))
        self.blocks = nn.ModuleList([ResidualBlockNoBN(3, 0.2), nn.Conv2d(3, 3, 3, 1, 1, groups=3)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.tail(self.body(self.act(self.head(x))))
        for block in self.blocks:
            y = block(y)
        return y


REPLACED = {
    "head": "Conv3x3",
    "body.0": "ResidualBlock",
    "body.1": "Conv3x3 with PReLU",
    "body.3": "Conv3x3 with ReLU",
    "body.5": "Conv3x3",
    "tail.0": "PixelShuffleConv with PixelShuffle",
    "blocks.0": "ResidualBlock",
}
KEPT = {
    "body.7": "kernel_size: expected 3, got (1, 1)",
    "blocks.1": "groups: expected 1, got 3",
}


@pytest.mark.parametrize("training", [True, False])
def test_values_stay(training: bool) -> None:
    """The model passed in is not touched; the copy gives the same values and gradients, in the same mode."""
    model = Upsampler().train(training)
    before = copy.deepcopy(model.state_dict())
    made, _ = vsr_kernels.optimize(model)
    assert made.training == training
    x = torch.randn(2, 3, 6, 7)
    torch.testing.assert_close(made(x), model(x), rtol=1e-4, atol=1e-5)
    ours = torch.autograd.grad(made(x).square().sum(), list(made.parameters()))
    theirs = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    assert len(ours) == len(theirs)
    for a, b in zip(sorted(g.norm().item() for g in ours), sorted(g.norm().item() for g in theirs), strict=True):
        assert a == pytest.approx(b, rel=1e-3)
    assert [type(m) for m in model.modules()] == [type(m) for m in Upsampler().modules()]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_report() -> None:
    _, report = vsr_kernels.optimize(Upsampler())
    assert report.replaced == REPLACED
    assert report.kept == KEPT
    lines = str(report).splitlines()
    assert lines[0] == "7 replaced, 2 kept"
    assert "  + body.1: Conv3x3 with PReLU" in lines
    assert "  - blocks.1: groups: expected 1, got 3" in lines
    assert len(lines) == 1 + len(REPLACED) + len(KEPT)


def test_modules_stand_where_the_report_says() -> None:
    made, report = vsr_kernels.optimize(Upsampler())
    for path, what in report.replaced.items():
        assert type(made.get_submodule(path)).__name__ == what.split()[0]
    assert isinstance(made.body[2], nn.Identity)
    assert isinstance(made.body[4], nn.Identity)
    assert isinstance(made.tail[1], nn.Identity)
    assert isinstance(made.body[6], nn.GELU)
    assert isinstance(made.body[8], nn.ReLU)


def test_keys_keep_their_place() -> None:
    """Every key of the model is one of the copy; a PReLU's weight moves to the slope of its convolution."""
    model = Upsampler()
    made, _ = vsr_kernels.optimize(model)
    moved = {"body.2.weight": "body.1.slope"}
    assert sorted(made.state_dict()) == sorted(moved.get(key, key) for key in model.state_dict())
    for key, tensor in model.state_dict().items():
        assert torch.equal(made.state_dict()[moved.get(key, key)], tensor)


def test_copies_share_no_memory() -> None:
    model = Upsampler()
    made, _ = vsr_kernels.optimize(model)
    memory = {p.data_ptr() for p in model.parameters()}
    assert not memory & {p.data_ptr() for p in made.parameters()}


def test_dtype_and_memory_format() -> None:
    model = Upsampler()
    made, _ = vsr_kernels.optimize(model, dtype=torch.bfloat16)
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
    assert made.head.weight.is_contiguous(memory_format=torch.channels_last)
    assert made.head.weight.stride(1) == 1
    assert made(torch.randn(1, 3, 4, 5).bfloat16()).dtype == torch.bfloat16
    plain, _ = vsr_kernels.optimize(model, channels_last=False)
    assert plain.head.weight.is_contiguous()
    assert {p.dtype for p in plain.parameters()} == {torch.float32}


def test_twice_is_once() -> None:
    once, _ = vsr_kernels.optimize(Upsampler())
    twice, report = vsr_kernels.optimize(once)
    assert not report.replaced
    x = torch.randn(1, 3, 4, 5)
    assert torch.equal(twice(x), once(x))


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (nn.Conv2d(3, 4, 3, 1, 1), Conv3x3),
        (ResidualBlockNoBN(3), ResidualBlock),
        (nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.PixelShuffle(2)), nn.Sequential),
    ],
    ids=["conv", "block", "sequence"],
)
def test_the_model_itself_may_be_replaced(model: nn.Module, kind: type[nn.Module]) -> None:
    made, report = vsr_kernels.optimize(model)
    assert type(made) is kind
    assert len(report.replaced) == 1
    x = torch.randn(1, 3, 4, 5)
    torch.testing.assert_close(made(x), model(x), rtol=1e-4, atol=1e-5)


def test_one_module_in_two_places_stays_one() -> None:
    """Weights that were tied stay tied, in attributes as well as in sequences."""
    conv = nn.Conv2d(4, 4, 3, 1, 1)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = self.second = conv
            self.chain = nn.Sequential(conv, nn.ReLU(), conv, nn.LeakyReLU(0.2))

        def forward(self, x: Tensor) -> Tensor:
            return self.chain(self.second(self.first(x)))

    model = Tied()
    made, _ = vsr_kernels.optimize(model)
    x = torch.randn(1, 4, 5, 6)
    torch.testing.assert_close(made(x), model(x), rtol=1e-4, atol=1e-5)
    assert len(list(made.parameters())) == 2
    with torch.no_grad():
        made.first.weight.zero_()
        made.first.bias.zero_()
    assert not made(x).any()


def test_one_activation_behind_two_convolutions() -> None:
    act = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), act, nn.Conv2d(3, 3, 3, 1, 1), act, nn.Conv2d(3, 3, 1), act)
    made, report = vsr_kernels.optimize(model)
    x = torch.randn(1, 3, 5, 6)
    torch.testing.assert_close(made(x), model(x), rtol=1e-4, atol=1e-5)
    assert list(report.replaced) == ["0", "2"]


class Skipping(nn.Sequential):
    """A sequence that does not run in sequence: it uses the values before the activation as well."""

    def forward(self, x: Tensor) -> Tensor:
        z = self[0](x)
        return z + self[1](z)


def test_sequences_of_another_order_are_not_fused() -> None:
    """A subclass of nn.Sequential may call its parts as it likes."""
    model = Skipping(nn.Conv2d(3, 3, 3, 1, 1), nn.ReLU())
    made, _ = vsr_kernels.optimize(model)
    x = torch.randn(1, 3, 5, 6)
    torch.testing.assert_close(made(x), model(x), rtol=1e-4, atol=1e-5)


class Halved(nn.Conv2d):
    """A convolution with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


def test_subclasses_are_kept() -> None:
    model = nn.Sequential(Halved(3, 3, 3, 1, 1), nn.ReLU())
    made, report = vsr_kernels.optimize(model)
    assert report.kept == {"0": "expected nn.Conv2d itself, got the subclass Halved"}
    x = torch.randn(1, 3, 5, 6)
    torch.testing.assert_close(made(x), model(x), rtol=1e-4, atol=1e-5)


def test_hooks_are_kept() -> None:
    """A module with hooks does more than its forward, so it stays, and the report says why."""
    calls: list[str] = []
    model = nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), nn.ReLU(), nn.Conv2d(3, 3, 3, 1, 1))
    model[0].register_forward_hook(lambda *_: calls.append("after"))
    model[1].register_forward_pre_hook(lambda *_: calls.append("before"))
    made, report = vsr_kernels.optimize(model)
    made(torch.randn(1, 3, 5, 6))
    assert calls == ["after", "before"]
    assert "hook" in report.kept["0"]
    assert list(report.replaced) == ["2"]


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_parametrized_weights_stay_parametrized(norm: object) -> None:
    """Replacing such a convolution would freeze its weight at today's value."""
    model = nn.Sequential(norm(nn.Conv2d(3, 3, 3, 1, 1)), nn.ReLU())  # type: ignore[operator]
    made, report = vsr_kernels.optimize(model)
    assert "0" in report.kept
    assert len(list(made.parameters())) == len(list(model.parameters()))


def test_blocks_of_another_form_are_kept() -> None:
    """A block by the right name with more in it, or with convolutions that cannot be replaced."""
    wider = ResidualBlockNoBN(4)
    wider.norm = nn.BatchNorm2d(4)
    strided = ResidualBlockNoBN(4)
    strided.conv1 = nn.Conv2d(4, 4, 1)
    model = nn.ModuleList([wider, strided])
    made, report = vsr_kernels.optimize(model)
    assert type(made[0]).__name__ == "ResidualBlockNoBN"
    assert type(made[1]).__name__ == "ResidualBlockNoBN"
    assert isinstance(made[0].conv1, Conv3x3)
    assert "kernel_size" in report.kept["1"]


def test_half_made_models() -> None:
    """Empty slots of a sequence and models without any convolution pass through."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Identity())
    model.register_module("empty", None)
    made, report = vsr_kernels.optimize(model)
    assert not report.replaced
    assert not report.kept
    assert str(report) == "0 replaced, 0 kept"
    assert type(made[0]) is nn.Linear


def test_fused_shuffle_keeps_a_bias_of_none() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.PixelShuffle(2), nn.ReLU())
    made, _ = vsr_kernels.optimize(model)
    assert isinstance(made[0], PixelShuffleConv)
    assert made[0].bias is None
    x = torch.randn(1, 3, 5, 6)
    torch.testing.assert_close(made(x), model(x), rtol=1e-4, atol=1e-5)


def test_optical_flow() -> None:
    """7x7 convolutions, with the ReLU behind them; others of that size stay."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 7, padding=3), nn.ReLU(), nn.Conv2d(4, 4, 7, padding=3), nn.Conv2d(4, 2, 7, padding=1)
    ).eval()
    made, report = vsr_kernels.optimize(model)
    assert report.replaced == {"0": "Conv7x7 with ReLU", "2": "Conv7x7"}
    assert report.kept == {"3": "padding: expected 3, got (1, 1)"}
    x = torch.randn(1, 3, 11, 9)
    torch.testing.assert_close(made(x), model(x), rtol=1e-4, atol=1e-5)
