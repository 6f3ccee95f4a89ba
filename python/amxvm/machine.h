// The tile registers of AMX in software, one set per thread, after Intel's Software Developer's Manual. What would
// fault on a CPU throws amxvm::Fault.
#pragma once

#include <cstdint>
#include <stdexcept>

namespace amxvm {

constexpr int kTiles = 8, kMostRows = 16, kMostBytes = 64;

// The 64 bytes that LDTILECFG reads.
struct alignas(64) TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What instructions have done, on all threads.
struct Counts {
  int64_t configurations, loads, stores, multiplies;
  int64_t loaded_bytes;
  int64_t lines;  // of 64 bytes that loads touched, row by row
};

void configure(const TileConfig& config);
void release();
void load(int tile, const void* rows, int64_t stride);
void store(int tile, void* rows, int64_t stride);
void multiply(int sum, int a, int b);        // TDPBF16PS
void multiply_bytes(int sum, int a, int b);  // TDPBUSD

// The instruction that raised SIGILL, given the handler's context, which goes on behind it.
void execute(void* context);

// Whether this thread's registers are in use.
bool configured();
void reset_counts();
Counts counts();

}  // namespace amxvm
