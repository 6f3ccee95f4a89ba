"""RepSR's re-parameterisation: train-time branches merged into one 3x3 convolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..types import RepBranch


def merge_rep_branches(branches: Sequence[RepBranch], *, identity: bool) -> tuple[Tensor, Tensor]:
    """Fold ``conv3x3 -> batch norm (population statistics) -> conv1x1`` branches, and the identity, into one kernel.

    With s = gamma / sqrt(var + eps): W3' = s * W3, b3' = (b3 - mean) * s + beta, W = W1 W3', b = W1 b3' + b1. The
    3x3 comes first and sees the zero padding itself, so the merged kernel is exact at the borders too.
    """
    weight, bias = None, None
    for branch in branches:
        s = branch.bn_weight * torch.rsqrt(branch.bn_var + branch.bn_eps)  # (C_mid,)
        expand = branch.conv3_weight * s[:, None, None, None]  # (C_mid, C_in, 3, 3)
        offset = (branch.conv3_bias - branch.bn_mean) * s + branch.bn_bias  # (C_mid,)
        squeeze = branch.conv1_weight.flatten(1)  # (C_out, C_mid)
        merged = torch.einsum("om,mihw->oihw", squeeze, expand)
        merged_bias = squeeze @ offset + branch.conv1_bias
        weight = merged if weight is None else weight + merged
        bias = merged_bias if bias is None else bias + merged_bias
    assert weight is not None and bias is not None
    if identity:
        centre = torch.zeros_like(weight)
        centre.diagonal(dim1=0, dim2=1)[1, 1] = 1.0
        weight = weight + centre
    return weight, bias
