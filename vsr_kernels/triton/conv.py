"""The convolutions as operators: packing, launches, and the sums that follow them.

The residual blocks are two launches. Fusing them would keep the hidden layer of a patch and its halo on the chip, and
read it back nine times, shifted by a tap; Triton's values have no addresses, so a shift is a copy through shared memory
per tap, or the hidden layer is computed anew for every tap. The compiled CUDA kernels fuse; here the hidden layer makes
one round trip, which the L2 of present GPUs holds at the sizes of video frames.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton

from .kernels.conv import conv3x3_kernel
from .kernels.conv_gradient import weight_gradient_kernel
from .kernels.epilogue_gradient import epilogue_gradient_kernel
from .kernels.pack import pack_kernel
from .tiles import at_least_16, autotune, is_wide, precision

#: Output channels of a program, at most: twice as many spill registers on sm_100 and gfx1100.
CHANNELS = 64
#: 64 pixels fill many multiprocessors with a small image; 128 and 256 read fewer halos and fewer weights per product.
#: Eight warps halve the sums that a thread holds, four share operands among fewer. 256 spill registers on gfx1100.
TILES: tuple[dict[str, int], ...] = (
    {"BLOCK_H": 8, "BLOCK_W": 16, "num_warps": 4, "num_stages": 3},
    {"BLOCK_H": 4, "BLOCK_W": 16, "num_warps": 4, "num_stages": 3},
    {"BLOCK_H": 8, "BLOCK_W": 16, "num_warps": 8, "num_stages": 3},
)
if not torch.version.hip:
    TILES += ({"BLOCK_H": 16, "BLOCK_W": 16, "num_warps": 8, "num_stages": 2},)
GRADIENT_TILES = (
    {"BLOCK_P": 64, "num_warps": 4, "num_stages": 3},
    {"BLOCK_P": 32, "num_warps": 4, "num_stages": 4},
)
#: Shares of the pixels whose sums are added at the end, at most; a share has this many pixels at least, where there are
#: as many.
SHARES, SHARE = 64, 1024

_tuned_conv = autotune(TILES, ("magnitude", "C_IN", "C_OUT", "GATHER", "PRECISION"))(conv3x3_kernel)
_tuned_gradient = autotune(GRADIENT_TILES, ("C_IN", "C_OUT", "GATHER", "PRECISION"))(weight_gradient_kernel)


class _Epilogue(NamedTuple):
    """What follows the sums of a convolution."""

    bias: Tensor | None = None  # (C_out,)
    slope: Tensor | None = None  # (C_out,) or (1,)
    number: float = 0.0
    activation: str = "none"
    scale: float = 1.0
    residual: Tensor | None = None  # as the output
    r: int = 1


def _pack(weight: Tensor, r: int = 1, *, transposed: bool = False) -> Tensor:
    """(9 C_in, C_out rounded up to whole blocks); of the gradient by the input if transposed."""
    c_out, c_in = map(int, weight.shape[:2])
    w_o, w_i, w_h, w_w = weight.stride()
    if transposed:
        c_out, c_in, w_o, w_i = c_in, c_out, w_i, w_o
    block = at_least_16(c_out, CHANNELS)
    padded = triton.cdiv(c_out, block) * block
    packed = weight.new_empty((9 * c_in, padded))
    if packed.numel():
        grid = (triton.cdiv(packed.numel(), 1024),)
        wrap_triton(pack_kernel)[grid](
            weight, packed, w_o, w_i, w_h, w_w, C_IN=c_in, C_OUT=c_out, PADDED=padded, R=r, FLIP=transposed, BLOCK=1024
        )
    return packed


def _convolve(
    x: Tensor,
    packed: Tensor,
    c_out: int,
    epilogue: _Epilogue,
    *,
    exact: bool,
    keep: bool = False,
    in_channels: Tensor | None = None,
    out_channels: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The output, and the values before the activation (empty unless kept)."""
    n, _, h, w = x.shape
    bias, slope, number, activation, scale, residual, r = epilogue
    c_in, padded = int(packed.shape[0]) // 9, int(packed.shape[1])
    shape = (n, c_out // (r * r), h * r, w * r)
    like_shape = shape if out_channels is None or residual is None else tuple(residual.shape)
    kept = x.new_empty((0,))
    if keep:
        kept = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if out_channels is None:
        out = torch.empty(like_shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    else:
        assert residual is not None
        out = torch.clone(residual, memory_format=torch.channels_last)
    if n * h * w * c_out == 0:
        return out, kept
    block_k = 32 if x.dtype == torch.float32 else 64
    while c_in % block_k and block_k > 16:
        block_k //= 2
    if c_in % block_k or in_channels is not None:
        block_k = 32

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (n * triton.cdiv(h, meta["BLOCK_H"]) * triton.cdiv(w, meta["BLOCK_W"]) * (padded // meta["BLOCK_N"]),)

    beside = out if residual is None else residual
    wrap_triton(_tuned_conv)[grid](
        x,
        packed,
        packed if bias is None else bias.contiguous(),
        packed if slope is None else slope.contiguous(),
        beside,
        out,
        kept if keep else out,
        packed if in_channels is None else in_channels,
        packed if out_channels is None else out_channels,
        sum(n * h * w > size for size in (2**12, 2**15, 2**18)),
        h,
        w,
        *x.stride(),
        *beside.stride(),
        number,
        scale,
        C_IN=c_in,
        C_OUT=c_out,
        C_TOTAL=int(out.shape[1]) * r * r,
        PADDED=padded,
        R=r,
        ACTIVATION=activation,
        ONE_SLOPE=slope is not None and slope.shape[0] == 1,
        BIAS=bias is not None,
        RESIDUAL=residual is not None,
        KEEP=keep,
        GATHER=in_channels is not None,
        SCATTER=out_channels is not None,
        PRECISION=precision(x, exact),
        WIDE=is_wide(x, beside, out),
        BLOCK_N=min(padded, CHANNELS),
        BLOCK_K=block_k,
    )
    return out, kept


@triton_op("vsr_triton::conv3x3_pack", mutates_args=())
def conv3x3_pack(
    weight: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    negative_slope: float,
    activation: str,
    pixel_shuffle: int,
    exact: bool,
    transposed: bool,
) -> Tensor:
    """The argument ``packed`` of the convolutions, which take the rest of these arguments as they are."""
    return _pack(weight, pixel_shuffle, transposed=transposed)


@triton_op("vsr_triton::conv3x3", mutates_args=())
def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    negative_slope: float,
    residual: Tensor | None,
    activation: str,
    scale: float,
    pixel_shuffle: int,
    keep_preactivation: bool,
    exact: bool,
    packed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``residual + scale * pixel_shuffle(act(conv(x)))``, and ``pixel_shuffle(conv(x))`` if asked for."""
    epilogue = _Epilogue(bias, slope, negative_slope, activation, scale, residual, pixel_shuffle)
    packed = _pack(weight, pixel_shuffle) if packed is None else packed
    return _convolve(x, packed, int(weight.shape[0]), epilogue, exact=exact, keep=keep_preactivation)


@triton_op("vsr_triton::sparse_conv3x3", mutates_args=())
def sparse_conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    negative_slope: float,
    in_channels: Tensor | None,
    out_channels: Tensor | None,
    residual: Tensor | None,
    activation: str,
    keep_preactivation: bool,
    exact: bool,
    packed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``act(conv(x[:, in_channels]))``, added to the residual or to its ``out_channels``."""
    return _convolve(
        x,
        _pack(weight) if packed is None else packed,
        int(weight.shape[0]),
        _Epilogue(bias, slope, negative_slope, activation, 1.0, residual),
        exact=exact,
        keep=keep_preactivation,
        in_channels=in_channels,
        out_channels=out_channels,
    )


def _block(
    x: Tensor,
    weight1: Tensor,
    weight2: Tensor,
    first: _Epilogue,
    second: _Epilogue,
    packings: tuple[Tensor | None, Tensor | None],
    keep: bool,
    exact: bool,
    in_channels: Tensor | None = None,
    out_channels: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Two convolutions; the output, and what the backward needs of the hidden layer."""
    packed1, packed2 = packings
    packed1 = _pack(weight1) if packed1 is None else packed1
    packed2 = _pack(weight2) if packed2 is None else packed2
    before = keep and (first.activation == "prelu" or (first.activation == "leaky_relu" and first.number < 0))
    hidden, kept = _convolve(
        x, packed1, int(weight1.shape[0]), first, exact=exact, keep=before, in_channels=in_channels
    )
    out, empty = _convolve(hidden, packed2, int(weight2.shape[0]), second, exact=exact, out_channels=out_channels)
    return out, kept if before else hidden if keep else empty


@triton_op("vsr_triton::residual_block", mutates_args=())
def residual_block(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    slope: Tensor | None,
    negative_slope: float,
    activation: str,
    scale: float,
    keep_hidden: bool,
    exact: bool,
    packed1: Tensor | None,
    packed2: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``x + scale * conv(act(conv(x)))``, and the hidden layer, before prelu or after another activation."""
    first = _Epilogue(bias1, slope, negative_slope, activation)
    second = _Epilogue(bias2, scale=scale, residual=x)
    return _block(x, weight1, weight2, first, second, (packed1, packed2), keep_hidden, exact)


@triton_op("vsr_triton::sparse_residual_block", mutates_args=())
def sparse_residual_block(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    slope: Tensor | None,
    negative_slope: float,
    in_channels: Tensor,
    out_channels: Tensor,
    activation: str,
    keep_hidden: bool,
    exact: bool,
    packed1: Tensor | None,
    packed2: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``x`` with ``conv(act(conv(x[:, in_channels])))`` added to its ``out_channels``; the hidden layer as above."""
    first = _Epilogue(bias1, slope, negative_slope, activation)
    second = _Epilogue(bias2, residual=x)
    lists = (in_channels, out_channels)
    return _block(x, weight1, weight2, first, second, (packed1, packed2), keep_hidden, exact, *lists)


@triton_op("vsr_triton::conv3x3_backward", mutates_args=())
def conv3x3_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    in_channels: Tensor | None,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
    exact: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``conv(x[:, in_channels])`` by its input, weight and bias; empty where not needed."""
    by_x = by_weight = by_bias = None
    if need_x:
        by_x, _ = _convolve(grad, _pack(weight, transposed=True), int(weight.shape[1]), _Epilogue(), exact=exact)
    if need_weight or need_bias:
        by_weight, by_bias = _weight_gradient(grad, x, weight, in_channels, need_bias, exact)
    return (
        x.new_empty((0,)) if by_x is None else by_x,
        by_weight if need_weight and by_weight is not None else x.new_empty((0,)),
        by_bias if need_bias and by_bias is not None else x.new_empty((0,)),
    )


def _weight_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, in_channels: Tensor | None, need_bias: bool, exact: bool
) -> tuple[Tensor, Tensor]:
    """By weight and bias: partial sums by a kernel, then their sum."""
    c_out, c_in = map(int, weight.shape[:2])
    n, _, h, w = x.shape
    pixels = n * h * w
    if pixels * c_out == 0 or (c_in == 0 and not need_bias):
        return torch.zeros_like(weight, memory_format=torch.contiguous_format), x.new_zeros((c_out,))
    share = triton.cdiv(min(pixels, max(SHARE, triton.cdiv(pixels, SHARES))), 64) * 64
    shares = triton.cdiv(pixels, share)
    sums = x.new_empty((shares, 9, c_in, c_out), dtype=torch.float32)
    bias_sums = x.new_empty((shares, c_out if need_bias else 0), dtype=torch.float32)
    block_i, block_o = at_least_16(c_in, 64), at_least_16(c_out, 64)
    grid = (9 * max(1, triton.cdiv(c_in, block_i)) * triton.cdiv(c_out, block_o), shares)
    wrap_triton(_tuned_gradient)[grid](
        grad,
        x,
        grad if in_channels is None else in_channels,
        sums,
        bias_sums,
        pixels,
        share,
        h,
        w,
        *grad.stride(),
        *x.stride(),
        C_IN=c_in,
        C_OUT=c_out,
        GATHER=in_channels is not None,
        BIAS=need_bias,
        PRECISION=precision(x, exact),
        WIDE=is_wide(x, grad, batch=True),
        BLOCK_I=block_i,
        BLOCK_O=block_o,
    )
    by_weight = sums.sum(0).view(3, 3, c_in, c_out).permute(3, 2, 0, 1).to(weight.dtype)
    return by_weight.contiguous(), bias_sums.sum(0).to(x.dtype)


@triton_op("vsr_triton::conv3x3_epilogue_backward", mutates_args=())
def conv3x3_epilogue_backward(
    grad: Tensor,
    saved: Tensor,
    slope: Tensor | None,
    activation: str,
    negative_slope: float,
    scale: float,
    pixel_shuffle: int,
) -> tuple[Tensor, Tensor]:
    """Gradients by the convolution's sums and by the slope of prelu (empty without one)."""
    r = pixel_shuffle
    n, c, h, w = grad.shape
    c, h, w = int(c) * r * r, h // r, w // r
    before = torch.empty((n, c, h, w), dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)
    block_c = min(64, triton.next_power_of_2(c)) if c else 1
    block_p = 2048 // block_c
    programs = triton.cdiv(n * h * w, block_p)
    slope_sums = grad.new_empty((programs, 0 if slope is None else c), dtype=torch.float32)
    if before.numel():
        wrap_triton(epilogue_gradient_kernel)[(programs, triton.cdiv(c, block_c))](
            grad,
            saved,
            grad if slope is None else slope.contiguous(),
            before,
            slope_sums,
            n * h * w,
            h,
            w,
            *grad.stride(),
            *saved.stride(),
            negative_slope,
            scale,
            C=c,
            R=r,
            ACTIVATION=activation,
            ONE_SLOPE=slope is not None and slope.shape[0] == 1,
            BLOCK_P=block_p,
            BLOCK_C=block_c,
        )
    if slope is None:
        return before, grad.new_empty((0,))
    total = slope_sums.sum(0)
    return before, (total.sum(0, keepdim=True) if slope.shape[0] == 1 else total).to(slope.dtype)
