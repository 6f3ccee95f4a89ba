from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import plain_models
import pytest
import torch
from torch import Tensor

from vsr.models import BasicVSR, load_model


def _random(num_feat: int = 12, num_block: int = 2, **settings: object) -> BasicVSR:
    """A network whose flows are some pixels long, so that warping takes part."""
    model = BasicVSR(num_feat, num_block, **settings).eval()
    with torch.no_grad():
        for level in model.spynet.basic_module:
            level.basic_module[-1].weight.mul_(10)
    return model


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_equals_plain_network(bidirectional: bool, scale: int) -> None:
    model = _random(num_hr_feat=16, scale=scale, bidirectional=bidirectional)
    frames = torch.rand(2, 4, 3, 18, 21)
    with torch.no_grad():
        expected = plain_models.basicvsr(dict(model.state_dict()), frames, scale)
        out = model(frames)
    assert out.shape == (2, 4, 3, 18 * scale, 21 * scale)
    assert (out - expected).abs().max() < 1e-5


@pytest.mark.network
@pytest.mark.parametrize("name", ["basicvsr-vimeo-bi", "basicvsr-reds"])
def test_pretrained_equals_plain_network(
    name: str, real_weights: Callable[[str], Path], real_frames: Callable[..., Tensor]
) -> None:
    model = load_model(real_weights(name))
    frames = real_frames("bikes", 150, 3)[None, ..., 60:97, 100:150]
    with torch.no_grad():
        expected = plain_models.basicvsr(dict(model.state_dict()), frames)
        assert (model(frames) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("t", "size"), [(1, (9, 8)), (2, (1, 1)), (3, (1, 7)), (2, (5, 1)), (3, (33, 34))])
def test_odd_sizes(t: int, size: tuple[int, int]) -> None:
    model = _random()
    frames = torch.rand(1, t, 3, *size)
    with torch.no_grad():
        out = model(frames)
        assert out.shape == (1, t, 3, 4 * size[0], 4 * size[1])
        assert (out - plain_models.basicvsr(dict(model.state_dict()), frames)).abs().max() < 1e-5


