from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of a smooth pattern that moves."""
    root = tmp_path_factory.mktemp("clips")
    y, x = np.mgrid[0:48, 0:64]
    for name, phase in (("a", 0.0), ("b", 2.0)):
        (root / name).mkdir()
        for t in range(6):
            waves = [np.sin((x + 2 * t) * f + y * g + phase) for f, g in ((0.9, 0.3), (0.4, 1.1), (1.3, 0.2))]
            image = np.stack(waves, -1) * 100 + 128
            Image.fromarray(image.astype(np.uint8)).save(root / name / f"{t}.png")
    return root
