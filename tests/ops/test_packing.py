"""Packed weights: kept while nothing changes, made anew as soon as something does.

The packer is a stand-in that copies the weight, so that all of it runs where there is no GPU.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vsr_kernels
from ops.on_backends import on
from vsr_kernels import PackedWeights
from vsr_kernels.nn import Conv3x3, Conv7x7, PixelShuffleConv, ResidualBlock, SparseConv3x3, SparseResidualBlock
from vsr_kernels.ops import packing


class Packer:
    """Counts its calls; what it makes holds the weight's values of that moment."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, weight: Tensor) -> Tensor:
        self.calls += 1
        return weight.detach().clone()


def look_up(
    kept: PackedWeights,
    packer: Packer,
    *parameters: Tensor | None,
    slot: int = 0,
    settings: object = None,
    **how: Any,
) -> Tensor:
    """As an operator does."""
    weight = parameters[0]
    assert weight is not None
    return kept.lookup(slot, parameters, (settings,), lambda: packer(weight), **how)


@pytest.fixture
def weight() -> nn.Parameter:
    return nn.Parameter(torch.randn(4, 3, 3, 3))


@pytest.fixture
def bias() -> nn.Parameter:
    return nn.Parameter(torch.randn(4))


def test_packs_once(weight: nn.Parameter, bias: nn.Parameter) -> None:
    kept, packer = PackedWeights(), Packer()
    first = look_up(kept, packer, weight, bias, None)
    assert look_up(kept, packer, weight, bias, None) is first
    assert packer.calls == 1


def step(weight: nn.Parameter, bias: nn.Parameter) -> None:
    optimizer = torch.optim.SGD([weight, bias], 0.1)
    (weight.sum() + bias.sum()).backward()
    optimizer.step()


def load(weight: nn.Parameter, bias: nn.Parameter) -> None:
    module = nn.Conv2d(3, 4, 3)
    module.weight, module.bias = weight, bias
    module.load_state_dict({"weight": torch.ones(4, 3, 3, 3), "bias": torch.ones(4)})


def change_in_place(weight: nn.Parameter, bias: nn.Parameter) -> None:
    with torch.no_grad():
        weight.mul_(2)


def change_the_bias(weight: nn.Parameter, bias: nn.Parameter) -> None:
    with torch.no_grad():
        bias.add_(1)


def cast(weight: nn.Parameter, bias: nn.Parameter) -> None:
    weight.data = weight.data.double()


def move(weight: nn.Parameter, bias: nn.Parameter) -> None:
    weight.data = weight.data.clone()


@pytest.mark.parametrize("change", [step, load, change_in_place, change_the_bias, cast, move])
def test_packs_again_after_a_change(
    weight: nn.Parameter, bias: nn.Parameter, change: Callable[[nn.Parameter, nn.Parameter], None]
) -> None:
    kept, packer = PackedWeights(), Packer()
    first = look_up(kept, packer, weight, bias)
    change(weight, bias)
    second = look_up(kept, packer, weight, bias)
    assert second is not first
    assert torch.equal(second, weight)
    assert look_up(kept, packer, weight, bias) is second
    assert packer.calls == 2


def test_another_parameter_is_another(weight: nn.Parameter, bias: nn.Parameter) -> None:
    """Even in the same memory: the held parameter keeps its identity from being taken over."""
    kept, packer = PackedWeights(), Packer()
    first = look_up(kept, packer, weight, bias)
    assert look_up(kept, packer, nn.Parameter(weight.data), bias) is not first
    assert look_up(kept, packer, weight, None) is not first
    assert packer.calls == 3


def test_settings_are_part_of_it(weight: nn.Parameter) -> None:
    """dtype, TF32, activation, shuffle: only the last one asked for is held, and slots are apart."""
    kept, packer = PackedWeights(), Packer()
    for settings, slot, calls in (("a", 0, 1), ("a", 0, 1), ("b", 0, 2), ("a", 1, 3), ("b", 0, 3), ("a", 0, 4)):
        look_up(kept, packer, weight, settings=settings, slot=slot)
        assert packer.calls == calls


def test_only_parameters_are_kept(weight: nn.Parameter) -> None:
    """A computed weight may lie where an older one lay, at the same version. So is what inference mode made."""
    kept, packer = PackedWeights(), Packer()
    for other in (weight.detach(), weight * 2):
        look_up(kept, packer, other)
        look_up(kept, packer, other)
    with torch.inference_mode():
        made_here = nn.Parameter(torch.randn(4, 3, 3, 3))
        look_up(kept, packer, made_here)
        look_up(kept, packer, made_here)
        assert packer.calls == 6
        look_up(kept, packer, weight)
        look_up(kept, packer, weight)
        assert packer.calls == 7


def test_streams_do_not_share(weight: nn.Parameter) -> None:
    """A packing may not have been made yet as far as another stream knows."""
    kept, packer = PackedWeights(), Packer()
    look_up(kept, packer, weight, stream=1)
    look_up(kept, packer, weight, stream=1)
    assert packer.calls == 1
    look_up(kept, packer, weight, stream=2)
    assert packer.calls == 2


