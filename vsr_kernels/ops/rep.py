"""merge_rep_branches: checks around the reference.

The merge works on weights of a few thousand elements, so plain PyTorch is its one implementation on every device; it
is differentiable, so that RepSR's last phase can train on the merged kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference
from ..types import RepBranch
from . import _check


def merge_rep_branches(branches: Sequence[RepBranch], *, identity: bool = True) -> tuple[Tensor, Tensor]:
    """Merge ``identity + sum of (conv3x3 -> batch norm -> conv1x1)`` into one 3x3 kernel and bias.

    The batch norms count with their population statistics, so the result equals the branches in eval mode, borders
    included; training on the merged kernel trains the branches through it.

    Source: RepSR (ACM MM 2022); see :class:`vsr_kernels.RepBranch`.

    Args:
        branches: one or more :class:`RepBranch` with the same C_in and C_out.
        identity: add the identity connection; needs C_in = C_out.

    Returns:
        weight (C_out, C_in, 3, 3) and bias (C_out,).

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what was given.
    """
    op = "merge_rep_branches"
    branches = list(branches)
    if not branches:
        _check.fail(op, "branches", "at least one RepBranch", "none")
    c_in = c_out = None
    for i, branch in enumerate(branches):
        if not isinstance(branch, RepBranch):
            _check.fail(op, f"branches[{i}]", "a RepBranch", type(branch).__name__, TypeError)
        name = f"branches[{i}]."
        w3 = branch.conv3_weight
        _check.like(op, name + "conv3_weight", w3, w3)
        _check.shaped(op, name + "conv3_weight", w3, (None, c_in, 3, 3), "(C_mid, C_in, 3, 3)")
        c_mid, c_in = w3.shape[0], w3.shape[1]
        for field in ("conv3_bias", "bn_weight", "bn_bias", "bn_mean", "bn_var"):
            _check.like(op, name + field, getattr(branch, field), w3)
            _check.shaped(op, name + field, getattr(branch, field), (c_mid,), "(C_mid,)")
        _check.like(op, name + "conv1_weight", branch.conv1_weight, w3)
        _check.shaped(op, name + "conv1_weight", branch.conv1_weight, (c_out, c_mid, 1, 1), "(C_out, C_mid, 1, 1)")
        c_out = branch.conv1_weight.shape[0]
        _check.like(op, name + "conv1_bias", branch.conv1_bias, w3)
        _check.shaped(op, name + "conv1_bias", branch.conv1_bias, (c_out,), "(C_out,)")
    if identity and c_in != c_out:
        _check.fail(op, "identity", f"False where C_in = {c_in} and C_out = {c_out} differ", True)
    # In the dtype of the weights: autocast would round the products and then their sum.
    with torch.autocast(branches[0].conv3_weight.device.type, enabled=False):
        return reference.merge_rep_branches(branches, identity=identity)
