"""Pruned networks as they run: convolutions of the kept channels, residuals of full width.

A pruned file holds, beside the weights, the list of the kept units of every group (``{group}_kept``, int64) and the
version of this format in its metadata. See :mod:`vsr.models.units` for the groups.

Source: Xia et al., "Structured Sparsity Learning for Efficient Video Super-Resolution", CVPR 2023 (Residual Sparsity
Connection: blocks gather the channels they read and add to those they write, so no two need the same indices).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from vsr.errors import UserError
from vsr.models.base import Upscaler
from vsr.models.basicvsr import BasicVSR
from vsr.models.edsr import EDSR
from vsr.models.srvgg import SRVGGNet
from vsr.models.units import Kept, Units, units_of
from vsr_kernels.nn import Conv3x3, PixelShuffleConv, SparseResidualBlock

FORMAT_KEY, FORMAT = "pruned_format", "1"
_SUFFIX = "_kept"
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


class PrunedBlock(SparseResidualBlock):
    """A residual block of which some channels are left.

    Args:
        num_feat: Channels of the residual.
        in_kept, hidden_kept, out_kept: Kept inputs of conv1, filters of conv1 and filters of conv2.
    """

    hidden_kept: Tensor

    def __init__(
        self, num_feat: int, *, in_kept: Sequence[int], hidden_kept: Sequence[int], out_kept: Sequence[int]
    ) -> None:
        super().__init__(num_feat, in_kept=in_kept, out_kept=out_kept, hidden=len(hidden_kept))
        self.register_buffer("hidden_kept", _list(hidden_kept))


class RemovedBlock(nn.Module):
    """A residual block of which nothing is left: the identity."""

    def __init__(self) -> None:
        super().__init__()
        for part in ("in", "hidden", "out"):
            self.register_buffer(part + _SUFFIX, _list(()))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same tensor."""
        return x


class Pruned(Upscaler):
    """What pruned networks share; mixed into the network that they were."""

    _dense: type[Upscaler]  # its class, built from the same ``config``

    @property
    def units(self) -> Units:
        """The units that the network had before it was pruned."""
        return units_of(self)

    @property
    def kept(self) -> dict[str, list[int]]:
        """Kept units of each group."""
        return {group: self.get_buffer(group + _SUFFIX).tolist() for group in self.units.sizes}

    @torch.no_grad()
    def to_dense(self) -> Upscaler:
        """The network of full width that computes the same, with zeros where units were.

        Returns:
            A network of the class that it was, on the same device, in eval mode.
        """
        with torch.device("meta"):
            dense = self._dense(**self.config)
        mine, wanted = self.state_dict(), dense.state_dict()
        state = {key: mine[key].clone() for key in wanted if key in mine}
        some = next(self.parameters())
        units, kept = self.units, self.kept
        for conv, rows, columns in units.slices(kept):
            for part, cut in (("weight", (rows, columns)), ("bias", (rows,))):
                key = f"{conv.path}.{part}"
                missing = key not in state  # of a removed block
                state[key] = some.new_zeros(wanted[key].shape) if missing else _widened(state[key], wanted[key], cut)
        for key, group in units.slopes.items():
            state[key] = _widened(state[key], wanted[key], (torch.tensor(kept[group]),))
        dense.load_state_dict(state, assign=True)
        return dense.eval()

    def _narrow(self, kept: Kept) -> None:
        """Put what the kept units need in the place of what stands there."""
        units = self.units
        for path in units.blocks:
            _replace(self, path, _block(path, units, kept))
        for conv in units.convs:
            if conv.path.removesuffix(".conv1").removesuffix(".conv2") in units.blocks:
                continue
            inputs = conv.width_in if conv.inputs is None else len(kept[conv.inputs])
            outputs = conv.width_out if conv.outputs is None else len(kept[conv.outputs])
            made = _narrowed(self.get_submodule(conv.path), inputs, outputs)
            if conv.outputs is not None:
                made.register_buffer("out" + _SUFFIX, _list(kept[conv.outputs]))
            _replace(self, conv.path, made)
        for slope, group in units.slopes.items():
            _replace(self, slope.removesuffix(".weight"), nn.PReLU(len(kept[group])))


class PrunedBasicVSR(Pruned, BasicVSR):
    """A :class:`vsr.models.BasicVSR` of which some units are left; the propagated features keep their full width.

    Args:
        kept: Kept units of every group of :func:`vsr.models.units.units_of`.
        num_feat, num_block, scale, bidirectional, num_hr_feat: As they were before pruning.

    Raises:
        ValueError: ``kept`` is not such lists.
    """

    _dense = BasicVSR

    def __init__(
        self,
        kept: Kept,
        num_feat: int = 64,
        num_block: int = 30,
        *,
        scale: int = 4,
        bidirectional: bool = True,
        num_hr_feat: int = 64,
    ) -> None:
        super().__init__(num_feat, num_block, scale=scale, bidirectional=bidirectional, num_hr_feat=num_hr_feat)
        check_kept(self.units, kept)
        self._narrow(kept)


class PrunedSRVGGNet(Pruned, SRVGGNet):
    """A :class:`vsr.models.SRVGGNet`, such as a merged RepSR, of which some channels are left.

    Args:
        kept: Kept units of every group of :func:`vsr.models.units.units_of`.
        num_feat, num_conv, upscale, act_type: As they were before pruning.

    Raises:
        ValueError: ``kept`` is not such lists.
    """

    _dense = SRVGGNet

    def __init__(
        self, kept: Kept, num_feat: int = 64, num_conv: int = 16, upscale: int = 4, act_type: str = "prelu"
    ) -> None:
        super().__init__(num_feat, num_conv, upscale, act_type)
        check_kept(self.units, kept)
        self._narrow(kept)


