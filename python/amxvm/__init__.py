"""Runs the AMX kernels of ``csrc/cpu`` on a CPU without AMX: the same sources, tile registers in software.

``csrc/cpu/kernels_amx_bf16.cpp`` and ``kernels_amx_int8.cpp`` are compiled with a stand-in for their header of tile
instructions, or as they are shipped: then the instructions are executed when the CPU refuses them. Either follows
Intel's manual (order of sums, subnormal numbers taken for zero, what faults) and counts; memory that the kernels get
lies between guard pages. For development only: the product does not import it, and it imports nothing of the product.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
ACTIVATIONS = ("none", "relu", "leaky_relu", "prelu")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)

#: What the kernels need besides AMX, as Linux lists it.
NEEDED = {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "fma", "f16c"}


class AmxError(RuntimeError):
    """A fault of the kernels, or of the compiler."""


class Counts(ctypes.Structure):
    """What instructions did in a convolution: numbers of them, bytes and 64-byte lines that tile loads read."""

    _fields_: ClassVar = [
        (name, ctypes.c_int64) for name in ("configurations", "loads", "stores", "multiplies", "loaded_bytes", "lines")
    ]


class TileConfig(ctypes.Structure):
    """The operand of LDTILECFG."""

    _fields_: ClassVar = [
        ("palette", ctypes.c_uint8),
        ("start_row", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8 * 14),
        ("row_bytes", ctypes.c_uint16 * 16),
        ("rows", ctypes.c_uint8 * 16),
    ]


class How(ctypes.Structure):
    """As in call.cpp."""

    _fields_: ClassVar = [(name, ctypes.c_int64) for name in ("bands", "threads", "at_end", "garbage")]


class Call(ctypes.Structure):
    """As in call.cpp."""

    _fields_: ClassVar = [
        *[
            (name, ctypes.c_void_p)
            for name in ("x", "weight", "bias", "slope", "residual", "scatter", "channels", "out", "kept")
        ],
        *[(name, ctypes.c_int64) for name in ("n", "h", "w", "c_x", "c_in", "c", "c_out", "r", "slope_count")],
        ("weight_elements", ctypes.c_int64),
        ("strides", ctypes.c_int64 * 4),
        ("how", How),
        ("slope_number", ctypes.c_float),
        ("scale", ctypes.c_float),
        ("activation", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
    ]


class QuantizedCall(ctypes.Structure):
    """As in call.cpp."""

    _fields_: ClassVar = [
        *[(name, ctypes.c_void_p) for name in ("x", "weight", "scale", "bias", "slope", "base", "out")],
        *[(name, ctypes.c_int64) for name in ("n", "h", "w", "c_in", "c", "r", "slope_count", "weight_elements")],
        ("strides", ctypes.c_int64 * 4),
        ("how", How),
        ("slope_number", ctypes.c_float),
        *[(name, ctypes.c_int32) for name in ("zero_point", "out_zero_point", "activation", "x_dtype", "dtype")],
    ]


def compiler() -> str:
    """The C++ compiler: CXX, or c++."""
    return os.environ.get("CXX", "c++").split()[0]


def _dense(tensor: Tensor) -> Tensor:
    """(N, H, W, C)."""
    return tensor.permute(0, 2, 3, 1).contiguous()


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _span(weight: Tensor) -> int:
    """Elements from the first to the last one."""
    return 1 + sum((size - 1) * step for size, step in zip(weight.shape, weight.stride(), strict=True))


def obstacle() -> str | None:
    """Why this machine cannot run the kernels even so, or None."""
    listed = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not listed.is_file():
        return "the AMX kernels are for x86-64 and Linux"
    missing = NEEDED - set(re.findall(r"\w+", listed.read_text()))
    if missing:
        return f"this CPU does not have {', '.join(sorted(missing))}"
    if shutil.which(compiler()) is None:
        return f"no C++ compiler: {compiler()!r} is not on PATH"
    return None


class Library:
    """The kernels, compiled with the tile registers in software.

    Args:
        sources: the folder ``csrc``.
        options: more options of the compiler.
        shipped: compile the kernels with their own header, and execute the instructions that the CPU refuses. One that
            has AMX and lets this process use it executes them itself, uncounted.

    Raises:
        AmxError: the compiler failed; its last words.
    """

    def __init__(self, sources: Path, options: Sequence[str] = (), *, shipped: bool = False) -> None:
        with tempfile.TemporaryDirectory(prefix="amxvm-") as folder:
            path = Path(folder, "library.so")
            files = [HERE / "call.cpp", HERE / "machine.cpp", HERE / "trap.cpp"]
            files += [
                sources / "cpu" / name for name in ("kernels_amx_bf16.cpp", "kernels_amx_int8.cpp", "quantized.cpp")
            ]
            command = [compiler(), "-std=c++20", "-O2", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden"]
            command += ["-mavx512f", "-mfma", *([] if shipped else ["-I", str(HERE)]), "-I", str(sources), *options]
            done = subprocess.run(
                [*command, *map(str, files), "-o", str(path)], capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise AmxError(f"{compiler()} failed: {done.stderr[-2000:]}")
            self.handle = ctypes.CDLL(str(path))

    def _checked(self, name: str, *arguments: object) -> None:
        message = ctypes.create_string_buffer(500)
        if getattr(self.handle, f"amxvm_{name}")(*arguments, message, ctypes.c_int64(len(message))) != 0:
            raise AmxError(message.value.decode())

    def configure(self, config: TileConfig) -> None:
        """LDTILECFG on this thread. Raises AmxError where a CPU would fault; so do the next four."""
        self._checked("configure", ctypes.byref(config))

    def load(self, tile: int, rows: Tensor, stride: int) -> None:
        """TILELOADD of rows ``stride`` bytes apart."""
        self._checked("load", tile, ctypes.c_void_p(rows.data_ptr()), ctypes.c_int64(stride))

    def store(self, tile: int, rows: Tensor, stride: int) -> None:
        """TILESTORED."""
        self._checked("store", tile, ctypes.c_void_p(rows.data_ptr()), ctypes.c_int64(stride))

    def multiply(self, total: int, a: int, b: int) -> None:
        """TDPBF16PS."""
        self._checked("multiply", total, a, b)

    def multiply_bytes(self, total: int, a: int, b: int) -> None:
        """TDPBUSD."""
        self._checked("multiply_bytes", total, a, b)

    def release(self) -> None:
        """TILERELEASE."""
        self.handle.amxvm_release()

    def counts(self) -> Counts:
        """Of the last convolution, packing of the weights left out."""
        counts = Counts()
        self.handle.amxvm_counts(ctypes.byref(counts))
        return counts

    def conv3x3(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        activation: str = "none",
        slope: Tensor | float = 0.0,
        residual: Tensor | None = None,
        pixel_shuffle: int = 1,
        scale: float = 1.0,
        in_channels: Tensor | None = None,
        out_channels: Tensor | None = None,
        keep: bool = False,
        bands: int = 1,
        threads: bool = False,
        at_end: bool = True,
        garbage: int = 0xFF,
    ) -> tuple[Tensor, Tensor | None]:
        """``residual + scale * pixel_shuffle(act(conv2d(x, weight, bias, padding=1)), r)``, as the kernels do it.

        Args:
            x: (N, C_in, H, W), or with more channels, of which ``in_channels`` are convolved.
            weight: (C, C_in, 3, 3), of any strides.
            bias: (C,).
            activation: one of :data:`ACTIVATIONS`.
            slope: of leaky_relu a number, of prelu a tensor (1,) or (C,).
            residual: as the output.
            pixel_shuffle: r.
            scale: factor of what the activation returns.
            in_channels: int64 (C_in,).
            out_channels: int64 (C,): the channels of the residual that the result is added to.
            keep: whether to return pixel_shuffle(conv2d(...)) as well.
            bands: parts that the work is cut into.
            threads: whether each has a thread of its own, or they take turns, the last one first.
            at_end: whether buffers end or begin where memory may not be touched.
            garbage: the byte that fills what is to be written, scratch memory included.

        Returns:
            The output, (N, C / r^2 or the residual's channels, r H, r W), and what was to be kept, or None; both
            channels_last.

        Raises:
            AmxError: a fault: of a tile instruction, of memory, or the kernels left the work to other ones.
        """
        n, c_x, h, w = x.shape
        c, c_in, r = weight.shape[0], weight.shape[1], pixel_shuffle
        c_out = c // (r * r) if out_channels is None or residual is None else residual.shape[1]

        image = _dense(x)
        out = torch.empty(n, h * r, w * r, c_out, dtype=x.dtype)
        kept = torch.empty(n, h * r, w * r, c // (r * r), dtype=x.dtype) if keep else None
        base = _dense(residual) if residual is not None else None
        slopes = slope.contiguous() if isinstance(slope, Tensor) else None
        call = Call(
            x=_pointer(image),
            weight=_pointer(weight),
            bias=_pointer(bias),
            slope=_pointer(slopes),
            residual=_pointer(base),
            scatter=_pointer(out_channels),
            channels=_pointer(in_channels),
            out=_pointer(out),
            kept=_pointer(kept),
            n=n,
            h=h,
            w=w,
            c_x=c_x,
            c_in=c_in,
            c=c,
            c_out=c_out,
            r=r,
            slope_count=0 if slopes is None else slopes.numel(),
            weight_elements=_span(weight),
            strides=(ctypes.c_int64 * 4)(*weight.stride()),
            how=How(bands, threads, at_end, garbage),
            slope_number=0.0 if isinstance(slope, Tensor) else slope,
            scale=scale,
            activation=ACTIVATIONS.index(activation),
            dtype=DTYPES.index(x.dtype),
        )
        self._checked("convolve", ctypes.byref(call))
        return out.permute(0, 3, 1, 2), None if kept is None else kept.permute(0, 3, 1, 2)

    def quantized_conv3x3(
        self,
        x: Tensor,
        weight: Tensor,
        zero_point: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
        *,
        activation: str = "none",
        slope: Tensor | float | None = None,
        out_zero_point: Tensor | None = None,
        base: Tensor | None = None,
        pixel_shuffle: int = 1,
        dtype: torch.dtype = torch.float32,
        bands: int = 1,
        threads: bool = False,
        at_end: bool = True,
        garbage: int = 0xFF,
    ) -> Tensor:
        """``pixel_shuffle(act(scale * conv2d(x - zero_point, weight) + bias), r) + base``, as the kernels do it.

        Args:
            x: (N, C_in, H, W) uint8, or floating: rounded, plus ``zero_point``, clamped.
            weight: (C, C_in, 3, 3) int8, of any strides.
            zero_point: (1,) uint8.
            scale: (C,) float32.
            bias: (C,) float32.
            activation: one of :data:`ACTIVATIONS`.
            slope: of leaky_relu a number, of prelu a float32 tensor (1,) or (C,).
            out_zero_point: (1,) uint8: the result is uint8.
            base: (N, C / r^2, H, W) of ``dtype``, enlarged by nearest neighbour.
            pixel_shuffle: r.
            dtype: of the result without ``out_zero_point``.
            bands: as of :meth:`conv3x3`, like the next three.
            threads: see there.
            at_end: see there.
            garbage: see there.

        Returns:
            (N, C / r^2, r H, r W), channels_last.

        Raises:
            AmxError: a fault: of a tile instruction, of memory, or the kernels left the work to other ones.
        """
        n, c_in, h, w = x.shape
        c, r = weight.shape[0], pixel_shuffle
        image = _dense(x)
        low = _dense(base) if base is not None else None
        out = torch.empty(n, h * r, w * r, c // (r * r), dtype=dtype if out_zero_point is None else torch.uint8)
        slopes = slope.contiguous() if isinstance(slope, Tensor) else None
        call = QuantizedCall(
            x=_pointer(image),
            weight=_pointer(weight),
            scale=_pointer(scale),
            bias=_pointer(bias),
            slope=_pointer(slopes),
            base=_pointer(low),
            out=_pointer(out),
            n=n,
            h=h,
            w=w,
            c_in=c_in,
            c=c,
            r=r,
            slope_count=0 if slopes is None else slopes.numel(),
            weight_elements=_span(weight),
            strides=(ctypes.c_int64 * 4)(*weight.stride()),
            how=How(bands, threads, at_end, garbage),
            slope_number=0.0 if slope is None or isinstance(slope, Tensor) else slope,
            zero_point=int(zero_point),
            out_zero_point=0 if out_zero_point is None else int(out_zero_point),
            activation=ACTIVATIONS.index(activation),
            x_dtype=DTYPES.index(x.dtype),
            dtype=DTYPES.index(out.dtype),
        )
        self._checked("convolve_bytes", ctypes.byref(call))
        return out.permute(0, 3, 1, 2)
