"""The README's table of operators, directions, dtypes and backends, made from what the package registers.

    python docs/support_table.py          # prints it
    python docs/support_table.py --write  # puts it into the README

Needs the compiled objects, Triton and CuPy, but no GPU. A hole that no note explains is an error.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from vsr_kernels import backend, backends, load, registration
from vsr_kernels.ops import _check

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- made by docs/support_table.py -->\n", "<!-- end -->\n"

_OF_CONVOLUTIONS = ("conv3x3_backward", "conv3x3_epilogue_backward")
#: The operators that gradients are made of.
BACKWARD = {
    "conv3x3": _OF_CONVOLUTIONS,
    "conv7x7": (),
    "residual_block": _OF_CONVOLUTIONS,
    "conv_chain": _OF_CONVOLUTIONS,
    "sparse_conv3x3": _OF_CONVOLUTIONS,
    "sparse_residual_block": _OF_CONVOLUTIONS,
    "flow_warp": ("flow_warp_backward",),
    "pixel_shuffle": ("pixel_unshuffle",),
    "pixel_unshuffle": ("pixel_shuffle",),
    "quantized_conv3x3": (),
    "merge_rep_branches": (),
}

#: Backends that are operators of torch: namespace, dispatch key, and what holds their registrations.
NAMESPACES = {
    "cuda": (registration.COMPILED, "CUDA", None),
    "triton": (registration.TRITON, "CompositeExplicitAutograd", "vsr_kernels.triton"),
    "nvrtc": (registration.NVRTC, "CUDA", "vsr_kernels.nvrtc.torch_operators"),
    "cpu": (registration.COMPILED, "CPU", None),
}
ARRAYS = ("numpy", "cupy")
BACKENDS = (*NAMESPACES, "reference", *ARRAYS)

BOTH, FORWARD = "fwd, bwd", "fwd"
_LAYERS = "runs layer by layer, as `conv3x3`"
_WEIGHTS = "works on weights, which are small: plain PyTorch on every device, differentiable"


def directions(operator: str, where: str) -> str | None:
    """:data:`BOTH`, :data:`FORWARD`, or None where a backend does not have the operator."""
    if where == "reference":
        return FORWARD if operator == "quantized_conv3x3" else BOTH
    if where in ARRAYS:
        return FORWARD if operator in importlib.import_module(f"vsr_kernels.{where}").__all__ else None
    namespace, key, _ = NAMESPACES[where]
    if not _has(namespace, operator, key):
        return None
    gradients = BACKWARD[operator]
    return BOTH if gradients and all(_has(namespace, name, key) for name in gradients) else FORWARD


def _has(namespace: str, operator: str, key: str) -> bool:
    defined = hasattr(getattr(torch.ops, namespace), operator)
    return defined and torch._C._dispatch_has_kernel_for_dispatch_key(f"{namespace}::{operator}", key)


def explanation(operator: str, where: str, found: str | None) -> str | None:
    """Why there is less than both directions; None where there are both.

    Raises:
        RuntimeError: Nothing explains it.
    """
    if found == BOTH:
        return None
    if operator == "merge_rep_branches":
        return _WEIGHTS
    if operator == "quantized_conv3x3":
        return "int8 is for inference, and pays on CPUs" if found is None else "int8 is for inference"
    if operator == "conv7x7":
        missing = "runs as PyTorch's convolution, which on a GPU is cuDNN's"
        return missing if found is None else "where a gradient is wanted, it is PyTorch's convolution"
    if operator == "conv_chain":
        return _LAYERS if found is None else "its gradients are those of `conv3x3`, layer by layer"
    if where in ARRAYS:
        return "arrays have no gradients"
    if where == "nvrtc":
        return "is compiled for networks that run; training has the other backends"
    raise RuntimeError(f"{operator} on {where}: {found or 'nothing'}, and nothing says why")


def table() -> str:
    """Markdown: the table, and its notes."""
    load()
    for _, _, module in NAMESPACES.values():
        if module is not None:
            importlib.import_module(module)
    notes: list[str] = []
    lines = [
        "| operator | " + " | ".join(f"`{name}`" for name in BACKENDS) + " |",
        "| --- " * (len(BACKENDS) + 1) + "|",
    ]
    for operator in BACKWARD:
        cells = []
        for where in BACKENDS:
            found = directions(operator, where)
            why = explanation(operator, where, found)
            if why is not None and why not in notes:
                notes.append(why)
            mark = "" if why is None else f" <sup>{notes.index(why) + 1}</sup>"
            cells.append((found or "-") + mark)
        lines.append(f"| `{operator}` | " + " | ".join(cells) + " |")
    low, exact = _names(_check.FLOATING[:-1]), _names(_check.FLOATING[-1:])
    capability = ".".join(map(str, backend.FULL_CAPABILITY))
    lines += [
        "",
        f"In {low}, the quantized operator in uint8 and int8; {exact} runs as the reference. On GPUs of compute",
        f"capability below {capability}, convolutions are compiled for float16 only.",
        *(f"<sup>{number}</sup> {why}." for number, why in enumerate(notes, 1)),
    ]
    return "\n".join(lines) + "\n"


def _names(dtypes: Sequence[torch.dtype]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def obstacles() -> list[str]:
    """What the table needs and this machine lacks; a GPU is not needed."""
    lacking = {name: status.detail for name, status in backends().items() if not status.available}
    fine = "no GPU is visible", "no CUDA device is visible"
    return [f"{name}: {detail}" for name, detail in lacking.items() if detail not in fine]


def main() -> None:
    """Print the table or write it."""
    found = obstacles()
    if found:
        raise SystemExit("; ".join(found))
    made = table()
    if "--write" not in sys.argv:
        print(made, end="")
        return
    text = README.read_text()
    before, rest = text.split(BEGIN)
    README.write_text(before + BEGIN + made + END + rest.split(END, 1)[1])


if __name__ == "__main__":
    main()
