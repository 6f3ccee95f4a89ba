"""What has to wait until operators are defined: fake kernels, gradients, autocast rules.

Operators are defined three times, with the same arguments: ``vsr_kernels::*`` by the compiled library,
``vsr_triton::*`` by :mod:`vsr_kernels.triton`, and ``vsr_nvrtc::*``, most of which have no gradients, by
:mod:`vsr_kernels.nvrtc.torch_operators`. What is registered for several is told the namespace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

COMPILED, TRITON, NVRTC = "vsr_kernels", "vsr_triton", "vsr_nvrtc"

_waiting: dict[str, list[Callable[[str], None]]] = {COMPILED: [], TRITON: [], NVRTC: []}
_defined: set[str] = set()  # namespaces
_libraries: list[torch.library.Library] = []  # a Library drops its registrations when it is collected


def on_load(*namespaces: str) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
    """Decorator: call a function with each of these namespaces, once its operators are defined."""

    def keep(register: Callable[[str], None]) -> Callable[[str], None]:
        for namespace in namespaces:
            if namespace in _defined:
                register(namespace)
            else:
                _waiting[namespace].append(register)
        return register

    return keep


def run(namespace: str) -> None:
    """Called by :mod:`vsr_kernels.backend` right after the operators of a namespace were defined."""
    while _waiting[namespace]:
        _waiting[namespace].pop(0)(namespace)
    _defined.add(namespace)


def operators(namespace: str) -> Any:
    """``torch.ops`` of a namespace."""
    return getattr(torch.ops, namespace)


def register_into(namespace: str, op: str) -> None:
    """``op`` writes into its first argument and makes nothing, which is all that tracing has to know."""

    def fake(out: Tensor, *_: Any) -> None:
        pass

    torch.library.register_fake(f"{namespace}::{op}", fake)


def register_autocast(namespace: str, op: str) -> None:
    """Under autocast, cast the floating arguments of ``op`` (float64 excepted) to the autocast dtype, then call it.

    ``torch.library.register_autocast`` fixes the dtype at registration; users of autocast choose it later.
    """
    library = torch.library.Library(namespace, "IMPL")
    packet = getattr(operators(namespace), op).default

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


def no_double_backward(namespace: str, op: str) -> None:
    """Differentiating ``op``, itself a backward operator, raises and says what to do."""

    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            f"{namespace}::{op} is not differentiable twice; run the forward under vsr_kernels.use_backend('reference')"
        )

    torch.library.register_autograd(f"{namespace}::{op}", backward)