class PrunedEDSR(Pruned, EDSR):
    """A :class:`vsr.models.EDSR` of which some units are left; what the blocks add to keeps its full width.

    Args:
        kept: Kept units of every group of :func:`vsr.models.units.units_of`.
        num_feat, num_block, upscale: As they were before pruning.
        res_scale: 1; factors of branches are in their weights.

    Raises:
        ValueError: ``kept`` is not such lists.
    """

    _dense = EDSR

    def __init__(
        self, kept: Kept, num_feat: int = 64, num_block: int = 16, upscale: int = 4, res_scale: float = 1.0
    ) -> None:
        super().__init__(num_feat, num_block, upscale, res_scale)
        check_kept(self.units, kept)
        self._narrow(kept)


_PRUNED = (PrunedBasicVSR, PrunedEDSR, PrunedSRVGGNet)


def pruned_class(dense: Upscaler) -> type[PrunedBasicVSR] | type[PrunedEDSR] | type[PrunedSRVGGNet]:
    """What a network that :func:`vsr.models.units.units_of` knows becomes."""
    return next(cls for cls in _PRUNED if isinstance(dense, cls._dense))


def check_kept(units: Units, kept: Kept) -> None:
    """Refuse lists of kept units that make no network.

    Raises:
        ValueError: A group is missing or unknown, a list is not ascending or out of range, a layer is left without
            units, or a block is neither whole nor gone.
    """
    missing, unknown = set(units.sizes) - set(kept), set(kept) - set(units.sizes)
    if missing or unknown:
        raise ValueError(f"kept: missing {sorted(missing)[:3]}, unknown {sorted(unknown)[:3]}")
    of_blocks = units.of_blocks
    for group, size in units.sizes.items():
        numbers = list(kept[group])
        if numbers != sorted(set(numbers)) or (numbers and not 0 <= numbers[0] <= numbers[-1] < size):
            raise ValueError(f"kept: {group}: expected ascending numbers in [0, {size}), got {numbers}")
        if not numbers and group not in of_blocks:
            raise ValueError(f"kept: {group}: expected at least one unit, got none")
    for block in units.blocks:
        left = [len(kept[group]) for group in units.of_block(block)]
        if any(left) and not all(left):
            raise ValueError(f"kept: {block}: expected units in each of in, hidden and out, or none, got {left}")


def is_pruned(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bool:
    """Whether a checkpoint says that it holds a pruned network."""
    return FORMAT_KEY in metadata or any(key.endswith(_SUFFIX) for key in tensors)


def build_pruned(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Upscaler:
    """The pruned network that a file was made from, on torch's current default device, its weights not yet loaded.

    Raises:
        UserError: The file is of another version or kind, or says nothing about the network.
        ValueError: Its lists of kept units make no network.
    """
    version = metadata.get(FORMAT_KEY)
    if version != FORMAT:
        raise UserError(f"{path}: a pruned network in format {version}; this version reads format {FORMAT}")
    name = metadata.get("architecture", "")
    classes = {cls.__name__: cls for cls in _PRUNED}
    if name not in classes:
        raise UserError(f"{path}: a pruned network of kind {name!r}; known are {', '.join(classes)}")
    config = {key: _parsed(value) for key, value in metadata.items() if key not in (FORMAT_KEY, "architecture")}
    lists = {key: value for key, value in tensors.items() if key.endswith(_SUFFIX)}
    for key, value in lists.items():
        if value.dtype != torch.int64 or value.dim() != 1:
            raise ValueError(f"{key}: expected a list of int64, got {value.dtype} {tuple(value.shape)}")
    kept = {key.removesuffix(_SUFFIX): value.tolist() for key, value in lists.items()}
    try:
        return classes[name](kept, **config)  # type: ignore[arg-type]
    except TypeError as error:
        raise UserError(f"{path}: its metadata do not describe a {name}: {error}") from error


def _parsed(text: str) -> int | float | bool | str:
    if text in ("True", "False"):
        return text == "True"
    if _NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    return text


def _list(numbers: Sequence[int]) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.int64, device="cpu")


def _replace(model: nn.Module, path: str, made: nn.Module) -> None:
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, made)


def _block(path: str, units: Units, kept: Kept) -> nn.Module:
    into, hidden, out = (kept[group] for group in units.of_block(path))
    if not out:
        return RemovedBlock()
    return PrunedBlock(units.sizes[f"{path}.out"], in_kept=into, hidden_kept=hidden, out_kept=out)


def _narrowed(module: nn.Module, inputs: int, outputs: int) -> nn.Module:
    """A fresh module of the same kind with other widths."""
    if isinstance(module, PixelShuffleConv):
        r = module.upscale_factor
        return PixelShuffleConv(inputs, outputs, r, activation=module.activation, slope=module.number)
    if isinstance(module, Conv3x3):
        return Conv3x3(inputs, outputs, activation=module.activation, slope=module.number)
    assert isinstance(module, nn.Conv2d)
    return nn.Conv2d(inputs, outputs, cast("tuple[int, int]", module.kernel_size))


def _widened(narrow: Tensor, like: Tensor, cut: Sequence[Tensor | None]) -> Tensor:
    """Zeros of the shape of ``like`` with ``narrow`` at the indices of each dimension; None stands for all."""
    wide = narrow
    for dim, numbers in enumerate(cut):
        if numbers is not None:
            shape = (*wide.shape[:dim], like.shape[dim], *wide.shape[dim + 1 :])
            wide = wide.new_zeros(shape).index_copy(dim, numbers.to(wide.device), wide)
    return wide
