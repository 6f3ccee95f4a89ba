"""Whether convolutions of float32 tensors may round more than float32 does, by torch's own settings."""

from __future__ import annotations

import torch
from torch import Tensor


def exact_float32(x: Tensor) -> bool:
    """The argument ``exact`` of the convolution operators.

    On a GPU, False allows TF32 on the way into tensor cores: :func:`tf32_is_forbidden`. On the CPU, where no operand is
    ever rounded to TF32, it allows Winograd F(4x4), whose sums are float32 but whose error is some four times that of a
    direct convolution: :func:`fast_float32_is_forbidden`. Elsewhere True.
    """
    if x.is_cuda:
        return tf32_is_forbidden()
    return not x.is_cpu or fast_float32_is_forbidden()


@torch.compiler.assume_constant_result
def tf32_is_forbidden() -> bool:
    """Torch's setting for matrix products, which forbids TF32 by default.

    ``fp32_precision`` answers whichever of torch's interfaces made the setting, where ``allow_tf32`` raises if it was
    made by the newer one. The compiler cannot trace the question; it guards every graph by the setting, and traces
    again where that has changed.
    """
    return bool(torch.backends.cuda.matmul.fp32_precision != "tf32")


@torch.compiler.assume_constant_result
def fast_float32_is_forbidden() -> bool:
    """Torch's setting for convolutions on the CPU, ``torch.backends.mkldnn.conv.fp32_precision``.

    Both ``tf32`` and ``bf16`` allow it; left at ``none`` it follows ``torch.backends.fp32_precision``, which forbids it
    by default. Torch's compiler does not guard graphs by this setting: compiled code keeps what held when it was
    traced.
    """
    precision: str = torch.backends.mkldnn.conv.fp32_precision  # type: ignore[attr-defined]
    return precision not in ("tf32", "bf16")
