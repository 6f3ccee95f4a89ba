from __future__ import annotations

import math
from pathlib import Path

import plain_models
import pytest
import torch

from vsr.errors import UserError
from vsr.models import EDSR, load_model, save_model
from vsr.models.export import export_model
from vsr_kernels import plan


def made(*args: float, **kwargs: float) -> EDSR:
    torch.manual_seed(0)
    return EDSR(*args, **kwargs).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("upscale", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(17, 23), (1, 1), (1, 5)])
def test_equals_plain_network(upscale: int, size: tuple[int, int]) -> None:
    model = made(20, 3, upscale, 0.5)
    x = torch.rand(2, 3, *size)
    with torch.no_grad():
        expected = plain_models.edsr(dict(model.state_dict()), x, upscale, 0.5)
        assert (model(x) - expected).abs().max() < 2e-5


@pytest.mark.parametrize(("arguments", "parameters"), [((64, 16, 4, 1.0), 1_517_571), ((256, 32, 4, 0.1), 43_089_923)])
def test_sizes_are_those_of_the_public_networks(arguments: tuple[float, ...], parameters: int) -> None:
    """BasicSR's EDSR_Mx4 and EDSR_Lx4."""
    with torch.device("meta"):
        model = EDSR(*arguments)  # type: ignore[arg-type]
    assert sum(p.numel() for p in model.parameters()) == parameters
    others = {"conv_first", "conv_after_body", "upsample.0", "upsample.2", "conv_last"}
    blocks = {f"body.{i}.conv{k}" for i in range(int(arguments[1])) for k in (1, 2)}
    assert set(model.state_dict()) == {f"{name}.{kind}" for name in others | blocks for kind in ("weight", "bias")}


@pytest.mark.parametrize("upscale", [1, 2, 3, 4])
def test_receptive_field_is_exact(upscale: int) -> None:
    model = made(8, 1, upscale).double()
    halo = model.receptive_field
    assert halo is not None
    x = torch.rand(1, 3, 20, 40, dtype=torch.float64)
    changed = x.clone()
    changed[..., : 20 - halo] = 0
    with torch.no_grad():
        difference = (model(x) - model(changed)).abs().amax((0, 1, 2))  # by output column
    assert difference[20 * upscale :].max() == 0, "a pixel beyond the halo matters"
    assert difference[19 * upscale : 20 * upscale].max() > 0, "the halo is larger than needed"


def test_bfloat16_network_keeps_its_mean(real_frames) -> None:  # type: ignore[no-untyped-def]
    x = real_frames("bikes", 150, 1)[..., :40, :48]
    model = made(16, 2, 2)
    with torch.no_grad():
        for parameter in model.conv_last.parameters():
            parameter.zero_()
        mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
        assert (model.bfloat16()(x) - mean).abs().max() < 1e-7


def test_planned() -> None:
    model = made(16, 2, 2).to(memory_format=torch.channels_last)
    run = plan(model)
    with torch.inference_mode():
        for size in ((12, 10), (12, 10), (7, 9)):
            x = torch.rand(1, 3, *size)
            assert torch.equal(run(x), model(x))


@pytest.mark.parametrize("width", [12, 256])
@pytest.mark.parametrize("res_scale", [1.0, 0.1, 0.3])
def test_saved_and_exported_networks_compute_the_same(tmp_path: Path, width: int, res_scale: float) -> None:
    """A .pth does not say what factor its blocks have."""
    model = made(width, 1, 2, res_scale)
    x = torch.rand(1, 3, 6, 5)
    save_model(model, tmp_path / "kept.safetensors")
    export_model(model, tmp_path / "public.pth")
    with torch.no_grad():
        for name in ("kept.safetensors", "public.pth"):
            again = load_model(tmp_path / name)
            assert isinstance(again, EDSR)
            assert torch.allclose(again(x), model(x), rtol=0, atol=1e-5), name


def test_bad_arguments(tmp_path: Path) -> None:
    for arguments, text in (((0, 1, 2), "num_feat >= 1"), ((8, -1, 2), "num_block >= 0"), ((8, 1, 5), "upscale")):
        with pytest.raises(ValueError, match=text):
            EDSR(*arguments)
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\)"):
        made(8, 1, 2)(torch.rand(1, 4, 5, 5))
    state = made(8, 1, 2).state_dict()
    del state["body.0.conv1.bias"]
    torch.save({"params": state}, tmp_path / "damaged.pth")
    with pytest.raises(UserError, match=r"missing: body\.0\.conv1\.bias"):
        load_model(tmp_path / "damaged.pth")
    assert math.isfinite(made(8, 0, 1)(torch.rand(1, 3, 2, 2)).sum().item())
