"""The command's progress and its choice of weights."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_models import Nearest

from vsr.cli import upscale as command
from vsr.errors import UserError
from vsr.inference import UpscaleReport


def test_progress_without_a_terminal_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(command.time, "monotonic", lambda: now)
    with command._progress(quiet=False) as show:
        for done in range(1, 101):
            show(done, 400)
            now += 0.5
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "21 of 400 frames, 2.00 frames/s, 190 s left",
        "41 of 400 frames, 2.00 frames/s, 180 s left",
        "61 of 400 frames, 2.00 frames/s, 170 s left",
        "81 of 400 frames, 2.00 frames/s, 160 s left",
    ]


def test_progress_of_unknown_length(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr(command.time, "monotonic", lambda: now)
    with command._progress(quiet=False) as show:
        for done in range(1, 30):
            show(done, None)
            now += 0.5
    assert capsys.readouterr().err == "21 frames, 2.00 frames/s\n"


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with command._progress(quiet=False) as show:
        for done in range(1, 6):
            show(done, 5)
    assert "5/5" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with command._progress(quiet=True) as show:
        show(1, 2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("scale", "fast", "expected"),
    [
        (None, False, "basicvsr-vimeo-bi"),
        (4, False, "basicvsr-vimeo-bi"),
        (3, False, "basicvsr-vimeo-bi"),
        (2, False, "repsr-m8c32-x2"),
        (None, True, "repsr-m4c32-x4"),
        (3, True, "repsr-m4c32-x4"),
        (1, True, "repsr-m4c32-x2"),
    ],
)
def test_weights_for_a_scale(scale: int | None, fast: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale without weights of its own is served by the next larger one's, reduced."""
    asked: list[str] = []
    monkeypatch.setattr("vsr.models.load_model", lambda name: asked.append(name) or Nearest())
    command._load(None, scale, fast)
    assert asked == [expected]


def test_fast_and_a_model() -> None:
    with pytest.raises(UserError, match=r"--fast chooses the network, and --model names one \(mine\.pth\): give one"):
        command._load("mine.pth", None, True)


def test_summary() -> None:
    report: dict[str, Any] = {
        "output": Path("out.mp4"),
        "frames": 50,
        "resumed": 0,
        "seconds": 20.0,
        "resets": 0,
        "overflows": 0,
        "shortages": 0,
        "tile": None,
        "dtype": "float16",
        "device": "cuda",
        "model_scale": 4,
        "scale": 4,
    }
    assert command._summary(UpscaleReport(**report)) == (
        "wrote out.mp4: 50 frames x4 in 20.0 s (2.50 frames/s), float16 on cuda"
    )
    rich = UpscaleReport(**report | {"resumed": 7, "tile": 128, "resets": 2, "overflows": 3})
    assert command._summary(rich).endswith(", 7 frames were there, tiles of 128, 2 cuts, 3 repeated in float32")
    assert UpscaleReport(**report | {"seconds": 0.0}).fps == 0
    assert UpscaleReport(**report | {"overflows": 2, "shortages": 1}).retries == 3
