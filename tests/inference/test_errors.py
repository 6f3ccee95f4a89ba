"""Every way to ask for the impossible is one sentence that names what was expected and what was given."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import typer
from media import Clip, write_clip
from PIL import Image
from tiny_models import Nearest
from typer.testing import CliRunner

from vsr.cli.upscale import upscale_command
from vsr.errors import UserError
from vsr.files import PendingFile, writing
from vsr.inference import upscale
from vsr.models import SRVGGNet, save_model

app = typer.Typer()
app.command()(upscale_command)


@pytest.fixture(name="work", scope="module")
def folder_with_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    save_model(SRVGGNet(8, 1, 2), work / "x2.safetensors")
    write_clip(work / "clip.mp4", Clip(frames=6))
    write_clip(work / "other.mp4", Clip(frames=6))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(work / "image.png")
    (work / "frames").mkdir()
    shutil.copy(work / "image.png", work / "frames" / "a.png")
    (work / "empty").mkdir()
    (work / "full").mkdir()
    (work / "full" / "a.png").write_bytes(b"")
    (work / "mixed").mkdir()
    (work / "mixed" / "notes.txt").write_text("")
    (work / "text.mp4").write_text("hello" * 100)
    (work / "text.png").write_text("hello" * 100)
    (work / "zero.mp4").write_bytes(b"")
    (work / "nested").mkdir()
    (work / "nested" / "frames").mkdir()
    shutil.copy(work / "image.png", work / "nested" / "frames" / "a.png")
    return work


def call(work: Path, *arguments: str, model: bool = True) -> Any:
    before = os.getcwd()
    os.chdir(work)
    try:
        extra = ["--model", "x2.safetensors", "--dtype", "float32"] if model else []
        return CliRunner().invoke(app, [*arguments, *extra])
    finally:
        os.chdir(before)


CASES = [
    # Paths
    ("missing.mp4 out.mp4", r"missing\.mp4: no such file or folder"),
    ("clip:unheard out.mp4", r"no clip is called 'unheard'; there are .*bikes"),
    ("clip.mp4 clip.mp4", r"clip\.mp4: output and input are the same"),
    ("clip.mp4 ./frames/../clip.mp4 --overwrite", r"output and input are the same"),
    ("clip.mp4 other.mp4", r"other\.mp4: exists already; --overwrite replaces it"),
    ("clip.mp4 full", r"full: exists already and is not empty; --overwrite replaces it"),
    ("clip.mp4 mixed --overwrite", r"mixed: --overwrite replaces folders of images only; .* also holds 'notes\.txt'"),
    ("frames frames", r"frames: output and input are the same"),
    ("nested/frames nested --overwrite", r"nested: the input lies inside of the output folder"),
    ("clip.mp4 nowhere/out.mp4", r"nowhere: no such folder to write to"),
    ("clip.mp4 nowhere/out", r"nowhere: no such folder to write to"),
    ("image.png nowhere/out.png", r"nowhere: no such folder to write to"),
    ("clip.mp4 out.avi", r"out\.avi: cannot write \.avi; expected one of \.mp4, .*\.png.* without a suffix"),
    ("clip.mp4 out.xyz", r"out\.xyz: cannot write \.xyz"),
    ("clip.mp4 out.png", r"a video cannot become one image; give a video file or a folder as output"),
    ("image.png out.mp4", r"an image cannot become a video; give an image file as output"),
    ("image.png out", r"one image cannot become a folder; give an image file as output"),
    ("frames out.png", r"a folder cannot become one image; give a folder or a video file as output"),
    # Content
    ("text.mp4 out.mp4", r"text\.mp4: not a video that can be read; damaged, truncated or another kind of file"),
    ("text.png out.png", r"text\.png: not an image that can be read; damaged, truncated or another kind of file"),
    ("zero.mp4 out.mp4", r"zero\.mp4: the file is empty"),
    ("empty out", r"empty: no images in this folder \(looked for \.png, .*\)"),
    ("full out", r"a\.png: not an image that can be read; .*; --keep-going leaves out what cannot be decoded"),
    ("full out --keep-going", r"full: none of its images can be read"),
    # Options
    ("frames out.mp4", r"--fps: a video made of images needs the number of frames per second"),
    ("frames out.mp4 --fps fast", r"--fps: expected a number such as 25, 29\.97 or 30000/1001, got 'fast'"),
    ("frames out.mp4 --fps 0", r"--fps: expected more than 0 and at most 1000, got 0"),
    ("frames out.mp4 --fps 1/0", r"--fps: expected a number such as .*, got '1/0'"),
    ("clip.mp4 out.mp4 --fps 30", r"--fps: only a video made of a folder of images takes it"),
    ("clip.mp4 out.mp4 --scale 4", r"--scale 4: this model enlarges by 2; a model for x4 is needed"),
    ("clip.mp4 out.mp4 --scale 0", r"--scale: expected at least 1, got 0"),
    ("clip.mp4 out.mp4 --dtype int8", r"--dtype: expected auto, float32, bfloat16, float16, got 'int8'"),
    ("clip.mp4 out.mp4 --device gpu", r"--device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
    ("clip.mp4 out.mp4 --tile 7", r"--tile: expected 0 \(never\) or at least 16, got 7"),
    ("clip.mp4 out.mp4 --tile-overlap -1", r"--tile-overlap: expected at least 0, got -1"),
    ("clip.mp4 out.mp4 --chunk 0", r"--chunk: expected at least 1, got 0"),
    ("clip.mp4 out.mp4 --lookahead -1", r"--lookahead: expected at least 0, got -1"),
    ("clip.mp4 out.mp4 --crf 99", r"--crf: expected 0 to 51 for h264, got 99"),
    ("clip.mp4 out.mkv --crf 9 --codec ffv1", r"--crf: ffv1 has no such setting \(its quality is fixed\)"),
    ("clip.mp4 out.mp4 --codec mpeg9", r"--codec: expected one of h264, hevc, av1, vp9, ffv1, prores, got 'mpeg9'"),
    ("clip.mp4 out.mp4 --codec ffv1", r"--codec ffv1 does not go into this kind of file; it goes into \.mkv"),
    ("clip.mp4 out.mp4 --preset quick", r"--preset: expected one of medium, ultrafast, .* for h264, got 'quick'"),
    ("clip.mp4 out.mkv --preset fast --codec ffv1", r"--preset: ffv1 has no such setting"),
    ("clip.mp4 out.mp4 --pixel-format rgb9", r"--pixel-format: h264 takes yuv420p, .*; got 'rgb9'"),
    ("clip.mp4 out --image-format gif", r"--image-format: expected png, jpg, webp, tif or bmp, got 'gif'"),
    ("clip.mp4 out.mp4 --resume", r"--resume: only a job whose output is a folder of images can be continued"),
    ("clip.mp4 out --resume --overwrite", r"--resume continues a job and --overwrite starts afresh: give one of them"),
]


@pytest.mark.parametrize(("arguments", "message"), CASES, ids=[arguments for arguments, _ in CASES])
def test_message(work: Path, arguments: str, message: str) -> None:
    before = sorted(str(p) for p in work.rglob("*"))
    override = [] if "--dtype" not in arguments else arguments.split()
    result = call(
        work, *(override or arguments.split()), *(["--model", "x2.safetensors"] if override else []), model=not override
    )
    assert isinstance(result.exception, UserError), result.output
    text = str(result.exception)
    assert re.search(message, text), text
    assert "\n" not in text
    assert sorted(str(p) for p in work.rglob("*")) == before  # and nothing was made or removed


def test_models(work: Path) -> None:
    result = call(work, "clip.mp4", "out.mp4", "--model", "unheard", model=False)
    assert re.search("unheard: neither a file nor a name of weights; there are ", str(result.exception))
    result = call(work, "clip.mp4", "out.mp4", "--model", "image.png", model=False)
    assert isinstance(result.exception, UserError)
    result = call(work, "clip.mp4", "out.mp4", "--scale", "8", model=False)
    assert re.search("no pretrained weights enlarge by x8; there are some for x2, x4", str(result.exception))


def test_inputs_are_checked_before_weights_are_fetched(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(_name: str) -> Path:
        raise AssertionError("weights were fetched")

    monkeypatch.setattr("vsr.models.weights.fetch", fetch)
    assert isinstance(call(work, "missing.mp4", "out.mp4", model=False).exception, UserError)
    assert isinstance(call(work, "clip.mp4", "other.mp4", model=False).exception, UserError)
    assert isinstance(call(work, "clip.mp4", "out.mp4", "--device", "gpu", model=False).exception, UserError)


def test_device_that_is_not_here(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = call(work, "clip.mp4", "out.mp4", "--device", "cuda")
    assert str(result.exception) == "--device cuda: PyTorch finds no CUDA device here; use --device cpu"


def test_unreadable_and_unwritable(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vsr.files.os.access", lambda path, mode: False)  # as root, everything is allowed
    with pytest.raises(UserError, match=f"{tmp_path}: no permission to write there"):
        upscale(work / "clip.mp4", tmp_path / "out.mp4", model=Nearest())
    monkeypatch.undo()

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise av.error.PermissionError(13, "Permission denied", "clip.mp4")

    monkeypatch.setattr("vsr.inference.video_reader.av.open", refuse)
    with pytest.raises(UserError, match=r"clip\.mp4: no permission to read it"):
        upscale(work / "clip.mp4", tmp_path / "out.mp4", model=Nearest())
    monkeypatch.setattr("vsr.inference.images.Image.open", refuse)
    with pytest.raises(UserError, match=r"image\.png: no permission to read it"):
        upscale(work / "image.png", tmp_path / "out.png", model=Nearest())


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "no space left on the disk"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, "the disk reports an input/output error"),
    ],
)
def test_what_the_operating_system_refuses(tmp_path: Path, number: int, reason: str) -> None:
    with pytest.raises(UserError, match=rf"out\.mp4: {reason}"), writing(tmp_path / "out.mp4"):
        raise OSError(number, os.strerror(number))
    with pytest.raises(IsADirectoryError), writing(tmp_path / "out.mp4"):
        raise OSError(errno.EISDIR, "unexpected")


def test_pending_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    pending = PendingFile(tmp_path / "a.txt")
    pending.temporary.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "old"
    pending.commit()
    assert (tmp_path / "a.txt").read_text() == "new"
    pending = PendingFile(tmp_path / "a.txt")
    pending.discard()
    pending.discard()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_full_disk(tmp_path: Path) -> None:
    """On a real file system of half a megabyte: video, image and folder end in one sentence and leave nothing half."""
    script = f"""
