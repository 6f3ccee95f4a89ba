"""From a dense network and its kept units to the network that runs, and to one with zeros that computes the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from vsr.errors import UserError
from vsr.models import EDSR, Pruned
from vsr.models.base import Upscaler
from vsr.models.pruned import check_kept, pruned_class
from vsr.models.units import Kept, Units, check_plain_blocks, filters, units_of

#: One factor per unit of a group.
Factors = Mapping[str, Tensor]


def dense_form(model: Upscaler) -> tuple[Upscaler, dict[str, list[int]]]:
    """A network at full width and the units that it has: all, or those that earlier pruning left.

    Args:
        model: A BasicVSR, an EDSR or a plain network (SRVGG, merged RepSR), pruned or not.

    Raises:
        UserError: A network that cannot be pruned.
    """
    if isinstance(model, Pruned):
        return model.to_dense(), model.kept
    if isinstance(model, EDSR) and model.res_scale != 1:  # which the sparse blocks do not have
        model = model.rescaled(1.0)
    try:
        units = units_of(model)
        check_plain_blocks(model, units)
    except ValueError as error:
        raise UserError(f"this network cannot be pruned: {error}") from error
    return model, units.everything


def unscaled(units: Units) -> dict[str, Tensor]:
    """Factors of one."""
    return {group: torch.ones(size) for group, size in units.sizes.items()}


def scaled_weights(units: Units, state: Mapping[str, Tensor], factors: Factors) -> dict[str, Tensor]:
    """Weights and biases with a factor on every unit, as if outputs (or a block's inputs) were multiplied by it.

    A block's input factors multiply columns of conv1, which is exact at the border too: zeros stay zeros. All others
    multiply filters and their biases, before the activation. Factors of one change no bit.

    Args:
        units: The network's.
        state: Its state_dict.
        factors: (size,) of each group.

    Returns:
        The keys that change, differentiable in ``state`` and ``factors``.
    """
    made: dict[str, Tensor] = {}
    like = state[f"{units.convs[0].path}.weight"]
    factors = {group: factor.to(like.device) for group, factor in factors.items()}
    owners = units.owners
    for conv in units.convs:
        weight, bias = state[f"{conv.path}.weight"], state[f"{conv.path}.bias"]
        if conv.outputs is not None:
            rows = factors[conv.outputs].repeat_interleave(conv.repeat)
            weight, bias = weight * rows[:, None, None, None], bias * rows
        if conv.inputs is not None and owners[conv.inputs] is conv:
            weight = weight * factors[conv.inputs][:, None, None]
        made |= {f"{conv.path}.weight": weight, f"{conv.path}.bias": bias}
    return made


@torch.no_grad()
def with_weights(dense: Upscaler, changed: Mapping[str, Tensor]) -> Upscaler:
    """A copy of a network with some of its weights replaced, in eval mode."""
    made = copy.deepcopy(dense)
    made.load_state_dict(made.state_dict() | dict(changed))
    return made.eval()


def masked(dense: Upscaler, kept: Kept) -> Upscaler:
    """The dense network with every other unit multiplied by zero: what :func:`cut` computes, at full width.

    Args:
        dense: A network at full width.
        kept: Kept units of each group.
    """
    units = units_of(dense)
    check_kept(units, kept)
    some = next(dense.parameters())
    factors = {}
    for group, size in units.sizes.items():
        factors[group] = some.new_zeros(size)
        factors[group][list(kept[group])] = 1
    return with_weights(dense, scaled_weights(units, dense.state_dict(), factors))


@torch.no_grad()
def cut(dense: Upscaler, kept: Kept) -> Pruned:
    """The network of the kept units alone, on the sparse operators.

    Args:
        dense: A network at full width.
        kept: Kept units of each group.

    Returns:
        A network in eval mode, on the device and in the dtype of ``dense``.

    Raises:
        ValueError: ``kept`` makes no network.
    """
    units = units_of(dense)
    made = pruned_class(dense)(kept, **dense.config)  # type: ignore[arg-type]
    state = dict(dense.state_dict())
    for conv, rows, columns in units.slices(kept):
        weight, bias = state[f"{conv.path}.weight"], state[f"{conv.path}.bias"]
        if rows is not None:
            weight, bias = weight[rows.to(weight.device)], bias[rows.to(bias.device)]
        if columns is not None:
            weight = weight[:, columns.to(weight.device)]
        state |= {f"{conv.path}.weight": weight, f"{conv.path}.bias": bias}
    for slope, group in units.slopes.items():
        state[slope] = state[slope][filters(kept[group], 1).to(state[slope].device)]
    lists = {key: value for key, value in made.state_dict().items() if key not in state}
    some = next(dense.parameters())
    made.load_state_dict({key: (state | lists)[key].clone() for key in made.state_dict()})
    return made.to(some).to(memory_format=torch.channels_last).eval()
