"""Whether float32 may be rounded to TF32 on its way into tensor cores."""

from __future__ import annotations

import torch
from torch import Tensor


def exact_float32(x: Tensor) -> bool:
    """The argument ``exact`` of the convolution operators: torch's setting where ``x`` is on a GPU, else True."""
    return not x.is_cuda or tf32_is_forbidden()


@torch.compiler.assume_constant_result
def tf32_is_forbidden() -> bool:
    """Torch's setting for matrix products, which forbids TF32 by default.

    ``fp32_precision`` answers whichever of torch's interfaces made the setting, where ``allow_tf32`` raises if it was
    made by the newer one. The compiler cannot trace the question; it guards every graph by the setting, and traces
    again where that has changed.
    """
    return bool(torch.backends.cuda.matmul.fp32_precision != "tf32")