import os, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}]
from pathlib import Path
import numpy as np
from PIL import Image
from media import Clip, write_clip
from tiny_models import Nearest
from vsr.errors import UserError
from vsr.inference import UpscaleOptions, upscale

noise = np.random.default_rng(0).integers(0, 256, (20, 256, 256, 3), dtype=np.uint8)
Image.fromarray(noise[0]).resize((512, 512)).save("noise.png")
clip = Clip(frames=20, width=256, height=256, codec="ffv1", options=(), pix_fmt="yuv444p")
write_clip(Path("noise.mkv"), clip, [[image[..., c] for c in range(3)] for image in noise])
os.mkdir("small")
assert os.system("mount -t tmpfs -o size=512k none small") == 0
for source, target in (("noise.mkv", "small/out.mp4"), ("noise.png", "small/out.png"), ("noise.mkv", "small/out")):
    try:
        upscale(source, target, model=Nearest(), options=UpscaleOptions(dtype="float32"))
        print("done", target)
    except UserError as error:
        print(error)
    print(sorted(p.name for p in Path("small").iterdir()))
    for whole in Path("small").glob(".out.partial/*.png"):
        Image.open(whole).load()
    print(sorted(p.name for p in Path("small").glob(".out.partial/.*")))
    os.system("rm -rf small/* small/.o*")
