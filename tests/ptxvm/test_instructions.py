"""Single instructions against plain Python and NumPy definitions.

Every snippet is also given to ptxas, so that only PTX that really exists is tested.
"""

from __future__ import annotations

import functools
import math
import tempfile
from fractions import Fraction

import numpy as np
import pytest

import ptxvm
from ptxvm import floats
from ptxvm.toolkit import find_tool, run_tool

RNG = np.random.default_rng(3)
EDGES32 = np.array(
    [0, 1, 2, 31, 32, 33, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 0x12345678, 0xDEADBEEF], np.uint32
)
FLOATS = np.array(
    [0.0, -0.0, 1.0, -1.5, 2.5, -2.5, 1e-40, -1e-40, 3e38, -3e38, np.inf, -np.inf, np.nan, 65504.0, 65520.0, 1e-7],
    np.float32,
)


def pairs(values):
    a, b = np.meshgrid(values, values)
    return np.ascontiguousarray(a.reshape(-1)), np.ascontiguousarray(b.reshape(-1))


def execute(body, inputs, result, target="sm_90"):
    """Run a PTX snippet once per element: %x0, %x1 ... in, %y (and predicates %p, %q) out."""
    n, result = len(inputs[0]), np.dtype(result)
    bits = {1: 16, 2: 16, 4: 32, 8: 64}
    lines = [f".version 8.6\n.target {target}\n.address_size 64", ".visible .entry test("]
    lines.append(",\n".join(f".param .u64 p{i}" for i in range(len(inputs) + 1)) + ")\n{")
    lines.append(
        ".reg .pred %p, %q, %in;\n.reg .b64 %a, %offset;\n.reg .b32 %i, %t<8>;\n.reg .b16 %h<8>;\n.reg .b64 %w<8>;"
    )
    lines.append(f".reg .b{bits[result.itemsize]} %y;")
    lines.append("mov.u32 %i, %tid.x;")
    for index, array in enumerate(inputs):
        width = array.itemsize
        lines.append(f".reg .b{bits[width]} %x{index};")
        lines.append(f"ld.param.u64 %a, [p{index}];\nmul.wide.u32 %offset, %i, {width};\nadd.s64 %a, %a, %offset;")
        lines.append(f"ld.global.b{8 * width} %x{index}, [%a];")
    lines.append(body)
    lines.append(
        f"ld.param.u64 %a, [p{len(inputs)}];\nmul.wide.u32 %offset, %i, {result.itemsize};\nadd.s64 %a, %a, %offset;"
    )
    lines.append(f"st.global.b{8 * result.itemsize} [%a], %y;\nret;\n}}")
    text = "\n".join(lines)
    check_with_ptxas(text, target)
    out = np.zeros(n, result)
    for first in range(0, n, 1024):
        part = slice(first, first + 1024)
        piece = np.zeros(len(out[part]), result)
        ptxvm.Module.from_ptx(text).launch(
            "test", 1, len(piece), [np.ascontiguousarray(x[part]) for x in inputs] + [piece]
        )
        out[part] = piece
    return out


@functools.cache
def check_with_ptxas(text, target):
    if find_tool("ptxas") is None:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(text)
        file.flush()
        run_tool("ptxas", [f"-arch={target}", "-O0", file.name, "-o", "/dev/null"])


def signed(values, bits=32):
    return [v - (1 << bits) if v >> (bits - 1) else v for v in map(int, values)]


def mask(value, bits=32):
    return value & ((1 << bits) - 1)


