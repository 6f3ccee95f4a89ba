"""The compiled CPU kernels on NumPy arrays; vsr_kernels.numpy checks and lays out what it hands to them."""

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

class Packed:
    """Weights, bias and slopes in the order in which the kernels read them."""

def pack(
    weight: Array, bias: Array | None, slope: Array | None, number: float, activation: str, r: int, dtype: str
) -> Packed:
    """Pack weights (C_out, C_in, 3, 3), C_out > 0."""

def conv3x3(
    out: Array,
    x: Array,
    weight: Array,
    bias: Array | None,
    slope: Array | None,
    number: float,
    in_channels: Array | None,
    out_channels: Array | None,
    residual: Array | None,
    activation: str,
    scale: float,
    r: int,
    dtype: str,
    packed: Packed | None,
) -> None:
    """Write residual + scale * pixel_shuffle(act(conv(x))); images are dense channels_last."""

def flow_warp(out: Array, x: Array, flow: Array, nearest: bool, border: bool, dtype: str, flow_dtype: str) -> None:
    """Write the warped image; any strides."""

def pixel_shuffle(packed: Array, shuffled: Array, r: int, channels_last: bool, inverse: bool) -> None:
    """Move from packed (N, C r^2, H, W) to shuffled (N, C, r H, r W), or back; both dense in one format."""

def isa() -> str:
    """Instruction set of the kernels."""

def threads() -> int:
    """Threads of a call."""

def set_threads(count: int) -> None:
    """Threads of the calls from now on."""
