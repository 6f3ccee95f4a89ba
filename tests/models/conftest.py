from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vsr.data.clips import fetch_clip
from vsr.errors import UserError
from vsr.models import weights


@pytest.fixture(scope="session")
def real_weights() -> Callable[[str], Path]:
    """Path of pretrained weights by name; skips the test where they cannot be had."""

    def get(name: str) -> Path:
        try:
            return weights.fetch(name)
        except UserError as error:
            pytest.skip(str(error))

    return get


@pytest.fixture(scope="session")
def real_frames() -> Callable[..., Tensor]:
    """Frames (T, 3, H, W) in [0, 1] of a real clip; skips the test where it cannot be had."""
    import av

    def get(clip: str, first: int, count: int) -> Tensor:
        try:
            path = fetch_clip(clip)
        except UserError as error:
            pytest.skip(str(error))
        frames = []
        with av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index >= first + count:
                    break
                if index >= first:
                    frames.append(torch.from_numpy(frame.to_ndarray(format="rgb24", threads=1)))
        return torch.stack(frames).permute(0, 3, 1, 2).float() / 255

    return get
