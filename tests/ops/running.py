"""Running a case forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ops.cases import Arguments, Case
from ops.inputs import Draw, lay_out

Outputs = tuple[Tensor, ...]
Gradients = dict[str, Tensor]


def run(
    case: Case,
    function: Callable[[Arguments], Outputs],
    arguments: Arguments,
    *,
    only: str | None = None,
    unused_is_zero: bool = False,
    exact: bool = True,
) -> tuple[Outputs, Gradients]:
    """Outputs, and the gradients of the tensor arguments for an incoming gradient that is the same for all.

    Args:
        case: which also says how the incoming gradient lies in memory.
        function: one of the case's operator's.
        arguments: of the call; their tensors become leaves.
        only: the one argument whose gradient is wanted; None for all.
        unused_is_zero: whether an argument that the output does not depend on is fine.
        exact: draw the incoming gradient so, as :class:`ops.inputs.Draw` has it.
    """
    arguments = arguments.detached(requires_grad=only is None)
    leaves = {name: t for name, t in arguments.tensors.items() if only in (None, name)}
    for leaf in leaves.values():
        leaf.requires_grad_()
    outputs = function(arguments)
    incoming = []
    for i, out in enumerate(outputs):
        values = Draw(i, case.dtype, arguments.device, exact=exact).gradient(tuple(out.shape))
        incoming.append(lay_out(values, case.row.get("gradient", "contiguous")).to(out.dtype))
    found = torch.autograd.grad(outputs, list(leaves.values()), incoming, materialize_grads=unused_is_zero)
    return tuple(out.detach() for out in outputs), dict(zip(leaves, found, strict=True))
