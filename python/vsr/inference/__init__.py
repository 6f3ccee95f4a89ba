"""Streaming inference: decode, enlarge and encode at once, in memory that does not grow with the clip.

Videos are read without torch; what needs it is imported with the first name that does.
"""

from typing import TYPE_CHECKING

from vsr.inference.frame import Frame, Picture, StillInfo
from vsr.inference.scenes import SceneDetector
from vsr.inference.video_reader import VideoInfo, VideoReader
from vsr.inference.windows import Window, windows
from vsr.lazy import names_from

if TYPE_CHECKING:
    from vsr.inference.images import FrameFolder, read_image, write_image
    from vsr.inference.job import upscale
    from vsr.inference.options import UpscaleOptions, UpscaleReport
    from vsr.inference.runner import Runner
    from vsr.inference.video_writer import VideoWriter
else:
    __getattr__ = names_from(
        __name__,
        {
            "FrameFolder": "images",
            "Runner": "runner",
            "UpscaleOptions": "options",
            "UpscaleReport": "options",
            "VideoWriter": "video_writer",
            "read_image": "images",
            "upscale": "job",
            "write_image": "images",
        },
    )

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
