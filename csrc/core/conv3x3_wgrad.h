// Description of the weight gradient of a 3x3 convolution on tensor cores: the call, how it is cut into blocks, and
// where the partial sums of a block lie.
#pragma once

#include <cstdint>

#include "core/conv3x3.h"
#include "core/dtype.h"
#include "core/platform.h"

namespace vsr {

// grad_weight(o, i, ky, kx) = sum over n, y, x of grad(n, y, x, o) * x(n, y + ky - 1, x + kx - 1, i), with zeros around
// the image; grad_bias(o) = sum of grad(n, y, x, o). Both are summed in float32, in an order that depends on the sizes,
// the device and the workspace alone. Pointers need the alignment of their elements.
//
// With in_channels, i counts those channels of x; that its entries are in range is for the caller to see to.
struct Conv3x3WeightGradient {
  const void* x;               // (N, H, W, C_x), dense
  const void* grad;            // (N, H, W, C_out), dense
  const int64_t* in_channels;  // C_in channels of x, in device memory, or null: all of them, C_x = C_in
  void* grad_weight;           // (C_out, C_in, 3, 3), dense
  void* grad_bias;             // (C_out,) dense, or null
  void* workspace;             // 16-byte aligned, of workspace_bytes
  int64_t workspace_bytes;     // at least those of one split; fewer than the plan asks for mean fewer splits
  int64_t n, h, w;
  int64_t c_x, c_in, c_out;
  DType dtype;
  bool exact;  // float32 as three TF32 products instead of one
};

// What a block computes: `rows` output channels times `columns` input channels, all nine taps. Its warps form teams;
// each team sums over pixels of its own, and the members of a team share those pixels and split the columns.
struct WeightGradientForm {
  int row_tiles;     // of a warp, 16 output channels each
  int column_tiles;  // of a warp, 8 input channels each
  int team;          // warps
  int teams;
};

enum WeightGradientFormName { kWgradSquare, kWgradFewOut, kWgradFewIn, kWgradForms };

// The square form moves the fewest bytes per product. The others exist so that a last layer (3 output channels) and a
// first one (3 input channels), which memory should bound, do not multiply mostly padding. Float32 as three products
// always takes the second, whose warps sum half as much: it needs registers for both parts of the operands.
constexpr WeightGradientForm kWeightGradientForms[kWgradForms] = {{2, 2, 2, 4}, {1, 2, 2, 4}, {2, 1, 1, 4}};

VSR_HOST_DEVICE constexpr int wgrad_rows(const WeightGradientForm& f) { return 16 * f.row_tiles; }
VSR_HOST_DEVICE constexpr int wgrad_columns(const WeightGradientForm& f) { return 8 * f.column_tiles * f.team; }
VSR_HOST_DEVICE constexpr int wgrad_threads(const WeightGradientForm& f) { return 32 * f.team * f.teams; }

// Pixels are walked through in strips: as many columns of an image as 32 bytes hold elements, top to bottom, three rows
// (a stage) at a time. A stage brings gradient rows y, y + 1, y + 2 and input rows y - 1, y, y + 1.
constexpr int kWgradStageRows = 3;
VSR_HOST_DEVICE constexpr int wgrad_strip(int element_bytes) { return 32 / element_bytes; }
// Input row h - 1 comes with gradient row h.
VSR_HOST_DEVICE constexpr int64_t wgrad_strip_stages(int64_t h) { return ceil_div(h + 1, kWgradStageRows); }

VSR_HOST_DEVICE constexpr int wgrad_input_bytes(const WeightGradientForm& f, int element_bytes) {
  return kWgradStageRows * (wgrad_strip(element_bytes) + 2) * wgrad_columns(f) * element_bytes;
}
VSR_HOST_DEVICE constexpr int wgrad_grad_bytes(const WeightGradientForm& f, int element_bytes) {
  return kWgradStageRows * wgrad_strip(element_bytes) * wgrad_rows(f) * element_bytes;
}
VSR_HOST_DEVICE constexpr int wgrad_stage_bytes(const WeightGradientForm& f, int element_bytes) {
  return wgrad_input_bytes(f, element_bytes) + wgrad_grad_bytes(f, element_bytes);
}
// Blocks of a multiprocessor that registers are budgeted for.
VSR_HOST_DEVICE constexpr int wgrad_resident(const WeightGradientForm& f) { return wgrad_threads(f) > 128 ? 1 : 2; }
// Stages in shared memory. Two blocks on a multiprocessor cover each other's waits, so that two are enough, as they are
// where copies are not asynchronous.
VSR_HOST_DEVICE constexpr int wgrad_slots(const WeightGradientForm& f, bool asynchronous) {
  return wgrad_resident(f) == 1 && asynchronous ? 3 : 2;
}
// Behind the stages: the channels of the block's columns in x.
VSR_HOST_DEVICE constexpr int wgrad_shared_bytes(const WeightGradientForm& f, int element_bytes, bool asynchronous) {
  return f.teams * wgrad_slots(f, asynchronous) * wgrad_stage_bytes(f, element_bytes) + 4 * wgrad_columns(f);
}

// Partial sums: per split, the blocks one after the other, and behind them a sum of grad per row of the row blocks.
// In a block: per warp of a team, tap, row tile and column tile, the 16 x 8 sums in the order of the lanes of an MMA.
VSR_HOST_DEVICE constexpr int wgrad_block_tiles(const WeightGradientForm& f) {
  return f.team * 9 * f.row_tiles * f.column_tiles;
}
constexpr int kWgradTile = 128;  // sums

struct WeightGradientPlan {
  WeightGradientFormName name;
  int element_bytes;
  int64_t row_blocks, column_blocks;
  int64_t strips;        // of all images
  int64_t strip_stages;  // of each
  int64_t splits;        // of all stages; each is divided among the teams of a block
};

inline WeightGradientForm wgrad_form(const WeightGradientPlan& p) { return kWeightGradientForms[p.name]; }
inline int64_t wgrad_blocks(const WeightGradientPlan& p) { return p.row_blocks * p.column_blocks; }
inline int64_t wgrad_stages(const WeightGradientPlan& p) { return p.strips * p.strip_stages; }
inline int64_t wgrad_split_sums(const WeightGradientPlan& p) {
  const WeightGradientForm form = wgrad_form(p);
  return wgrad_blocks(p) * wgrad_block_tiles(form) * kWgradTile + p.row_blocks * wgrad_rows(form);
}
inline int64_t wgrad_workspace_bytes(const WeightGradientPlan& p) { return 4 * p.splits * wgrad_split_sums(p); }

// Output and input channel of row r and column c (of 16 x 8) of an MMA. 16-bit fragments come from ldmatrix, which
// takes neighbouring channels; the row tiles of a team's members are in turned order, so that the first one is another
// for each. Fragments of 32 bits come from loads of as many neighbouring channels as a lane needs.
VSR_HOST_DEVICE constexpr int wgrad_row(int row_tiles, int element_bytes, int warp, int tile, int r) {
  return element_bytes == 2 ? 16 * ((tile + warp) % row_tiles) + r : 2 * row_tiles * (r % 8) + 2 * tile + r / 8;
}
VSR_HOST_DEVICE constexpr int wgrad_column(int column_tiles, int element_bytes, int warp, int tile, int c) {
  return 8 * column_tiles * warp + (element_bytes == 2 ? 8 * tile + c : column_tiles * c + tile);
}

// What the choice of a plan depends on.
struct WeightGradientDevice {
  int capability;  // major * 10 + minor
  int multiprocessors;
  int shared_per_multiprocessor;
};

constexpr int64_t kWgradWorkspace = int64_t{64} << 20;  // bytes that partial sums are worth

// The form with the fewest products, counting padding. The square form wins where the others save no more than a
// quarter, because they read more bytes per product. There is no form of float32 for few input channels.
inline WeightGradientFormName wgrad_choose_form(int64_t c_in, int64_t c_out, DType dtype, bool exact) {
  if (dtype == DType::f32 && exact) return kWgradFewOut;
  const auto cost = [&](WeightGradientFormName name) {
    const WeightGradientForm f = kWeightGradientForms[name];
    const int64_t padded =
        ceil_div(c_out, wgrad_rows(f)) * wgrad_rows(f) * ceil_div(c_in, wgrad_columns(f)) * wgrad_columns(f);
    return padded * (name == kWgradSquare ? 3 : 4);
  };
  WeightGradientFormName best = kWgradSquare;
  if (cost(kWgradFewOut) < cost(best)) best = kWgradFewOut;
  if (dtype != DType::f32 && cost(kWgradFewIn) < cost(best)) best = kWgradFewIn;
  return best;
}

// How many splits there are is a matter of time. In units of what a stage takes: the rounds of blocks, each as long as
// its largest team's share and a start and an end; then the reduction, which reads what every split wrote. Of all
// splits with the same largest share, the fewest are enough.
inline WeightGradientPlan weight_gradient_plan(int64_t n, int64_t h, int64_t w, int64_t c_in, int64_t c_out,
                                               DType dtype, bool exact, const WeightGradientDevice& device,
                                               int64_t workspace) {
  constexpr double kStartAndEnd = 3.0;
  constexpr double kReduction = 0.017;  // per block and split: 37 KB there and back through the L2
  constexpr int kReserved = 1024;       // shared memory that the system takes of each block
  WeightGradientPlan p{};
  p.name = wgrad_choose_form(c_in, c_out, dtype, exact);
  p.element_bytes = dtype == DType::f32 ? 4 : 2;
  const WeightGradientForm form = wgrad_form(p);
  p.row_blocks = ceil_div(c_out, wgrad_rows(form));
  p.column_blocks = c_in == 0 ? 1 : ceil_div(c_in, wgrad_columns(form));  // without input there is still grad_bias
  p.strips = n * ceil_div(w, wgrad_strip(p.element_bytes));
  p.strip_stages = wgrad_strip_stages(h);
  const int64_t stages = wgrad_stages(p), blocks = wgrad_blocks(p);
  if (n == 0 || h == 0 || w == 0 || c_out == 0) return p;

  const int shared = wgrad_shared_bytes(form, p.element_bytes, device.capability >= 80) + kReserved;
  const int64_t resident = device.shared_per_multiprocessor < 2 * shared ? 1 : wgrad_resident(form);
  const int64_t places = resident * device.multiprocessors;
  const int64_t by_memory = workspace / 4 / wgrad_split_sums(p), by_stages = ceil_div(stages, form.teams);
  const int64_t by_places = ceil_div(2 * places, blocks);
  int64_t most = by_memory < by_stages ? by_memory : by_stages;
  most = by_places < most ? by_places : most;
  double least = 0.0;
  p.splits = 1;
  for (int64_t splits = 1, share = 0; splits <= most; splits = ceil_div(stages, (share - 1) * form.teams)) {
    share = ceil_div(stages, splits * form.teams);
    const double rounds = static_cast<double>(ceil_div(splits * blocks, places));
    const double cost =
        rounds * (static_cast<double>(share) + kStartAndEnd) + kReduction * static_cast<double>(splits * blocks);
    if (splits == 1 || cost < least) least = cost, p.splits = splits;
    if (share == 1) break;
  }
  return p;
}

}  // namespace vsr
