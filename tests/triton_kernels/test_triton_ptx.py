"""The PTX that Triton makes for sm_80, host code included, run in ptxvm against float64, with all its checks on.

One test per kernel and way through it; sizes leave part of a tile outside the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from ops.accuracy import assert_near, assert_same_bits

import vsr_kernels
from ptxvm.triton_calls import Launcher
from triton_kernels.launching import image, launching, registered, weight
from vsr_kernels import reference

LOW = (torch.bfloat16, torch.float16, torch.float32)


def names(dtypes: tuple[torch.dtype, ...], *operators: str) -> list[object]:
    """Parameters ``dtype`` with the cells of the table that they cover."""
    return [
        pytest.param(
            dtype,
            id=str(dtype).removeprefix("torch."),
            marks=[pytest.mark.cell(op, "triton", str(dtype).removeprefix("torch.")) for op in operators],
        )
        for dtype in dtypes
    ]


@pytest.fixture(autouse=True)
def launcher() -> Iterator[Launcher]:
    why_not = registered()
    if why_not is not None:
        pytest.skip(why_not)
    made = Launcher(80)
    with launching(made):
        yield made


def kernels(launcher: Launcher) -> set[str]:
    return {call.fn.__name__ for call in launcher.calls}


def compare(function: Callable[..., Tensor], plain: Callable[..., Tensor], tensors: list[Tensor], grad: Tensor) -> None:
    """Output and all gradients of a function, and of the reference in the same dtype, against float64."""
    found, grad = [], grad.to(tensors[0].dtype)
    for call, dtype in ((function, None), (plain, None), (plain, torch.float64)):
        leaves = [t.detach().to(dtype or t.dtype).requires_grad_() for t in tensors]
        out = call(*leaves)
        found.append([out, *torch.autograd.grad(out, leaves, grad.to(out.dtype))])
    for i, (ours, low, true) in enumerate(zip(*found, strict=True)):
        assert_near(ours, true, [low], f"gradient {i}" if i else "output", ours.dtype)


@pytest.mark.parametrize("dtype", names(LOW, "conv3x3"))
def test_conv_of_whole_blocks_of_channels(dtype: torch.dtype, launcher: Launcher) -> None:
    """A tap per step; prelu, residual, and everything that the backward has."""
    tensors = [image(1, 16, 5, 18, dtype=dtype), weight(16, 16, dtype), torch.randn(16).to(dtype)]
    tensors += [torch.rand(16).to(dtype), image(1, 16, 5, 18, dtype=dtype, last=False)]

    def settings(x: Tensor, w: Tensor, b: Tensor, s: Tensor, y: Tensor) -> dict[str, object]:
        return {"x": x, "weight": w, "bias": b, "activation": "prelu", "slope": s, "residual": y}

    compare(
        lambda *t: vsr_kernels.conv3x3(**settings(*t)),
        lambda *t: reference.conv3x3(**settings(*t)),
        tensors,
        torch.rand(1, 16, 5, 18),
    )
    expected = {"pack_kernel", "conv3x3_kernel", "weight_gradient_kernel", "epilogue_gradient_kernel"}
    assert kernels(launcher) == expected


@pytest.mark.parametrize("dtype", names(LOW[:1], "conv3x3"))
def test_conv_of_three_colours(dtype: torch.dtype) -> None:
    """Taps and channels run together; two images, two blocks of output channels, shuffled."""
    x, w, b = image(2, 3, 3, 4, dtype=dtype, last=False), weight(72, 3, dtype), torch.randn(72).to(dtype)
    ours = vsr_kernels.conv3x3(x, w, b, activation="leaky_relu", slope=0.1, pixel_shuffle=2)
    true, low = (
        reference.conv3x3(x.to(t), w.to(t), b.to(t), activation="leaky_relu", slope=0.1, pixel_shuffle=2)
        for t in (torch.float64, dtype)
    )
    assert_near(ours, true, [low], "output", dtype)


@pytest.mark.parametrize("dtype", names(LOW[:1], "residual_block"))
def test_residual_block(dtype: torch.dtype) -> None:
    """Two launches; all gradients."""
    tensors = [image(1, 16, 4, 5, dtype=dtype), weight(8, 16, dtype), weight(16, 8, dtype)]
    compare(
        lambda x, v, w: vsr_kernels.residual_block(x, v, None, w, None, scale=0.5),
        lambda x, v, w: reference.residual_block(x, v, None, w, None, scale=0.5),
        tensors,
        torch.rand(1, 16, 4, 5),
    )


@pytest.mark.parametrize("dtype", names(LOW[:1], "sparse_conv3x3", "sparse_residual_block"))
def test_sparse_residual_block(dtype: torch.dtype) -> None:
    """Gathers while loading, adds to the channels that a list names."""
    gather, scatter = torch.tensor([4, 0, 2]), torch.tensor([3, 5])
    tensors = [image(1, 6, 4, 5, dtype=dtype), weight(5, 3, dtype), weight(2, 5, dtype)]
    lists = {"in_channels": gather, "out_channels": scatter}
    compare(
        lambda x, v, w: vsr_kernels.sparse_residual_block(x, v, None, w, None, **lists),
        lambda x, v, w: reference.sparse_residual_block(x, v, None, w, None, **lists),
        tensors,
        torch.rand(1, 6, 4, 5),
    )


@pytest.mark.parametrize("dtype", names(LOW[:1], "flow_warp"))
@pytest.mark.parametrize(("padding", "last"), [("zeros", True), ("border", False)])
def test_flow_warp(dtype: torch.dtype, padding: str, last: bool, launcher: Launcher) -> None:
    """Both gradients; that by x through integers."""
    x, flow = image(1, 6, 4, 5, dtype=dtype, last=last), torch.randn(1, 2, 4, 5) * 2
    flow = (flow * 8).floor() / 8 + 1 / 16  # no pixel boundary is near
    compare(
        lambda x, f: vsr_kernels.flow_warp(x, f, padding=padding),
        lambda x, f: reference.flow_warp(x, f, padding=padding),
        [x, flow],
        torch.rand(1, 6, 4, 5),
    )
    expected = {"flow_warp_kernel", "flow_gradient_kernel", "largest_kernel", "scatter_kernel", "round_kernel"}
    assert kernels(launcher) == expected


def test_nearest_warp_beside_another_tensor() -> None:
    from vsr_kernels.ops.warp import flow_warp_concat

    x, flow, y = image(1, 3, 4, 5), torch.randn(1, 2, 4, 5) * 2, image(1, 2, 4, 5, last=False)
    ours = flow_warp_concat(x, flow, y, warp_first=False, interpolation="nearest")
    assert_same_bits(ours, reference.flow_warp_concat(x, flow, y, warp_first=False, interpolation="nearest"), "output")


def test_infinite_gradients_stay_where_they_are() -> None:
    """Integers hold none, so elements are marked."""
    grad = torch.ones(1, 1, 3, 3)
    grad[0, 0, 0, 0], grad[0, 0, 1, 1], grad[0, 0, 2, 2] = torch.inf, torch.nan, -torch.inf
    x = torch.zeros(1, 1, 3, 3, requires_grad=True)
    (found,) = torch.autograd.grad(vsr_kernels.flow_warp(x, torch.zeros(1, 2, 3, 3), interpolation="nearest"), x, grad)
    assert_same_bits(found, grad, "gradient")


@pytest.mark.parametrize("dtype", names(LOW[:1], "pixel_shuffle", "pixel_unshuffle"))
@pytest.mark.parametrize("last", [True, False])
def test_shuffles(dtype: torch.dtype, last: bool) -> None:
    x = image(2, 8, 3, 5, dtype=dtype, last=last)
    ours = vsr_kernels.pixel_shuffle(x, 2)
    assert_same_bits(ours, reference.pixel_shuffle(x, 2), "shuffled")
    assert_same_bits(vsr_kernels.pixel_unshuffle(ours, 2), x, "and back")


@pytest.mark.slow
@pytest.mark.parametrize("tile", range(4))
@pytest.mark.parametrize("arch", [80, 90])
def test_every_tile(arch: int, tile: int) -> None:
    """64 channels, on Hopper by wgmma."""
    x, w, b = image(1, 64, 9, 18), weight(64, 64), torch.randn(64).bfloat16()
    with launching(Launcher(arch, tile)):
        ours = vsr_kernels.conv3x3(x, w, b, activation="relu")
        by_weight = torch.ops.vsr_triton.conv3x3_backward(ours, x, w, None, False, True, False, True)[1]
    true, low = (reference.conv3x3(x.to(t), w.to(t), b.to(t), activation="relu") for t in (torch.float64, x.dtype))
    assert_near(ours, true, [low], "output", x.dtype)
    leaf = w.double().requires_grad_()
    (expected,) = torch.autograd.grad(reference.conv3x3(x.double(), leaf), leaf, ours.double())
    assert_near(by_weight, expected, [expected.bfloat16()], "gradient", x.dtype)
