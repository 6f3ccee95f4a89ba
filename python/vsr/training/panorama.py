"""Clips with camera motion out of one photograph: a virtual camera turns inside a panorama."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_SEAM = 8  # columns repeated beyond the seam, as many as the interpolation can reach


class Panorama:
    """An equirectangular photograph that cameras look around in.

    Args:
        image: (H, 2 H, 3) uint8, the whole sphere.

    Raises:
        ValueError: Another shape.
    """

    def __init__(self, image: NDArray[np.uint8]) -> None:
        height, width = image.shape[:2]
        if image.ndim != 3 or image.shape[2] != 3 or width != 2 * height:
            raise ValueError(f"image: expected (H, 2 H, 3), got {image.shape}")
        planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()  # (1, 3, H, 2 H)
        self._planes = F.pad(planes, (_SEAM, _SEAM, 0, 0), mode="circular")
        self._size = (height, width)

    def view(self, yaw: float, pitch: float, roll: float, fov: float, height: int, width: int) -> NDArray[np.uint8]:
        """What a pinhole camera sees; each pixel is the mean of four samples.

        Args:
            yaw, pitch, roll: Direction in radians; pitch upwards, roll clockwise.
            fov: Horizontal angle of view in radians.
            height, width: Of the picture.

        Returns:
            (height, width, 3).
        """
        rays = _rays(fov, 2 * height, 2 * width) @ _rotation(yaw, pitch, roll).T  # (2 h, 2 w, 3): right, down, ahead
        longitude = torch.atan2(rays[..., 0], rays[..., 2])
        latitude = torch.asin((rays[..., 1] / rays.norm(dim=-1)).clamp(-1, 1))
        tall, wide = self._size
        x = (longitude / (2 * math.pi) + 0.5) * wide + _SEAM
        y = (latitude / math.pi + 0.5) * tall
        grid = torch.stack([2 * x / (wide + 2 * _SEAM) - 1, 2 * y / tall - 1], -1)[None].float()
        fine = F.grid_sample(self._planes, grid, mode="bicubic", padding_mode="border", align_corners=False)
        small = F.avg_pool2d(fine, 2)[0].permute(1, 2, 0)
        return small.round().clamp(0, 255).to(torch.uint8).numpy()

    def clip(self, seed: int, frames: int, height: int, width: int) -> Iterator[NDArray[np.uint8]]:
        """Frames along a smooth path whose motion is about 1 to 8 pixels per frame at a width of 640.

        Args:
            seed: Of the path.
            frames, height, width: Of the clip.
        """
        rng = np.random.default_rng(seed)
        start = rng.uniform(-math.pi, math.pi), rng.uniform(-0.35, 0.35), rng.uniform(-0.1, 0.1)
        fov = rng.uniform(math.radians(50), math.radians(80))
        speed = rng.uniform(-1, 1, 3) * np.array([0.014, 0.006, 0.003])  # radians per frame
        swing, phase = rng.uniform(0.0, 0.01, 3), rng.uniform(0, 2 * math.pi, 3)
        zoom = rng.uniform(-0.003, 0.003)
        for t in range(frames):
            # A hand that is not quite steady.
            yaw, pitch, roll = (start[i] + speed[i] * t + swing[i] * math.sin(0.4 * t + phase[i]) for i in range(3))
            yield self.view(yaw, pitch, roll, fov * (1 + zoom * t), height, width)


def _rays(fov: float, height: int, width: int) -> Tensor:
    """Directions of the pixels of a camera that looks ahead: (height, width, 3), float64."""
    focal = width / 2 / math.tan(fov / 2)
    x = torch.arange(width, dtype=torch.float64) + 0.5 - width / 2
    y = torch.arange(height, dtype=torch.float64) + 0.5 - height / 2
    down, right = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([right, down, torch.full_like(right, focal)], -1)


def _rotation(yaw: float, pitch: float, roll: float) -> Tensor:
    """From the camera's axes (right, down, ahead) to those of the panorama."""
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (math.cos, math.sin))
    about_down = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]], dtype=torch.float64)
    about_right = torch.tensor([[1, 0, 0], [0, cp, -sp], [0, sp, cp]], dtype=torch.float64)
    about_ahead = torch.tensor([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]], dtype=torch.float64)
    return about_down @ about_right @ about_ahead