def trunc_div(a, b):
    return int(math.copysign(1, a) * math.copysign(1, b)) * (abs(a) // abs(b)) if a else 0


def bits_of(x, bits=32):
    return [(x >> i) & 1 for i in range(bits)]


INTEGER_CASES = {
    "add.s32 %y, %x0, %x1;": lambda a, b: a + b,
    "sub.s32 %y, %x0, %x1;": lambda a, b: a - b,
    "mul.lo.s32 %y, %x0, %x1;": lambda a, b: a * b,
    "mul.hi.u32 %y, %x0, %x1;": lambda a, b: a * b >> 32,
    "mul.hi.s32 %y, %x0, %x1;": lambda a, b: signed([a])[0] * signed([b])[0] >> 32,
    "mad.lo.s32 %y, %x0, %x1, 7;": lambda a, b: a * b + 7,
    "mul24.lo.u32 %y, %x0, %x1;": lambda a, b: (a & 0xFFFFFF) * (b & 0xFFFFFF),
    "add.sat.s32 %y, %x0, %x1;": lambda a, b: min(max(signed([a])[0] + signed([b])[0], -(2**31)), 2**31 - 1),
    "min.s32 %y, %x0, %x1;": lambda a, b: min(signed([a, b])),
    "max.u32 %y, %x0, %x1;": max,
    "and.b32 %y, %x0, %x1;": lambda a, b: a & b,
    "xor.b32 %y, %x0, %x1;": lambda a, b: a ^ b,
    "not.b32 %y, %x0;": lambda a, b: ~a,
    "shl.b32 %y, %x0, %x1;": lambda a, b: a << b if b < 32 else 0,
    "shr.u32 %y, %x0, %x1;": lambda a, b: a >> b if b < 32 else 0,
    "shr.s32 %y, %x0, %x1;": lambda a, b: signed([a])[0] >> min(b, 31),
    "shf.l.wrap.b32 %y, %x0, %x1, 5;": lambda a, b: (b << 32 | a) << 5 >> 32,
    "shf.r.clamp.b32 %y, %x0, %x1, 40;": lambda a, b: b,
    "shf.r.wrap.b32 %y, %x0, %x1, 40;": lambda a, b: (b << 32 | a) >> 8,
    "bfe.u32 %y, %x0, 5, 9;": lambda a, b: a >> 5 & 0x1FF,
    "bfe.s32 %y, %x0, 5, 9;": lambda a, b: ((a >> 5 & 0x1FF) ^ 0x100) - 0x100,
    "bfe.s32 %y, %x0, 28, 9;": lambda a, b: signed([a])[0] >> 28,
    "bfi.b32 %y, %x0, %x1, 4, 8;": lambda a, b: (b & ~0xFF0) | (a & 0xFF) << 4,
    "popc.b32 %y, %x0;": lambda a, b: bin(a).count("1"),
    "clz.b32 %y, %x0;": lambda a, b: 32 - a.bit_length(),
    "brev.b32 %y, %x0;": lambda a, b: int(f"{a:032b}"[::-1], 2),
    "bfind.u32 %y, %x0;": lambda a, b: a.bit_length() - 1,
    "bfind.s32 %y, %x0;": lambda a, b: (a if a < 2**31 else ~a & 0xFFFFFFFF).bit_length() - 1,
    "bfind.shiftamt.u32 %y, %x0;": lambda a, b: 32 - a.bit_length() if a else -1,
    "prmt.b32 %y, %x0, %x1, 0x7250;": lambda a, b: (a & 0xFF)
    | (b >> 8 & 0xFF) << 8
    | (a >> 16 & 0xFF) << 16
    | (b >> 24) << 24,
    "prmt.b32 %y, %x0, %x1, 0x3B98;": lambda a, b: sum(
        v << 8 * i
        for i, v in enumerate([255 if a >> 7 & 1 else 0, 255 if a >> 15 & 1 else 0, 255 if a >> 31 else 0, a >> 24])
    ),
    "lop3.b32 %y, %x0, %x1, 0x0F0F3355, 0xE8;": lambda a, b: (a & b) | (a & 0x0F0F3355) | (b & 0x0F0F3355),
    "sad.u32 %y, %x0, %x1, 3;": lambda a, b: abs(a - b) + 3,
    "dp4a.s32.u32 %y, %x0, %x1, 11;": lambda a, b: 11
    + sum(signed([a >> 8 * i & 255], 8)[0] * (b >> 8 * i & 255) for i in range(4)),
    "dp2a.lo.u32.s32 %y, %x0, %x1, 1;": lambda a, b: 1
    + sum((a >> 16 * i & 0xFFFF) * signed([b >> 8 * i & 255], 8)[0] for i in range(2)),
    "setp.lt.s32 %p|%q, %x0, %x1; selp.b32 %y, 5, 6, %q;": lambda a, b: 6 if signed([a])[0] < signed([b])[0] else 5,
    "setp.hi.and.u32 %p, %x0, %x1, 1; selp.b32 %y, 5, 6, %p;": lambda a, b: 5 if a > b else 6,
    "set.ge.u32.s32 %y, %x0, %x1;": lambda a, b: -1 if signed([a])[0] >= signed([b])[0] else 0,
    "slct.b32.s32 %y, 5, %x0, %x1;": lambda a, b: 5 if b < 2**31 else a,
    "cvt.s32.s8 %y, %x0;": lambda a, b: signed([a & 255], 8)[0],
    "cvt.sat.s8.s32 %y, %x0;": lambda a, b: min(max(signed([a])[0], -128), 127),
    "cvt.u32.u16 %y, %h0;": None,
    "mov.b32 {%h0, %h1}, %x0; mov.b32 %y, {%h1, %h0};": lambda a, b: a >> 16 | (a & 0xFFFF) << 16,
    "add.cc.u32 %t0, %x0, %x1; addc.u32 %y, 0, 0;": lambda a, b: a + b >> 32,
    "sub.cc.u32 %t0, %x0, %x1; subc.u32 %y, 0, 0;": lambda a, b: -1 if a < b else 0,
    "add.u16x2 %y, %x0, %x1;": lambda a, b: ((a >> 16) + (b >> 16) & 0xFFFF) << 16 | (a + b & 0xFFFF),
    "min.s16x2 %y, %x0, %x1;": lambda a, b: sum(
        (min(signed([a >> s & 0xFFFF, b >> s & 0xFFFF], 16)) & 0xFFFF) << s for s in (0, 16)
    ),
    "vabsdiff4.u32.u32.u32.add %y, %x0, %x1, %x1;": lambda a, b: b
    + sum(abs((a >> s & 255) - (b >> s & 255)) for s in (0, 8, 16, 24)),
    "vadd2.s32.s32.s32.sat %y, %x0, %x1, %x1;": lambda a, b: sum(
        (max(-(2**15), min(2**15 - 1, sum(signed([a >> s & 0xFFFF, b >> s & 0xFFFF], 16)))) & 0xFFFF) << s
        for s in (0, 16)
    ),
    "vset4.u32.u32.gt %y, %x0, %x1, %x1;": lambda a, b: sum(
        ((a >> s & 255) > (b >> s & 255)) << s for s in (0, 8, 16, 24)
    ),
    "bmsk.clamp.b32 %y, 3, 7;": lambda a, b: 0x7F << 3,
    "szext.clamp.s32 %y, %x0, 9;": lambda a, b: ((a & 0x1FF) ^ 0x100) - 0x100,
    "cvt.pack.sat.s8.s32.b32 %y, %x0, %x1, 0x1234;": lambda a, b: (
        0x12340000 | (max(-128, min(127, signed([a])[0])) & 255) << 8 | (max(-128, min(127, signed([b])[0])) & 255)
    ),
}
INTEGER_CASES = {body: f for body, f in INTEGER_CASES.items() if f}


@pytest.mark.parametrize("body", INTEGER_CASES)
def test_integer(body):
    a, b = pairs(EDGES32)
    expected = [mask(int(INTEGER_CASES[body](int(x), int(y)))) for x, y in zip(a, b, strict=True)]
    assert execute(body, [a, b], np.uint32).tolist() == expected


@pytest.mark.parametrize(
    ("body", "function"),
    [
        ("div.u32 %y, %x0, %x1;", lambda a, b: a // b),
        ("rem.u32 %y, %x0, %x1;", lambda a, b: a % b),
        ("div.s32 %y, %x0, %x1;", lambda a, b: trunc_div(*signed([a, b]))),
        ("rem.s32 %y, %x0, %x1;", lambda a, b: signed([a])[0] - trunc_div(*signed([a, b])) * signed([b])[0]),
    ],
)
def test_division(body, function):
    a, b = pairs(EDGES32)
    a, b = a[b != 0], b[b != 0]
    assert execute(body, [a, b], np.uint32).tolist() == [
        mask(function(int(x), int(y))) for x, y in zip(a, b, strict=True)
    ]


def test_wide_and_64_bit():
    a, b = pairs(EDGES32)
    assert execute("mul.wide.s32 %y, %x0, %x1;", [a, b], np.uint64).tolist() == [
        mask(x * y, 64) for x, y in zip(signed(a), signed(b), strict=True)
    ]
    c, d = pairs(np.array([0, 1, 3, 2**63, 2**64 - 1, 0x123456789ABCDEF0], np.uint64))
    for body, function in [
        ("mul.hi.u64 %y, %x0, %x1;", lambda x, y: x * y >> 64),
        ("mul.hi.s64 %y, %x0, %x1;", lambda x, y: signed([x], 64)[0] * signed([y], 64)[0] >> 64),
        ("shr.s64 %y, %x0, 9;", lambda x, y: signed([x], 64)[0] >> 9),
        ("bfe.u64 %y, %x0, 60, 9;", lambda x, y: x >> 60),
        ("mad.lo.s64 %y, %x0, %x1, %x1;", lambda x, y: x * y + y),
    ]:
        assert execute(body, [c, d], np.uint64).tolist() == [
            mask(function(int(x), int(y)), 64) for x, y in zip(c, d, strict=True)
        ]


def same(actual, expected):
    np.testing.assert_array_equal(actual, expected)


FLOAT_CASES = {
    "add.f32 %y, %x0, %x1;": np.add,
    "sub.f32 %y, %x0, %x1;": np.subtract,
    "mul.f32 %y, %x0, %x1;": np.multiply,
    "div.rn.f32 %y, %x0, %x1;": np.divide,
    "fma.rn.f32 %y, %x0, %x1, 0f3F800000;": lambda a, b: (a.astype(np.float64) * b + 1).astype(np.float32),
    "min.f32 %y, %x0, %x1;": np.fmin,
    "max.NaN.f32 %y, %x0, %x1;": np.maximum,
    "sqrt.rn.f32 %y, %x0;": lambda a, b: np.sqrt(a),
    "neg.f32 %y, %x0;": lambda a, b: -a,
    "abs.f32 %y, %x0;": lambda a, b: np.abs(a),
    "add.sat.f32 %y, %x0, %x1;": lambda a, b: np.nan_to_num(np.clip(a + b, 0, 1), nan=0.0),
    "add.ftz.f32 %y, %x0, %x1;": lambda a, b: floats.flush(floats.flush(a) + floats.flush(b)),
    "copysign.f32 %y, %x0, %x1;": lambda a, b: np.copysign(b, a),
    "cvt.rni.f32.f32 %y, %x0;": lambda a, b: np.rint(a),
    "cvt.rmi.f32.f32 %y, %x0;": lambda a, b: np.floor(a),
    "set.ltu.f32.f32 %y, %x0, %x1;": lambda a, b: ((a < b) | np.isnan(a) | np.isnan(b)).astype(np.float32),
    "testp.subnormal.f32 %p, %x0; selp.f32 %y, 0f3F800000, 0f00000000, %p;": lambda a, b: (
        (np.abs(a) < 1.1754944e-38) & (a != 0)
    ).astype(np.float32),
    "setp.ne.f32 %p, %x0, %x1; selp.f32 %y, 0f3F800000, 0f00000000, %p;": lambda a, b: (
        (a != b) & ~np.isnan(a) & ~np.isnan(b)
    ).astype(np.float32),
    "setp.num.f32 %p, %x0, %x1; selp.f32 %y, 0f3F800000, 0f00000000, %p;": lambda a, b: (
        ~np.isnan(a) & ~np.isnan(b)
    ).astype(np.float32),
}


@pytest.mark.parametrize("body", FLOAT_CASES)
@np.errstate(all="ignore")
def test_float(body):
    a, b = pairs(FLOATS)
    same(execute(body, [a, b], np.float32), FLOAT_CASES[body](a, b))


@np.errstate(all="ignore")
def test_packed_float32():
    a, b = RNG.standard_normal((2, 100, 2)).astype(np.float32)
    wide = [v.view(np.uint64).reshape(-1) for v in (a, b)]
    got = execute("fma.rn.f32x2 %y, %x0, %x1, %x1;", wide, np.uint64, "sm_100").view(np.float32).reshape(-1, 2)
    same(got, (a.astype(np.float64) * b + b).astype(np.float32))
    same(execute("add.rn.f32x2 %y, %x0, %x1;", wide, np.uint64, "sm_100").view(np.float32).reshape(-1, 2), a + b)


@np.errstate(all="ignore")
def test_directed_rounding():
    a, b = RNG.standard_normal((2, 500)).astype(np.float32)
    exact = a.astype(np.float64) * b
    up, down = (execute(f"mul.{m}.f32 %y, %x0, %x1;", [a, b], np.float32) for m in ("rp", "rm"))
    assert (up >= exact).all() and (down <= exact).all() and (np.nextafter(down, np.float32(np.inf)) == up).mean() > 0.9
    toward = execute("mul.rz.f32 %y, %x0, %x1;", [a, b], np.float32)
    same(toward, np.where(exact > 0, down, up))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("ex2.approx", np.exp2),
        ("lg2.approx", np.log2),
        ("sin.approx", np.sin),
        ("cos.approx", np.cos),
        ("rcp.approx", lambda x: 1 / x),
        ("rsqrt.approx", lambda x: 1 / np.sqrt(x)),
        ("sqrt.approx", np.sqrt),
        ("tanh.approx", np.tanh),
    ],
)
def test_approximations(name, function):
    x = np.linspace(0.01, 5, 200).astype(np.float32)
    np.testing.assert_allclose(
        execute(f"{name}.f32 %y, %x0;", [x], np.float32), function(x.astype(np.float64)), rtol=1e-5, atol=1e-6
    )


