"""Finds and runs the tools of the CUDA toolkit."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .errors import PtxError


def find_tool(name: str) -> str | None:
    """The path of nvcc, ptxas, nvdisasm ...: from CUDA_HOME, PATH, /usr/local/cuda or Triton, in this order."""
    home = os.environ.get("CUDA_HOME")
    bundled = triton_tools()
    return (
        (shutil.which(name, path=str(Path(home, "bin"))) if home else None)
        or shutil.which(name)
        or shutil.which(name, path="/usr/local/cuda/bin")
        or (shutil.which(name, path=str(bundled)) if bundled else None)
    )


def triton_tools() -> Path | None:
    """The folder of the tools that come with Triton, if it is installed."""
    found = importlib.util.find_spec("triton")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "backends" / "nvidia" / "bin"


def run_tool(name: str, arguments: Sequence[str]) -> None:
    """Run a tool.

    Raises:
        PtxError: it is not installed, or it failed; the message holds what it said.
    """
    tool = find_tool(name)
    if tool is None:
        raise PtxError(f"{name} was not found: expected it in CUDA_HOME/bin, on PATH or in /usr/local/cuda/bin")
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PtxError(f"{name} failed:\n{done.stdout}{done.stderr}")
