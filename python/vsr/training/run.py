"""From a configuration to a run: finds its clips, trains, reports."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from vsr.data.clips import fetch_clip
from vsr.errors import UserError
from vsr.training.board import Board, summary_writer
from vsr.training.catalog import TrainingClip, find_clips
from vsr.training.config import ClipsConfig, TrainConfig
from vsr.training.distributed import join_group
from vsr.training.extension import Extension
from vsr.training.trainer import Progress, Trainer


def open_clips(
    places: Sequence[ClipsConfig],
    *,
    cache: Path | None = None,
    keep_images: bool = False,
    on_skip: Callable[[str], None] | None = None,
) -> list[TrainingClip]:
    """The clips of a configuration, numbered where their names would be the same.

    Raises:
        UserError: A place holds no clip that can be read.
    """
    clips: list[TrainingClip] = []
    for place in places:
        name = place.root.removeprefix("clip:")
        root = Path(place.root).expanduser() if name == place.root else fetch_clip(name)
        found = find_clips(
            root,
            lr_root=place.lr_root,
            annotation=place.annotation,
            cache=cache,
            keep_images=keep_images,
            on_skip=on_skip,
        )
        found = _chosen(found, place)
        if place.frames is not None:
            first, last = place.frames
            label = f" {first}-{last}"
            found = [replace(c, name=c.name + label, first=first, count=last - first + 1) for c in found]
        clips += found
    seen: dict[str, int] = {}
    for i, clip in enumerate(clips):
        seen[clip.name] = seen.get(clip.name, 0) + 1
        if seen[clip.name] > 1:
            clips[i] = replace(clip, name=f"{clip.name} ({seen[clip.name]})")
    return clips


def _chosen(clips: list[TrainingClip], place: ClipsConfig) -> list[TrainingClip]:
    names = {clip.name for clip in clips}
    for name in (*place.only, *place.leave_out):
        if name not in names:
            near = difflib.get_close_matches(name, names, 3) or sorted(names)[:3]
            raise UserError(f"{place.root}: no clip is called {name!r}; there are {', '.join(near)} and others")
    kept = [c for c in clips if (not place.only or c.name in place.only) and c.name not in place.leave_out]
    if not kept:
        raise UserError(f"{place.root}: only and leave_out leave no clip")
    return kept


def train(
    config: TrainConfig,
    folder: Path,
    *,
    device: torch.device | None = None,
    on_step: Callable[[Progress], None] | None = None,
    on_skip: Callable[[str], None] | None = None,
    tensorboard: bool = False,
    extension: Extension | None = None,
) -> None:
    """Train as configured, in every process that ``torchrun`` started, or alone.

    A folder that holds a checkpoint of this configuration is continued.

    Args:
        config: The run.
        folder: Gets ``state.pt`` (what a run continues from), ``best.safetensors`` and ``final.safetensors`` (averaged
            weights, for :func:`vsr.models.load_model`) and ``log.jsonl``.
        device: Where to compute; None for this rank's GPU, or the CPU where there is none.
        on_step: Called after every step, in the first process only.
        on_skip: Called with a sentence for every clip that cannot be read and is left out.
        tensorboard: Log curves and pictures into ``tensorboard`` in the folder, see :class:`Board`.
        extension: What the run does besides.

    Raises:
        UserError: See :class:`Trainer`, :meth:`Trainer.run` and :class:`Board`.
    """
    if tensorboard:
        summary_writer()  # its absence shows before anything takes time
    with ExitStack() as stack:
        group = stack.enter_context(join_group(device))
        kept = config.data.keep_images
        clips = open_clips(config.data.train, keep_images=kept, on_skip=on_skip)
        validation = open_clips(config.data.validation, on_skip=on_skip) if group.leads else []
        trainer = Trainer(config, clips, validation, folder, group, extension)
        listeners = [on_step] if on_step is not None else []
        if tensorboard and group.leads:
            listeners.append(stack.enter_context(Board(folder / "tensorboard", trainer.iteration)).show)

        def tell(progress: Progress) -> None:
            for listener in listeners:
                listener(progress)

        trainer.run(tell if group.leads else None)
