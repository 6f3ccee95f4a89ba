"""The checkpoint that a run continues from: written whole or not at all, read without unpickling code."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from vsr.errors import UserError
from vsr.files import whole_file

_FORMAT = 1


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors, numbers, strings, lists and dictionaries.

    Raises:
        UserError: The file cannot be written; an older one under that name is left as it was.
    """
    content = io.BytesIO()  # torch would turn a full disk into another error
    torch.save({"format": _FORMAT} | state, content)
    with whole_file(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def read_state(path: Path) -> dict[str, Any]:
    """What :func:`write_state` wrote.

    Raises:
        UserError: The file cannot be read or is something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises almost anything over a file that is no checkpoint
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a checkpoint that training can continue from ({reason})") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise UserError(f"{path}: not a checkpoint that training can continue from (of another kind or version)")
    return state
