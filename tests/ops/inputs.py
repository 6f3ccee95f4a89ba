"""Random values and the memory layouts in which operators get them."""

from __future__ import annotations

import torch
from torch import Tensor

#: Layouts of images (N, C, H, W); dense ones first.
IMAGE_LAYOUTS = (
    "contiguous",
    "channels_last",
    "sliced",
    "transposed",
    "channel_slice",
    "misaligned",
    "expanded_batch",
    "expanded_columns",
)
WEIGHT_LAYOUTS = ("contiguous", "channels_last", "sliced", "swapped")
VECTOR_LAYOUTS = ("dense", "strided", "expanded")
#: Layouts of incoming gradients; ``one_number`` is what ``out.sum().backward()`` sends.
GRADIENT_LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed", "expanded_batch", "one_number")


def lay_out(values: Tensor, layout: str) -> Tensor:
    """``values`` in another memory layout. What lies between the elements is NaN, so that a stray read shows.

    The expanded layouts repeat one part of the values, since a stride of zero can hold nothing else.
    """
    if layout in ("contiguous", "dense"):
        return values.contiguous()
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last)
    if layout in ("sliced", "strided"):
        wide = values.new_full([2 * size + 1 for size in values.shape], torch.nan)
        return wide[tuple(slice(1, None, 2) for _ in values.shape)].copy_(values)
    if layout == "transposed":
        return values.transpose(-2, -1).contiguous().transpose(-2, -1)
    if layout == "swapped":
        return values.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "channel_slice":
        n, c, h, w = values.shape
        wide = values.new_full((n, h, w, c + 5), torch.nan)
        return wide[..., 3 : 3 + c].permute(0, 3, 1, 2).copy_(values)
    if layout == "misaligned":
        flat = values.new_full((values.numel() + 1,), torch.nan)
        return flat[1:].view(values.shape).copy_(values)
    if layout in ("expanded_batch", "expanded"):
        return values[:1].clone().expand(values.shape)
    if layout == "expanded_columns":
        return values[..., :1].clone().expand(values.shape)
    if layout == "one_number":
        return values.flatten()[:1].clone().view([1] * values.dim()).expand(values.shape)
    raise ValueError(layout)


class Draw:
    """Random tensors of one case.

    ``exact`` numbers are multiples of a power of two with few bits: sums of their products are exact in float32, so
    that every implementation sees the same side of an activation's kink and gradients can be compared.

    Where an implementation is exact for no numbers but PyTorch is, sums of convolutions are kept ``apart`` from the
    kink instead: pixels are 1 or -1, and one tap of every filter outweighs all others together.

    Args:
        seed: of the generator.
        dtype: of the tensors.
        device: of the tensors.
        exact: draw such numbers.
        apart: draw such pixels and filters.
    """

    def __init__(self, seed: int, dtype: torch.dtype, device: str, *, exact: bool, apart: bool = False) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype, self.device, self.exact, self.apart = dtype, device, exact, apart

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, float64."""
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def _finish(self, values: Tensor, layout: str) -> Tensor:
        return lay_out(values.to(self.device, self.dtype), layout)

    def image(self, shape: tuple[int, ...], layout: str = "contiguous") -> Tensor:
        """Normal values, cut at three; steps of 1/8 if exact, signs if apart."""
        values = self.normal(*shape).clamp(-3, 3)
        if self.apart:
            values = (values + 0.5).sign()  # more of one, so that their sums do not cancel either
        return self._finish((values * 8).round() / 8 + 0.0 if self.exact else values, layout)  # + 0.0: no -0

    def gradient(self, shape: tuple[int, ...], layout: str = "contiguous") -> Tensor:
        """Positive numbers around one, in steps of 1/8 if exact: sums do not cancel, so their rounding stays small."""
        values = self.normal(*shape).clamp(-3, 3) * 2
        return self._finish(((values.round() if self.exact else values) + 8) / 8, layout)

    def weight(self, shape: tuple[int, ...], layout: str = "contiguous") -> Tensor:
        """Normal values of a size that keeps the output's near one; steps of 1/16 if exact.

        If apart, one tap of every filter is six times as large as the sum of all others with signs usually is.
        """
        values = self.normal(*shape).clamp(-3, 3)
        fan_in = max(1, shape[1] * shape[2] * shape[3])
        values = (values * 4).round() / 16 if self.exact else values / fan_in**0.5
        if self.apart:
            values[:, :1, 1, 1] = 5.7 * values[:, :1, 1, 1].sign()  # no power of two, with which PyTorch would be exact
            values = values / 6
        return self._finish(values, layout)

    def bias(self, size: int, layout: str = "dense") -> Tensor:
        """Normal values; odd multiples of 1/256 if exact, so that no exact sum with them is zero; small if apart."""
        values = self.normal(size).clamp(-2, 2) / (20 if self.apart else 1)
        return self._finish(((values * 60).round() * 2 + 1) / 256 if self.exact else values / 4, layout)

    def slope(self, size: int, layout: str = "dense") -> Tensor:
        """Slopes between -0.5 and 1, zero among them; steps of 1/8."""
        return self._finish(torch.randint(-4, 9, (size,), generator=self.generator) / 8.0, layout)

    def flow(self, shape: tuple[int, ...], reach: float, dtype: torch.dtype, layout: str = "contiguous") -> Tensor:
        """Flow of about ``reach`` pixels; odd multiples of 1/16 if exact, so no pixel boundary or tie is near."""
        values = self.normal(*shape) * reach
        if self.exact:
            # So many bits does the dtype have: beyond these limits the sixteenths would be rounded to whole pixels.
            limit = {torch.bfloat16: 7.0, torch.float16: 60.0}.get(dtype, 1e4)
            values = ((values.clamp(-limit, limit) * 8).floor() * 2 + 1) / 16
        else:
            values = values.clamp(-6e4, 6e4)
        return lay_out(values.to(self.device, dtype), layout)
