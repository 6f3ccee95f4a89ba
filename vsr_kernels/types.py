"""Plain data types of the public interface."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class RepBranch(NamedTuple):
    """One train-time branch of a RepSR block: conv3x3 -> batch norm -> conv1x1.

    Source: Wang, Dong, Shan, "RepSR: Training Efficient VGG-style Super-Resolution Networks with Structural
    Re-Parameterization and Batch Normalization", ACM MM 2022.
    """

    conv3_weight: Tensor  # (C_mid, C_in, 3, 3)
    conv3_bias: Tensor  # (C_mid,)
    bn_weight: Tensor  # (C_mid,), gamma
    bn_bias: Tensor  # (C_mid,), beta
    bn_mean: Tensor  # (C_mid,), population mean
    bn_var: Tensor  # (C_mid,), population variance
    bn_eps: float
    conv1_weight: Tensor  # (C_out, C_mid, 1, 1)
    conv1_bias: Tensor  # (C_out,)
