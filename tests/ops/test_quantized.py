"""Convolutions of uint8 with int8, against the truth of quantized_calls."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vsr_kernels
from ops.on_backends import on
from ops.quantized_calls import check, draw
from vsr_kernels import plan
from vsr_kernels.nn import QuantizedConv3x3

BACKENDS = [
    pytest.param("reference"),
    pytest.param(
        "cpu",
        marks=[
            pytest.mark.isa,
            pytest.mark.skipif(not vsr_kernels.backends()["cpu"].available, reason="no compiled operators"),
        ],
    ),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("part", range(4))
def test_values(backend: str, part: int) -> None:
    for seed in range(30 * part, 30 * part + 30):
        call = draw(seed)
        with on(backend):
            got = call.run()
        check(call, got)
        assert got.dtype == (torch.uint8 if call.requantized else call.arguments["dtype"])
        assert backend == "reference" or got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("size", "channels"), [((0, 3, 4), (4, 4)), ((1, 3, 4), (0, 4)), ((1, 0, 4), (4, 4))])
def test_nothing(backend: str, size: tuple[int, int, int], channels: tuple[int, int]) -> None:
    """Empty images, and sums of nothing."""
    for seed in range(4):
        call = draw(seed, size=size, channels=channels)
        with on(backend):
            check(call, call.run())


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_largest_sums_are_exact(backend: str) -> None:
    """Of 32 bits, and beyond the 24 of float32: only the last step rounds."""
    c = 7000
    x = torch.full((1, c, 3, 3), 255, dtype=torch.uint8)
    weight = torch.full((2, c, 3, 3), 127, dtype=torch.int8)
    weight[1].neg_()
    with on(backend):
        got = vsr_kernels.quantized_conv3x3(x, weight, torch.zeros(1, dtype=torch.uint8), torch.ones(2))
    most = 9 * 255 * 127 * c
    assert most < 2**31
    assert got[0, :, 1, 1].tolist() == [float(np.float32(most)), float(np.float32(-most))]


@pytest.mark.parametrize("backend", BACKENDS)
def test_rounding(backend: str) -> None:
    """To the nearest, ties to even; what is too much or too little ends at the ends, infinity included."""
    x = torch.tensor([0.5, 1.5, -0.5, 2.4, 300.0, -300.0, 1e9, -1e9, torch.inf, -torch.inf]).view(1, 1, 1, -1)
    weight = torch.zeros(1, 1, 3, 3, dtype=torch.int8)
    weight[0, 0, 1, 1] = 1
    zero = torch.tensor([10], dtype=torch.uint8)
    for factor, expected in ((1.0, [10, 12, 10, 12, 255, 0, 255, 0, 255, 0]), (4.0, [10, 18, 10, 18, 255, 0] * 2)):
        scale = torch.tensor([factor])
        with on(backend):
            got = vsr_kernels.quantized_conv3x3(x, weight, zero, scale, out_zero_point=zero)
        assert got.flatten().tolist() == [*expected[:6], *expected[4:6], *expected[4:6]]


@pytest.mark.isa
@pytest.mark.skipif(not vsr_kernels.backends()["cpu"].available, reason="no compiled operators")
def test_threads_change_nothing() -> None:
    before = torch.get_num_threads()
    try:
        for seed in range(20):
            call = draw(seed)
            results = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                results.append(call.run())
            assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    finally:
        torch.set_num_threads(before)


def good() -> dict[str, Any]:
    return {
        "x": torch.zeros(2, 4, 5, 6, dtype=torch.uint8),
        "weight": torch.zeros(8, 4, 3, 3, dtype=torch.int8),
        "zero_point": torch.zeros(1, dtype=torch.uint8),
        "scale": torch.ones(8),
    }


BASE = torch.zeros(2, 8, 5, 6)
MISTAKES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": [1]}, TypeError, "x: expected a tensor (N, C, H, W), got list"),
    (
        {"x": torch.zeros(2, 4, 5, 6, dtype=torch.int8)},
        TypeError,
        "x: expected uint8, float32, float16 or bfloat16, got torch.int8",
    ),
    ({"x": torch.zeros(4, 5, 6)}, ValueError, "x: expected 4 dimensions (N, C, H, W), got shape (4, 5, 6)"),
    ({"weight": 1.0}, TypeError, "weight: expected a tensor, got float"),
    ({"weight": torch.zeros(8, 4, 3, 3)}, TypeError, "weight: expected torch.int8, got torch.float32"),
    (
        {"weight": torch.zeros(8, 3, 3, 3, dtype=torch.int8)},
        ValueError,
        "weight: expected shape (*, 4, 3, 3) = (C_out, C_in of x, 3, 3), got (8, 3, 3, 3)",
    ),
    (
        {"x": torch.zeros(1, 7001, 1, 1), "weight": torch.zeros(8, 7001, 3, 3, dtype=torch.int8)},
        ValueError,
        "weight: expected at most 7000 input channels, got 7001",
    ),
    ({"zero_point": torch.zeros(1)}, TypeError, "zero_point: expected torch.uint8, got torch.float32"),
    (
        {"zero_point": torch.zeros(4, dtype=torch.uint8)},
        ValueError,
        "zero_point: expected shape (1,) = (1,), got (4,)",
    ),
    ({"scale": torch.ones(8, dtype=torch.float64)}, TypeError, "scale: expected torch.float32, got torch.float64"),
    ({"scale": torch.ones(7)}, ValueError, "scale: expected shape (8,) = (C_out,), got (7,)"),
    ({"bias": torch.ones(7)}, ValueError, "bias: expected shape (8,) = (C_out,), got (7,)"),
    ({"bias": torch.ones(8, device="meta")}, ValueError, "bias: expected device cpu as x, got meta"),
    ({"activation": "gelu"}, ValueError, "activation: expected one of none, relu, leaky_relu, prelu, got 'gelu'"),
    (
        {"activation": "prelu", "slope": torch.ones(3)},
        ValueError,
        "slope: expected shape (1,) or (8,) for prelu, got (3,)",
    ),
    ({"pixel_shuffle": 0}, ValueError, "pixel_shuffle: expected an integer >= 1, got 0"),
    (
        {"pixel_shuffle": 3},
        ValueError,
        "weight: expected C_out divisible by r^2 = 9, got shape (8, 4, 3, 3)",
    ),
    ({"dtype": torch.float64}, TypeError, "dtype: expected float32, float16 or bfloat16, got torch.float64"),
    ({"base": BASE.half()}, TypeError, "base: expected torch.float32, got torch.float16"),
    (
        {"base": BASE[:, :2]},
        ValueError,
        "base: expected shape (2, 8, 5, 6) = (N, C_out / r^2, H, W), got (2, 2, 5, 6)",
    ),
    (
        {"base": BASE, "out_zero_point": torch.zeros(1, dtype=torch.uint8)},
        ValueError,
        "out_zero_point: expected None with a base or a shuffle, got a tensor",
    ),
    (
        {"pixel_shuffle": 2, "out_zero_point": torch.zeros(1, dtype=torch.uint8)},
        ValueError,
        "out_zero_point: expected None with a base or a shuffle, got a tensor",
    ),
]


@pytest.mark.parametrize(("change", "kind", "message"), MISTAKES, ids=[f"{i:02d}" for i in range(len(MISTAKES))])
def test_bad_input(change: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        vsr_kernels.quantized_conv3x3(**good() | change)
    assert str(caught.value) == f"quantized_conv3x3: {message}"


#: Mistakes that are left to be seen where arguments are tensors of one device.
DIRECT = [
    change
    for change, *_ in MISTAKES
    if all(not isinstance(v, (list, float)) and getattr(v, "is_cpu", True) for v in change.values())
]


@pytest.mark.skipif(not vsr_kernels.backends()["cpu"].available, reason="no compiled operators")
@pytest.mark.parametrize("change", [*DIRECT, {"packed": torch.zeros(64)}], ids=lambda change: "-".join(change))
def test_the_operator_itself_stays_within_its_buffers(change: dict[str, Any]) -> None:
    """Called past the Python function."""
    order = ("x", "weight", "zero_point", "scale", "bias", "slope", "number", "out_zero_point", "base", "activation")
    given = dict.fromkeys(order) | {"number": 0.0, "activation": "none", "pixel_shuffle": 1, "dtype": torch.float32}
    given |= {"packed": None} | good() | change
    if given["out_zero_point"] is not None:
        given["dtype"] = torch.uint8
    with pytest.raises(RuntimeError, match="quantized_conv3x3: "):
        torch.ops.vsr_kernels.quantized_conv3x3(*given.values())


@pytest.mark.skipif(not vsr_kernels.backends()["cpu"].available, reason="no compiled operators")
def test_gradients_are_refused() -> None:
    x = torch.zeros(2, 4, 5, 6, requires_grad=True)
    out_zero = torch.zeros(1, dtype=torch.uint8)
    assert not vsr_kernels.quantized_conv3x3(**good() | {"x": x}, out_zero_point=out_zero).requires_grad
    with pytest.raises(RuntimeError, match="vsr_kernels::quantized_conv3x3 is not differentiable"):
        vsr_kernels.quantized_conv3x3(**good() | {"x": x}).sum().backward()


def module(c_in: int = 5, c_out: int = 12, activation: str = "prelu") -> QuantizedConv3x3:
    made = QuantizedConv3x3(c_in, c_out, activation=activation, slope=0.1 if activation == "leaky_relu" else None)
    call = next(c for c in (draw(s, channels=(c_in, c_out)) for s in range(99)) if c.arguments["pixel_shuffle"] == 1)
    made.weight.copy_(call.arguments["weight"])
    made.scale.copy_(call.arguments["scale"])
    made.zero_point.fill_(70)
    return made.eval()


def test_module_keeps_its_numbers() -> None:
    """Casts, copies, pickles and state_dicts; a change of weights is seen."""
    conv = module()
    x, out_zero = torch.randint(0, 256, (1, 5, 7, 9), dtype=torch.uint8), torch.tensor([9], dtype=torch.uint8)
    before = conv(x, out_zero_point=out_zero)
    for other in (
        copy.deepcopy(conv).bfloat16(),
        copy.deepcopy(conv).to("cpu", torch.float16, memory_format=torch.channels_last),
        pickle.loads(pickle.dumps(conv)),
    ):
        assert torch.equal(other(x, out_zero_point=out_zero), before)
        assert [p.dtype for p in other.parameters()] == [p.dtype for p in conv.parameters()]
    fresh = QuantizedConv3x3(5, 12, activation="prelu")
    fresh.load_state_dict(conv.state_dict())
    assert torch.equal(fresh.eval()(x, out_zero_point=out_zero), before)
    with torch.no_grad():
        conv.weight.neg_()
    assert not torch.equal(conv(x, out_zero_point=out_zero), before)
    assert "5, 12, activation=prelu" in str(conv)


@pytest.mark.skipif(not vsr_kernels.backends()["cpu"].available, reason="no compiled operators")
def test_traced() -> None:
    """torch.compile without graph breaks, torch.export, and plans, which do not allocate."""

    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = module(5, 12), module(12, 8, "leaky_relu")

        def forward(self, x: Tensor, base: Tensor) -> Tensor:
            hidden = self.first(x, out_zero_point=self.second.zero_point)
            return self.second(hidden, base=base, pixel_shuffle=2, dtype=torch.bfloat16)

    network = Two().eval()
    x, base = torch.randn(1, 5, 7, 9) * 50, torch.randn(1, 2, 7, 9).bfloat16()
    expected = network(x, base)
    with torch.no_grad():
        assert torch.equal(torch.compile(network, fullgraph=True, backend="aot_eager")(x, base), expected)
        assert torch.equal(torch.export.export(network, (x, base)).module()(x, base), expected)
        planned = plan(network)
        for _ in range(4):
            assert torch.equal(planned(x, base), expected)
    assert planned.obstacle is None and planned.replays[0].allocating == {}


@pytest.mark.skipif(not vsr_kernels.backends()["cpu"].available, reason="no compiled operators")
def test_weights_are_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = module(), torch.zeros(1, 5, 3, 3, dtype=torch.uint8)
    conv(x)
    held = conv._packed._slots[0].packed
    conv(x)
    assert conv._packed._slots[0].packed is held
    conv.train().eval()(x)
    assert conv._packed._slots[0].packed is not held
