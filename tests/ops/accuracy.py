"""How near a result must be to the truth.

The rule: against the float64 truth, at most twice the error that PyTorch makes doing the same in that dtype, plus one
unit in the last place of the largest true value (three where there are few numbers). It holds for the largest error,
and for the relative L2 error, which a small bias everywhere raises; results must also point in the direction of the
truth (cosine). PyTorch adds up in another order for each memory format; the larger of those errors counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Bound of PyTorch's own relative L2 error: a baseline that is worse than this is no baseline.
SANE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

#: Fewer numbers than this (the gradient of a bias or of slopes) may be off by two units more: PyTorch's error in one
#: draw of so few is often far below what it makes on average.
FEW = 32


def relative_l2(got: Tensor, truth: Tensor) -> float:
    """L2 norm of the error over that of the truth; the error's norm alone where the truth is zero."""
    scale = truth.norm().item()
    return (got - truth).norm().item() / (scale if scale > 0 else 1.0)


def assert_near(got: Tensor, truth: Tensor, baselines: Sequence[Tensor], what: str, dtype: torch.dtype) -> None:
    """Apply the rule.

    Args:
        got: what the operator returned.
        truth: float64, the same shape.
        baselines: what PyTorch returned in the same dtype; none of them to compare with fixed bounds.
        dtype: in which ``got`` was computed.
        what: name of the quantity, for the message.
    """
    assert got.shape == truth.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(truth.shape)}"
    unit = torch.finfo(dtype).eps
    got, truth = got.detach().double().cpu(), truth.detach()
    assert torch.isfinite(got).all(), f"{what}: {int((~torch.isfinite(got)).sum())} values are not finite"
    if truth.numel() == 0:
        return
    largest = truth.abs().max().item()
    worst_allowed, l2_allowed = 4 * SANE[dtype] * largest, SANE[dtype]
    if baselines:
        lows = [low.detach().double().cpu() for low in baselines]
        l2 = max(relative_l2(low, truth) for low in lows)
        assert l2 <= SANE[dtype], f"{what}: PyTorch itself is off by {l2:.2e}: the case or its truth is wrong"
        share = 3 if truth.numel() < FEW else 1
        worst_allowed = 2 * max((low - truth).abs().max().item() for low in lows) + share * unit * largest
        l2_allowed = 2 * l2 + share * unit / 2
    worst = (got - truth).abs().max().item()
    assert worst <= worst_allowed, f"{what}: largest error {worst:.3e}, allowed {worst_allowed:.3e}"
    l2 = relative_l2(got, truth)
    assert l2 <= l2_allowed, f"{what}: relative L2 error {l2:.3e}, allowed {l2_allowed:.3e}"
    if largest > 0:
        cosine = (got.flatten() @ truth.flatten() / (got.norm() * truth.norm())).item()
        assert cosine >= 1 - l2_allowed, f"{what}: cosine {cosine:.6f} with the truth, expected {1 - l2_allowed:.6f}"


def assert_same_bits(got: Tensor, expected: Tensor, what: str) -> None:
    """Equal shape, dtype and values, NaN equal to NaN and -0 different from 0."""
    assert got.shape == expected.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    assert got.dtype == expected.dtype, f"{what}: {got.dtype}, expected {expected.dtype}"
    kind = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[got.element_size()]
    ours = got.detach().cpu().contiguous().view(kind)
    theirs = expected.detach().cpu().contiguous().view(kind)
    different = int((ours != theirs).sum())
    assert different == 0, f"{what}: {different} of {ours.numel()} values differ"
