"""Fragment layouts of every mma shape, straight from the piecewise rules of the PTX ISA; wmma; stmatrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ptxvm
from ptxvm import floats

KERNELS = Path(__file__).with_name("kernels")

RNG = np.random.default_rng(4)

# (shape, element type): a(i) -> (row, column), b(i) -> (row, column) for lane = 4 g + t, as the manual states them.
RULES = {
    ("m16n8k8", "f16"): (lambda g, t, i: (g + 8 * (i >= 2), 2 * t + (i & 1)), lambda g, t, i: (2 * t + i, g), 4, 2),
    ("m16n8k8", "bf16"): (lambda g, t, i: (g + 8 * (i >= 2), 2 * t + (i & 1)), lambda g, t, i: (2 * t + i, g), 4, 2),
    ("m16n8k16", "f16"): (
        lambda g, t, i: (g if i in (0, 1, 4, 5) else g + 8, 2 * t + (i & 1) + 8 * (i >= 4)),
        lambda g, t, i: (2 * t + (i & 1) + 8 * (i >= 2), g),
        8,
        4,
    ),
    ("m16n8k4", "tf32"): (lambda g, t, i: (g + 8 * i, t), lambda g, t, i: (t, g), 2, 1),
    ("m16n8k8", "tf32"): (lambda g, t, i: (g + 8 * (i & 1), t + 4 * (i >= 2)), lambda g, t, i: (t + 4 * i, g), 4, 2),
    ("m16n8k16", "s8"): (lambda g, t, i: (g + 8 * (i >= 4), 4 * t + (i & 3)), lambda g, t, i: (4 * t + i, g), 8, 4),
    ("m16n8k32", "u8"): (
        lambda g, t, i: (g if i < 4 or 8 <= i < 12 else g + 8, 4 * t + (i & 3) + 16 * (i >= 8)),
        lambda g, t, i: (4 * t + (i & 3) + 16 * (i >= 4), g),
        16,
        8,
    ),
    ("m16n8k32", "e4m3"): (
        lambda g, t, i: (g if i < 4 or 8 <= i < 12 else g + 8, 4 * t + (i & 3) + 16 * (i >= 8)),
        lambda g, t, i: (4 * t + (i & 3) + 16 * (i >= 4), g),
        16,
        8,
    ),
    ("m8n8k16", "s8"): (lambda g, t, i: (g, 4 * t + i), lambda g, t, i: (4 * t + i, g), 4, 4),
    ("m8n8k4", "f64"): (lambda g, t, i: (g, t), lambda g, t, i: (t, g), 1, 1),
}
STORAGE = {
    "f16": np.float16,
    "bf16": np.uint16,
    "tf32": np.float32,
    "s8": np.int8,
    "u8": np.uint8,
    "e4m3": np.uint8,
    "f64": np.float64,
}


def random_elements(kind, shape):
    x = RNG.standard_normal(shape)
    if kind == "bf16":
        raw = floats.f32_to_bf16(x.astype(np.float32))
        return raw, floats.bf16_to_f32(raw).astype(np.float64)
    if kind == "tf32":
        raw = floats.f32_to_tf32(x.astype(np.float32)).view(np.float32)
        return raw, raw.astype(np.float64)
    if kind == "e4m3":
        raw = floats.f32_to_fp8(x, "e4m3")
        return raw, floats.fp8_to_f32(raw, "e4m3").astype(np.float64)
    raw = (
        RNG.integers(-100 if kind == "s8" else 0, 100, shape).astype(STORAGE[kind])
        if kind in ("s8", "u8")
        else x.astype(STORAGE[kind])
    )
    return raw, raw.astype(np.float64)


@pytest.mark.parametrize(("shape", "kind"), RULES)
def test_mma_layout(shape, kind):
    rows, columns, depth = (int(v) for v in shape[1:].replace("n", " ").replace("k", " ").split())
    rule_a, rule_b, count_a, count_b = RULES[shape, kind]
    a, exact_a = random_elements(kind, (rows, depth))
    b, exact_b = random_elements(kind, (depth, columns))
    fragment_a = np.array([[a[rule_a(lane // 4, lane % 4, i)] for i in range(count_a)] for lane in range(32)])
    fragment_b = np.array([[b[rule_b(lane // 4, lane % 4, i)] for i in range(count_b)] for lane in range(32)])
    accumulator = {"s8": "s32", "u8": "s32", "f64": "f64"}.get(kind, "f32")
    word = 64 if kind == "f64" else 32
    registers = [count * STORAGE[kind]().itemsize * 8 // word for count in (count_a, count_b)] + [
        4 if rows == 16 else 2
    ]
    names = [[f"%{n}{i}" for i in range(k)] for n, k in zip("abc", registers, strict=True)]
    out_word = 64 if accumulator == "f64" else 32
    text = [
        ".version 8.6\n.target sm_90\n.address_size 64",
        ".visible .entry k(.param .u64 x0, .param .u64 x1, .param .u64 x2) {",
        f".reg .b{word} %a<9>, %b<9>; .reg .b{out_word} %c<5>; .reg .b64 %p, %o; .reg .b32 %t; mov.u32 %t, %tid.x;",
    ]
    for index, group in enumerate(names[:2]):
        text.append(f"ld.param.u64 %p, [x{index}]; mul.wide.u32 %o, %t, {len(group) * word // 8}; add.s64 %p, %p, %o;")
        text += [f"ld.global.b{word} {name}, [%p+{i * word // 8}];" for i, name in enumerate(group)]
    text += [f"mov.b{out_word} {name}, 0;" for name in names[2]]
    braces = ["{" + ",".join(group) + "}" for group in names]
    types = f"{accumulator}.{kind}.{kind}.{accumulator}"
    text.append(f"mma.sync.aligned.{shape}.row.col.{types} {braces[2]}, {braces[0]}, {braces[1]}, {braces[2]};")
    text.append(f"ld.param.u64 %p, [x2]; mul.wide.u32 %o, %t, {registers[2] * out_word // 8}; add.s64 %p, %p, %o;")
    text += [f"st.global.b{out_word} [%p+{i * out_word // 8}], {name};" for i, name in enumerate(names[2])]
    text.append("ret; }")
    out = np.zeros((32, registers[2]), {"s32": np.int32, "f64": np.float64, "f32": np.float32}[accumulator])
    ptxvm.Module.from_ptx("\n".join(text)).launch("k", 1, 32, [fragment_a, fragment_b, out])
    expected = exact_a @ exact_b
    for lane in range(32):
        for i in range(registers[2]):
            row, column = lane // 4 + 8 * (i >= 2), 2 * (lane % 4) + (i & 1)
            assert abs(out[lane, i] - expected[row, column]) < 1e-4


@pytest.mark.parametrize(
    ("name", "kind", "accumulator", "transposed", "tile"),
    [
        ("half_rr", "f16", np.float32, "", (16, 16)),
        ("half_cr", "f16", np.float32, "a", (16, 16)),
        ("half_acc", "f16", np.float16, "b", (32, 8)),
        ("bf16_rc", "bf16", np.float32, "b", (16, 16)),
        ("int8_rc", "s8", np.int32, "b", (16, 16)),
    ],
)
def test_wmma(cuda, name, kind, accumulator, transposed, tile):
    m, n, k = 64, 32, 48
    a, exact_a = random_elements(kind, (m, k))
    b, exact_b = random_elements(kind, (k, n))
    a = np.ascontiguousarray(a.T) if "a" in transposed else a
    b = np.ascontiguousarray(b.T) if "b" in transposed else b
    c = np.zeros((m, n), accumulator)
    stats = cuda(KERNELS / "wmma.cu").launch(name, (m // tile[0] // 2, n // tile[1]), 64, [a, b, c, m, n, k])
    tolerance = 0.2 if accumulator == np.float16 else 1e-3
    assert np.abs(c - 2 * exact_a @ exact_b).max() <= tolerance
    assert stats.mma_flops == 2 * m * n * k


def test_stmatrix_inverts_ldmatrix():
    text = """.version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 x, .param .u64 y) {
    .shared .align 16 .b8 s[1024]; .reg .b32 %t, %r<4>, %s0, %o, %d; .reg .b64 %p, %q, %w; .reg .b32 %v<4>;
    mov.u32 %t, %tid.x; mul.wide.u32 %w, %t, 16; ld.param.u64 %p, [x]; add.s64 %p, %p, %w;
    mov.u32 %s0, s; shl.b32 %o, %t, 4; add.u32 %o, %o, %s0;
    ld.global.v4.b32 {%v0,%v1,%v2,%v3}, [%p]; st.shared.v4.b32 [%o], {%v0,%v1,%v2,%v3}; bar.warp.sync -1;
    ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r0,%r1,%r2,%r3}, [%o];
    stmatrix.sync.aligned.m8n8.x4.shared.b16 [%o+512], {%r0,%r1,%r2,%r3}; bar.warp.sync -1;
    ld.shared.v4.b32 {%v0,%v1,%v2,%v3}, [%o+512]; ld.param.u64 %q, [y]; add.s64 %q, %q, %w;
    st.global.v4.b32 [%q], {%v0,%v1,%v2,%v3}; ret; }"""
    x, y = np.arange(256, dtype=np.uint16).reshape(4, 8, 8), np.zeros((4, 8, 8), np.uint16)
    stats = ptxvm.Module.from_ptx(text).launch("k", 1, 32, [x, y])
    assert (y == x.transpose(0, 2, 1)).all()
    assert stats.shared_wavefronts == stats.shared_ideal_wavefronts == 16
