"""Reads checkpoint files of several makers into one state_dict under BasicSR's key names.

Files of strangers are data: pickles are only ever read with ``weights_only=True``.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vsr.errors import UserError
from vsr.files import whole_file
from vsr.models.ncnn import read_ncnn

_WRAPPERS = ("params_ema", "params", "state_dict")  # in the order of preference
_PREFIXES = ("generator_ema.", "generator.")  # mmagic; the averaged network is the better one
_BOOKKEEPING = ("step_counter", "steps")  # buffers of mmagic's classes, no weights
_RENAMED = (  # mmagic's names and BasicSR's
    (re.compile(r"^backward_resblocks\."), "backward_trunk."),
    (re.compile(r"^forward_resblocks\."), "forward_trunk."),
    (re.compile(r"^upsample(\d)\.upsample_conv\."), r"upconv\1."),
)
_SPYNET_CONV = re.compile(r"^((?:spynet\.)?basic_module\.\d+\.basic_module\.)(\d+)\.conv\.")


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a checkpoint, under BasicSR's key names.

    Understood are BasicSR's files (``params_ema`` before ``params``), mmagic's (``state_dict`` with ``generator_ema.``
    before ``generator.``, and its own key names), plain state_dicts, any of them saved through DistributedDataParallel
    (``module.``); ``.safetensors``; ncnn's ``.param`` with the ``.bin`` beside it.

    Args:
        path: The file.

    Returns:
        The tensors, and the text metadata of a ``.safetensors`` file (empty for the others).

    Raises:
        UserError: The file is missing, damaged, no checkpoint, or holds Python objects besides tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'a folder, not a checkpoint' if path.is_dir() else 'no such file'}")
    metadata: dict[str, str] = {}
    try:
        if path.suffix in (".param", ".bin") and path.with_suffix(".param").is_file():
            arrays = read_ncnn(path.with_suffix(".param"))
            tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
        elif path.suffix == ".safetensors":
            tensors, metadata = _read_safetensors(path)
        else:
            tensors = _tensors_in(path, _unpickle(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    return canonical_keys(tensors), metadata


def canonical_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under BasicSR's names: prefixes of wrappers gone, mmagic's names translated.

    Args:
        tensors: A state_dict under any of the names that :func:`read_checkpoint` understands.

    Returns:
        A new dict; wrappers' bookkeeping buffers, and whatever stood beside a ``generator``, are left out.
    """
    found = {key.removeprefix("module."): value for key, value in tensors.items()}
    for prefix in _PREFIXES:
        inside = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
        if inside:
            found = {key.removeprefix("module."): value for key, value in inside.items()}
            break
    return {_renamed(key): value for key, value in found.items() if key not in _BOOKKEEPING}


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a ``.safetensors`` file, whole or not at all.

    Args:
        path: The target; an existing file is replaced at the end.
        tensors: State_dict.
        metadata: Text to go with it.

    Raises:
        UserError: The file cannot be written.
    """
    dense = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    try:
        with whole_file(path) as temporary:
            mode = temporary.stat().st_mode
            save_file(dense, temporary, dict(metadata))
            temporary.chmod(mode)  # save_file leaves a file that only its owner can read
    except SafetensorError as error:
        raise UserError(f"{path}: cannot be written: {error}") from error


def _renamed(key: str) -> str:
    for pattern, name in _RENAMED:
        key = pattern.sub(name, key)
    # mmagic counts the convolutions of a level, BasicSR the convolutions and activations.
    return _SPYNET_CONV.sub(lambda match: f"{match[1]}{2 * int(match[2])}.", key)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{path}: no safetensors file, or damaged: {error}") from error


def _unpickle(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(4)
    zipped = start == b"PK\x03\x04"
    if not zipped and start[:1] != b"\x80":  # what every pickle of today begins with
        raise UserError(f"{path}: not a checkpoint; expected one of PyTorch (.pth, .pt), .safetensors or ncnn (.param)")
    if zipped and not zipfile.is_zipfile(path):
        raise UserError(f"{path}: cut short: the end of the file, which says where its tensors lie, is missing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that torch did not write: the error below says so
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # the reader's own errors for damaged files are of many types
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if culprit is None:
            raise UserError(f"{path}: damaged, or not a checkpoint of PyTorch") from error
        raise UserError(
            f"{path}: refused: it holds more than tensors ({culprit[1]}), and reading that could run code; "
            "ask its maker for a .safetensors file"
        ) from error


def _tensors_in(path: Path, content: Any) -> dict[str, Tensor]:
    """The state_dict inside what a checkpoint file holds."""
    if isinstance(content, Mapping):
        for wrapper in _WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
                break
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
        held = f"a dict with the keys {', '.join(str(key) for key in list(content)[:5]) or '(none)'}"
    else:
        held = f"a {type(content).__name__}"
    raise UserError(f"{path}: holds no state_dict: expected tensors by name, got {held}")
