#include "machine.h"

#include <atomic>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <string>

namespace amxvm {
namespace {

struct Tile {
  int rows = 0, row_bytes = 0;
  alignas(64) uint8_t data[kMostRows][kMostBytes] = {};
};

struct Machine {
  bool configured = false;
  Tile tiles[kTiles];
};

thread_local Machine machine;

struct {
  std::atomic<int64_t> configurations, loads, stores, multiplies, loaded_bytes, lines;
} total;

[[noreturn]] void fail(const std::string& what) { throw Fault("amx: " + what); }

std::string name(int tile) { return "tile " + std::to_string(tile); }

Tile& in_use(int tile, const char* instruction) {
  if (!machine.configured) fail(std::string(instruction) + ": tiles are not configured");
  Tile& t = machine.tiles[tile];
  if (t.rows == 0) fail(std::string(instruction) + ": " + name(tile) + " has no shape");
  return t;
}

struct Product {
  Tile &sum, &a, &b;
};

// The registers of a multiplication whose elements are words of four bytes.
Product product(int sum, int a, int b, const char* instruction) {
  const std::string prefix = std::string(instruction) + ": ";
  if (sum == a || sum == b || a == b) fail(prefix + "a register is used twice");
  Tile &c = in_use(sum, instruction), &left = in_use(a, instruction), &right = in_use(b, instruction);
  if (left.row_bytes % 4 != 0 || right.row_bytes % 4 != 0 || c.row_bytes % 4 != 0)
    fail(prefix + "rows are not whole words");
  if (left.rows != c.rows || right.row_bytes != c.row_bytes || left.row_bytes / 4 != right.rows)
    fail(prefix + "the shapes of " + name(sum) + ", " + name(a) + " and " + name(b) + " do not fit");
  return {c, left, right};
}

// Subnormal numbers count as zero, as operands and as results.
float flush(float value) { return std::fabs(value) < FLT_MIN ? std::copysign(0.0f, value) : value; }

float widen(const uint8_t* bytes) {
  uint16_t half;
  std::memcpy(&half, bytes, sizeof half);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return flush(value);
}

}  // namespace

void configure(const TileConfig& config) {
  if (config.palette != 1) fail("ldtilecfg: palette " + std::to_string(config.palette) + " is not 1");
  if (config.start_row != 0) fail("ldtilecfg: start_row is not 0");
  for (const uint8_t byte : config.reserved)
    if (byte != 0) fail("ldtilecfg: a reserved byte is not 0");
  Machine made;
  for (int i = 0; i < 16; ++i) {
    const int rows = config.rows[i], row_bytes = config.row_bytes[i];
    if (i >= kTiles && (rows != 0 || row_bytes != 0)) fail("ldtilecfg: there is no " + name(i));
    if (rows > kMostRows || row_bytes > kMostBytes) fail("ldtilecfg: " + name(i) + " is too large");
    if ((rows == 0) != (row_bytes == 0)) fail("ldtilecfg: " + name(i) + " has rows or bytes only");
    if (i < kTiles) {
      made.tiles[i].rows = rows;
      made.tiles[i].row_bytes = row_bytes;
    }
  }
  made.configured = true;
  machine = made;
  ++total.configurations;
}

void release() { machine = Machine(); }

void load(int tile, const void* rows, int64_t stride) {
  Tile& t = in_use(tile, "tileloadd");
  std::memset(t.data, 0, sizeof t.data);
  int64_t lines = 0;
  for (int r = 0; r < t.rows; ++r) {
    const uint8_t* from = static_cast<const uint8_t*>(rows) + r * stride;
    std::memcpy(t.data[r], from, t.row_bytes);
    const uintptr_t first = reinterpret_cast<uintptr_t>(from);
    lines += static_cast<int64_t>((first + t.row_bytes - 1) / 64 - first / 64 + 1);
  }
  ++total.loads;
  total.loaded_bytes += t.rows * t.row_bytes;
  total.lines += lines;
}

void store(int tile, void* rows, int64_t stride) {
  const Tile& t = in_use(tile, "tilestored");
  for (int r = 0; r < t.rows; ++r) std::memcpy(static_cast<uint8_t*>(rows) + r * stride, t.data[r], t.row_bytes);
  ++total.stores;
}

// The first and the second halves of pairs are added up apart in the order of the pairs, then to each other, then to
// what was there.
void multiply(int sum, int a, int b) {
  const auto [c, left, right] = product(sum, a, b, "tdpbf16ps");
  const int columns = c.row_bytes / 4;
  float right_values[kMostRows][2][kMostRows] = {};
  for (int k = 0; k < right.rows; ++k)
    for (int n = 0; n < columns; ++n)
      for (int half = 0; half < 2; ++half) right_values[k][half][n] = widen(right.data[k] + 4 * n + 2 * half);
  for (int m = 0; m < c.rows; ++m) {
    float sums[2][kMostRows] = {}, before[kMostRows] = {};
    for (int k = 0; k < right.rows; ++k)
      for (int half = 0; half < 2; ++half) {
        const float value = widen(left.data[m] + 4 * k + 2 * half);
        for (int n = 0; n < kMostRows; ++n)
          sums[half][n] = flush(std::fma(value, right_values[k][half][n], sums[half][n]));
      }
    std::memcpy(before, c.data[m], c.row_bytes);
    std::memset(c.data[m], 0, kMostBytes);
    for (int n = 0; n < columns; ++n) before[n] = flush(flush(before[n]) + flush(sums[0][n] + sums[1][n]));
    std::memcpy(c.data[m], before, c.row_bytes);
  }
  ++total.multiplies;
}

// Bytes of A without a sign, those of B with one, modulo 2^32.
void multiply_bytes(int sum, int a, int b) {
  const auto [c, left, right] = product(sum, a, b, "tdpbusd");
  uint32_t right_values[kMostRows][4][kMostRows] = {};
  for (int k = 0; k < right.rows; ++k)
    for (int n = 0; n < c.row_bytes / 4; ++n)
      for (int i = 0; i < 4; ++i)
        right_values[k][i][n] = static_cast<uint32_t>(static_cast<int8_t>(right.data[k][4 * n + i]));
  for (int m = 0; m < c.rows; ++m) {
    uint32_t sums[kMostRows] = {};
    std::memcpy(sums, c.data[m], c.row_bytes);
    for (int k = 0; k < right.rows; ++k)
      for (int i = 0; i < 4; ++i)
        for (int n = 0; n < kMostRows; ++n) sums[n] += left.data[m][4 * k + i] * right_values[k][i][n];
    std::memset(c.data[m], 0, kMostBytes);
    std::memcpy(c.data[m], sums, c.row_bytes);
  }
  ++total.multiplies;
}

bool configured() { return machine.configured; }

void reset_counts() {
  total.configurations = total.loads = total.stores = total.multiplies = total.loaded_bytes = total.lines = 0;
}

Counts counts() {
  return {total.configurations, total.loads, total.stores, total.multiplies, total.loaded_bytes, total.lines};
}

}  // namespace amxvm
