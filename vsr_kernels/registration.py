"""What has to wait until the compiled library has defined its operators: fake kernels, gradients, autocast rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_waiting: list[Callable[[], None]] | None = []  # None once the library is loaded
_libraries: list[torch.library.Library] = []  # a Library drops its registrations when it is collected


def on_load(register: Callable[[], None]) -> Callable[[], None]:
    """Decorator: call ``register`` once the operators are defined."""
    if _waiting is None:
        register()
    else:
        _waiting.append(register)
    return register


def run() -> None:
    """Called by :mod:`vsr_kernels.backend` right after the compiled library was loaded."""
    global _waiting
    while _waiting:
        _waiting.pop(0)()
    _waiting = None


def register_autocast(op: str) -> None:
    """Under autocast, cast the floating arguments of ``op`` (float64 excepted) to the autocast dtype, then call it.

    ``torch.library.register_autocast`` fixes the dtype at registration; users of autocast choose it later.
    """
    library = torch.library.Library("vsr_kernels", "IMPL")
    packet = getattr(torch.ops.vsr_kernels, op).default

    def kernel(*args: Any) -> Any:
        return under_autocast(packet, *args)

    library.impl(op, kernel, "AutocastCPU")
    library.impl(op, kernel, "AutocastCUDA")
    _libraries.append(library)


def under_autocast(function: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Call ``function``; where autocast is enabled for x's device, with floating tensors cast and without autocast."""
    device = x.device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return function(x, *args, **kwargs)
    dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        return function(
            _cast(x, dtype), *(_cast(a, dtype) for a in args), **{name: _cast(a, dtype) for name, a in kwargs.items()}
        )


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, list):
        return [_cast(v, dtype) for v in value]
    if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64:
        return value.to(dtype)
    return value


def no_double_backward(op: str) -> None:
    """Differentiating ``op``, itself a backward operator, raises and says what to do."""

    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            f"vsr_kernels::{op} is not differentiable twice; run the forward under vsr_kernels.use_backend('reference')"
        )

    torch.library.register_autograd(f"vsr_kernels::{op}", backward)
