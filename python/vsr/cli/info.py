"""``vsr info``: versions, backends, processor, GPUs and folders, for people and for bug reports."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Annotated, Any

import typer

_CPU_FLAGS = {
    "AVX2": "avx2",
    "AVX-512": "avx512f",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
    "AMX_TILE": "amx_tile",
    "AMX_BF16": "amx_bf16",
    "AMX_INT8": "amx_int8",
}


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Show versions, the backends that work here and why the others do not, processor, GPUs and folders."""
    facts = gather()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for line in report(facts):
        typer.echo(line)


def gather() -> dict[str, Any]:
    """Everything ``vsr info`` shows, as plain JSON values.

    Returns:
        ``versions``, ``backends``, ``cpu``, ``gpus``, ``ffmpeg`` and ``cache``.
    """
    import av
    import numpy
    import torch

    import vsr_kernels
    from vsr.fetch import cache_dir

    cache = cache_dir()
    return {
        "versions": {
            "vsr_kernels": vsr_kernels.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "numpy": numpy.__version__,
            "av": av.__version__,
            "system": platform.platform(),
        },
        "backends": {
            name: {"available": state.available, "operators": list(state.operators), "detail": state.detail}
            for name, state in vsr_kernels.backends().items()
        },
        "cpu": _cpu() | {"kernels_isa": vsr_kernels.cpu_isa(), "threads": torch.get_num_threads()},
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())],
        "ffmpeg": {name: ".".join(map(str, version)) for name, version in sorted(av.library_versions.items())},
        "cache": {"folder": str(cache), "bytes": _size(cache)},
    }


def _cpu() -> dict[str, Any]:
    """Name and features as the kernel of the system lists them; both empty where it does not (not Linux)."""
    fields: dict[str, str] = {}
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    flags = set(fields.get("flags", "").split())
    features = {name: flag in flags for name, flag in _CPU_FLAGS.items()} if flags else {}
    name = fields.get("model name") or platform.processor() or platform.machine()
    return {"name": name, "cores": os.cpu_count(), "features": features}


def _gpu(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def report(facts: dict[str, Any]) -> list[str]:
    """The text form of :func:`gather`'s facts, line by line."""
    lines = [f"{name:<12} {value or 'none'}" for name, value in facts["versions"].items()]
    lines += ["", "backends"]
    for name, state in facts["backends"].items():
        lines.append(f"  {name:<10} {'yes' if state['available'] else 'no '}  {state['detail']}")
        if state["available"]:
            lines.append(f"  {'':<10}      {', '.join(state['operators'])}")
    cpu = facts["cpu"]
    lines += ["", f"processor    {cpu['name']}"]
    lines.append(f"  cores      {cpu['cores']}, {cpu['threads']} threads used by torch")
    have = [name for name, present in cpu["features"].items() if present]
    lacks = [name for name, present in cpu["features"].items() if not present]
    if cpu["features"]:
        lines.append(f"  has        {', '.join(have) or 'none of these'}")
        lines.append(f"  has not    {', '.join(lacks) or 'none missing'}")
    lines.append(f"  kernels    {cpu['kernels_isa']}")
    for gpu in facts["gpus"] or [None]:
        if gpu is None:
            lines += ["", "gpu          none that torch can use"]
        else:
            memory = gpu["memory_bytes"] / 2**30
            lines += [
                "",
                f"gpu          {gpu['name']}, {memory:.1f} GiB, compute capability {gpu['compute_capability']}",
            ]
    lines += [
        "",
        "ffmpeg       " + ", ".join(f"{name} {version}" for name, version in facts["ffmpeg"].items()),
    ]
    cache = facts["cache"]
    lines.append(f"cache        {cache['folder']} ({cache['bytes'] / 1e6:.0f} MB)")
    return lines
