"""The operators on arrays: checks, layouts, calls of the kernels."""

from __future__ import annotations

import numbers
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from ..checks import fail, shaped, warp_mode
from .checks import FLOATING, Checks
from .library import Array, Library, prefers_channels_last
from .packing import PackedArrays

_SHUFFLED = (*FLOATING, "float64")  # elements that are only moved


class Operators(ABC):
    """The operators for arrays of one library; its kernels are what a subclass brings."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.check = Checks(library)

    def conv3x3(
        self,
        x: Array,
        weight: Array,
        bias: Array | None = None,
        *,
        activation: str = "none",
        slope: float | Array | None = None,
        residual: Array | None = None,
        pixel_shuffle: int = 1,
        packed: PackedArrays | None = None,
        slot: int = 0,
        out: Array | None = None,
    ) -> Array:
        """3x3 convolution with its epilogue: ``pixel_shuffle(act(conv2d(x, weight, bias, padding=1)), r) + residual``.

        Args:
            x: (N, C_in, H, W), float32, float16 or bfloat16 (of ``ml_dtypes``), any strides. The fast path, which
                copies nothing, is channels_last: ``pixels.transpose(0, 3, 1, 2)`` of C-contiguous (N, H, W, C_in).
            weight: (C_out, C_in, 3, 3), dtype of ``x``.
            bias: (C_out,) or None.
            activation: ``none``, ``relu``, ``leaky_relu`` or ``prelu``.
            slope: a number for ``leaky_relu``; an array (1,) or (C_out,) for ``prelu``; otherwise None.
            residual: (N, C_out / r^2, r * H, r * W), added last, or None.
            pixel_shuffle: r >= 1; ``C_out`` must be divisible by r^2.
            packed: where to keep packed weights between calls; None packs them in every call.
            slot: which of the convolutions that share ``packed`` this is.
            out: channels_last array for the result, which shares no memory with the other arguments; None makes one.

        Returns:
            (N, C_out / r^2, r * H, r * W), channels_last, dtype of ``x``. Accumulation is float32.

        Raises:
            TypeError, ValueError: naming the argument, what was expected and what was given.
        """
        op = "conv3x3"
        self.check.image(op, "x", x)
        n, c_in, h, w = x.shape
        self.check.kernel3x3(op, "weight", weight, x, c_in, "C_in of x")
        c_out = weight.shape[0]
        self.check.optional_vector(op, "bias", bias, x, c_out, "(C_out,)")
        slopes = self.check.activation(op, activation, slope, x, c_out)
        r = self.check.factor(op, "pixel_shuffle", pixel_shuffle)
        if c_out % (r * r) != 0:
            fail(op, "weight", f"C_out divisible by r^2 = {r * r}", f"shape {weight.shape}")
        shape = (n, c_out // (r * r), h * r, w * r)
        if residual is not None:
            shaped(op, "residual", self.check.like(op, "residual", residual, x), shape, "(N, C_out / r^2, r H, r W)")
        out = self._result(op, out, x, shape, weight=weight, bias=bias, slope=slopes[0], residual=residual)
        self._convolve(out, x, weight, bias, slopes, activation, residual=residual, r=r, packed=packed, slot=slot)
        return out

    def residual_block(
        self,
        x: Array,
        weight1: Array,
        bias1: Array | None,
        weight2: Array,
        bias2: Array | None,
        *,
        activation: str = "relu",
        slope: float | Array | None = None,
        scale: float = 1.0,
        packed: PackedArrays | None = None,
        out: Array | None = None,
    ) -> Array:
        """Residual block without batch norm: ``x + scale * conv3x3(act(conv3x3(x)))``.

        Args:
            x: (N, C, H, W), float32, float16 or bfloat16, any strides; channels_last is the fast path.
            weight1: (C_mid, C, 3, 3); bias1: (C_mid,) or None.
            weight2: (C, C_mid, 3, 3); bias2: (C,) or None.
            activation: ``none``, ``relu``, ``leaky_relu`` or ``prelu``, after the first convolution.
            slope: a number for ``leaky_relu``; an array (1,) or (C_mid,) for ``prelu``; otherwise None.
            scale: factor of the residual branch.
            packed: where to keep packed weights between calls; None packs them in every call.
            out: channels_last array for the result, which shares no memory with the other arguments; None makes one.

        Returns:
            (N, C, H, W), channels_last, dtype of ``x``.

        Raises:
            TypeError, ValueError: naming the argument, what was expected and what was given.
        """
        op = "residual_block"
        self.check.image(op, "x", x)
        n, c, h, w = x.shape
        self.check.kernel3x3(op, "weight1", weight1, x, c, "C of x")
        c_mid = weight1.shape[0]
        self.check.optional_vector(op, "bias1", bias1, x, c_mid, "(C_mid,)")
        shaped(op, "weight2", self.check.like(op, "weight2", weight2, x), (c, c_mid, 3, 3), "(C, C_mid, 3, 3)")
        self.check.optional_vector(op, "bias2", bias2, x, c, "(C,)")
        slopes = self.check.activation(op, activation, slope, x, c_mid)
        if isinstance(scale, bool) or not isinstance(scale, numbers.Real):
            fail(op, "scale", "a number", type(scale).__name__, TypeError)
        arrays = {"weight1": weight1, "bias1": bias1, "weight2": weight2, "bias2": bias2, "slope": slopes[0]}
        out = self._result(op, out, x, x.shape, **arrays)
        x = self.library.dense(x, channels_last=True)
        hidden = self.library.empty((n, c_mid, h, w), x.dtype, channels_last=True)
        self._convolve(hidden, x, weight1, bias1, slopes, activation, packed=packed)
        self._convolve(out, hidden, weight2, bias2, residual=x, scale=float(scale), packed=packed, slot=1)
        return out

    def sparse_conv3x3(
        self,
        x: Array,
        weight: Array,
        bias: Array | None = None,
        *,
        in_channels: Array | Sequence[int] | None = None,
        out_channels: Array | Sequence[int] | None = None,
        residual: Array | None = None,
        activation: str = "none",
        slope: float | Array | None = None,
        packed: PackedArrays | None = None,
        out: Array | None = None,
    ) -> Array:
        """3x3 convolution of kept channels: gather ``x[:, in_channels]``, convolve, activate, scatter-add.

        Args:
            x: (N, C, H, W), float32, float16 or bfloat16, any strides; channels_last is the fast path.
            weight: (C_out, len(in_channels), 3, 3), dtype of ``x``; C input channels where ``in_channels`` is None.
            bias: (C_out,) or None.
            in_channels: distinct channel numbers of ``x``, int64 or a sequence of ints; None takes all.
            out_channels: C_out distinct channel numbers of ``residual``, given likewise, or None.
            residual: (N, C_res, H, W). With ``out_channels`` the result is added to those channels and the others are
                copied; without, C_res = C_out and the result is added to all of it.
            activation: ``none``, ``relu``, ``leaky_relu`` or ``prelu``, before the addition.
            slope: a number for ``leaky_relu``; an array (1,) or (C_out,) for ``prelu``; otherwise None.
            packed: where to keep packed weights between calls; None packs them in every call.
            out: channels_last array for the result, which shares no memory with the other arguments; None makes one.

        Returns:
            (N, C_out or C_res, H, W), channels_last, dtype of ``x``.

        Raises:
            TypeError, ValueError: naming the argument, what was expected and what was given.
        """
        op = "sparse_conv3x3"
        self.check.image(op, "x", x)
        n, c, h, w = x.shape
        gather = None if in_channels is None else self.check.channel_list(op, "in_channels", in_channels, c)
        c_in = c if gather is None else gather.shape[0]
        self.check.kernel3x3(op, "weight", weight, x, c_in, "C of x" if gather is None else "len(in_channels)")
        c_out = weight.shape[0]
        self.check.optional_vector(op, "bias", bias, x, c_out, "(C_out,)")
        slopes = self.check.activation(op, activation, slope, x, c_out)
        scatter = None
        if out_channels is not None:
            if residual is None:
                fail(op, "residual", "an array where out_channels is given", None, TypeError)
            residual = self.check.image(op, "residual", residual)
            scatter = self.check.channel_list(op, "out_channels", out_channels, residual.shape[1])
            shaped(op, "out_channels", scatter, (c_out,), "(C_out,) of weight")
        if residual is not None:
            self.check.like(op, "residual", residual, x)
            shaped(op, "residual", residual, (n, c_out if scatter is None else None, h, w), "(N, C_res, H, W)")
        shape = (n, c_out if residual is None else residual.shape[1], h, w)
        out = self._result(op, out, x, shape, weight=weight, bias=bias, slope=slopes[0], residual=residual)
        lists = (gather, scatter)
        self._convolve(out, x, weight, bias, slopes, activation, residual=residual, lists=lists, packed=packed)
        return out

    def sparse_residual_block(
        self,
        x: Array,
        weight1: Array,
        bias1: Array | None,
        weight2: Array,
        bias2: Array | None,
        *,
        in_channels: Array | Sequence[int],
        out_channels: Array | Sequence[int],
        activation: str = "relu",
        slope: float | Array | None = None,
        packed: PackedArrays | None = None,
        out: Array | None = None,
    ) -> Array:
        """Residual Sparsity Connection of SSL: ``y = x; y[:, out_channels] += conv2(act(conv1(x[:, in_channels])))``.

        Source: Xia et al., "Structured Sparsity Learning for Efficient Video Super-Resolution", CVPR 2023.

        Args:
            x: (N, C, H, W), float32, float16 or bfloat16, any strides; channels_last is the fast path.
            weight1: (C_mid, len(in_channels), 3, 3); bias1: (C_mid,) or None.
            weight2: (len(out_channels), C_mid, 3, 3); bias2: (len(out_channels),) or None.
            in_channels, out_channels: distinct channel numbers of ``x``, as in :func:`sparse_conv3x3`.
            activation: ``none``, ``relu``, ``leaky_relu`` or ``prelu``, after the first convolution.
            slope: a number for ``leaky_relu``; an array (1,) or (C_mid,) for ``prelu``; otherwise None.
            packed: where to keep packed weights between calls; None packs them in every call.
            out: channels_last array for the result, which shares no memory with the other arguments; None makes one.

        Returns:
            (N, C, H, W), channels_last, dtype of ``x``. ``x`` is not modified.

        Raises:
            TypeError, ValueError: naming the argument, what was expected and what was given.
        """
        op = "sparse_residual_block"
        self.check.image(op, "x", x)
        n, c, h, w = x.shape
        gather = self.check.channel_list(op, "in_channels", in_channels, c)
        scatter = self.check.channel_list(op, "out_channels", out_channels, c)
        kept = scatter.shape[0]
        self.check.kernel3x3(op, "weight1", weight1, x, gather.shape[0], "len(in_channels)")
        c_mid = weight1.shape[0]
        self.check.optional_vector(op, "bias1", bias1, x, c_mid, "(C_mid,)")
        weight2 = self.check.like(op, "weight2", weight2, x)
        shaped(op, "weight2", weight2, (kept, c_mid, 3, 3), "(len(out_channels), C_mid, 3, 3)")
        self.check.optional_vector(op, "bias2", bias2, x, kept, "(len(out_channels),)")
        slopes = self.check.activation(op, activation, slope, x, c_mid)
        arrays = {"weight1": weight1, "bias1": bias1, "weight2": weight2, "bias2": bias2, "slope": slopes[0]}
        out = self._result(op, out, x, x.shape, **arrays)
        x = self.library.dense(x, channels_last=True)
        hidden = self.library.empty((n, c_mid, h, w), x.dtype, channels_last=True)
        self._convolve(hidden, x, weight1, bias1, slopes, activation, lists=(gather, None), packed=packed)
        self._convolve(out, hidden, weight2, bias2, residual=x, lists=(None, scatter), packed=packed, slot=1)
        return out

    def flow_warp(
        self,
        x: Array,
        flow: Array,
        *,
        interpolation: str = "bilinear",
        padding: str = "zeros",
        out: Array | None = None,
    ) -> Array:
        """Backward warp: ``out[n, :, i, j]`` is ``x[n]`` sampled at row ``i + dy``, column ``j + dx``.

        Args:
            x: (N, C, H, W), float32, float16 or bfloat16, any strides; a copy is made at most where an
                axis runs backwards.
            flow: (N, 2, H, W) in pixels, channel 0 = dx, channel 1 = dy; float32 or the dtype of ``x``, any strides.
                Coordinates are computed in float32.
            interpolation: ``bilinear`` or ``nearest`` (ties to even).
            padding: what lies outside the image: ``zeros``, or ``border`` (the nearest pixel). An infinite displacement
                is outside; NaN counts as minus infinity.
            out: array for the result, of any ascending strides, which shares no memory with ``x`` and ``flow``; None
                makes one.

        Returns:
            (N, C, H, W) in the dtype of ``x``, and in its memory format unless ``out`` is given.

        Raises:
            TypeError, ValueError: naming the argument, what was expected and what was given.
        """
        op = "flow_warp"
        self.check.image(op, "x", x)
        n, _, h, w = x.shape
        flow = self.check.like(op, "flow", flow, x, dtypes=(np.float32, x.dtype))
        shaped(op, "flow", flow, (n, 2, h, w), "(N, 2, H, W) as x")
        warp_mode(op, interpolation, padding)
        if out is None:
            out = self.library.empty(x.shape, x.dtype, prefers_channels_last(x))
        else:
            out = self.check.output(op, out, x.shape, None, x=x, flow=flow)
        if out.size > 0:
            self.warp(out, x, flow, interpolation == "nearest", padding == "border")
        return out

    def pixel_shuffle(self, x: Array, r: int, *, out: Array | None = None) -> Array:
        """Rearrange (N, C * r^2, H, W) to (N, C, r * H, r * W), as ``torch.nn.functional.pixel_shuffle``.

        Args:
            x: (N, C * r^2, H, W), float32, float16, bfloat16 or float64, any strides; dense channels_last and
                C-contiguous memory are read in place.
            r: upscaling factor, >= 1.
            out: array for the result, in the memory format of ``x``, which shares no memory with it; None makes one.

        Returns:
            (N, C, r * H, r * W) in the memory format of ``x``:
            ``out[n, c, r*h + i, r*w + j] = x[n, c*r^2 + i*r + j, h, w]``.

        Raises:
            TypeError, ValueError: naming the argument, what was expected and what was given.
        """
        op = "pixel_shuffle"
        self.check.image(op, "x", x, _SHUFFLED)
        r = self.check.factor(op, "r", r)
        n, c, h, w = x.shape
        if c % (r * r) != 0:
            fail(op, "x", f"channels divisible by r^2 = {r * r}", f"shape {x.shape}")
        return self._shuffle(op, x, r, (n, c // (r * r), h * r, w * r), out, inverse=False)

    def pixel_unshuffle(self, x: Array, r: int, *, out: Array | None = None) -> Array:
        """Rearrange (N, C, r * H, r * W) to (N, C * r^2, H, W), the inverse of :func:`pixel_shuffle`.

        Args:
            x: (N, C, r * H, r * W), float32, float16, bfloat16 or float64, any strides; dense channels_last and
                C-contiguous memory are read in place.
            r: downscaling factor, >= 1.
            out: array for the result, in the memory format of ``x``, which shares no memory with it; None makes one.

        Returns:
            (N, C * r^2, H, W) in the memory format of ``x``.

        Raises:
            TypeError, ValueError: naming the argument, what was expected and what was given.
        """
        op = "pixel_unshuffle"
        self.check.image(op, "x", x, _SHUFFLED)
        r = self.check.factor(op, "r", r)
        n, c, h, w = x.shape
        if h % r != 0 or w % r != 0:
            fail(op, "x", f"height and width divisible by r = {r}", f"shape {x.shape}")
        return self._shuffle(op, x, r, (n, c * r * r, h // r, w // r), out, inverse=True)

    def _shuffle(self, op: str, x: Array, r: int, shape: tuple[int, ...], out: Array | None, inverse: bool) -> Array:
        channels_last = prefers_channels_last(x)
        if out is None:
            out = self.library.empty(shape, x.dtype, channels_last)
        else:
            out = self.check.output(op, out, shape, channels_last, x=x)
        if out.size > 0:
            self.move(out, self.library.dense(x, channels_last), r, channels_last, inverse)
        return out

    def _result(self, op: str, out: Array | None, x: Array, shape: tuple[int, ...], **inputs: Array | None) -> Array:
        """What a convolution writes to: dense channels_last."""
        if out is None:
            return self.library.empty(shape, x.dtype, channels_last=True)
        return self.check.output(op, out, shape, True, x=x, **inputs)

    def _convolve(
        self,
        out: Array,
        x: Array,
        weight: Array,
        bias: Array | None,
        slopes: tuple[Array | None, float] = (None, 0.0),
        activation: str = "none",
        *,
        residual: Array | None = None,
        lists: tuple[Array | None, Array | None] = (None, None),
        scale: float = 1.0,
        r: int = 1,
        packed: PackedArrays | None = None,
        slot: int = 0,
    ) -> None:
        """Write a checked call into ``out``."""
        if out.size == 0:
            return
        if weight.shape[0] == 0:  # nothing is added to the residual
            out[...] = residual
            return
        self.convolve(
            out,
            x,
            weight,
            bias,
            slopes,
            activation,
            residual=residual,
            lists=lists,
            scale=scale,
            r=r,
            packed=packed,
            slot=slot,
        )

    @abstractmethod
    def convolve(
        self,
        out: Array,
        x: Array,
        weight: Array,
        bias: Array | None,
        slopes: tuple[Array | None, float],
        activation: str,
        *,
        residual: Array | None,
        lists: tuple[Array | None, Array | None],
        scale: float,
        r: int,
        packed: PackedArrays | None,
        slot: int,
    ) -> None:
        """Write ``residual + scale * pixel_shuffle(act(conv(x)))`` into ``out``; neither it nor the weight is empty.

        Args:
            out: dense channels_last.
            x, weight, bias, activation, residual, r: as the operators take them, checked.
            slopes: of prelu, and the number of leaky_relu.
            lists: channels of x that are read, channels of the residual that are added to; dense int64 of NumPy.
            scale: of the residual branch.
            packed, slot: where packed weights are kept, if anywhere.
        """

    @abstractmethod
    def warp(self, out: Array, x: Array, flow: Array, nearest: bool, border: bool) -> None:
        """Write the warped image into ``out``, which is not empty and of ascending strides."""

    @abstractmethod
    def move(self, out: Array, x: Array, r: int, channels_last: bool, inverse: bool) -> None:
        """Write the shuffled or, if ``inverse``, unshuffled ``x`` into ``out``; both dense in one format, not empty."""