@pytest.mark.parametrize("pixels", [1, 2 * 2 * 12 * 15])
def test_flows_in_small_batches(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _random()
    frames = torch.rand(2, 4, 3, 12, 15)
    with torch.no_grad():
        whole = model(frames)
        monkeypatch.setattr("vsr.models.basicvsr._FLOW_PIXELS", pixels)
        assert (model(frames) - whole).abs().max() < 1e-5


def test_strided_frames() -> None:
    model = _random()
    frames = torch.rand(1, 3, 11, 26, 3).permute(0, 1, 4, 2, 3)[..., ::2]
    with torch.no_grad():
        assert torch.allclose(model(frames), model(frames.contiguous()), atol=1e-6)


def _in_stretches(model: BasicVSR, frames: Tensor, stretches: list[int], look_ahead: int) -> Tensor:
    outputs, state, at = [], None, 0
    for keep in stretches:
        out, state = model.step(frames[:, at : at + keep + look_ahead], state, keep=keep)
        assert out.shape[1] == keep
        outputs.append(out)
        at += keep
    return torch.cat(outputs, 1)


@pytest.mark.parametrize("stretches", [[1] * 5, [2, 3], [1, 3, 1]])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_stretches_equal_the_whole_clip(stretches: list[int], bidirectional: bool) -> None:
    """With look-ahead to the clip's end, or without a backward direction, stretches change nothing."""
    model = _random(bidirectional=bidirectional).double()
    frames = torch.rand(2, 5, 3, 12, 15, dtype=torch.float64)
    with torch.no_grad():
        out = _in_stretches(model, frames, stretches, look_ahead=5 if bidirectional else 0)
        assert (out - model(frames)).abs().max() < 1e-12
        single = _in_stretches(model.float(), frames.float(), stretches, look_ahead=5 if bidirectional else 0)
        assert (single - out).abs().max() < 1e-5


def test_forward_direction_is_continued_from_the_state() -> None:
    """Without the state, or without look-ahead, the second stretch differs: the test above can fail."""
    model = _random().double()
    frames = torch.rand(1, 6, 3, 12, 15, dtype=torch.float64)
    with torch.no_grad():
        whole = model(frames)
        assert (_in_stretches(model, frames, [3, 3], look_ahead=0) - whole).abs().max() > 1e-6
        assert (model(frames[:, 3:]) - whole[:, 3:]).abs().max() > 1e-6


def test_unidirectional_network_is_causal() -> None:
    model = _random(bidirectional=False)
    frames = torch.rand(1, 4, 3, 12, 15)
    changed = frames.clone()
    changed[:, 3] = 0
    with torch.no_grad():
        out, other = model(frames), model(changed)
    assert torch.equal(out[:, :3], other[:, :3])
    assert not torch.equal(out[:, 3], other[:, 3])


def test_gradients_equal_plain_network() -> None:
    model = _random(8, 1, num_hr_feat=8, scale=2)
    frames, target = torch.rand(1, 3, 3, 16, 18), torch.rand(1, 3, 3, 32, 36)
    (model(frames) - target).square().mean().backward()
    params = {key: value.detach().clone().requires_grad_() for key, value in model.state_dict().items()}
    (plain_models.basicvsr(params, frames, 2) - target).square().mean().backward()
    for name, parameter in model.named_parameters():
        expected = params[name].grad
        assert (parameter.grad - expected).abs().max() <= 2e-3 * expected.abs().max() + 1e-9, name


@pytest.mark.network
def test_bfloat16_is_close(real_weights: Callable[[str], Path], real_frames: Callable[..., Tensor]) -> None:
    frames = real_frames("bikes", 150, 4)[None, ..., 60:108, 100:164]
    model = load_model(real_weights("basicvsr-vimeo-bi"))
    with torch.no_grad():
        wide = model(frames)
        model.bfloat16()
        mixed, narrow = model(frames), model(frames.bfloat16())
    assert (mixed.dtype, narrow.dtype) == (torch.float32, torch.bfloat16)
    assert (mixed - wide).square().mean().sqrt() < 4e-3
    assert (narrow - wide).square().mean().sqrt() < 6e-3


def test_autocast_keeps_float32_output() -> None:
    model = _random()
    frames = torch.rand(1, 3, 3, 12, 16)
    with torch.no_grad():
        wide = model(frames)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(frames)
    assert out.dtype == torch.float32
    assert (out - wide).abs().max() < 0.02


def test_state_dict_keys_are_basicsrs() -> None:
    keys = set(BasicVSR(8, 1).state_dict())
    expected = {"spynet.mean", "spynet.std"}
    expected |= {
        f"spynet.basic_module.{level}.basic_module.{layer}.{kind}"
        for level in range(6)
        for layer in (0, 2, 4, 6, 8)
        for kind in ("weight", "bias")
    }
    modules = ["fusion", "upconv1", "upconv2", "conv_hr", "conv_last"]
    for trunk in ("backward_trunk", "forward_trunk"):
        modules += [f"{trunk}.main.0", f"{trunk}.main.2.0.conv1", f"{trunk}.main.2.0.conv2"]
    assert keys == expected | {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}
    assert sum(p.numel() for p in BasicVSR().parameters()) == 6_291_311


def test_bad_input() -> None:
    model = _random(4, 0)
    frames = torch.rand(1, 2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"expected a non-empty \(N, T, 3, H, W\), got shape \(1, 3, 4, 4\)"):
        model(frames[:, 0])
    with pytest.raises(ValueError, match="keep: expected 1 to T = 2, got 3"):
        model.step(frames, keep=3)
    _, state = model.step(frames)
    with pytest.raises(ValueError, match=r"state: expected a feature of shape \(1, 4, 4, 5\), got \(1, 4, 4, 4\)"):
        model.step(torch.rand(1, 2, 3, 4, 5), state)
    with pytest.raises(ValueError, match="scale: expected 1, 2, 3 or 4, got 8"):
        BasicVSR(scale=8)
    with pytest.raises(ValueError, match="num_feat >= 1"):
        BasicVSR(0)
