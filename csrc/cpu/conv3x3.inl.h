// 3x3 convolutions: which method, how many blocks. Included once per instruction set, inside its namespace and target
// pragma.

#include "cpu/conv_gemm.inl.h"
//
#include "cpu/conv_pack.inl.h"
//
#include "cpu/conv_direct.inl.h"
//
#include "cpu/conv_winograd.inl.h"

constexpr int64_t kBlockBytes = 384 * 1024;  // of the buffers of a block: most of an L2 cache is left to the weights

// The method follows from the channels alone. Measured on Zen 4 with AVX-512 and AVX2.
inline ConvMethod conv_method(int64_t c_in, int64_t c_out) {
  if (c_in <= 4) return ConvMethod::direct;
  if (vectors_of(9 * c_out) <= 4 * vectors_of(c_out)) return ConvMethod::taps;
  return ConvMethod::winograd;
}

// As many tiles as the buffers have room for, fewer where that leaves few blocks.
inline int64_t winograd_block_rows(int64_t bytes_per_tile, int64_t tiles) {
  int64_t rows = kBlockBytes / bytes_per_tile / kRowMultiple * kRowMultiple;
  while (rows > kRowMultiple && tiles < 16 * rows) rows -= kRowMultiple;
  return rows < kRowMultiple ? kRowMultiple : rows < 4 * kRowMultiple ? rows : 4 * kRowMultiple;
}

ConvPlan conv_plan(const Conv& p) {
  const Epilogue& t = p.tail;
  ConvPlan plan{};
#if defined(VSR_BF16_DOT)
  plan.halves = t.dtype == DType::bf16;
#endif
  plan.method = conv_method(p.c_in, t.c);
  plan.products = plan.method == ConvMethod::winograd ? 16 : 1;
  plan.columns = plan.method == ConvMethod::taps ? 9 * t.c : t.c;
  plan.depth = plan.halves ? (p.c_in + 1) / 2 * 2 : p.c_in;
  plan.k = plan.method == ConvMethod::direct ? 9 * plan.depth : plan.depth;
  const int64_t operand_bytes = plan.halves ? 2 : 4;
  if (plan.method == ConvMethod::winograd) {
    const int64_t tiles = t.n * ((t.h + 1) / 2) * ((t.w + 1) / 2), chunk = t.c < kChunk ? t.c : kChunk;
    const int64_t v_bytes = vectors_of(p.c_in) * Vec::kWidth * operand_bytes,
                  m_bytes = vectors_of(chunk) * Vec::kWidth * 4;
    plan.block_rows = winograd_block_rows(16 * (v_bytes + m_bytes) + 4 * t.c * 4, tiles);
    plan.blocks = (tiles + plan.block_rows - 1) / plan.block_rows;
  } else if (plan.method == ConvMethod::direct) {
    plan.block_rows = kPiece;
    plan.blocks = t.n * t.h * ((t.w + kPiece - 1) / kPiece);
  } else {
    plan.block_rows = (kTapsHeight + 2) * (kTapsWidth + 2);
    plan.blocks = t.n * ((t.h + kTapsHeight - 1) / kTapsHeight) * ((t.w + kTapsWidth - 1) / kTapsWidth);
  }
  plan.pack_units = vectors_of(plan.columns) * (p.c_in == 0 ? 1 : (p.c_in + kPackDepth - 1) / kPackDepth);
  const int64_t weights = plan.products * vectors_of(plan.columns) * Vec::kWidth * plan.k * operand_bytes;
  plan.packed_bytes = (weights + 63) / 64 * 64 + 2 * packed_columns(plan) * 4;
  return plan;
}

template <class F>
inline void with_operands(const Conv& p, F f) {
#if defined(VSR_BF16_DOT)
  if (p.plan.halves) return f(bfloat16{}, bfloat16{});
#endif
  with_type(p.tail.dtype, [&](auto element) { f(element, float{}); });
}

void conv_pack(const Conv& p, void* packed, int64_t begin, int64_t end) {
  with_operands(
      p, [&](auto element, auto operand) { pack_units<decltype(element), decltype(operand)>(p, packed, begin, end); });
}

void conv3x3(const Conv& p, int64_t begin, int64_t end) {
  with_operands(p, [&](auto element, auto operand) {
    using T = decltype(element);
    using E = decltype(operand);
    switch (p.plan.method) {
      case ConvMethod::winograd: return winograd_blocks<T, E>(p, begin, end);
      case ConvMethod::direct: return direct_blocks<T, E>(p, begin, end);
      case ConvMethod::taps: return taps_blocks<T, E>(p, begin, end);
    }
  });
}
