"""Enlarges a video with a compact network (Real-ESRGAN's, or a merged RepSR) by NumPy alone: torch is not imported.

    python examples/upscale_numpy.py holiday.mp4 holiday-x4.mp4
    python examples/upscale_numpy.py holiday.mp4 holiday-x4.mkv --weights my-repsr.safetensors --threads 4

Needs NumPy, PyAV and this package; safetensors for weights in that format. The pixels are those of ``vsr upscale``
with ``--dtype float32``, before encoding. Sound and other streams are left out; ``vsr upscale`` keeps them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

import vsr_kernels.numpy as vk
from vsr.inference import VideoReader
from vsr.inference.colour import BT709
from vsr.models import weights
from vsr.models.ncnn import read_ncnn

Array = NDArray[np.float32]


def read_weights(path: Path) -> dict[str, Array]:
    """Arrays by BasicSR's names, ``body.{i}.weight`` and ``body.{i}.bias``, from ncnn or safetensors files."""
    if path.suffix == ".param":
        return read_ncnn(path)
    from safetensors.numpy import load_file

    return {name: array.astype(np.float32) for name, array in load_file(path).items()}


class CompactNet:
    """Convolutions with PReLU, one more before a pixel shuffle, plus the frame enlarged by nearest neighbour.

    Args:
        arrays: From :func:`read_weights`.

    Attributes:
        scale: Factor of enlargement.
    """

    def __init__(self, arrays: dict[str, Array]) -> None:
        count = sum(name.endswith(".bias") for name in arrays)  # every convolution has one, no slope does
        self._convs = [(arrays[f"body.{2 * i}.weight"], arrays[f"body.{2 * i}.bias"]) for i in range(count)]
        self._slopes = [arrays[f"body.{2 * i + 1}.weight"] for i in range(count - 1)]
        self.scale = math.isqrt(self._convs[-1][0].shape[0] // 3)
        self._packed = vk.PackedWeights()
        self._size = (0, 0)

    def _reserve(self, height: int, width: int) -> None:
        """Memory for frames of this size, so that fresh pages are not paid for in every frame."""
        self._size, channels, s = (height, width), self._convs[0][0].shape[0], self.scale
        images = [np.empty((1, height, width, channels), np.float32) for _ in range(2)]
        self._images = [image.transpose(0, 3, 1, 2) for image in images]
        self._skip, self._out = (np.empty((1, height * s, width * s, 3), np.float32) for _ in range(2))

    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Enlarge a frame.

        Args:
            pixels: (H, W, 3) R'G'B', uint8, or uint16 up to 65535.

        Returns:
            (s H, s W, 3) R'G'B', 8 bits.
        """
        height, width = pixels.shape[:2]
        if self._size != (height, width):
            self._reserve(height, width)
        s = self.scale
        frame = pixels.astype(np.float32)
        frame *= np.float32(1 / np.iinfo(pixels.dtype).max)
        self._skip.reshape(height, s, width, s, 3)[...] = frame[:, None, :, None, :]
        x = frame[None].transpose(0, 3, 1, 2)  # (1, 3, H, W)
        for i, slope in enumerate(self._slopes):
            weight, bias = self._convs[i]
            image = self._images[i % 2]
            x = vk.conv3x3(x, weight, bias, activation="prelu", slope=slope, packed=self._packed, slot=i, out=image)
        residual, out = (image.transpose(0, 3, 1, 2) for image in (self._skip, self._out))
        last = len(self._slopes)
        vk.conv3x3(x, *self._convs[-1], pixel_shuffle=s, residual=residual, packed=self._packed, slot=last, out=out)
        codes = self._out[0]
        codes *= 255
        codes += 0.5
        return codes.clip(0, 255, out=codes).astype(np.uint8)


def upscaled(reader: VideoReader, net: CompactNet) -> Iterator[tuple[NDArray[np.uint8], int | None]]:
    """Enlarged frames and their times, in ticks of ``reader.info.time_base``."""
    for frame in reader:
        yield net(frame.image), frame.pts


def upscale(source: Path, target: Path, net: CompactNet, crf: int = 17) -> int:
    """Enlarge a video into H.264; the number of frames."""
    count = 0
    with VideoReader(source) as reader, av.open(str(target), "w") as container:
        info, s = reader.info, net.scale
        stream = container.add_stream("libx264", rate=info.rate.limit_denominator(100_000), options={"crf": str(crf)})
        stream.width, stream.height = info.width * s, info.height * s
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = info.time_base
        stream.codec_context.colorspace = BT709
        for pixels, pts in upscaled(reader, net):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p", dst_colorspace=BT709)
            frame.pts, frame.time_base = pts, info.time_base
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode(None))
    return count


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Enlarge a video by NumPy alone.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--weights", type=Path, help="ncnn .param or .safetensors; animevideov3 is fetched if absent")
    parser.add_argument("--threads", type=int, help="all CPUs if absent")
    parser.add_argument("--crf", type=int, default=17)
    arguments = parser.parse_args()
    if arguments.threads is not None:
        vk.set_num_threads(arguments.threads)
    net = CompactNet(read_weights(arguments.weights or weights.fetch("animevideov3")))
    print(f"{upscale(arguments.source, arguments.target, net, arguments.crf)} frames")


if __name__ == "__main__":
    main()
