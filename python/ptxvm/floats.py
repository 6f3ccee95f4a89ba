"""Bit-exact conversions between NumPy floats and the narrow formats NumPy lacks.

Arithmetic on narrow types is done in float32 or float64 and rounded once; rounding
from float64 goes through a float32 rounded to odd, which keeps the second rounding
exact.
"""

from __future__ import annotations

import numpy as np

from .aliases import Array, ScalarType

F32, F64, U16, U32 = np.float32, np.float64, np.uint16, np.uint32


def bf16_to_f32(bits: Array) -> Array:
    """bfloat16 bits to float32, exactly."""
    return (bits.astype(U32) << U32(16)).view(F32)


def f64_to_f32_odd(x: Array) -> Array:
    """float64 to float32, rounded to odd (towards zero, low bit set when inexact)."""
    y = x.astype(F32)
    back = y.astype(F64)
    inexact = (back != x) & np.isfinite(x)
    if not inexact.any():
        return y
    too_far = inexact & (np.abs(back) > np.abs(x))
    bits: Array = np.ascontiguousarray(y).view(U32) - too_far.astype(U32)
    return (bits | inexact.astype(U32)).view(F32)


def as_f32_for_rounding(x: Array) -> Array:
    """float32 values that round to narrower formats as ``x`` would."""
    return f64_to_f32_odd(x) if x.dtype == F64 else np.ascontiguousarray(x, F32)


def f32_to_bf16(x: Array, mode: str = "rn") -> Array:
    """float32 or float64 to bfloat16 bits, rounding rn or rz."""
    bits = as_f32_for_rounding(x).view(U32)
    up = U32(0x7FFF) + ((bits >> U32(16)) & U32(1)) if mode == "rn" else U32(0)
    rounded = (bits + up) >> U32(16)
    nan = (bits & U32(0x7FFFFFFF)) > U32(0x7F800000)
    return np.where(nan, U32(0x7FFF), rounded).astype(U16)


def f32_to_tf32(x: Array, mode: str = "rna") -> Array:
    """float32 to float32 bits with 10 mantissa bits (rna: ties away; rn: ties to even; rz)."""
    bits: Array = np.ascontiguousarray(x, F32).view(U32)
    rounded: Array
    if mode == "rna":
        rounded = (bits + U32(0x1000)) & U32(0xFFFFE000)
    elif mode == "rn":
        rounded = (bits + U32(0xFFF) + ((bits >> U32(13)) & U32(1))) & U32(0xFFFFE000)
    else:
        rounded = bits & U32(0xFFFFE000)
    special = (bits & U32(0x7F800000)) == U32(0x7F800000)
    return np.where(special, bits, rounded)


def directed(x: Array, dtype: ScalarType, mode: str | None) -> Array:
    """float64 to float16 or float32 with rounding mode rn, rz, rm or rp."""
    y = x.astype(dtype)
    if mode in (None, "rn", "rna"):
        return y
    back = y.astype(F64)
    if mode == "rz":
        wrong = np.abs(back) > np.abs(x)
        toward = np.zeros_like(y)
    elif mode == "rm":
        wrong, toward = back > x, np.full_like(y, -np.inf)
    else:
        wrong, toward = back < x, np.full_like(y, np.inf)
    return np.where(wrong, np.nextafter(y, toward), y)


def _fp8_table(exponent_bits: int, mantissa_bits: int, infinities: bool) -> Array:
    """Values of the 256 codes of an 8-bit float format."""
    code = np.arange(256)
    exponent = (code >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = code & ((1 << mantissa_bits) - 1)
    bias = (1 << (exponent_bits - 1)) - 1
    normal = (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias)
    subnormal = mantissa / (1 << mantissa_bits) * 2.0 ** (1 - bias)
    value = np.where(exponent == 0, subnormal, normal)
    if infinities:
        top = exponent == (1 << exponent_bits) - 1
        value = np.where(top, np.where(mantissa == 0, np.inf, np.nan), value)
    else:
        value = np.where(code & 0x7F == 0x7F, np.nan, value)
    return (np.where(code >= 128, -1.0, 1.0) * value).astype(F32)


FP8_VALUES = {"e4m3": _fp8_table(4, 3, False), "e5m2": _fp8_table(5, 2, True)}


def fp8_to_f32(bits: Array, kind: str) -> Array:
    """e4m3 or e5m2 codes to float32, exactly."""
    return FP8_VALUES[kind][bits]


def f32_to_fp8(x: Array, kind: str) -> Array:
    """float32 or float64 to e4m3 or e5m2 codes: round to nearest even, saturate to finite."""
    values = FP8_VALUES[kind][:128].astype(F64)
    last = int(np.flatnonzero(np.isfinite(values))[-1])
    finite = values[: last + 1]
    magnitude = np.minimum(np.abs(x.astype(F64)), finite[-1])
    above = np.clip(np.searchsorted(finite, magnitude), 1, last)
    below = above - 1
    low, high = magnitude - finite[below], finite[above] - magnitude
    code = np.where((low < high) | ((low == high) & (below % 2 == 0)), below, above)
    code = np.where(np.isnan(x), 0x7F, code)
    return (code | np.where(np.signbit(x), 0x80, 0)).astype(np.uint8)


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded sum of two float64 arrays, and what the rounding dropped."""
    total = a + b
    shadow = total - a
    return total, (a - (total - shadow)) + (b - shadow)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded product of two float64 arrays, and what the rounding dropped (Dekker)."""
    split = F64(134217729.0)
    product = a * b
    high_a, high_b = a * split, b * split
    high_a, high_b = high_a - (high_a - a), high_b - (high_b - b)
    low_a, low_b = a - high_a, b - high_b
    return product, ((high_a * high_b - product) + high_a * low_b + low_a * high_b) + low_a * low_b


def fma_f64(a: Array, b: Array, c: Array) -> Array:
    """a*b+c in float64 with one rounding (Boldo and Melquiond: a sum rounded to odd in between)."""
    product, product_error = two_product(a, b)
    low, low_error = two_sum(c, product_error)
    total, total_error = two_sum(product, low)
    middle, middle_error = two_sum(low_error, total_error)
    middle = np.ascontiguousarray(middle)
    nudge = (middle_error != 0) & (middle.view(np.uint64) & np.uint64(1) == 0)
    direction = np.where(middle_error > 0, np.inf, -np.inf)
    exact = total + np.where(nudge, np.nextafter(middle, direction), middle)
    return np.where(np.isfinite(exact), exact, a * b + c)


def fma_f32(a: Array, b: Array, c: Array) -> Array:
    """a*b+c of float32 arrays with one rounding.

    The float64 sum decides the float32 result unless it looks like a tie; there, the
    part that the float64 sum dropped breaks it.
    """
    product = a.astype(F64) * b
    total = product + c
    tie = total.view(np.uint64) & np.uint64(0x1FFFFFFF) == np.uint64(0x10000000)
    if np.any(tie):
        _, dropped = two_sum(product, np.asarray(c, F64))
        direction = np.where(dropped > 0, np.inf, -np.inf)
        total = np.where(tie & (dropped != 0), np.nextafter(total, direction), total)
    return total.astype(F32)


def flush(x: Array) -> Array:
    """Replace subnormal float32 values by zeros of the same sign."""
    return np.where(np.abs(x) < F32(1.1754944e-38), np.copysign(F32(0), x), x)