"""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here to mount a small file system in")
    result = subprocess.run(
        [unshare, "-rm", sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:6] == ["small/out.mp4: no space left on the disk", "[]", "[]"] + [
        "small/out.png: no space left on the disk",
        "[]",
        "[]",
    ]
    assert lines[6].endswith(".png: no space left on the disk")
    assert lines[7:] == ["['.out.partial']", "[]"]  # whole images for --resume, and no part of one


def test_success_says_what_was_done(work: Path) -> None:
    result = call(work, "clip.mp4", "out.mp4")
    assert result.exit_code == 0, result.output
    assert re.match(
        r"wrote out\.mp4: 6 frames x2 in \d+\.\d s \(\d+\.\d\d frames/s\), float32 on cpu\n$", result.stdout
    )
    with av.open(str(work / "out.mp4")) as container:
        assert container.streams.video[0].width == 128
    again = call(work, "clip.mp4", "out.mp4", "--overwrite", "--quiet", "--scale", "1", "--tile", "32")
    assert again.exit_code == 0
    assert again.stdout == ""
    assert again.stderr == "note: the x2 model's result is reduced to x1 by antialiased bicubic interpolation\n"
    (work / "out.mp4").unlink()


def test_options_reach_the_job(work: Path) -> None:
    result = call(work, "frames", "out.mkv", "--fps", "30000/1001", "--codec", "ffv1", "--pixel-format", "yuv444p10le")
    assert result.exit_code == 0, result.output
    with av.open(str(work / "out.mkv")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("ffv1", "yuv444p10le")
        assert float(stream.average_rate or 0) == pytest.approx(29.97, abs=0.01)
    (work / "out.mkv").unlink()
