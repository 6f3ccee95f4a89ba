"""Ctrl-C and SIGTERM on the command: nothing half-done remains, and the exit code says why it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from media import Clip, write_clip

from vsr.models import SRVGGNet, save_model

COMMAND = (
    "import typer; from vsr.cli.upscale import upscale_command; a = typer.Typer(); a.command()(upscale_command); a()"
)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments, "--model", "x2.safetensors", "--dtype", "float32"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a test run in the background ignores Ctrl-C, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(process: subprocess.Popen[str], folder: Path, pattern: str) -> None:
    """Until files that match are there, and some frames more."""
    end = time.monotonic() + 60
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.3)


@pytest.fixture(name="work", scope="module")
def slow_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip and a model that are busy for minutes."""
    work = tmp_path_factory.mktemp("work")
    save_model(SRVGGNet(64, 16, 2), work / "x2.safetensors")
    write_clip(work / "in.mp4", Clip(frames=200, width=320, height=240, audio="aac"))
    return work


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals(work: Path, number: signal.Signals) -> None:
    before = sorted(p.name for p in work.iterdir())
    process = start(work, "in.mp4", "out.mp4")
    wait_for(process, work, ".out.*.partial.mp4")
    process.send_signal(number)
    process.wait(20)
    assert process.returncode in ({130, -2} if number == signal.SIGINT else {143})
    assert sorted(p.name for p in work.iterdir()) == before


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_interrupted_folder_keeps_whole_frames_for_resume(work: Path) -> None:
    process = start(work, "in.mp4", "out")
    wait_for(process, work, ".out.partial/*.png")
    process.send_signal(signal.SIGINT)
    process.wait(20)
    assert process.returncode != 0
    assert not (work / "out").exists()
    left = sorted(p.name for p in (work / ".out.partial").iterdir())
    assert left[-1] == "manifest.json"
    assert left[:-1] == [f"{index:08d}.png" for index in range(len(left) - 1)]
    from PIL import Image

    for name in left[:-1]:
        with Image.open(work / ".out.partial" / name) as image:
            image.load()
            assert image.size == (640, 480)