@np.errstate(all="ignore")
def test_float_to_integer():
    x = np.concatenate((FLOATS, np.array([2147483648.0, -2147483904.0, 0.5, 1.5, -0.5, 127.5], np.float32)))
    for mode, rounded in [("rzi", np.trunc(x)), ("rni", np.rint(x)), ("rmi", np.floor(x)), ("rpi", np.ceil(x))]:
        exact = np.nan_to_num(rounded.astype(np.float64), nan=0, posinf=1e30, neginf=-1e30)
        same(
            execute(f"cvt.{mode}.s32.f32 %y, %x0;", [x], np.int32), np.clip(exact, -(2**31), 2**31 - 1).astype(np.int64)
        )
        same(execute(f"cvt.{mode}.u32.f32 %y, %x0;", [x], np.uint32), np.clip(exact, 0, 2**32 - 1).astype(np.int64))
    wide = execute("cvt.rzi.s64.f32 %y, %x0;", [np.array([1e30, -1e30, np.nan, 5.7], np.float32)], np.int64)
    assert wide.tolist() == [2**63 - 1, -(2**63), -(2**63), 5]


@np.errstate(all="ignore")
def test_narrow_float_conversions():
    x = np.concatenate((FLOATS, RNG.standard_normal(2000).astype(np.float32) * 100))
    same(execute("cvt.rn.f16.f32 %y, %x0;", [x], np.float16), x.astype(np.float16))
    a, b = x[:1000], x[1000:2000]
    packed = execute("cvt.rn.f16x2.f32 %y, %x0, %x1;", [a, b], np.uint32).view(np.float16).reshape(-1, 2)
    same(packed, np.stack((b, a), 1).astype(np.float16))
    relu = execute("cvt.rn.relu.f16x2.f32 %y, %x0, %x1;", [a, b], np.uint32).view(np.float16).reshape(-1, 2)
    same(relu, np.where(packed > 0, packed, np.where(np.isnan(packed), packed, 0)))
    finite = x[np.isfinite(x)]
    got = floats.bf16_to_f32(execute("cvt.rn.bf16.f32 %y, %x0;", [finite], np.uint16)).astype(np.float64)
    exponent = np.floor(np.log2(np.abs(np.where(finite == 0, 1, finite)).astype(np.float64)))
    normal = np.abs(finite) > 1e-37
    step = 2.0 ** (exponent - 7)
    same(got[normal], (np.rint(finite / step) * step)[normal])


