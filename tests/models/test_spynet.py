from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import plain_models
import pytest
import torch
from torch import Tensor

from vsr.models import SPyNet, load_spynet


def _random() -> SPyNet:
    """Weights whose flows are some pixels long, so that warping takes part."""
    model = SPyNet().eval()
    with torch.no_grad():
        for level in model.basic_module:
            level.basic_module[-1].weight.mul_(30)
    return model


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (32, 64), (33, 31), (40, 70)])
def test_equals_plain_network(size: tuple[int, int]) -> None:
    model = _random()
    ref, supp = torch.rand(2, 2, 3, *size)
    with torch.no_grad():
        expected = plain_models.spynet(dict(model.state_dict()), ref, supp)
        assert size == (1, 1) or expected.abs().max() > 0.3
        assert (model(ref, supp) - expected).abs().max() < 1e-4


@pytest.mark.network
def test_pretrained_equals_plain_network(
    real_weights: Callable[[str], Path], real_frames: Callable[..., Tensor]
) -> None:
    model = load_spynet(real_weights("basicvsr-reds"))
    ref, supp = real_frames("bikes", 150, 2)[..., 60:130, 100:221].split(1)
    with torch.no_grad():
        expected = plain_models.spynet(dict(model.state_dict()), ref, supp)
        assert expected.abs().max() > 0.5
        assert (model(ref, supp) - expected).abs().max() < 1e-5


@pytest.mark.network
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finds_a_known_shift(
    dtype: torch.dtype, real_weights: Callable[[str], Path], real_frames: Callable[..., Tensor]
) -> None:
    """A window moved by (3, -2) pixels over one frame; 600 pixels wide, more than bfloat16 can count."""
    model = load_spynet(real_weights("basicvsr-reds")).to(dtype)
    frame = real_frames("bikes", 150, 1)
    ref, supp = frame[..., 100:200, 30:630], frame[..., 102:202, 27:627]
    with torch.no_grad():
        flow = model(ref.to(dtype), supp.to(dtype))
    assert flow.dtype == torch.float32
    inside = flow[0, :, 20:-20, 20:-20]
    assert torch.allclose(inside.flatten(1).median(1).values, torch.tensor([3.0, -2.0]), atol=0.1)
    error = (inside - torch.tensor([3.0, -2.0]).view(2, 1, 1)).norm(dim=0)
    assert error.mean() < 0.3


def test_batch_equals_single_pairs() -> None:
    model = _random()
    ref, supp = torch.rand(2, 3, 3, 20, 36)
    with torch.no_grad():
        together = model(ref, supp)
        for i in range(3):
            assert torch.allclose(model(ref[i : i + 1], supp[i : i + 1])[0], together[i], atol=1e-4)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="expected one shape"):
        SPyNet()(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9))
