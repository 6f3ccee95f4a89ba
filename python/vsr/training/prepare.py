"""The small real data sets that this package trains, validates and tests on, made of public clips."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from vsr.data.clips import CLIPS, fetch_clip
from vsr.errors import UserError
from vsr.files import whole_file, writing
from vsr.inference.video_reader import VideoReader
from vsr.training.panorama import Panorama

Pixels = NDArray[np.uint8]
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Cut:
    """One clip of a set.

    Attributes:
        part: ``train``, ``validation`` or ``test``.
        source: Name of the clip that it is cut from.
        first, last: Its frames, both included; for the panorama: the number of the path, and of frames.
        height, width: Of the upper left part that is kept, before the reduction.
        reduction: Whole factor by which frames are reduced (mean of the pixels).
    """

    part: str
    source: str
    first: int
    last: int
    height: int
    width: int
    reduction: int = 1

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.source}-{self.first:04}"


# Shots of the trailer between its cuts, without fades. The film's other shots are captioned or dark.
_TRAILER = ((380, 592), (594, 748), (796, 863), (865, 899), (906, 987), (989, 1048), (1050, 1095))
_PATHS, _PATH_FRAMES = 20, 24

CUTS: tuple[Cut, ...] = (
    *(Cut("train", "panorama", path, _PATH_FRAMES, 360, 640) for path in range(_PATHS)),
    *(Cut("train", "bbb-trailer", first, last, 720, 1280, 2) for first, last in _TRAILER),
    Cut("validation", "bikes", 137, 186, 272, 640),
    Cut("validation", "bikes", 187, 241, 272, 640),
    Cut("test", "city", 0, 115, 404, 720),
    Cut("test", "city", 116, 189, 404, 720),
    Cut("test", "vtest", 100, 199, 576, 768),
    Cut("test", "carphone", 0, 119, 144, 176),
)


def prepare(folder: Path, cuts: Iterable[Cut] = CUTS, *, on_clip: Callable[[Cut], None] | None = None) -> Path:
    """Write the clips as folders of PNG files, ``PART/NAME/00000000.png``, and a manifest.

    A clip that is there already and has the hash that the manifest gives is left alone, so that an interrupted call can
    be repeated. The manifest says of each clip where it comes from, under which licence, and its hash.

    Args:
        folder: Made if missing.
        cuts: The clips.
        on_clip: Called before each clip is made.

    Returns:
        The manifest.

    Raises:
        UserError: A source cannot be fetched or read, or the folder cannot be written.
    """
    manifest = folder / MANIFEST
    with writing(manifest):
        folder.mkdir(parents=True, exist_ok=True)
    cuts = list(cuts)
    # What an earlier call says of clips that this one has not come to yet stays in the manifest.
    entries = _known(manifest, {f"{cut.part}/{cut.name}" for cut in cuts})
    panorama: Panorama | None = None
    for cut in cuts:
        place = folder / cut.part / cut.name
        key = f"{cut.part}/{cut.name}"
        digest = _digest(place) if place.is_dir() else None
        if digest is None or digest != entries.get(key, {}).get("sha256"):
            if on_clip is not None:
                on_clip(cut)
            if cut.source == "panorama" and panorama is None:
                panorama = _panorama()
            _write(place, _frames(cut, panorama))
            digest = _digest(place)
        source = CLIPS[cut.source]
        entries[key] = {
            "sha256": digest,
            "frames": [cut.first, cut.last],
            "source": f"{source.package}=={source.version}: {source.member}",
            "source_sha256": source.sha256,
            "licence": source.licence,
        }
        _write_manifest(manifest, entries)
    return manifest


def _panorama() -> Panorama:
    with Image.open(fetch_clip("panorama")) as image:
        return Panorama(np.asarray(image.convert("RGB").reduce(2)))


def _frames(cut: Cut, panorama: Panorama | None) -> Iterator[Pixels]:
    if cut.source == "panorama":
        assert panorama is not None
        yield from panorama.clip(cut.first, cut.last, cut.height, cut.width)
        return
    count = 0
    with VideoReader(fetch_clip(cut.source)) as reader:
        for frame in islice(reader, cut.first, cut.last + 1):
            count += 1
            yield _reduced(frame.image[: cut.height, : cut.width].astype(np.uint8), cut.reduction)
    if count != cut.last - cut.first + 1:
        raise UserError(f"{cut.source}: expected frames {cut.first} to {cut.last}, but only {count} of them exist")


def _reduced(image: Pixels, factor: int) -> Pixels:
    if factor == 1:
        return image
    planes = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    return F.avg_pool2d(planes, factor)[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


def _write(place: Path, frames: Iterable[Pixels]) -> None:
    """The clip's folder, whole or not at all."""
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=place.parent, prefix=".preparing-"))
        try:
            for i, frame in enumerate(frames):
                Image.fromarray(frame).save(scratch / f"{i:08}.png")
            scratch.chmod(0o755)
            shutil.rmtree(place, ignore_errors=True)
            scratch.replace(place)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise


def _digest(place: Path) -> str:
    """SHA-256 over the pixels of a clip's files, in order; the compression of PNG files is no part of it."""
    digest = hashlib.sha256()
    for path in sorted(place.glob("*.png")):
        with Image.open(path) as image:
            digest.update(f"{path.name} {image.size}".encode() + image.tobytes())
    return digest.hexdigest()


def _known(manifest: Path, keys: set[str]) -> dict[str, dict[str, object]]:
    try:
        return {key: dict(entry) for key, entry in json.loads(manifest.read_text()).items() if key in keys}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # a damaged manifest is one that says nothing


def _write_manifest(path: Path, entries: dict[str, dict[str, object]]) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(dict(sorted(entries.items())), indent=1) + "\n")