def test_fp8_conversions():
    codes = np.arange(256, dtype=np.uint8)
    for kind in ("e4m3", "e5m2"):
        pair = (codes.astype(np.uint16) << 8 | codes[::-1]).astype(np.uint16)
        values = execute(f"cvt.rn.f16x2.{kind}x2 %y, %x0;", [pair], np.uint32).view(np.float16).reshape(-1, 2)
        same(values[:, 1].astype(np.float32), floats.FP8_VALUES[kind])
        finite = np.isfinite(floats.FP8_VALUES[kind])
        same(floats.f32_to_fp8(floats.FP8_VALUES[kind][finite], kind), codes[finite])
    x = np.array([500.0, -1000.0, 17.0, 1e-9], np.float32)
    got = execute("cvt.rn.satfinite.e4m3x2.f32 %y, %x0, %x1;", [x, x], np.uint16)
    same(floats.fp8_to_f32(got & 255, "e4m3"), [448, -448, 16, 0])


@np.errstate(all="ignore")
def test_half_arithmetic_rounds_once():
    a, b, c = RNG.standard_normal((3, 1000)).astype(np.float16)
    same(
        execute("fma.rn.f16 %y, %x0, %x1, %x2;", [a, b, c], np.float16),
        (a.astype(np.float64) * b + c).astype(np.float16),
    )
    same(execute("add.f16 %y, %x0, %x1;", [a, b], np.float16), (a.astype(np.float64) + b).astype(np.float16))
    c[:3] = np.nan
    same(
        execute("fma.rn.relu.f16 %y, %x0, %x1, %x2;", [a, b, c], np.float16),
        np.maximum((a.astype(np.float64) * b + c).astype(np.float16), 0),
    )
    d, e = (floats.f32_to_bf16(v.astype(np.float32)) for v in (a, b))
    exact = floats.bf16_to_f32(d).astype(np.float64) * floats.bf16_to_f32(e)
    same(execute("mul.rn.bf16 %y, %x0, %x1;", [d, e], np.uint16), floats.f32_to_bf16(exact))
    p, q = pairs(np.array([0x3C00BC00, 0x00000001, 0x7C007BFF, 0x80003555], np.uint32))
    p_halves, q_halves = (v.view(np.float16).reshape(-1, 2) for v in (p, q))
    same(
        execute("set.gt.u32.f16x2 %y, %x0, %x1;", [p, q], np.uint32).view(np.uint16).reshape(-1, 2),
        np.where(p_halves > q_halves, 0xFFFF, 0),
    )


