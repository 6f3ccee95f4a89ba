"""Streaming inference: decode, enlarge and encode at once, in memory that does not grow with the clip."""

from vsr.inference.frame import Frame, Picture, StillInfo
from vsr.inference.images import FrameFolder, read_image, write_image
from vsr.inference.job import upscale
from vsr.inference.options import UpscaleOptions, UpscaleReport
from vsr.inference.runner import Runner
from vsr.inference.scenes import SceneDetector
from vsr.inference.video_reader import VideoInfo, VideoReader
from vsr.inference.video_writer import VideoWriter
from vsr.inference.windows import Window, windows

__all__ = [
    "Frame",
    "FrameFolder",
    "Picture",
    "Runner",
    "SceneDetector",
    "StillInfo",
    "UpscaleOptions",
    "UpscaleReport",
    "VideoInfo",
    "VideoReader",
    "VideoWriter",
    "Window",
    "read_image",
    "upscale",
    "windows",
    "write_image",
]
