"""Under autocast, convolutions run in its dtype, and flows keep theirs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import vsr_kernels
from ops import truth
from ops.accuracy import assert_near, assert_same_bits
from ops.inputs import Draw
from ops.on_backends import device_of, each, on

LOW = (torch.bfloat16, torch.float16)
CONVOLUTIONS = ("conv3x3", "residual_block", "sparse_conv3x3", "sparse_residual_block")


def call_of(operator: str, dtype: torch.dtype, device: str) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Tensors of ``dtype`` and other arguments for a call with everything in its epilogue."""
    draw = Draw(21, dtype, device, exact=False)
    tensors = {"x": draw.image((2, 6, 7, 9))}
    if operator == "conv3x3":
        tensors |= {"weight": draw.weight((8, 6, 3, 3)), "bias": draw.bias(8), "slope": draw.slope(8)}
        return tensors | {"residual": draw.image((2, 2, 14, 18))}, {"activation": "prelu", "pixel_shuffle": 2}
    if operator == "sparse_conv3x3":
        tensors |= {"weight": draw.weight((2, 3, 3, 3)), "bias": draw.bias(2), "residual": draw.image((2, 5, 7, 9))}
        return tensors, {"in_channels": [0, 5, 2], "out_channels": [4, 1], "activation": "leaky_relu", "slope": -0.5}
    narrow = operator.startswith("sparse")
    tensors |= {"weight1": draw.weight((5, 3 if narrow else 6, 3, 3)), "bias1": draw.bias(5)}
    tensors |= {"weight2": draw.weight((2 if narrow else 6, 5, 3, 3)), "bias2": draw.bias(2 if narrow else 6)}
    return tensors, {"in_channels": [0, 5, 2], "out_channels": [4, 1]} if narrow else {"scale": 0.5}


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize(("operator", "backend", "dtype"), each(*CONVOLUTIONS, dtypes=(torch.float32,)))
def test_convolutions_run_in_the_dtype_of_autocast(
    operator: str, backend: str, dtype: torch.dtype, low: torch.dtype
) -> None:
    """The result is in the dtype of autocast and as near to the truth as one computed in it; so are the gradients."""
    device = device_of(backend)
    function: Callable[..., Tensor] = getattr(vsr_kernels, operator)
    tensors, others = call_of(operator, dtype, device)
    leaves = {name: t.clone().requires_grad_() for name, t in tensors.items()}
    cast = {name: t.to(low) for name, t in tensors.items()}
    wide = {name: t.to(low).double().cpu().requires_grad_() for name, t in tensors.items()}
    true = getattr(truth, operator)(**wide, **others)
    with on(backend):
        plain = function(**cast, **others)
        with torch.autocast(device, dtype=low):
            got = function(**leaves, **others)
    assert got.dtype == low
    assert_near(got, true.detach(), [plain], "output", low)
    gradients = torch.autograd.grad(got.float().sum(), list(leaves.values()))
    true_gradients = torch.autograd.grad(true.sum(), list(wide.values()))
    for name, ours, theirs in zip(leaves, gradients, true_gradients, strict=True):
        assert ours.dtype == dtype, name
        error = (ours.double().cpu() - theirs).norm() / theirs.norm()
        assert error < 8 * torch.finfo(low).eps, f"gradient of {name}: relative error {error:.2e}"


@pytest.mark.parametrize(("operator", "backend", "dtype"), each(*CONVOLUTIONS, dtypes=(torch.float32,)))
def test_mixed_dtypes_need_autocast(operator: str, backend: str, dtype: torch.dtype) -> None:
    """What autocast makes equal, such as float32 parameters and half images, is an error without it."""
    device = device_of(backend)
    tensors, others = call_of(operator, dtype, device)
    tensors["x"] = tensors["x"].bfloat16()
    with on(backend):
        with torch.autocast(device, dtype=torch.bfloat16):
            assert getattr(vsr_kernels, operator)(**tensors, **others).dtype == torch.bfloat16
        with pytest.raises(TypeError, match=f"^{operator}: weight1?: expected torch.bfloat16, got torch.float32$"):
            getattr(vsr_kernels, operator)(**tensors, **others)


@pytest.mark.parametrize(("operator", "backend", "dtype"), each(*CONVOLUTIONS, dtypes=(torch.float64,)))
def test_float64_is_not_cast(operator: str, backend: str, dtype: torch.dtype) -> None:
    device = device_of(backend)
    tensors, others = call_of(operator, dtype, device)
    with on(backend):
        expected = getattr(vsr_kernels, operator)(**tensors, **others)
        with torch.autocast(device, dtype=torch.bfloat16):
            assert_same_bits(getattr(vsr_kernels, operator)(**tensors, **others), expected, "output")


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize(("backend", "dtype"), each("flow_warp", dtypes=(torch.float32, torch.bfloat16, torch.float16)))
def test_flow_keeps_its_precision(backend: str, dtype: torch.dtype, low: torch.dtype) -> None:
    """A warp under autocast is the warp without: x keeps its dtype, and the flow is not rounded to half pixels."""
    device = device_of(backend)
    draw = Draw(22, dtype, device, exact=False)
    x, flow = draw.image((1, 5, 20, 30)), draw.flow((1, 2, 20, 30), 10.0, torch.float32)
    assert (flow.to(low).float() != flow).any()
    with on(backend):
        expected = vsr_kernels.flow_warp(x, flow)
        with torch.autocast(device, dtype=low):
            got = vsr_kernels.flow_warp(x, flow)
    assert_same_bits(got, expected, "output")


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize(
    ("operator", "backend", "dtype"), each("pixel_shuffle", "pixel_unshuffle", dtypes=(torch.float32,))
)
def test_shuffles_move_values_as_they_are(operator: str, backend: str, dtype: torch.dtype, low: torch.dtype) -> None:
    device = device_of(backend)
    x = Draw(23, dtype, device, exact=False).image((1, 4, 6, 8))
    function = getattr(vsr_kernels, operator)
    with on(backend), torch.autocast(device, dtype=low):
        got = function(x, 2)
    assert_same_bits(got, function(x, 2), "output")


@pytest.mark.parametrize(("backend", "dtype"), each("conv3x3", dtypes=(torch.float32,)))
def test_autocast_is_off_inside(backend: str, dtype: torch.dtype) -> None:
    """A chain of operators keeps the dtype of the first; leaving autocast leaves it."""
    device = device_of(backend)
    draw = Draw(24, dtype, device, exact=False)
    x, weight = draw.image((1, 4, 6, 8)), draw.weight((4, 4, 3, 3))
    with on(backend):
        with torch.autocast(device, dtype=torch.bfloat16):
            y = vsr_kernels.conv3x3(x, weight, residual=x)
            y = vsr_kernels.residual_block(y, weight, None, weight, None)
            assert vsr_kernels.pixel_shuffle(y, 2).dtype == torch.bfloat16
        assert vsr_kernels.conv3x3(x, weight).dtype == torch.float32
