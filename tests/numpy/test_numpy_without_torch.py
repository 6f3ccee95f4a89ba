"""What needs no torch does not import it, and what does says so where torch is absent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vsr_kernels

vk = pytest.importorskip("vsr_kernels.numpy", exc_type=ImportError)

PACKAGE = Path(vsr_kernels.__file__).resolve().parent

#: Importing torch fails, as where it is not installed.
BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""


def python(code: str, folder: Path = PACKAGE.parent) -> str:
    """Run a program; what it printed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_where_torch_is_absent() -> None:
    """The arrays' half works; names of the other half are listed, and say what they need."""
    python(
        BLOCK
        + """
import numpy as np
import vsr_kernels.numpy as vk
x = np.ones((1, 3, 4, 5), np.float32)
assert vk.conv3x3(x, np.ones((4, 3, 3, 3), np.float32), pixel_shuffle=2).shape == (1, 1, 8, 10)
assert "torch" not in sys.modules

import vsr_kernels
assert {"conv3x3", "nn", "numpy", "__version__"} <= set(dir(vsr_kernels))
for name in ("conv3x3", "nn", "reference"):
    try:
        getattr(vsr_kernels, name)
    except ImportError as error:
        expected = f"vsr_kernels.{name} needs torch, which is not installed; vsr_kernels.numpy does not"
        assert str(error) == expected, error
    else:
        raise AssertionError(name)
assert not hasattr(vsr_kernels, "no_such_name")

from vsr.inference import VideoReader
from vsr.models import weights
from vsr.models.ncnn import read_ncnn
assert "torch" not in sys.modules and "PIL" not in sys.modules
"""
    )


def test_where_torch_is_installed() -> None:
    """It is imported with the first name that needs it, and then everything is as if it had been there before."""
    python(
        """
import sys
import vsr_kernels.numpy
import vsr_kernels
assert "torch" not in sys.modules
assert not hasattr(vsr_kernels, "no_such_name")
assert "torch" not in sys.modules

from vsr_kernels.backend import load
load(compile_missing=False)  # before the operators' modules, whose fake kernels wait for it
import torch
assert vsr_kernels.reference.conv3x3 is not vsr_kernels.conv3x3
x = torch.empty(1, 4, 2, 2, device="meta")
assert torch.ops.vsr_kernels.pixel_shuffle(x, 2).shape == (1, 1, 4, 4)
missing = [name for name in vsr_kernels.__all__ if not hasattr(vsr_kernels, name)]
assert not missing, missing
"""
    )


def test_torch_first_loads_the_operators() -> None:
    """Programs that import the package for its operators alone, to run an exported network, find them."""
    python(
        """
import torch
import vsr_kernels
assert torch.ops.vsr_kernels.pixel_shuffle(torch.ones(1, 4, 2, 2), 2).shape == (1, 1, 4, 4)
assert {"conv3x3", "nn", "backend"} <= set(vars(vsr_kernels))
"""
    )


def test_a_missing_object_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "vsr_kernels", ignore=shutil.ignore_patterns("*.so", "__pycache__", "csrc"))
    said = python(
        """
import sys
# An editable installation would find the object that the copy of the package lacks.
sys.meta_path = [f for f in sys.meta_path if not getattr(f, "__name__", "").startswith("_Editable")]
try:
    import vsr_kernels.numpy
except ImportError as error:
    print(error)
""",
        tmp_path,
    )
    assert said.startswith("vsr_kernels.numpy: the object _numpy was not compiled or does not load (cannot import name")
    assert "VSR_KERNELS_BUILD=numpy pip install" in said
