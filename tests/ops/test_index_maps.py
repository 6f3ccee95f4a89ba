"""Index maps and number conversions of ``csrc/core``, which host and device share: compiled alone and called here."""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from vsr_kernels import build

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")

SOURCE = """
#include "core/dtype.h"
#include "core/pixel_shuffle.h"

using namespace vsr;

extern "C" int64_t offset(bool packed, bool channels_last, int64_t channels, int64_t height, int64_t width, int64_t r,
                          int64_t n, int64_t c, int64_t i, int64_t j, int64_t h, int64_t w) {
  PixelShuffle p{};
  p.c = channels, p.h = height, p.w = width, p.r = r, p.channels_last = channels_last;
  return packed ? packed_offset(p, n, c, i, j, h, w) : shuffled_offset(p, n, c, i, j, h, w);
}

extern "C" void to_half(const float* from, uint16_t* to, int64_t count, bool brain) {
  for (int64_t i = 0; i < count; ++i)
    to[i] = brain ? from_float<bfloat16>(from[i]).bits : from_float<float16>(from[i]).bits;
}

extern "C" void from_half(const uint16_t* from, float* to, int64_t count, bool brain) {
  for (int64_t i = 0; i < count; ++i)
    to[i] = brain ? to_float(bfloat16{from[i]}) : to_float(float16{from[i]});
}
"""


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The headers as a library, built with every sanitizer of undefined behaviour."""
    folder = tmp_path_factory.mktemp("core")
    source, library = folder / "core.cpp", folder / "core.so"
    source.write_text(SOURCE)
    flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined", "-fno-sanitize-recover"]
    flags += ["-static-libubsan", "-shared", "-fPIC"]
    command = ["c++", *flags, f"-I{build.source_root()}", str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = ctypes.CDLL(str(library))
    loaded.offset.argtypes = [ctypes.c_bool, ctypes.c_bool] + [ctypes.c_int64] * 10
    loaded.offset.restype = ctypes.c_int64
    for name in ("to_half", "from_half"):
        getattr(loaded, name).argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_bool]
    return loaded


def expected_offset(
    packed: bool, channels_last: bool, size: tuple[int, int, int], r: int, at: tuple[int, int, int, int, int, int]
) -> int:
    """By Python's integers, from the definition in the header's first line."""
    channels, height, width = size
    n, c, i, j, h, w = at
    if packed:
        channels, channel, row, col = channels * r * r, c * r * r + i * r + j, h, w
    else:
        channel, row, col, height, width = c, h * r + i, w * r + j, height * r, width * r
    if channels_last:
        return ((n * height + row) * width + col) * channels + channel
    return ((n * channels + channel) * height + row) * width + col


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_offsets_visit_every_element_once(core: ctypes.CDLL, packed: bool, channels_last: bool) -> None:
    n, c, h, w, r = 2, 3, 4, 5, 3
    places = itertools.product(range(n), range(c), range(r), range(r), range(h), range(w))
    offsets = []
    for place in places:
        offsets.append(core.offset(packed, channels_last, c, h, w, r, *place))
        assert offsets[-1] == expected_offset(packed, channels_last, (c, h, w), r, place)
    assert sorted(offsets) == list(range(n * c * h * w * r * r))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_offsets_beyond_32_bits(core: ctypes.CDLL, packed: bool, channels_last: bool) -> None:
    """The last elements of tensors of 2^33 to 2^50 elements; the sanitizer stops at an overflow."""
    for size, r, n in (((64, 2160, 3840), 4, 3), ((3, 65536, 65536), 2, 1), ((4096, 32768, 65536), 8, 2)):
        c, h, w = size
        last = (n - 1, c - 1, r - 1, r - 1, h - 1, w - 1)
        total = n * c * h * w * r * r
        assert total > 2**32
        assert core.offset(packed, channels_last, c, h, w, r, *last) == total - 1
        middle = (n // 2, c // 2, r // 2, 0, h // 2, w // 3)
        assert core.offset(packed, channels_last, c, h, w, r, *middle) == expected_offset(
            packed, channels_last, size, r, middle
        )


@pytest.mark.parametrize(("brain", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_every_half_widens_exactly(core: ctypes.CDLL, brain: bool, dtype: torch.dtype) -> None:
    """All 65536 values, subnormals included, and back."""
    bits = np.arange(2**16, dtype=np.uint16)
    wide = np.empty(2**16, dtype=np.float32)
    core.from_half(bits.ctypes.data, wide.ctypes.data, len(bits), brain)
    halves = torch.from_numpy(bits.view(np.int16)).view(dtype)
    torch.testing.assert_close(torch.from_numpy(wide), halves.float(), rtol=0, atol=0, equal_nan=True)
    back = np.empty(2**16, dtype=np.uint16)
    core.to_half(wide.ctypes.data, back.ctypes.data, len(bits), brain)
    number = ~np.isnan(wide)
    assert (back[number] == bits[number]).all()


def interesting_floats() -> np.ndarray:
    """Random bits, and the neighbours of every value half-way between two halves."""
    rng = np.random.default_rng(0)
    values = [rng.integers(0, 2**32, 200_000, dtype=np.uint32)]
    every_half = np.arange(2**16)
    halves = torch.from_numpy(every_half.astype(np.uint16).view(np.int16)).view(torch.float16)
    widened = halves.float().numpy().view(np.uint32).astype(np.int64)
    for base, middle in ((every_half << 16, 0x8000), (widened, 0x1000)):
        values += [(base + middle + step) % 2**32 for step in (-1, 0, 1)]
    values.append(rng.integers(0x33000000, 0x38800000, 100_000, dtype=np.uint32))  # subnormal halves
    return np.concatenate([v.astype(np.uint32) for v in values]).view(np.float32)


@pytest.mark.parametrize(("brain", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_narrowing_rounds_as_pytorch(core: ctypes.CDLL, brain: bool, dtype: torch.dtype) -> None:
    """To nearest, ties to even; NaN stays NaN and large numbers become infinite."""
    floats = interesting_floats()
    got = np.empty(len(floats), dtype=np.uint16)
    core.to_half(floats.ctypes.data, got.ctypes.data, len(floats), brain)
    expected = torch.from_numpy(floats).to(dtype)
    ours = torch.from_numpy(got.view(np.int16)).view(dtype)
    assert torch.equal(ours.isnan(), expected.isnan())
    assert torch.equal(expected.isnan(), torch.from_numpy(floats).isnan())
    number = ~expected.isnan()
    assert torch.equal(ours[number].view(torch.int16), expected[number].view(torch.int16))


def headers() -> list[Path]:
    return sorted((build.source_root() / "core").glob("*.h"))


@pytest.mark.parametrize("header", headers(), ids=lambda path: path.name)
def test_headers_stand_alone(header: Path, tmp_path: Path) -> None:
    """Each header of the core compiles by itself, strictly, without PyTorch and without CUDA."""
    source = tmp_path / "alone.cpp"
    source.write_text(f'#include "core/{header.name}"\n#include "core/{header.name}"\n')
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", f"-I{build.source_root()}"]
    done = subprocess.run(["c++", *flags, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["core", "cpu", "cuda"])
def test_kernels_know_nothing_of_torch(folder: str) -> None:
    """Only ``csrc/torch`` may include PyTorch: the kernels serve other bindings as well."""
    for path in (path for path in (build.source_root() / folder).rglob("*") if path.is_file()):
        for line in path.read_text().splitlines():
            included = line.removeprefix("#include").strip() if line.startswith("#include") else ""
            assert not included.startswith(("<torch/", "<ATen/", "<c10/", '"torch/')), f"{path.name}: {line}"
