"""Videos: times, sound, subtitles, tags, geometry and depth survive."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media import Clip, packets, pattern, planes, rgb, smooth, times, write_clip
from tiny_models import Nearest

from vsr.inference import Frame, UpscaleOptions, UpscaleReport, VideoReader, VideoWriter, upscale
from vsr.inference.encoders import choose_codec, choose_format
from vsr.inference.orientation import apply_display_matrix, parse_display_matrix
from vsr.inference.pixels import layout_of
from vsr.inference.timestamps import PresentationClock


def enlarge(source: Path, target: Path, **options: Any) -> UpscaleReport:
    settings = {"preset": "ultrafast", "dtype": "float32"} | options
    return upscale(source, target, model=Nearest(), options=UpscaleOptions(**settings))


def twice(image: np.ndarray) -> np.ndarray:
    return image.repeat(2, axis=0).repeat(2, axis=1)


def test_picture_is_that_of_the_model(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", Clip(frames=8, matrix=6), smooth(8))
    report = enlarge(source, tmp_path / "out.mp4", crf=4)
    assert (report.frames, report.scale, report.model_scale, report.warnings) == (8, 2, 2, [])
    assert report.fps == pytest.approx(8 / report.seconds)
    got, wanted = rgb(tmp_path / "out.mp4"), [twice(image) for image in rgb(source)]
    assert len(got) == len(wanted) == 8
    for a, b in zip(got, wanted, strict=True):
        error = a.astype(float) - b
        assert 10 * np.log10(255**2 / np.mean(error**2)) > 40  # x264, and chroma reduced once more
        assert np.abs(error.mean(axis=(0, 1))).max() < 1  # and no shift of colour


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_variable_frame_rate(tmp_path: Path, suffix: str) -> None:
    ticks = (0, 40, 55, 170, 171, 300, 500, 720, 721, 722, 1000, 1600)
    clip = Clip(times=ticks, time_base=Fraction(1, 1000), audio="aac")
    source = write_clip(tmp_path / f"in{suffix}", clip)
    enlarge(source, tmp_path / f"out{suffix}")
    assert times(source)[-1] - times(source)[0] == Fraction(16, 10)
    assert times(tmp_path / f"out{suffix}") == times(source)


def test_time_on_screen_of_the_last_frame(tmp_path: Path) -> None:
    clip = Clip(frames=3, times=(0, 40, 80), time_base=Fraction(1, 1000), last_duration=900)
    source = write_clip(tmp_path / "in.mp4", clip)
    enlarge(source, tmp_path / "out.mp4")
    with av.open(str(source)) as before, av.open(str(tmp_path / "out.mp4")) as after:
        assert before.duration == after.duration == 980_000


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(60), Fraction(10)])
def test_constant_frame_rate_and_duration(tmp_path: Path, rate: Fraction) -> None:
    source = write_clip(tmp_path / "in.mp4", Clip(rate=rate))
    enlarge(source, tmp_path / "out.mp4")
    with av.open(str(source)) as before, av.open(str(tmp_path / "out.mp4")) as after:
        assert after.streams.video[0].average_rate == before.streams.video[0].average_rate == rate
        assert after.duration == before.duration
        assert after.streams.video[0].frames == before.streams.video[0].frames == 12
    assert times(tmp_path / "out.mp4") == times(source)


@pytest.mark.parametrize(
    ("source", "target", "audio"),
    [
        ("in.mp4", "out.mp4", "aac"),
        ("in.mkv", "out.mkv", "libopus"),
        ("in.mkv", "out.mp4", "aac"),
        ("in.mp4", "out.mov", "aac"),
        ("in.mkv", "out.mkv", "flac"),
    ],
)
def test_sound_is_copied_packet_by_packet(tmp_path: Path, source: str, target: str, audio: str) -> None:
    write_clip(tmp_path / source, Clip(frames=30, audio=audio))
    report = enlarge(tmp_path / source, tmp_path / target)
    before, after = packets(tmp_path / source, "audio"), packets(tmp_path / target, "audio")
    assert [data for _, data in after] == [data for _, data in before]
    offsets = [a - b for (a, _), (b, _) in zip(after, before, strict=True)]
    picture = [a - b for a, b in zip(times(tmp_path / target), times(tmp_path / source), strict=True)]
    # Matroska rounds to milliseconds, and shifts everything if the encoder's delay makes times negative.
    assert max(offsets + picture) - min(offsets + picture) <= Fraction(1, 500)
    assert report.warnings == []


def test_transport_stream_becomes_mp4(tmp_path: Path) -> None:
    clip = Clip(frames=30, audio="aac", container_options=(("output_ts_offset", "5"),))
    source = write_clip(tmp_path / "in.ts", clip)
    enlarge(source, tmp_path / "out.mp4")
    before = times(source)
    assert before[0] >= 5
    after = times(tmp_path / "out.mp4")
    assert after[0] < Fraction(1, 10)
    assert [t - after[0] for t in after] == [t - before[0] for t in before]
    lag = packets(source, "audio")[0][0] - before[0]
    assert abs(packets(tmp_path / "out.mp4", "audio")[0][0] - after[0] - lag) < Fraction(1, 1000)
    assert len(packets(tmp_path / "out.mp4", "audio")) == len(packets(source, "audio"))


def test_webm_gets_opus_and_vp9(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", Clip(frames=30, audio="aac"))
    report = enlarge(source, tmp_path / "out.webm", preset="8")
    assert report.warnings == ["audio stream 1 is encoded anew: webm does not take aac"]
    with av.open(str(tmp_path / "out.webm")) as container:
        assert [s.codec_context.name for s in container.streams] == ["vp9", "opus"]
        heard = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1)  # (2, samples)
    assert heard.shape[1] / 48000 == pytest.approx(1.2, abs=0.05)
    spectrum = np.abs(np.fft.rfft(heard[0, 4800:52800]))
    assert np.argmax(spectrum) == pytest.approx(440, abs=1)  # one bin is one hertz


def test_chapters_tags_subtitles_and_languages(tmp_path: Path) -> None:
    tags = (("title", "A title"), ("artist", "Someone"), ("comment", "Words"))
    clip = Clip(audio="aac", subtitles="mov_text", chapters=True, metadata=tags)
    source = write_clip(tmp_path / "in.mp4", clip)
    report = enlarge(source, tmp_path / "out.mp4")
    assert report.warnings == []
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert {key: container.metadata[key] for key, _ in tags} == dict(tags)
        assert [(c["start"], c["end"], c["metadata"]["title"]) for c in container.chapters()] == [
            (0, 200, "one"),
            (200, 480, "two"),
        ]
        assert [s.type for s in container.streams][:3] == ["video", "audio", "subtitle"]
    texts = [data for _, data in packets(tmp_path / "out.mp4", "subtitle") if len(data) > 2]
    assert texts == [data for _, data in packets(source, "subtitle") if len(data) > 2] != []


@pytest.mark.parametrize(("target", "codec"), [("out.mp4", "mov_text"), ("out.webm", "webvtt")])
def test_subtitles_are_converted_where_the_container_has_others(tmp_path: Path, target: str, codec: str) -> None:
    source = write_clip(tmp_path / "in.mkv", Clip(subtitles="subrip"))
    report = enlarge(source, tmp_path / target, preset="8" if target.endswith("webm") else "ultrafast")
    assert any("subtitle stream 1 loses its styles" in warning for warning in report.warnings)
    found = packets(tmp_path / target, "subtitle")
    with av.open(str(tmp_path / target)) as container:
        assert container.streams.subtitles[0].codec_context.name == codec
    spoken = [(time, data) for time, data in found if b"Words at" in data]
    assert [time for time, _ in spoken] == [0, Fraction(1, 5)]
    assert all(f"Words at {int(time * 1000)}".encode() in data for time, data in spoken)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("rotation", [(90.0, False), (-90.0, False), (180.0, False)])
def test_rotation_is_passed_on(tmp_path: Path, suffix: str, rotation: tuple[float, bool]) -> None:
    source = write_clip(tmp_path / f"in{suffix}", Clip(frames=3, rotation=rotation))
    enlarge(source, tmp_path / f"out{suffix}")
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        frame = next(container.decode(video=0))
        assert abs(frame.rotation) == abs(rotation[0])
        assert frame.rotation == next(av.open(str(source)).decode(video=0)).rotation
        assert (frame.width, frame.height) == (128, 96)


@pytest.mark.parametrize("rotation", [(90.0, False), (-90.0, False), (180.0, False), (0.0, True), (90.0, True)])
def test_rotation_is_applied_to_images(tmp_path: Path, rotation: tuple[float, bool]) -> None:
    source = write_clip(tmp_path / "in.mp4", Clip(rotation=rotation, matrix=6), smooth(1))
    enlarge(source, tmp_path / "out")
    with av.open(str(source)) as container:
        stored = next(container.decode(video=0))
    upright = np.rot90(stored.to_ndarray(format="rgb24", threads=1), round(rotation[0] / 90))
    if rotation[1]:
        upright = upright[:, ::-1]
    with av.open(str(tmp_path / "out" / "00000000.png")) as container:
        image = next(container.decode(video=0)).to_ndarray(format="rgb24", threads=1)
    assert image.shape == twice(upright).shape
    assert np.abs(image.astype(float) - twice(upright)).mean() < 1.5


def test_display_matrices_move_points_as_they_say() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    for a, b, c, d in [(0, 1, -1, 0), (0, -1, 1, 0), (-1, 0, 0, -1), (-1, 0, 0, 1), (0, 1, 1, 0), (0, -1, -1, 0)]:
        matrix = parse_display_matrix(struct.pack("=9i", *(v << 16 for v in (a, b, 0, c, d, 0, 0, 0, 1 << 14))))
        assert matrix is not None
        shown = apply_display_matrix(image, matrix)
        moved = {(a * x + c * y, b * x + d * y): image[y, x, 0] for y in range(2) for x in range(3)}
        left, top = min(x for x, _ in moved), min(y for _, y in moved)
        for (x, y), value in moved.items():
            assert shown[y - top, x - left, 0] == value
    assert parse_display_matrix(struct.pack("=9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)) is None


@pytest.mark.parametrize("target", ["out.mp4", "out.mkv", "out.mov"])
def test_pixel_aspect_ratio(tmp_path: Path, target: str) -> None:
    source = write_clip(tmp_path / "in.mp4", Clip(frames=3, sample_aspect_ratio=Fraction(16, 11)))
    enlarge(source, tmp_path / target)
    with av.open(str(tmp_path / target)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 11)


def test_pixel_aspect_ratio_of_turned_pictures(tmp_path: Path) -> None:
    clip = Clip(frames=1, sample_aspect_ratio=Fraction(16, 11), rotation=(90.0, False))
    source = write_clip(tmp_path / "in.mp4", clip)
    with VideoReader(source) as turned, VideoReader(source, apply_rotation=False) as stored:
        assert (turned.info.width, turned.info.height) == (48, 64)
        assert turned.info.sample_aspect_ratio == Fraction(11, 16)
        assert turned.info.display_matrix is None
        assert (stored.info.width, stored.info.height) == (64, 48)
        assert stored.info.sample_aspect_ratio == Fraction(16, 11)
        assert stored.info.display_matrix is not None


def test_lost_pixel_aspect_ratio_is_reported(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", Clip(frames=3, sample_aspect_ratio=Fraction(16, 11)))
    report = enlarge(source, tmp_path / "out.webm", preset="8")
    assert report.warnings == ["the pixel aspect ratio 16/11 is not kept: use .mp4, or another codec"]


@pytest.mark.parametrize(("width", "height"), [(33, 17), (1, 1), (65, 48)])
def test_odd_sizes(tmp_path: Path, width: int, height: int) -> None:
    clip = Clip(frames=3, width=width, height=height, codec="ffv1", options=(), pix_fmt="yuv444p", matrix=6)
    pictures = [[np.full((height, width), 90 + 20 * i, np.uint8) for _ in range(3)] for i in range(3)]
    source = write_clip(tmp_path / "in.mkv", clip, pictures)
    enlarge(source, tmp_path / "out.mkv", codec="ffv1", preset=None)
    assert [p[0].shape for p in planes(tmp_path / "out.mkv")] == [(2 * height, 2 * width)] * 3


def test_odd_results_grow_by_a_pixel_where_chroma_is_halved(tmp_path: Path) -> None:
    clip = Clip(frames=2, width=21, height=17, codec="ffv1", options=(), pix_fmt="yuv420p", matrix=6)
    pictures = [[np.full((17, 21), 100, np.uint8)] + [np.full((9, 11), 120, np.uint8)] * 2] * 2
    source = write_clip(tmp_path / "in.mkv", clip, pictures)
    report = upscale(source, tmp_path / "out.mp4", model=Nearest(3), options=UpscaleOptions(preset="ultrafast"))
    assert report.warnings == ["63x51 grows to 64x52: yuv420p needs even sizes"]
    result = planes(tmp_path / "out.mp4")[0]
    assert [plane.shape for plane in result] == [(52, 64), (26, 32), (26, 32)]
    assert np.abs(result[0].astype(int) - 100).max() <= 2
    assert np.abs(result[1].astype(int) - 120).max() <= 2


@pytest.mark.parametrize(
    ("pix_fmt", "target", "expected", "codec"),
    [
        ("yuv420p10le", "out.mp4", "yuv420p10le", "hevc"),
        ("yuv422p10le", "out.mkv", "yuv422p10le", "hevc"),
        ("yuv444p", "out.mp4", "yuv444p", "h264"),
        ("yuv420p12le", "out.mkv", "yuv420p12le", "hevc"),
    ],
)
def test_depth_and_chroma_grid_are_kept(tmp_path: Path, pix_fmt: str, target: str, expected: str, codec: str) -> None:
    clip = Clip(frames=2, codec="ffv1", options=(), pix_fmt=pix_fmt, matrix=1)
    source = write_clip(tmp_path / "in.mkv", clip)
    enlarge(source, tmp_path / target)
    with av.open(str(tmp_path / target)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == (codec, expected)


def test_ten_bits_are_more_than_eight(tmp_path: Path) -> None:
    """A ramp of neighbouring 10-bit values comes out as such: nothing on the way has only 8 bits."""
    ramp = np.broadcast_to(np.arange(400, 464, dtype=np.uint16), (48, 64)).copy()
    neutral = np.full((48, 64), 512, np.uint16)
    clip = Clip(codec="ffv1", options=(), pix_fmt="yuv444p10le", matrix=1)
    source = write_clip(tmp_path / "in.mkv", clip, [[ramp, neutral, neutral]])
    enlarge(source, tmp_path / "out.mkv", codec="ffv1", preset=None, dtype="auto")
    np.testing.assert_array_equal(planes(tmp_path / "out.mkv")[0][0], twice(ramp))


def test_hdr_metadata_reach_hevc(tmp_path: Path) -> None:
    display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
    parameters = f"log-level=none:hdr10=1:master-display={display}:max-cll=1000,400"
    clip = Clip(
        frames=3,
        codec="libx265",
        pix_fmt="yuv420p10le",
        options=(("preset", "ultrafast"), ("x265-params", parameters)),
        matrix=9,
        primaries=9,
        transfer=16,
    )
    source = write_clip(tmp_path / "in.mkv", clip)
    assert enlarge(source, tmp_path / "out.mp4").warnings == []
    with VideoReader(source) as before, VideoReader(tmp_path / "out.mp4") as after:
        assert before.info.hdr.mastering is not None
        assert before.info.hdr.light_level == (1000, 400)
        assert after.info.hdr == before.info.hdr
        assert after.info.colour == before.info.colour
    report = enlarge(source, tmp_path / "lossless.mkv", codec="ffv1", preset=None)
    assert any("HDR mastering metadata are not kept" in warning for warning in report.warnings)


@pytest.mark.parametrize(("codec", "suffix"), [("av1", ".mp4"), ("vp9", ".mkv"), ("prores", ".mov"), ("hevc", ".mp4")])
def test_every_codec_writes(tmp_path: Path, codec: str, suffix: str) -> None:
    source = write_clip(tmp_path / "in.mp4", Clip(frames=5, matrix=1))
    enlarge(source, tmp_path / f"out{suffix}", codec=codec, preset=None)
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        names = {"av1": ("libdav1d", "av1"), "vp9": ("vp9",), "prores": ("prores",), "hevc": ("hevc",)}
        assert container.streams.video[0].codec_context.name in names[codec]
        if codec == "hevc":
            assert container.streams.video[0].codec_tag == "hvc1"
    assert times(tmp_path / f"out{suffix}") == times(source)


def test_choices_of_codec_and_format() -> None:
    assert choose_codec(None, "mp4", 8) == "h264"
    assert choose_codec(None, "matroska", 10) == "hevc"
    assert choose_codec(None, "webm", 8) == "vp9"
    assert choose_codec(None, "webm", 10) == "av1"
    cases = {
        ("h264", "yuv420p"): "yuv420p",
        ("h264", "gbrp"): "yuv420p",
        ("h264", "gray"): "yuv420p",
        ("h264", "yuv440p"): "yuv444p",
        ("h264", "yuv420p12le"): "yuv420p10le",
        ("ffv1", "gbrp"): "bgr0",
        ("ffv1", "gray"): "gray",
        ("ffv1", "yuv440p"): "yuv440p",
        ("ffv1", "yuv422p12le"): "yuv422p12le",
        ("av1", "yuv444p10le"): "yuv420p10le",
        ("prores", "yuv420p"): "yuv422p10le",
        ("hevc", "yuvj422p"): "yuv422p",
    }
    for (codec, source), expected in cases.items():
        assert choose_format(codec, layout_of(source), None)[1] == expected


def test_asked_pixel_format_and_lost_bits(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mkv", Clip(frames=2, codec="ffv1", options=(), pix_fmt="yuv420p10le", matrix=1))
    report = enlarge(source, tmp_path / "out.mp4", codec="h264", pixel_format="yuv444p")
    assert report.warnings == ["10 bits become 8: yuv444p has no more"]
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].pix_fmt == "yuv444p"


def test_reader_and_writer_alone(tmp_path: Path) -> None:
    pictures = [np.full((48, 64, 3), 40 * i, np.uint8) for i in range(5)]
    with VideoWriter(tmp_path / "a.mkv", width=64, height=48, rate=Fraction(30000, 1001), codec="ffv1") as writer:
        for index, picture in enumerate(pictures):
            writer.write(Frame(picture, index))
        assert not (tmp_path / "a.mkv").exists()
    with VideoReader(tmp_path / "a.mkv") as reader:
        assert reader.info.width == 64
        assert reader.info.rate == pytest.approx(29.97, abs=0.01)
        frames = list(reader)
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    for frame, picture in zip(frames, pictures, strict=True):
        np.testing.assert_array_equal(frame.image, picture)  # FFV1 keeps R'G'B' as such
        assert frame.time == pytest.approx(frame.index * 1001 / 30000, abs=0.001)


def test_writer_leaves_nothing_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with VideoWriter(tmp_path / "a.mp4", width=64, height=48, rate=25) as writer:
            writer.write(Frame(np.zeros((48, 64, 3), np.uint8), 0))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_decoding_times_that_an_encoder_left_uninitialised(tmp_path: Path) -> None:
    """libx265 does so, now and then, in clips of one to three frames."""
    ticks = Fraction(1, 1000)  # those of Matroska: the garbage reaches the muxer as it is
    with VideoWriter(tmp_path / "a.mkv", width=64, height=48, rate=25, time_base=ticks, preset="ultrafast") as writer:
        stream = writer._stream

        class Careless:
            def encode(self, frame: Any) -> list[Any]:
                packets = stream.encode(frame)
                for packet, garbage in zip(packets, (9187201950435737472, -4412683209892969789), strict=False):
                    packet.dts = garbage
                return packets

        writer._stream = Careless()  # type: ignore[assignment]
        for index in range(2):
            writer.write(Frame(np.zeros((48, 64, 3), np.uint8), index, pts=40 * index))
    assert times(tmp_path / "a.mkv") == [0, Fraction(1, 25)]


def test_clock_prefers_the_series_that_increases() -> None:
    clock = PresentationClock(10)
    pts = [0, 101, 67, 134, 34, 234, 201, 267]
    dts = [67, 101, 134, 167, 201, 234, 267, None]
    got = [clock.tick(p, d) for p, d in zip(pts, dts, strict=True)]
    assert got == [0, 101, 134, 167, 201, 234, 267, 268]
    clock = PresentationClock(10)
    assert [clock.tick(p, p) for p in (5, None, None, 30, 30)] == [5, 15, 25, 30, 31]
    assert PresentationClock(10).tick(None, None) == 0


def test_interlaced_and_transparent_video_are_reported(tmp_path: Path) -> None:
    interlaced = (("crf", "10"), ("preset", "ultrafast"), ("x264-params", "interlaced=1:tff=1"))
    source = write_clip(tmp_path / "in.mp4", Clip(frames=3, options=interlaced))
    assert any("interlaced" in warning for warning in enlarge(source, tmp_path / "out.mp4").warnings)
    clear = write_clip(tmp_path / "alpha.mkv", Clip(frames=2, codec="ffv1", options=(), pix_fmt="yuva444p"))
    assert "the video's transparency is not kept" in enlarge(clear, tmp_path / "out2.mp4").warnings


def test_stream_that_changes_its_size(tmp_path: Path) -> None:
    """A concatenated recording: the second half has another size and is brought to the first."""
    parts = [Clip(frames=4, width=64, height=48), Clip(frames=4, width=96, height=80)]
    raw = b""
    for index, part in enumerate(parts):
        write_clip(tmp_path / f"{index}.h264", part)
        raw += (tmp_path / f"{index}.h264").read_bytes()
    (tmp_path / "in.h264").write_bytes(raw)
    report = enlarge(tmp_path / "in.h264", tmp_path / "out.mp4")
    assert report.frames == 8
    result = rgb(tmp_path / "out.mp4")
    assert {image.shape for image in result} == {(96, 128, 3)}
    expected = pattern(1, 96, 80)[0].reformat(width=64, height=48, threads=1).to_ndarray(format="rgb24", threads=1)
    assert np.abs(result[4].astype(float) - twice(expected)).mean() < 12
