"""Where to compute and in which precision."""

from __future__ import annotations

from pathlib import Path

import torch

from vsr.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precisions by the names options use."""


def choose_device(name: str) -> torch.device:
    """The device for a name such as ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        UserError: The name is none, or there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device: expected auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device: expected auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"--device {name}: PyTorch finds no CUDA device here; use --device cpu")
        if (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f"--device {name}: there are only {torch.cuda.device_count()} CUDA devices")
    return device


def choose_dtype(name: str, device: torch.device, bits: int) -> torch.dtype:
    """The precision for a name such as ``auto`` or ``float16``.

    ``auto`` is float16 on CUDA devices that compute in it, bfloat16 on CPUs with instructions for it, float32
    elsewhere; the runner then checks it on the first frames. bfloat16 resolves 256 levels, which is too coarse for
    sources of more than 8 bits: they get float32.

    Args:
        name: ``auto`` or a key of :data:`DTYPES`.
        device: Where to compute.
        bits: Bits per sample of the source.

    Raises:
        UserError: The name is none of these.
    """
    if name != "auto":
        if name not in DTYPES:
            raise UserError(f"--dtype: expected auto, {', '.join(DTYPES)}, got {name!r}")
        return DTYPES[name]
    if device.type == "cuda":
        return torch.float16 if torch.cuda.get_device_capability(device) >= (7, 0) else torch.float32
    return torch.bfloat16 if bits <= 8 and cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AMX or AVX-512 BF16)."""
    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
        return bool(known.get("amx_bf16") or known.get("avx512_bf16"))
    info = Path("/proc/cpuinfo")  # Linux only; older PyTorch elsewhere falls back to float32
    flags = info.read_text(errors="replace") if info.exists() else ""
    return "amx_bf16" in flags or "avx512_bf16" in flags