@np.errstate(all="ignore")
def test_fma_rounds_once():
    a, b, c = RNG.standard_normal((3, 1000)) * 2.0 ** RNG.integers(-30, 30, (3, 1000))
    c[:500] = -(a * b)[:500]
    c[250:500] *= 1 + 2.0**-52
    exact = [float(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in zip(a, b, c, strict=True)]
    same(execute("fma.rn.f64 %y, %x0, %x1, %x2;", [a, b, c], np.float64), exact)
    same(
        execute("fma.rn.f64 %y, %x0, %x0, %x1;", [np.array([1e200, np.inf]), np.array([1.0, -np.inf])], np.float64),
        [np.inf, np.nan],
    )
    # 24929 * 673 = 2**24 + 1 lies midway between two float32 values; a tiny addend decides.
    a, b = np.full(3, 24929, np.float32), np.full(3, 673, np.float32)
    c = np.array([2.0**-60, -(2.0**-60), 0], np.float32)
    same(execute("fma.rn.f32 %y, %x0, %x1, %x2;", [a, b, c], np.float32), [2**24 + 2, 2**24, 2**24])


def test_warp_exchange():
    x = RNG.integers(0, 8, 64).astype(np.uint32)
    warps = x.reshape(2, 32)
    lane = np.arange(32)
    for mode, bound, source in [
        ("up", 0, np.where(lane >= 3, lane - 3, lane)),
        ("down", 31, np.where(lane + 3 < 32, lane + 3, lane)),
        ("bfly", 31, lane ^ 3),
        ("idx", 31, np.full(32, 3)),
        ("down", 0x181F, np.where(lane % 8 + 3 < 8, lane + 3, lane)),
        ("idx", 0x181F, lane // 8 * 8 + 3),
    ]:
        same(
            execute(f"shfl.sync.{mode}.b32 %y|%p, %x0, 3, {bound}, 0xffffffff;", [x], np.uint32).reshape(2, 32),
            warps[:, source],
        )
    ballot = (warps % 2 == 1) @ (1 << lane.astype(object))
    odd = "and.b32 %t0, %x0, 1; setp.eq.u32 %p, %t0, 1; "
    same(
        execute(odd + "vote.sync.ballot.b32 %y, %p, 0xffffffff;", [x], np.uint32).reshape(2, 32),
        np.repeat(ballot[:, None], 32, 1).astype(np.uint32),
    )
    same(execute(odd + "vote.sync.any.pred %q, %p, 0xffffffff; selp.b32 %y, 1, 0, %q;", [x], np.uint32), 1)
    groups = np.array([[sum(1 << int(j) for j in np.flatnonzero(w == v)) for v in w] for w in warps])
    same(execute("match.any.sync.b32 %y, %x0, 0xffffffff;", [x], np.uint32).reshape(2, 32), groups)
    for name, function in [
        ("add.u32", np.add),
        ("max.u32", np.maximum),
        ("xor.b32", np.bitwise_xor),
        ("min.s32", np.minimum),
    ]:
        same(
            execute(f"redux.sync.{name} %y, %x0, 0xffffffff;", [x], np.uint32).reshape(2, 32)[:, 5],
            function.reduce(warps, 1),
        )
    own = "and.b32 %t0, %i, 28; shl.b32 %t0, 15, %t0; "  # each group of four lanes names only itself
    same(
        execute(own + "redux.sync.add.u32 %y, %x0, %t0;", [x], np.uint32).reshape(-1, 4)[:, 0], x.reshape(-1, 4).sum(1)
    )
    same(
        execute(own + odd.replace("%t0", "%t1") + "vote.sync.ballot.b32 %y, %p, %t0;", [x], np.uint32).reshape(2, 32),
        (ballot.astype(np.int64)[:, None] & (15 << lane // 4 * 4)).astype(np.uint32),
    )
    same(execute("elect.sync %t0|%p, 0xffffffff; selp.b32 %y, 1, 0, %p;", [x], np.uint32), np.tile(lane == 0, 2))


def test_shared_atomics():
    body = """.shared .align 16 .b8 s[64]; .reg .b32 %addr, %zero; mov.u32 %addr, s; mov.u32 %zero, 0;
    setp.lt.u32 %p, %i, 16; shl.b32 %t0, %i, 2; add.u32 %t0, %t0, %addr; @%p st.shared.u32 [%t0], %zero; bar.sync 0;
    and.b32 %t1, %x0, 3; shl.b32 %t1, %t1, 2; add.u32 %t1, %t1, %addr; """
    x = RNG.integers(0, 100, 128).astype(np.uint32)
    bucket = x & 3
    got = execute(body + "atom.shared.add.u32 %y, [%t1], %x0;", [x], np.uint32)
    for b in range(4):
        assert set(got[bucket == b]) == set(np.concatenate(([0], np.cumsum(x[bucket == b])[:-1])))
    got = execute(body + "red.shared.max.u32 [%t1], %x0; bar.sync 0; ld.shared.u32 %y, [%t1];", [x], np.uint32)
    same(got, [x[bucket == b].max() for b in bucket])
    got = execute(body + "atom.shared.inc.u32 %y, [%t1], 4;", [x], np.uint32)
    assert sorted(got[bucket == 1]) == sorted(np.arange((bucket == 1).sum()) % 5)
    got = execute(body + "atom.shared.cas.b32 %y, [%t1], 0, %x0;", [x | 4], np.uint32)
    assert all((got[bucket == b] == 0).sum() == 1 for b in range(4))


def test_generic_addresses_of_every_window():
    body = """.shared .align 4 .b32 s[32]; .local .align 4 .b32 l; .reg .b64 %gs, %gl, %g;
    mov.u64 %gs, s; cvta.shared.u64 %gs, %gs; mul.wide.u32 %offset, %i, 4; add.s64 %gs, %gs, %offset;
    mov.u64 %gl, l; cvta.local.u64 %gl, %gl; setp.gt.u32 %p, %x0, 50; selp.b64 %g, %gs, %gl, %p;
    st.u32 [%g], %x0; ld.u32 %y, [%g]; isspacep.shared %q, %g; @%q add.u32 %y, %y, 1000;"""
    x = RNG.integers(0, 100, 32).astype(np.uint32)
    same(execute(body, [x], np.uint32), np.where(x > 50, x + 1000, x))


def test_global_atomics_on_floats():
    text = """.version 8.6\n.target sm_90\n.address_size 64
    .visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c) {
    .reg .b64 %a<4>; .reg .f32 %f<3>; .reg .b32 %r<3>; .reg .f64 %d;
    ld.param.u64 %a1, [a]; ld.param.u64 %a2, [b]; ld.param.u64 %a3, [c];
    mov.u32 %r1, %tid.x; cvt.rn.f32.u32 %f1, %r1; cvt.rn.f64.u32 %d, %r1;
    mov.b32 %r2, 0x40003C00; red.global.add.noftz.f16x2 [%a1], %r2; red.global.add.f64 [%a2], %d;
    red.global.add.v2.f32 [%a3], {%f1, 0f3F800000}; ret; }"""
    check_with_ptxas(text, "sm_90")
    a, b, c = np.zeros(2, np.float16), np.zeros(1), np.zeros(2, np.float32)
    ptxvm.Module.from_ptx(text).launch("k", 1, 64, [a, b, c])
    assert a.tolist() == [64, 128] and b[0] == 2016 and c.tolist() == [2016, 64]
