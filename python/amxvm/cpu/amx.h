// Stands in for csrc/cpu/amx.h: the same functions on tile registers in software. Found first on the include path.
#pragma once

#include "machine.h"

namespace vsr::cpu::VSR_ISA {

using TileConfig = amxvm::TileConfig;

inline void configure_tiles(const TileConfig& config) { amxvm::configure(config); }

inline void release_tiles() { amxvm::release(); }

template <int kTile>
inline void load_tile(const void* rows, int64_t stride) {
  amxvm::load(kTile, rows, stride);
}

template <int kTile>
inline void store_tile(void* rows, int64_t stride) {
  amxvm::store(kTile, rows, stride);
}

template <int kSum, int kA, int kB>
inline void multiply_tiles() {
#if defined(VSR_INT8_DOT)
  amxvm::multiply_bytes(kSum, kA, kB);
#else
  amxvm::multiply(kSum, kA, kB);
#endif
}

inline void keep_order() {}

}  // namespace vsr::cpu::VSR_ISA
