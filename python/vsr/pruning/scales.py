"""A network with a learnable factor on every unit: ones at the start, folded into the weights at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vsr.models.base import Upscaler
from vsr.models.units import Kept, units_of
from vsr.pruning.cut import scaled_weights, with_weights


class ScaledNetwork(Upscaler):
    """A dense network whose units are multiplied by scales while it trains.

    The scales act on the weights, which computes the same as scaling outputs does, bit for bit while they are one.

    Source: Xia et al., "Structured Sparsity Learning for Efficient Video Super-Resolution", CVPR 2023.

    Args:
        dense: The network; it is held, not copied.
        present: Units that are there; None for all. The others count zero, and stay so.
    """

    def __init__(self, dense: Upscaler, present: Kept | None = None) -> None:
        super().__init__()
        self.dense, self.units = dense, units_of(dense)
        self.scale, self.recurrent, self.receptive_field = dense.scale, dense.recurrent, dense.receptive_field
        self.planned = ()
        like = next(dense.parameters())
        sizes = self.units.sizes
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(size).to(like)) for size in sizes.values())
        # Buffers, so that checkpoints of a run hold them.
        self.register_buffer("present", _as_mask(sizes, present or self.units.everything, like.device))
        self.register_buffer("pressed", torch.zeros(sum(sizes.values()), dtype=torch.bool, device=like.device))
        self.register_buffer("chosen", torch.zeros((), dtype=torch.bool, device=like.device))

    @property
    def config(self) -> dict[str, int | float | bool | str]:
        """That of the dense network."""
        return self.dense.config

    @property
    def factors(self) -> dict[str, Tensor]:
        """The scales (size,) of each group, zero for units that are not there."""
        masks = self._split("present")
        return {g: scale * masks[g] for g, scale in zip(self.units.sizes, self.scales, strict=True)}

    @property
    def kept(self) -> dict[str, list[int]]:
        """Units that are there."""
        return {group: mask.nonzero().flatten().tolist() for group, mask in self._split("present").items()}

    def forward(self, frames: Tensor) -> Tensor:
        """As the dense network's."""
        changed = scaled_weights(self.units, dict(self.dense.named_parameters()), self.factors)
        return cast(Tensor, functional_call(self.dense, changed, (frames,)))

    def folded(self) -> Upscaler:
        """The dense network with the scales in its weights: the same outputs, bit for bit."""
        changed = scaled_weights(self.units, self.dense.state_dict(), self.factors)
        return with_weights(self.dense, changed)

    def press(self, kept: Kept) -> None:
        """Mark every unit that is there and not in ``kept`` for :meth:`pressure`."""
        mask = _as_mask(self.units.sizes, kept, self.get_buffer("pressed").device)
        self.get_buffer("pressed").copy_(self.get_buffer("present") & ~mask)
        self.get_buffer("chosen").fill_(True)

    def pressure(self) -> Tensor:
        """Half the sum of the squares of the marked units' scales: its gradient is the scales themselves."""
        together = torch.cat(list(self.scales))
        return together.square().mul(self.get_buffer("pressed")).sum() / 2

    def _split(self, name: str) -> dict[str, Tensor]:
        parts = self.get_buffer(name).split(list(self.units.sizes.values()))
        return dict(zip(self.units.sizes, parts, strict=True))


def _as_mask(sizes: Mapping[str, int], kept: Kept, device: torch.device) -> Tensor:
    """One flag per unit of all groups, in their order."""
    parts = []
    for group, size in sizes.items():
        mask = torch.zeros(size, dtype=torch.bool, device=device)
        mask[list(kept[group])] = True
        parts.append(mask)
    return torch.cat(parts)
