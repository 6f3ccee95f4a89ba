// A rough time of a launch of tiles on tensor cores, to choose between ways of doing the same work. Pure host
// functions.
#pragma once

#include <cstdint>

#include "core/conv3x3.h"

namespace vsr {

// What the choice between plans depends on.
struct Gpu {
  int capability;  // major * 10 + minor
  int multiprocessors;
  int shared_per_block;
  int shared_per_multiprocessor;
  int64_t l2_bytes;
};

// Figures of the family that a capability belongs to, from public ones of a typical member.
struct GpuRates {
  double tensor_cycles;  // of m16n8k16 with float32 sums, on one of the four tensor cores of a multiprocessor
  double l2, dram;       // bytes per cycle and multiprocessor
  double cycles_per_microsecond;
};

constexpr GpuRates gpu_rates(int capability) {
  if (capability >= 120) return {32.0, 14.0, 4.4, 2400.0};
  if (capability >= 100) return {6.4, 24.0, 29.0, 1850.0};
  if (capability >= 90) return {6.4, 23.7, 14.5, 1755.0};
  if (capability > 80) return {32.0, 14.0, capability == 89 ? 3.1 : 6.7, capability == 89 ? 2520.0 : 1700.0};
  return capability == 80 ? GpuRates{8.0, 29.5, 10.2, 1410.0} : GpuRates{16.0, 20.0, 5.0, 1590.0};
}

// The work of one launch.
struct TileWork {
  int64_t tiles;
  double products;      // m16n8k16 per tile
  double instructions;  // warp instructions beside each product
  double wavefronts;    // of shared memory, per product
  double asked;         // bytes asked of the L2, all tiles together
  double compulsory;    // bytes that have to move if nothing is cached
  int shared_bytes;     // of a block
  int blocks;           // that a multiprocessor runs at a time, where one alone would wait for itself
  double latency;       // cycles of a tile on an idle multiprocessor, if more than its resources take
};

// Cycles of one launch: rounds of tiles, each as long as its slowest resource, or the time of the bytes. 0 tiles take
// none.
inline double launch_cycles(const TileWork& work, const Gpu& gpu) {
  if (work.tiles == 0) return 0.0;
  constexpr double kTensorEfficiency = 0.78;
  constexpr double kFill = 1700.0;  // first load and last store; other blocks hide it where several fit
  constexpr double kLaunchMicroseconds = 2.0;
  constexpr int kReserved = 1024;  // shared memory that the system takes of each block
  const GpuRates rates = gpu_rates(gpu.capability);
  const auto larger = [](double a, double b) { return a > b ? a : b; };
  const bool alone = gpu.shared_per_multiprocessor < 2 * (work.shared_bytes + kReserved);
  const double tensor = work.products / 4 * rates.tensor_cycles / kTensorEfficiency;
  const double issue = work.products / 4 * (1 + work.instructions);
  const double tile = larger(tensor, larger(issue, work.products * work.wavefronts));
  const int64_t each = ceil_div(work.tiles, gpu.multiprocessors);
  const int64_t together = each < work.blocks ? each : work.blocks;
  const double rounds = static_cast<double>(ceil_div(work.tiles, gpu.multiprocessors * together));
  const double computing =
      rounds * larger(static_cast<double>(together) * tile, work.latency) + kFill * (alone ? rounds : 1.0);
  const double l2 = work.asked / (rates.l2 * gpu.multiprocessors);
  const double dram = work.compulsory > 0.7 * static_cast<double>(gpu.l2_bytes)
                          ? work.compulsory / (rates.dram * gpu.multiprocessors)
                          : 0.0;
  return larger(computing, larger(l2, dram)) + kLaunchMicroseconds * rates.cycles_per_microsecond;
}

// A 3x3 convolution with its best tile, `tensors` of the size of its output read or written behind the sums. Figures
// per product: those of the kernel at 32 and 64 channels.
inline TileWork conv_work(const Conv3x3Layout& p, int64_t n, int64_t h, int64_t w, int tensors, const Gpu& gpu) {
  const int rows =
      conv_tile_height(p, n, h, w, false, {gpu.multiprocessors, gpu.shared_per_block, gpu.shared_per_multiprocessor});
  const int width = conv_tile_width(p.columns), height = rows == 0 ? 8 : rows;
  const double pixels = static_cast<double>(n) * static_cast<double>(h) * static_cast<double>(w);
  const double weights = static_cast<double>(p.stages) * conv_stage_bytes(p.columns, p.parts);
  TileWork work{};
  work.tiles = n * p.column_blocks * ceil_div(h, height) * ceil_div(w, width);
  const double steps = 9.0 * static_cast<double>(ceil_div(p.c_in < 1 ? 1 : p.c_in, p.k_channels));  // of all taps
  const double parts = p.parts == 2 ? 3.0 : 1.0, depth = p.element_bytes == 4 ? 2.0 : 1.0;
  work.products = height * width / 16.0 * (p.columns / 8.0) * steps * parts * depth;
  work.instructions = p.columns >= 48 ? 1.2 : 1.7;
  work.wavefronts = p.columns >= 32 ? 1.0 : 1.5;
  const double tile_pixels = (height + 2.0) * (width + 2.0);
  const double c_in = static_cast<double>(p.c_in), c_out = static_cast<double>(p.c_out);
  work.asked = static_cast<double>(work.tiles) * (tile_pixels * c_in * p.element_bytes + weights) +
               pixels * c_out * p.element_bytes * tensors;
  work.compulsory = pixels * (c_in + c_out * tensors) * p.element_bytes;
  work.shared_bytes = conv_shared_bytes(p.columns, p.parts, height);
  work.blocks = 1;
  return work;
}

}  // namespace vsr
