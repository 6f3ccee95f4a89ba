"""Damaged and truncated videos: refused with one sentence, or read as far as they go."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from media import Clip, rgb, smooth, times, write_clip
from tiny_models import Nearest

from vsr.errors import DamagedInputError, UserError
from vsr.inference import UpscaleOptions, VideoReader, upscale

FRAMES = 60


def make(path: Path) -> Path:
    """A clip of which every 20th frame is a key frame."""
    options = (("crf", "10"), ("preset", "ultrafast"), ("g", "20"))
    extra = (("movflags", "+faststart"),) if path.suffix == ".mp4" else ()
    clip = Clip(frames=FRAMES, options=options, matrix=6, audio="aac", container_options=extra)
    return write_clip(path, clip, smooth(FRAMES))


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def scramble(path: Path, start: float, stop: float) -> Path:
    data = bytearray(path.read_bytes())
    first, last = int(len(data) * start), int(len(data) * stop)
    data[first:last] = np.random.default_rng(0).integers(0, 256, last - first, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    return path


def decodable(path: Path) -> int:
    count = 0
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            with suppress(av.error.InvalidDataError):
                count += len(packet.decode())
    return count


def keeping(source: Path, target: Path) -> list[str]:
    options = UpscaleOptions(keep_going=True, preset="ultrafast", dtype="float32")
    return upscale(source, target, model=Nearest(), options=options).warnings


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        (".mp4", "the file is truncated: its index points beyond its end"),
        (".mkv", r"the file is truncated: it ends at 1\.\d+ s of 2\.4\d s"),
    ],
)
def test_truncated(tmp_path: Path, suffix: str, message: str) -> None:
    source = cut(make(tmp_path / f"in{suffix}"), 0.6)
    with pytest.raises(DamagedInputError, match=message):
        upscale(source, tmp_path / f"out{suffix}", model=Nearest())
    assert [p.name for p in tmp_path.iterdir()] == [source.name]
    warnings = keeping(source, tmp_path / f"out{suffix}")
    assert any("truncated" in warning for warning in warnings)
    readable = decodable(source)
    result = rgb(tmp_path / f"out{suffix}")
    assert 25 < len(result) == readable < FRAMES


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_scrambled_in_the_middle(tmp_path: Path, suffix: str) -> None:
    source = scramble(make(tmp_path / f"in{suffix}"), 0.5, 0.56)
    with pytest.raises(DamagedInputError, match=r"in\.\w+: "):
        upscale(source, tmp_path / "out.mp4", model=Nearest())
    assert not (tmp_path / "out.mp4").exists()
    assert keeping(source, tmp_path / "out.mp4")
    result = rgb(tmp_path / "out.mp4")
    assert 35 < len(result) <= FRAMES
    with VideoReader(source, keep_going=True) as reader:
        read = [frame.time for frame in reader]
    assert len(read) == len(result)
    assert read == sorted(set(read))
    assert read[-1] == pytest.approx((FRAMES - 1) / 25, abs=0.05)  # what follows the damage is there


def test_matroska_goes_on_behind_the_damage(tmp_path: Path) -> None:
    """Its reader leaves out what it cannot read without a word, up to the next key frame; the times stay right."""
    source = scramble(make(tmp_path / "in.mkv"), 0.5, 0.56)
    upscale(source, tmp_path / "out.mkv", model=Nearest(), options=UpscaleOptions(preset="ultrafast", dtype="float32"))
    assert 35 < len(times(source)) < FRAMES
    assert times(tmp_path / "out.mkv") == times(source)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02])
def test_nothing_left_to_decode(tmp_path: Path, share: float) -> None:
    source = cut(make(tmp_path / "in.mkv"), share)
    for keep_going in (False, True):
        with pytest.raises(UserError, match=r"in\.mkv: ") as caught:
            upscale(source, tmp_path / "out.mkv", model=Nearest(), options=UpscaleOptions(keep_going=keep_going))
        assert "\n" not in str(caught.value)


def test_sound_without_pictures(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "in.m4a"), "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=48000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 4800), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 48000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with pytest.raises(UserError, match=r"in\.m4a: no video stream \(the file has: audio\)"):
        upscale(tmp_path / "in.m4a", tmp_path / "out.mp4", model=Nearest())


def test_video_of_no_frames(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "in.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 48
        out.start_encoding()
        out.mux(stream.encode(None))
    with pytest.raises(UserError, match=r"in\.mp4: no video stream \(the file has: nothing\)"):
        upscale(tmp_path / "in.mp4", tmp_path / "out.mp4", model=Nearest())


def test_damaged_sound_does_not_stop_a_conversion(tmp_path: Path) -> None:
    """Sound that has to be encoded anew is decoded; what cannot be is left out."""
    source = scramble(make(tmp_path / "in.mkv"), 0.5, 0.56)
    options = UpscaleOptions(keep_going=True, preset="8", dtype="float32")
    upscale(source, tmp_path / "out.webm", model=Nearest(), options=options)
    with av.open(str(tmp_path / "out.webm")) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples / 48000 > 1.2
