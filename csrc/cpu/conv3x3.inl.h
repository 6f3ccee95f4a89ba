// 3x3 and 7x7 convolutions: which method, how many blocks. Included once per instruction set, inside its namespace and
// target pragma.

#include "cpu/conv_gemm.inl.h"
//
#include "cpu/conv_pack.inl.h"
//
#include "cpu/conv_direct.inl.h"
//
#include "cpu/conv_winograd.inl.h"
//
#include "cpu/conv_pieces.inl.h"

// Of the buffers of a block, in an L2 cache of 1 MiB that the weights of 64 channels have to share: 400 KiB of them for
// winograd3, 576 KiB for winograd4.
constexpr int64_t kBlockBytes = 384 * 1024, kBlockBytes4 = 256 * 1024;

// The method follows from the channels alone. Measured on Zen 4 with AVX-512 and AVX2.
inline ConvMethod conv_method(int64_t size, int64_t c_in, int64_t c_out, bool exact) {
  if (size == 7) return exact ? ConvMethod::pieces : ConvMethod::pieces4;
  if (c_in <= 4) return ConvMethod::direct;
  if (vectors_of(9 * c_out) <= 4 * vectors_of(c_out)) return ConvMethod::taps;
  return exact ? ConvMethod::winograd3 : ConvMethod::winograd4;
}

// As many tiles as the buffers have room for, fewer where that leaves few blocks; in steps of what the registers hold.
inline int64_t winograd_block_rows(int64_t bytes, int64_t bytes_per_tile, int64_t tiles, int64_t c_out) {
  const int64_t step = c_out > kChunk ? kRowMultiple : rows_at_once(static_cast<int>(vectors_of(c_out))) == 8 ? 8 : 12;
  int64_t rows = bytes / bytes_per_tile / step * step;
  while (rows > kRowMultiple && tiles < 16 * rows) rows -= step;
  return rows < step ? step : rows < 4 * kRowMultiple ? rows : 4 * kRowMultiple;
}

ConvPlan conv_plan(const Conv& p) {
  const Epilogue& t = p.tail;
  ConvPlan plan{};
#if defined(VSR_BF16_DOT)
  plan.halves = t.dtype == DType::bf16 && p.size == 3;
#endif
  const bool exact =
      plan.halves || (p.exact && t.dtype == DType::f32);  // beside the rounding of 16 bits no error counts
  plan.method = conv_method(p.size, p.c_in, t.c, exact);
  const bool pieces = plan.method == ConvMethod::pieces, pieces4 = plan.method == ConvMethod::pieces4;
  plan.sums = plan.method == ConvMethod::winograd3 ? 3 : plan.method == ConvMethod::winograd4 ? 4 : 0;
  plan.products = plan.sums > 0 ? (plan.sums + 2) * (plan.sums + 2) : pieces ? 100 : pieces4 ? 196 : 1;
  plan.columns = plan.method == ConvMethod::taps ? 9 * t.c : t.c;
  plan.k = plan.method == ConvMethod::direct ? 9 * p.c_in : p.c_in;
  if (plan.halves) plan.k = (plan.k + 1) / 2 * 2;
  const int64_t operand_bytes = plan.halves ? 2 : 4;
  if (plan.sums > 0) {
    const int64_t m = plan.sums, tiles = t.n * ((t.h + m - 1) / m) * ((t.w + m - 1) / m);
    const int64_t v_bytes = whole_vectors(p.c_in) * operand_bytes;
    const int64_t m_bytes = whole_vectors(t.c < kChunk ? t.c : kChunk) * 4;
    plan.block_rows = winograd_block_rows(plan.sums == 4 ? kBlockBytes4 : kBlockBytes,
                                          plan.products * (v_bytes + m_bytes), tiles, t.c);
    plan.blocks = (tiles + plan.block_rows - 1) / plan.block_rows;
  } else if (pieces) {
    choose_rectangle<5>(plan, p.c_in, t.c, t.n, (t.h + 1) / 2, (t.w + 1) / 2);
  } else if (pieces4) {
    choose_rectangle<7>(plan, p.c_in, t.c, t.n, (t.h + 3) / 4, (t.w + 3) / 4);
  } else if (plan.method == ConvMethod::direct) {
    plan.block_rows = kPiece;
    plan.blocks = t.n * t.h * ((t.w + kPiece - 1) / kPiece);
  } else {
    plan.block_rows = (kTapsHeight + 2) * (kTapsWidth + 2);
    plan.blocks = t.n * ((t.h + kTapsHeight - 1) / kTapsHeight) * ((t.w + kTapsWidth - 1) / kTapsWidth);
  }
  plan.pack_units = vectors_of(plan.columns) * (p.c_in == 0 ? 1 : (p.c_in + kPackDepth - 1) / kPackDepth);
  const int64_t weights = plan.products * whole_vectors(plan.columns) * plan.k * operand_bytes;
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
      case ConvMethod::winograd3: return winograd_blocks<T, E, 3>(p, begin, end);
      case ConvMethod::winograd4:
        if constexpr (sizeof(E) == 4) winograd_blocks<T, E, 4>(p, begin, end);
        return;
      case ConvMethod::pieces:
        if constexpr (sizeof(E) == 4) pieces_blocks<T, 5>(p, begin, end);
        return;
      case ConvMethod::pieces4:
        if constexpr (sizeof(E) == 4) pieces_blocks<T, 7>(p, begin, end);
        return;
      case ConvMethod::direct: return direct_blocks<T, E>(p, begin, end);
      case ConvMethod::taps: return taps_blocks<T, E>(p, begin, end);
    }
  });
}
