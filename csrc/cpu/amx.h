// The tile instructions of AMX that the convolutions use, registers being template arguments. Included under the target
// pragma of the kernels_amx_*.cpp, which define VSR_ISA and what is multiplied: VSR_INT8_DOT, or else bfloat16.
// python/amxvm has the same functions in software, for tests without such a CPU.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace vsr::cpu::VSR_ISA {

// What LDTILECFG reads. A configuration clears all registers.
struct alignas(64) TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

// The intrinsics paste the number of a register into the instruction and need a literal.
#define VSR_EACH_TILE(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7)

// Sets the shapes of this thread's registers, which any library may have changed since the last call.
inline void configure_tiles(const TileConfig& config) { _tile_loadconfig(&config); }

// Gives the registers back: the operating system need not save them any longer.
inline void release_tiles() { _tile_release(); }

// Rows `stride` bytes apart.
template <int kTile>
inline void load_tile(const void* rows, int64_t stride) {
#define VSR_LOAD(tile) \
  if constexpr (kTile == tile) _tile_loadd(tile, rows, stride);
  VSR_EACH_TILE(VSR_LOAD)
#undef VSR_LOAD
}

template <int kTile>
inline void store_tile(void* rows, int64_t stride) {
#define VSR_STORE(tile) \
  if constexpr (kTile == tile) _tile_stored(tile, rows, stride);
  VSR_EACH_TILE(VSR_STORE)
#undef VSR_STORE
}

#if defined(VSR_INT8_DOT)
#define VSR_TILE_DOT _tile_dpbusd
#else
#define VSR_TILE_DOT _tile_dpbf16ps
#endif

// Register kSum += pairs of bfloat16, or fours of uint8, in the rows of kA, times those, or fours of int8, in the
// columns of kB; kA is 7.
template <int kSum, int kA, int kB>
inline void multiply_tiles() {
  static_assert(kSum < 4 && kA == 7 && kB >= 4 && kB < 7);
#define VSR_MULTIPLY(sum)                                        \
  if constexpr (kSum == sum && kB == 4) VSR_TILE_DOT(sum, 7, 4); \
  if constexpr (kSum == sum && kB == 5) VSR_TILE_DOT(sum, 7, 5); \
  if constexpr (kSum == sum && kB == 6) VSR_TILE_DOT(sum, 7, 6);
  VSR_MULTIPLY(0) VSR_MULTIPLY(1) VSR_MULTIPLY(2) VSR_MULTIPLY(3)
#undef VSR_MULTIPLY
}
#undef VSR_EACH_TILE
#undef VSR_TILE_DOT

// The compiler moves no access to memory across this. gcc's tile loads do not say that they read memory: without it,
// stores to what they read could be put off, and later stores to it could come first.
inline void keep_order() { asm volatile("" ::: "memory"); }

}  // namespace vsr::cpu::VSR_ISA
