from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import plain_models
import pytest
import torch
from torch import Tensor

from vsr.models import RepSRNet, SRVGGNet, load_model
from vsr.models.base import enlarged


@pytest.mark.parametrize("act_type", ["prelu", "relu", "leakyrelu"])
@pytest.mark.parametrize("upscale", [1, 2, 3, 4])
def test_equals_plain_network(act_type: str, upscale: int) -> None:
    model = SRVGGNet(20, 3, upscale, act_type).eval()
    x = torch.rand(2, 3, 17, 23)
    with torch.no_grad():
        expected = plain_models.srvgg(dict(model.state_dict()), x, upscale, act_type)
        assert (model(x) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (7, 1), (33, 18)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    model = SRVGGNet(8, 2, 2).eval()
    x = torch.rand(1, 3, *size)
    with torch.no_grad():
        out = model(x)
        assert out.shape == (1, 3, 2 * size[0], 2 * size[1])
        assert (out - plain_models.srvgg(dict(model.state_dict()), x, 2)).abs().max() < 1e-5


def test_keys_and_size_are_real_esrgans() -> None:
    model = SRVGGNet()
    assert sum(p.numel() for p in model.parameters()) == 621_424
    keys = [f"body.{i}.{k}" for i in range(0, 35, 2) for k in ("weight", "bias")]
    keys += [f"body.{i}.weight" for i in range(1, 35, 2)]
    assert sorted(model.state_dict()) == sorted(keys)


@pytest.mark.parametrize(
    ("name", "upscale", "parameters"), [("M4C8", 2, 3_476), ("M4C16", 4, 16_768), ("M10C32", 4, 107_600)]
)
def test_repsr_sizes_of_the_paper(name: str, upscale: int, parameters: int) -> None:
    assert sum(p.numel() for p in RepSRNet(name, upscale).parameters()) == parameters


def test_receptive_field_is_exact() -> None:
    model = SRVGGNet(8, 3, 2).eval().double()  # where nothing is transformed, and cancels but for rounding
    halo = model.receptive_field
    x = torch.rand(1, 3, 24, 40, dtype=torch.float64)
    changed = x.clone()
    changed[..., : 20 - halo] = 0
    with torch.no_grad():
        difference = (model(x) - model(changed)).abs().amax((0, 1, 2))  # by output column
    assert difference[2 * 20 :].max() == 0, "a pixel beyond the halo matters"
    assert difference[2 * 19 : 2 * 20].max() > 0, "the halo is larger than needed"


def test_gradients_equal_plain_network() -> None:
    model = SRVGGNet(12, 2, 3)
    x, target = torch.rand(2, 3, 9, 8), torch.rand(2, 3, 27, 24)
    (model(x) - target).square().mean().backward()
    params = {key: value.detach().clone().requires_grad_() for key, value in model.state_dict().items()}
    (plain_models.srvgg(params, x, 3) - target).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, params[name].grad, rtol=1e-4, atol=1e-6), name


def test_bfloat16_network_keeps_a_float32_skip(real_frames: Callable[..., Tensor]) -> None:
    x = real_frames("bikes", 150, 1)[..., :40, :48]
    model = SRVGGNet(16, 2, 2).eval()
    with torch.no_grad():
        for parameter in model._conv(-1).parameters():
            parameter.zero_()
        nearest = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        assert torch.equal(model.bfloat16()(x), nearest)


def test_bfloat16_is_close(real_weights: Callable[[str], Path], real_frames: Callable[..., Tensor]) -> None:
    x = real_frames("bikes", 150, 1)[..., 100:164, 200:280]
    model = load_model(real_weights("animevideov3"))
    with torch.no_grad():
        wide = model(x)
        narrow = model.bfloat16()(x.bfloat16())
        assert narrow.dtype == torch.bfloat16
        assert (narrow - wide).square().mean().sqrt() < 4e-3
        mixed = model(x)
        assert mixed.dtype == torch.float32
        assert (mixed - wide).square().mean().sqrt() < 3e-3


def test_autocast_keeps_float32_output() -> None:
    model = SRVGGNet(16, 2, 2).eval()
    x = torch.rand(1, 3, 12, 12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = model(x)
    assert out.dtype == torch.float32
    assert (out - plain_models.srvgg(dict(model.state_dict()), x, 2)).abs().max() < 0.02


@pytest.mark.network
@pytest.mark.parametrize("winograd", [True, False])
def test_animevideov3_equals_ncnn(
    winograd: bool, real_weights: Callable[[str], Path], real_frames: Callable[..., Tensor]
) -> None:
    ncnn = pytest.importorskip("ncnn", reason="the ncnn package is not installed")
    param = real_weights("animevideov3")
    x = real_frames("bikes", 150, 1)[..., 40:160, 200:360].contiguous()
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    net.opt.use_winograd_convolution = winograd
    net.opt.num_threads = 1
    net.load_param(str(param))
    net.load_model(str(param.with_suffix(".bin")))
    extractor = net.create_extractor()
    extractor.input("data", ncnn.Mat(x[0].numpy()).clone())
    _, found = extractor.extract("output")
    expected = torch.from_numpy(np.array(found).copy())
    del found, extractor, net  # in this order: a Net that goes before its extractor takes the process down
    with torch.no_grad():
        ours = load_model(param)(x)[0]
    assert ours.shape == expected.shape == (3, 480, 640)
    assert (ours - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"upscale": 5}, "upscale: expected 1, 2, 3 or 4, got 5"),
        ({"num_feat": 0}, "num_feat >= 1"),
        ({"act_type": "gelu"}, "act_type: expected one of prelu, relu, leakyrelu, got 'gelu'"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SRVGGNet(**arguments)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="expected MxCy such as M4C16, got '4x16'"):
        RepSRNet("4x16")
    model = SRVGGNet(4, 1)
    with pytest.raises(ValueError, match=r"expected a non-empty \(N, 3, H, W\), got shape \(1, 1, 4, 4\)"):
        model(torch.rand(1, 1, 4, 4))
    with pytest.raises(TypeError, match=r"got torch\.uint8"):
        model(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_enlarged_is_nearest_neighbour(factor: int, memory_format: torch.memory_format) -> None:
    x = torch.rand(2, 3, 5, 7).contiguous(memory_format=memory_format)
    large = enlarged(x, factor)
    assert torch.equal(large, torch.nn.functional.interpolate(x, scale_factor=factor, mode="nearest"))
    assert large.is_contiguous(memory_format=torch.channels_last) or factor == 1
