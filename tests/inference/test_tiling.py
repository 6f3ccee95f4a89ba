"""Tiles: no seam, whatever the sizes."""

from __future__ import annotations

import pytest
import torch
from tiny_models import MeanBothWays, Nearest, RunningMean, SmallConv
from torch import Tensor, nn

from vsr.inference import Runner
from vsr.inference.tiling import place, tile_grid
from vsr.models import SRVGGNet

CPU = torch.device("cpu")


def enlarge(model: nn.Module, frames: Tensor, tile: int | None, overlap: int | None = None) -> Tensor:
    return Runner(model, device=CPU, dtype=torch.float32, tile=tile, overlap=overlap).run(frames)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (16, 16), (17, 40), (64, 33), (100, 37)])
@pytest.mark.parametrize("tile", [16, 24, 100])
@pytest.mark.parametrize("overlap", [0, 3, 20])
def test_grid_covers_every_pixel_once(height: int, width: int, tile: int, overlap: int) -> None:
    count = torch.zeros(height, width)
    for part in tile_grid(height, width, tile, overlap):
        rows, columns = part.rows, part.columns
        count[rows.start : rows.stop, columns.start : columns.stop] += 1
        assert rows.stop - rows.start <= tile
        assert rows.patch_start == max(0, rows.start - overlap)
        assert columns.patch_stop == min(width, columns.stop + overlap)
        assert part.patch(count).shape == (
            rows.patch_stop - rows.patch_start,
            columns.patch_stop - columns.patch_start,
        )
    assert torch.equal(count, torch.ones_like(count))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (61, 83), (20, 150)])
@pytest.mark.parametrize("tile", [16, 31])
def test_tiled_equals_untiled_if_the_overlap_covers_the_receptive_field(height: int, width: int, tile: int) -> None:
    x = torch.rand(1, 3, height, width)
    for model in (SmallConv(), Nearest(3)):
        whole = enlarge(model, x, 0)
        tiled = enlarge(model, x, tile)
        assert torch.allclose(tiled, whole, rtol=0, atol=2e-6)
        assert torch.allclose(enlarge(model, x, tile, 5), whole, rtol=0, atol=2e-6)


def test_a_real_network() -> None:
    torch.manual_seed(0)
    model = SRVGGNet(8, 3, 4).eval()
    assert model.receptive_field == 5
    x = torch.rand(1, 3, 50, 70)
    assert torch.allclose(enlarge(model, x, 24), enlarge(model, x, 0), rtol=0, atol=1e-5)
    assert not torch.allclose(enlarge(model, x, 24, 2), enlarge(model, x, 0), rtol=0, atol=1e-4)


def test_fading_has_no_seam() -> None:
    """Each tile's result is off by another constant; after fading, no step between neighbours exceeds the ramp's."""
    out = torch.full((1, 3, 128, 128), float("nan"))
    offsets = []
    for index, tile in enumerate(tile_grid(64, 64, 20, 6)):
        part = torch.full((1, 3, 1, 1), float(index % 3)).expand(
            1,
            3,
            2 * (tile.rows.patch_stop - tile.rows.patch_start),
            2 * (tile.columns.patch_stop - tile.columns.patch_start),
        )
        place(out, part, tile, 2, exact=False)
        offsets.append(index % 3)
    assert torch.isfinite(out).all()
    assert float(out.min()) == min(offsets)
    assert float(out.max()) == max(offsets)
    across = (out[..., 1:] - out[..., :-1]).abs().max()
    down = (out[..., 1:, :] - out[..., :-1, :]).abs().max()
    # A difference of 2 over a ramp of 2 * 2 * 6 pixels, and two such where four tiles meet.
    assert max(across, down) <= 2 * 2 / 24


def test_fading_keeps_what_tiles_agree_on() -> None:
    x = torch.rand(1, 3, 50, 70)
    field_unknown = SmallConv(receptive_field=None)
    error = (enlarge(field_unknown, x, 16, 8) - enlarge(SmallConv(), x, 0)).abs()
    # The two wrong pixels at the rim of a tile have next to no weight.
    assert 1e-3 < error.max() < 0.15
    assert error.mean() < 0.005
    nearest = Nearest()
    nearest.receptive_field = None  # type: ignore[assignment]
    assert torch.allclose(enlarge(nearest, x, 16, 8), enlarge(Nearest(), x, 0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", [RunningMean(), MeanBothWays()], ids=["forward", "both"])
def test_every_tile_of_a_recurrent_model_has_its_own_state(model: nn.Module) -> None:
    frames = torch.rand(9, 3, 40, 52)
    whole = Runner(model, device=CPU, dtype=torch.float32, tile=0)
    tiled = Runner(model, device=CPU, dtype=torch.float32, tile=16, overlap=4)
    for first in (0, 3, 6):
        expected = whole.run(frames[first : first + 3])
        assert torch.allclose(tiled.run(frames[first : first + 3]), expected, rtol=0, atol=1e-6)
    assert tiled.tile_in_use == 16
    assert whole.tile_in_use is None
    assert len(tiled.states) == 12
