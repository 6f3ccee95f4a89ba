"""What a network can lose without its interface changing: groups of channels, and the convolutions that hold them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vsr.errors import UserError
from vsr.models.base import Upscaler
from vsr.models.basicvsr import BasicVSR
from vsr.models.edsr import EDSR
from vsr.models.srvgg import SRVGGNet
from vsr_kernels.nn import ResidualBlock

#: Kept unit numbers of each group, ascending.
Kept = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class UnitConv:
    """A convolution whose filters or input channels are units.

    Attributes:
        path: The module.
        inputs, outputs: Groups of its input channels and of its filters; None where all of them stay.
        width_in: Input channels when nothing is pruned.
        width_out: Output units when nothing is pruned.
        repeat: Consecutive filters of one output unit: r^2 before a pixel shuffle.
        area: Output pixels for each pixel of a low-resolution frame, before the shuffle.
        taps: 9 or 1.
    """

    path: str
    inputs: str | None
    outputs: str | None
    width_in: int
    width_out: int
    repeat: int = 1
    area: int = 1
    taps: int = 9


@dataclass(frozen=True)
class Units:
    """The prunable units of a network.

    Attributes:
        sizes: Units of each group, in the order of the network. A group is called ``{module}.{in,hidden,out}``.
        convs: All convolutions but those of the optical flow.
        blocks: Residual blocks, whose groups are ``{block}.in``, ``.hidden`` and ``.out``: conv1's inputs and filters,
            conv2's filters.
        slopes: PReLU parameters and the groups whose units they belong to.
    """

    sizes: Mapping[str, int]
    convs: tuple[UnitConv, ...]
    blocks: tuple[str, ...]
    slopes: Mapping[str, str]

    @staticmethod
    def of_block(block: str) -> tuple[str, str, str]:
        """The groups of a residual block."""
        return f"{block}.in", f"{block}.hidden", f"{block}.out"

    @property
    def of_blocks(self) -> set[str]:
        """The groups of all residual blocks."""
        return {group for block in self.blocks for group in self.of_block(block)}

    @property
    def everything(self) -> dict[str, list[int]]:
        """Nothing pruned."""
        return {group: list(range(size)) for group, size in self.sizes.items()}

    @property
    def owners(self) -> dict[str, UnitConv]:
        """The convolution that a group's scales belong to: the one it is made of, else the one that reads it."""
        found = {conv.inputs: conv for conv in self.convs if conv.inputs is not None}
        found |= {conv.outputs: conv for conv in self.convs if conv.outputs is not None}
        return {group: found[group] for group in self.sizes}

    def slices(self, kept: Kept) -> Iterator[tuple[UnitConv, Tensor | None, Tensor | None]]:
        """Every convolution with the numbers of the filters and of the input channels that are kept; None for all."""
        for conv in self.convs:
            rows = None if conv.outputs is None else filters(kept[conv.outputs], conv.repeat)
            columns = None if conv.inputs is None else torch.tensor(list(kept[conv.inputs]), dtype=torch.int64)
            yield conv, rows, columns


def filters(units: Sequence[int], repeat: int) -> Tensor:
    """Numbers of the filters of some units, ``repeat`` consecutive ones each; int64."""
    first = torch.tensor(list(units), dtype=torch.int64) * repeat
    return (first[:, None] + torch.arange(repeat)).flatten()


def units_of(model: Upscaler) -> Units:
    """The units of a network that can be pruned; of a pruned one, those that it had before.

    Raises:
        UserError: The network is of another kind.
    """
    if isinstance(model, BasicVSR):
        return _of_basicvsr(model)
    if isinstance(model, SRVGGNet):
        return _of_srvgg(model)
    if isinstance(model, EDSR):
        return _of_edsr(model)
    raise UserError(f"expected a BasicVSR, an EDSR or a plain network (SRVGG, RepSR), got {type(model).__name__}")


