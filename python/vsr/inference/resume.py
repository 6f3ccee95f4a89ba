"""Folders of frames that appear when they are complete, and jobs on them that can be continued.

While a job runs, its frames lie in a hidden folder beside the target (``.NAME.partial``), each written whole. A
manifest there says what the job reads and how it computes: a job is only continued if both are the same. A recurrent
model's state depends on every frame since the last cut; so that a continued job gives exactly the frames an
uninterrupted one gives, the state is saved beside the frames every half minute, and the job goes on from the last one
saved.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vsr.errors import UserError
from vsr.files import check_folder, writing
from vsr.inference.images import is_image

_MANIFEST, _CHECKPOINT = "manifest.json", "state.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What is needed to go on with frame ``index``.

    Attributes:
        index: The first frame that is not computed yet.
        states: The tensors of each tile's state; empty for "as at the beginning of a shot".
        tile: Side of the tiles.
        size: Height and width of the frames.
    """

    index: int
    states: list[list[Tensor]]
    tile: int | None
    size: tuple[int, int]


class FolderJob:
    """The target folder of a job.

    Args:
        target: The folder that will appear.
        identity: What the job reads and how it computes; JSON values.
        resume: Continue where an interrupted job with the same identity stopped.
        overwrite: Replace the target, and whatever an interrupted job left.

    Attributes:
        partial: The hidden folder the frames are written to.

    Raises:
        UserError: There is an interrupted job and neither is asked for, or it was another job.
    """

    def __init__(self, target: Path, identity: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
        self.target = target
        self.partial = target.with_name(f".{target.name}.partial")
        check_folder(target.parent)
        if self.partial.exists():
            if resume:
                self._check_identity(identity)
                return
            if not overwrite:
                raise UserError(
                    f"{target}: an interrupted job left frames for it; --resume continues, --overwrite starts afresh"
                )
            shutil.rmtree(self.partial)
        with writing(target):
            self.partial.mkdir()
            self._write(_MANIFEST, json.dumps(identity, indent=1).encode())

    def finished(self) -> set[str]:
        """Names, without suffix, of the frames an interrupted job has written."""
        return {path.stem for path in self.partial.iterdir() if is_image(path) and not path.name.startswith(".")}

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint. All frames before its index must be written."""
        tensors = {
            f"{tile}.{number}": tensor.contiguous()
            for tile, state in enumerate(checkpoint.states)
            for number, tensor in enumerate(state)
        }
        about = {"index": checkpoint.index, "tile": checkpoint.tile, "size": checkpoint.size}
        with writing(self.target):
            temporary = self.partial / f".{_CHECKPOINT}.new"
            save_file(tensors, temporary, {"about": json.dumps(about)})
            os.replace(temporary, self.partial / _CHECKPOINT)

    def load(self) -> Checkpoint | None:
        """The last checkpoint, None if there is none yet.

        Raises:
            UserError: It is damaged.
        """
        path = self.partial / _CHECKPOINT
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads(file.metadata()["about"])
                states: dict[int, list[Tensor]] = {}
                for key in sorted(file.keys(), key=lambda k: tuple(map(int, k.split(".")))):
                    states.setdefault(int(key.split(".")[0]), []).append(file.get_tensor(key))
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise UserError(f"{path}: the saved state is damaged; --overwrite starts afresh") from error
        return Checkpoint(about["index"], list(states.values()), about["tile"], tuple(about["size"]))

    def finish(self) -> None:
        """Let the folder appear under its name."""
        with writing(self.target):
            for name in (_MANIFEST, _CHECKPOINT):
                (self.partial / name).unlink(missing_ok=True)
            if not self.target.exists():
                os.replace(self.partial, self.target)
                return
            # The old folder keeps its content until the new one is in place.
            old = self.target.with_name(f".{self.target.name}.replaced")
            os.replace(self.target, old)
            os.replace(self.partial, self.target)
            shutil.rmtree(old)

    def discard(self) -> None:
        """Remove the hidden folder if no frame is in it; keep it for ``--resume`` otherwise."""
        if not self.finished():
            shutil.rmtree(self.partial, ignore_errors=True)

    def _check_identity(self, identity: dict[str, Any]) -> None:
        try:
            before = json.loads((self.partial / _MANIFEST).read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{self.partial}: its manifest cannot be read; --overwrite starts afresh") from error
        # Through JSON, so that tuples and lists compare as equal.
        now = json.loads(json.dumps(identity))
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                raise UserError(
                    f"{self.target}: the interrupted job had {key} {before.get(key)!r}, this one has {now.get(key)!r}; "
                    "--overwrite starts afresh"
                )

    def _write(self, name: str, content: bytes) -> None:
        temporary = self.partial / f".{name}.new"
        temporary.write_bytes(content)
        os.replace(temporary, self.partial / name)


def source_identity(path: Path) -> list[list[Any]]:
    """Name, size and time of change of a file, or of every image of a folder."""
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if is_image(p))
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def model_identity(model: nn.Module) -> str:
    """A hash of a model's class and of all its parameters and buffers."""
    digest = hashlib.sha256(type(model).__qualname__.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
