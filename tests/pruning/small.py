"""Small networks whose outputs depend on every weight."""

from __future__ import annotations

import torch

from vsr.models import EDSR, BasicVSR, SRVGGNet
from vsr.models.base import Upscaler

KINDS = ("bidirectional", "unidirectional", "x1", "prelu", "leakyrelu", "edsr")


def network(kind: str, *, width: int = 8) -> Upscaler:
    """A network in eval mode with random weights, all biases and slopes included."""
    torch.manual_seed(1)
    model: Upscaler
    if kind in ("prelu", "leakyrelu"):
        model = SRVGGNet(width, 3, 2, kind)
    elif kind == "edsr":
        model = EDSR(width, 2, 4)
    elif kind == "x1":
        model = BasicVSR(width, 1, scale=1, bidirectional=False, num_hr_feat=width + 2)
    else:
        model = BasicVSR(width, 2, scale=4, bidirectional=kind == "bidirectional", num_hr_feat=width + 4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("spynet"):
                parameter.uniform_(-0.4, 0.4)
    return model.eval()


def frames(model: Upscaler, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Input for a network: a clip of three frames, or two frames."""
    shape = (1, 3, 3, 12, 10) if model.recurrent else (2, 3, 12, 10)
    return torch.rand(shape, generator=torch.Generator().manual_seed(2), dtype=dtype)


def random_kept(sizes: dict[str, int], *, seed: int = 3) -> dict[str, list[int]]:
    """About half of the units of every group, at random."""
    generator = torch.Generator().manual_seed(seed)
    return {
        group: sorted(torch.randperm(size, generator=generator)[: max(1, size // 2 - number % 2)].tolist())
        for number, (group, size) in enumerate(sizes.items())
    }
