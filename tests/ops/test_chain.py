"""conv_chain against PyTorch's own layers; which operator it reaches, and its bad inputs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import vsr_kernels
from ops.test_fake_cuda import Calls
from vsr_kernels import PackedWeights, backend, conv_chain
from vsr_kernels.registration import under_autocast

CHANNELS = (3, 9, 16, 12)


def operands(activation: str, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Random layers of CHANNELS, (2, 3, 6, 7) of input and a residual for a shuffle by 2."""
    rng = torch.Generator().manual_seed(len(activation))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)

    pairs = list(itertools.pairwise(CHANNELS))
    slopes = [normal(c) for _, c in pairs[:-1]]
    return {
        "x": normal(2, CHANNELS[0], 6, 7),
        "weights": [normal(b, a, 3, 3) / (5 * a) ** 0.5 for a, b in pairs],
        "biases": [normal(b) for _, b in pairs],
        "activation": activation,
        "slope": slopes if activation == "prelu" else 0.1 if activation == "leaky_relu" else None,
        "residual": normal(2, CHANNELS[-1] // 4, 12, 14),
        "pixel_shuffle": 2,
    }


def plain(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    activation: str,
    slope: Any,
    residual: Tensor,
    pixel_shuffle: int,
) -> Tensor:
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = F.conv2d(x, weight, bias, padding=1)
        if i < len(weights) - 1:
            if activation == "relu":
                x = F.relu(x)
            elif activation == "leaky_relu":
                x = F.leaky_relu(x, slope)
            elif activation == "prelu":
                x = F.prelu(x, slope[i])
    return F.pixel_shuffle(x, pixel_shuffle) + residual


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu", "prelu"])
def test_is_its_layers(activation: str, dtype: torch.dtype) -> None:
    truth = plain(**operands(activation))
    torch.testing.assert_close(conv_chain(**operands(activation, dtype)).double(), truth, rtol=1e-4, atol=1e-5)


def test_gradients() -> None:
    """By the input, every weight, bias and slope, and the residual."""

    def leaves(given: dict[str, Any]) -> list[Tensor]:
        tensors = [given["x"], *given["weights"], *given["biases"], *given["slope"], given["residual"]]
        return [t.requires_grad_() for t in tensors]

    found, expected = operands("prelu", torch.float32), operands("prelu")
    given, known = leaves(found), leaves(expected)
    got = torch.autograd.grad(conv_chain(**found).square().sum(), given)
    wanted = torch.autograd.grad(plain(**expected).square().sum(), known)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-3)


def test_one_layer() -> None:
    x, weight = torch.randn(1, 3, 4, 5), torch.randn(6, 3, 3, 3)
    torch.testing.assert_close(conv_chain(x, [weight]), F.conv2d(x, weight, padding=1), rtol=1e-4, atol=1e-5)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """Fake tensors of a GPU."""
    if torch.version.cuda is None or not vsr_kernels.backends()["cpu"].available:
        pytest.skip("expected compiled operators and a torch with CUDA")
    monkeypatch.setitem(backend._state.kernels, "cuda", frozenset(backend.OPERATORS))
    with FakeTensorMode(), Calls() as noted:
        yield noted


def on_gpu(given: dict[str, Any], **options: Any) -> dict[str, Any]:
    def move(value: Any) -> Any:
        if isinstance(value, list):
            return [move(v) for v in value]
        return torch.empty(value.shape, device="cuda", **options) if isinstance(value, Tensor) else value

    return {name: move(value) for name, value in given.items()}


def test_one_call_on_a_gpu(calls: Calls) -> None:
    """One operator where no gradient is wanted, layer by layer where one is."""
    out = conv_chain(**on_gpu(operands("prelu")))
    assert [name for name, _ in calls.seen] == ["conv_chain"]
    assert out.shape == (2, 3, 12, 14) and out.is_contiguous(memory_format=torch.channels_last)
    conv_chain(**on_gpu(operands("leaky_relu"), requires_grad=True))
    assert [name for name, _ in calls.seen[1:]] == ["conv3x3"] * 3
    assert [passed["negative_slope"] for _, passed in calls.seen[1:]] == [0.1, 0.1, 0.0]