def test_graph_captures_read_what_is_held(weight: nn.Parameter) -> None:
    """And keep it alive, whatever happens to the weights; what a capture allocates is not held."""
    kept, packer = PackedWeights(), Packer()
    look_up(kept, packer, weight, stream=2, capturing=True)
    assert (packer.calls, kept._slots, kept._captured) == (1, {}, [])
    held = look_up(kept, packer, weight, stream=1)
    assert look_up(kept, packer, weight, stream=2, capturing=True) is held
    assert look_up(kept, packer, weight, stream=2, capturing=True) is held
    change_in_place(weight, weight)
    look_up(kept, packer, weight, stream=1)
    kept.clear()
    assert len(kept._captured) == 1
    assert kept._captured[0] is held


def test_copies_are_empty(weight: nn.Parameter) -> None:
    kept = PackedWeights()
    look_up(kept, Packer(), weight)
    for made in (copy.copy(kept), copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
        assert isinstance(made, PackedWeights)
        assert made._slots == {}
    assert kept._slots


def test_fake_tensors_are_not_kept(weight: nn.Parameter) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    kept = PackedWeights()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(torch.zeros(3))
        kept.lookup(0, (weight,), (), lambda: fake)
    assert kept._slots == {}


def test_nothing_is_packed_elsewhere(weight: nn.Parameter) -> None:
    kept = PackedWeights()
    ops = torch.ops.vsr_kernels
    assert kept.get(ops, 0, torch.zeros(1, 3, 4, 4, device="meta"), weight, None) is None
    assert kept._slots == {}


# Modules


MODULES: dict[str, Callable[[], nn.Module]] = {
    "Conv3x3": lambda: Conv3x3(4, 4, activation="prelu"),
    "Conv7x7": lambda: Conv7x7(4, 4),
    "PixelShuffleConv": lambda: PixelShuffleConv(4, 4, 2),
    "ResidualBlock": lambda: ResidualBlock(4),
    "SparseConv3x3": lambda: SparseConv3x3(4, 4, in_kept=[1, 2]),
    "SparseResidualBlock": lambda: SparseResidualBlock(4, in_kept=[1, 2], out_kept=[0], hidden=3),
}


@pytest.fixture(params=list(MODULES))
def module(request: pytest.FixtureRequest) -> nn.Module:
    return MODULES[request.param]()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Which slots of which instance operators ask for."""
    calls: list[tuple[int, ...]] = []

    def get(self: PackedWeights, ops: object, slot: int, *arguments: object) -> None:
        calls.append((id(self), slot))

    monkeypatch.setattr(packing.PackedWeights, "get", get)
    monkeypatch.setattr(packing.PackedWeights, "get_7x7", lambda self, *arguments: get(self, None, 0, *arguments))
    return calls


def test_modules_ask_in_eval_mode_only(module: nn.Module, asked: list[tuple[int, ...]]) -> None:
    if "conv3x3" not in vsr_kernels.backends()["cpu"].operators:
        pytest.skip("no compiled operators: " + vsr_kernels.backends()["cpu"].detail)
    x = torch.randn(1, 4, 8, 9)
    slots = 2 if "Block" in type(module).__name__ else 1
    with on("cpu"), torch.no_grad():
        module.train()(x)
        assert asked == []
        module.eval()(x)
        module(x)
    assert asked == [(id(module._packed), slot) for _ in range(2) for slot in range(slots)]


def test_frozen_7x7_weights_stay_packed_in_train_mode(asked: list[tuple[int, ...]]) -> None:
    """Optical flow is frozen while the rest of a network trains."""
    if "conv7x7" not in vsr_kernels.backends()["cpu"].operators:
        pytest.skip("no compiled operators: " + vsr_kernels.backends()["cpu"].detail)
    module = Conv7x7(4, 4).train().requires_grad_(False)
    module(torch.randn(1, 4, 8, 9))
    assert asked == [(id(module._packed), 0)]


@pytest.mark.parametrize("action", ["train", "eval", "double", "to"])
def test_modules_forget(module: nn.Module, action: str) -> None:
    """What changes weights behind the version counter is followed by one of these, or moves them."""
    module.eval()
    first = next(module.parameters())
    look_up(module._packed, Packer(), first)
    assert module._packed._slots
    outer = nn.Sequential(module)
    outer.to(torch.float64) if action == "to" else getattr(outer, action)()
    assert module._packed._slots == {}


def test_modules_do_not_store_it(module: nn.Module) -> None:
    """Neither in the state_dict nor in a pickle, and a copy has its own."""
    keys = list(module.state_dict())
    look_up(module.eval()._packed, Packer(), next(module.parameters()))
    assert list(module.state_dict()) == keys
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for made in (copy.deepcopy(module), torch.load(file, weights_only=False)):
        assert made._packed is not module._packed
        assert made._packed._slots == {}
        assert not made.training


def test_modules_are_compiled_and_exported_without_it(module: nn.Module) -> None:
    """Tracing sees no state: the operator packs in each call."""
    module.eval()
    x = torch.randn(1, 4, 5, 6)
    torch.compiler.reset()
    with torch.no_grad():
        expected = module(x)
        torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="eager")(x), expected)
        for strict in (False, True):
            torch.testing.assert_close(torch.export.export(module, (x,), strict=strict).module()(x), expected)
    torch.compiler.reset()