def _of_basicvsr(model: BasicVSR) -> Units:
    width, sizes, convs, blocks = model.num_feat, dict[str, int](), list[UnitConv](), list[str]()
    for trunk in ("backward_trunk", "forward_trunk") if model.bidirectional else ("forward_trunk",):
        convs.append(UnitConv(f"{trunk}.main.0", None, None, width + 3, width))
        for i in range(model.num_block):
            blocks.append(f"{trunk}.main.2.{i}")
            _add_block(blocks[-1], width, sizes, convs)
    sizes["fusion.out"] = width
    convs.append(UnitConv("fusion", None, "fusion.out", width * (2 if model.bidirectional else 1), width, taps=1))
    before, area = "fusion.out", 1
    shuffles = [name for name, _ in model.named_children() if name.startswith("upconv")]
    for name in shuffles:
        r = int(model.get_submodule(name).upscale_factor)  # type: ignore[arg-type]
        wide = model.num_hr_feat if name == shuffles[-1] else width
        convs.append(UnitConv(name, before, f"{name}.out", sizes[before], wide, r * r, area))
        sizes[f"{name}.out"] = wide
        before, area = f"{name}.out", area * r * r
    sizes["conv_hr.out"] = model.num_hr_feat
    convs.append(UnitConv("conv_hr", before, "conv_hr.out", sizes[before], model.num_hr_feat, 1, area))
    convs.append(UnitConv("conv_last", "conv_hr.out", None, model.num_hr_feat, 3, 1, area))
    return Units(sizes, tuple(convs), tuple(blocks), {})


def _add_block(block: str, width: int, sizes: dict[str, int], convs: list[UnitConv]) -> None:
    into, hidden, out = Units.of_block(block)
    sizes |= {into: width, hidden: width, out: width}
    convs.append(UnitConv(f"{block}.conv1", into, hidden, width, width))
    convs.append(UnitConv(f"{block}.conv2", hidden, out, width, width))


def _of_edsr(model: EDSR) -> Units:
    width, sizes, convs = model.num_feat, dict[str, int](), list[UnitConv]()
    convs.append(UnitConv("conv_first", None, None, 3, width))
    blocks = tuple(f"body.{i}" for i in range(model.num_block))
    for block in blocks:
        _add_block(block, width, sizes, convs)
    convs.append(UnitConv("conv_after_body", None, None, width, width))
    before, area = None, 1
    for i in range(0, len(model.upsample), 2):
        path = f"upsample.{i}"
        group, r = f"{path}.out", int(model.get_submodule(path).upscale_factor)  # type: ignore[arg-type]
        convs.append(UnitConv(path, before, group, width, width, r * r, area))
        sizes[group] = width
        before, area = group, area * r * r
    convs.append(UnitConv("conv_last", before, None, width, 3, 1, area))
    return Units(sizes, tuple(convs), blocks, {})


def _of_srvgg(model: SRVGGNet) -> Units:
    sizes, convs, slopes = dict[str, int](), list[UnitConv](), dict[str, str]()
    before, width = None, 3
    for i in range(model.num_conv + 1):
        path = f"body.{2 * i}"
        group = f"{path}.out"
        convs.append(UnitConv(path, before, group, width, model.num_feat))
        sizes[group] = model.num_feat
        if model.act_type == "prelu":
            slopes[f"body.{2 * i + 1}.weight"] = group
        before, width = group, model.num_feat
    convs.append(UnitConv(f"body.{2 * model.num_conv + 2}", before, None, width, 3 * model.scale**2))
    return Units(sizes, tuple(convs), (), slopes)


def check_plain_blocks(model: nn.Module, units: Units) -> None:
    """Refuse a network whose residual blocks are something else than two plain convolutions.

    Raises:
        ValueError: Naming the block.
    """
    for path in units.blocks:
        block: Any = model.get_submodule(path)
        if not isinstance(block, ResidualBlock) or block.activation != "relu" or block.res_scale != 1.0:
            raise ValueError(f"{path}: expected a residual block conv, ReLU, conv, got {type(block).__name__}")
