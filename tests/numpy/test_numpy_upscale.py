"""The example that upscales without torch: the pixels of ``vsr upscale``."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from test_numpy_without_torch import BLOCK, PACKAGE, python

from vsr.inference import FrameFolder, UpscaleOptions, upscale
from vsr.models import SRVGGNet, save_model
from vsr.models.export import export_model

pytest.importorskip("vsr_kernels.numpy", exc_type=ImportError)

EXAMPLE = PACKAGE.parent / "examples" / "upscale_numpy.py"
WIDTH, HEIGHT, FRAMES = 38, 26, 3

pytestmark = pytest.mark.skipif(not EXAMPLE.is_file(), reason="not a checkout: there are no examples")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Moving waves as H.264, whose chroma has to be enlarged before the network sees it."""
    path = tmp_path_factory.mktemp("clip") / "waves.mp4"
    y, x, channel = np.mgrid[0:HEIGHT, 0:WIDTH, 0:3]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for time in range(FRAMES):
            picture = 128 + 100 * np.sin((x + 2 * time + 9 * channel) / 5) * np.cos(y / 4)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), "rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("form", "scale"), [(".safetensors", 4), (".param", 2)])
def test_the_pixels_of_vsr_upscale(clip: Path, tmp_path: Path, form: str, scale: int) -> None:
    """From either kind of weights, at most one code value apart; and the video has them, at their times."""
    model = SRVGGNet(num_feat=16, num_conv=2, upscale=scale).eval()
    with torch.no_grad():
        for slope in (m.weight for m in model.body if isinstance(m, torch.nn.PReLU)):
            slope.uniform_(0, 0.5)
    weights = tmp_path / f"net{form}"
    save_model(model, weights) if form == ".safetensors" else export_model(model, weights)
    upscale(clip, tmp_path / "frames", model=model, options=UpscaleOptions(dtype="float32", device="cpu"))
    expected = np.stack([frame.image for frame in FrameFolder(tmp_path / "frames")])
    assert expected.shape == (FRAMES, HEIGHT * scale, WIDTH * scale, 3)

    video, pixels = tmp_path / "enlarged.mkv", tmp_path / "pixels.npy"
    python(
        BLOCK
        + f"""
import runpy, numpy as np
from pathlib import Path
sys.argv = ["upscale_numpy.py", {str(clip)!r}, {str(video)!r}, "--threads", "2", "--crf", "1"]
sys.argv += ["--weights", {str(weights)!r}]
example = runpy.run_path({str(EXAMPLE)!r}, run_name="__main__")
net = example["CompactNet"](example["read_weights"](Path({str(weights)!r})))
with example["VideoReader"](Path({str(clip)!r})) as reader:
    np.save({str(pixels)!r}, np.stack([picture for picture, _ in example["upscaled"](reader, net)]))
assert "torch" not in sys.modules
"""
    )
    got = np.load(pixels)
    assert got.dtype == np.uint8
    assert abs(got.astype(int) - expected.astype(int)).max() <= 1
    with av.open(str(video)) as container:
        frames = list(container.decode(video=0))
    assert [round(float(frame.time) * 25) for frame in frames] == list(range(FRAMES))
    planes = [np.frombuffer(memoryview(frame.planes[0]), np.uint8) for frame in frames]
    luma = np.stack([plane.reshape(HEIGHT * scale, -1)[:, : WIDTH * scale] for plane in planes])
    assert abs(luma - (16 + expected @ [0.2126, 0.7152, 0.0722] * 219 / 255)).mean() < 2  # BT.709, limited range
