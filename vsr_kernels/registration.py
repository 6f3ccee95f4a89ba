"""What has to wait until the compiled library has defined its operators: fake kernels, gradients, autocast rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_waiting: list[Callable[[], None]] = []
_libraries: list[torch.library.Library] = []  # a Library drops its registrations when it is collected


def on_load(register: Callable[[], None]) -> Callable[[], None]:
    """Decorator: call ``register`` once the operators are defined."""
    _waiting.append(register)
    return register


def run() -> None:
    """Called by :mod:`vsr_kernels.backend` right after the compiled library was loaded."""
    while _waiting:
        _waiting.pop(0)()


def register_autocast(op: str, exempt: Sequence[int] = ()) -> None:
    """Under autocast, cast the floating arguments of ``op`` (float64 excepted) to the autocast dtype, then call it.

    ``torch.library.register_autocast`` fixes the dtype at registration; users of autocast choose it later.
    ``exempt`` holds positions of arguments that keep their dtype.
    """
    library = torch.library.Library("vsr_kernels", "IMPL")
    packet = getattr(torch.ops.vsr_kernels, op).default

    def kernel_for(device: str) -> Callable[..., Any]:
        def kernel(*args: Any) -> Any:
            dtype = torch.get_autocast_dtype(device)
            cast = tuple(_cast(a, dtype) if i not in exempt else a for i, a in enumerate(args))
            with torch.autocast(device, enabled=False):
                return packet(*cast)

        return kernel

    library.impl(op, kernel_for("cpu"), "AutocastCPU")
    library.impl(op, kernel_for("cuda"), "AutocastCUDA")
    _libraries.append(library)


def _cast(value: Any, dtype: torch.dtype) -> Any:
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