def test_autocast_reaches_every_layer() -> None:
    """The rule that the operator is registered with casts lists of tensors as it casts tensors."""
    x, weights = torch.zeros(1, 3, 2, 2), [torch.zeros(3, 3, 3, 3), torch.zeros(3, 3, 3, 3, dtype=torch.float64)]

    def dtypes(x: Tensor, weights: list[Tensor], number: float) -> list[torch.dtype]:
        return [x.dtype, *(weight.dtype for weight in weights)]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = under_autocast(dtypes, x, weights, 0.5)
    assert found == [torch.bfloat16, torch.bfloat16, torch.float64]


def test_what_is_packed_is_passed_on(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = torch.empty(5, dtype=torch.uint8, device="cuda")
    asked: list[tuple[object, ...]] = []

    def get_chain(self: PackedWeights, *arguments: object) -> Tensor:
        asked.append(arguments)
        return kept

    monkeypatch.setattr(PackedWeights, "get_chain", get_chain)
    given = on_gpu(operands("prelu"))
    conv_chain(**given, packed=PackedWeights())
    ((_, passed),) = calls.seen
    assert passed["packed"] is kept
    ((x, weights, biases, slopes, *settings),) = asked
    assert x is given["x"] and weights == given["weights"] and biases == given["biases"] and slopes == given["slope"]
    assert settings == [0.0, "prelu", 2]


def test_layers_keep_their_own_packings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer by layer, every one asks for a slot of its own."""
    slots: list[int] = []
    monkeypatch.setattr(PackedWeights, "get", lambda self, ops, slot, *arguments: slots.append(slot))
    if not vsr_kernels.backends()["cpu"].available:
        pytest.skip("no compiled operators: " + vsr_kernels.backends()["cpu"].detail)
    conv_chain(**operands("prelu", torch.float32), packed=PackedWeights())
    assert slots == [0, 1, 2]


def test_chains_are_held_until_a_layer_changes() -> None:
    weights = [nn.Parameter(torch.randn(4, 4, 3, 3)) for _ in range(2)]
    made = []
    packed = PackedWeights()

    def look_up(*parameters: Tensor) -> Tensor:
        def pack() -> Tensor:
            made.append(len(made))
            return torch.zeros(1)

        return packed.lookup(-1, parameters, ("float32",), pack)

    first = look_up(*weights)
    assert look_up(*weights) is first
    with torch.no_grad():
        weights[1].mul_(2)
    assert look_up(*weights) is not first
    assert len(made) == 2


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": torch.zeros(3, 4, 5)}, ValueError, "x: expected 4 dimensions"),
    ({"weights": []}, ValueError, "weights: expected a sequence of at least one tensor, got 0"),
    (
        {"weights": torch.zeros(9, 3, 3, 3)},
        TypeError,
        "weights: expected a sequence of at least one tensor, got Tensor",
    ),
    ({"weights": operands("relu")["weights"][1:]}, ValueError, "biases: expected a sequence of 2 tensors, got 3"),
    (
        {"biases": None, "weights": operands("relu")["weights"][1:]},
        ValueError,
        "weights[0]: expected shape (*, 3, 3, 3)",
    ),
    ({"biases": [torch.zeros(2, dtype=torch.float64)] * 3}, ValueError, "biases[0]: expected shape (9,)"),
    ({"activation": "tanh"}, ValueError, "activation: expected one of"),
    ({"activation": "prelu"}, TypeError, "slope: expected a sequence of 2 tensors, got NoneType"),
    ({"activation": "leaky_relu"}, TypeError, "slope: expected a number for leaky_relu"),
    ({"slope": 0.5}, TypeError, "slope: expected None for activation 'relu'"),
    ({"pixel_shuffle": 5}, ValueError, "weights[2]: expected C_3 divisible by r^2 = 25, got 12 channels"),
    (
        {"residual": torch.zeros(2, 3, 12, 13, dtype=torch.float64)},
        ValueError,
        "residual: expected shape (2, 3, 12, 14)",
    ),
]


@pytest.mark.parametrize(("changes", "kind", "message"), WRONG, ids=[message[:40] for *_, message in WRONG])
def test_bad_input(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    assert conv_chain(**operands("relu")).shape == (2, 3, 12, 14)
    with pytest.raises(kind, match=re.escape(f"conv_chain: {message}")):
        conv_chain(**(operands("relu") | changes))
