// A network of 3x3 convolutions in a row: how it is cut into launches, and where the packed weights of its layers lie.
// Pure host functions.
#pragma once

#include <cstdint>
#include <vector>

#include "core/thin_net.h"

namespace vsr {

// Channel counts: channels[0] of x, channels[l + 1] of what layer l gives, the last one before the shuffle.
struct ChainShape {
  std::vector<int64_t> channels;
  int64_t r;  // of the pixel shuffle behind the last layer

  int layers() const { return static_cast<int>(channels.size()) - 1; }
};

inline int64_t shuffle_behind(const ChainShape& chain, int layer) { return layer == chain.layers() - 1 ? chain.r : 1; }

// Layers [first, first + count) as a chain of thin convolutions; count <= kThinLayers.
inline ThinShape thin_part(const ChainShape& chain, int first, int count) {
  ThinShape part{};
  part.layers = count, part.c_in = chain.channels[first], part.r = shuffle_behind(chain, first + count - 1);
  for (int i = 0; i < count; ++i) part.c_out[i] = chain.channels[first + i + 1];
  return part;
}

// How many layers each launch has, in order, so that the predicted time on the device is the least. One layer is a
// launch of the convolution, more are one of thin convolutions.
inline std::vector<int> cut_chain(const ChainShape& chain, int64_t n, int64_t h, int64_t w, DType dtype, bool exact,
                                  const Gpu& gpu) {
  const int layers = chain.layers();
  std::vector<double> rest(layers + 1, 0.0);  // the least time from a layer to the end
  std::vector<int> counts(layers, 1);
  for (int first = layers - 1; first >= 0; --first) {
    const Conv3x3Layout layout =
        conv3x3_layout(chain.channels[first], chain.channels[first + 1], shuffle_behind(chain, first), dtype, exact);
    const int tensors = first == layers - 1 ? 2 : 1;  // the last one has a residual
    rest[first] = launch_cycles(conv_work(layout, n, h, w, tensors, gpu), gpu) + rest[first + 1];
    for (int count = 2; count <= kThinLayers && first + count <= layers; ++count) {
      const ThinShape part = thin_part(chain, first, count);
      if (!thin_runs(part, dtype)) continue;
      const ThinTile tile = thin_tile(part, n, h, w, gpu);
      if (tile.rows == 0 || tile.cycles + rest[first + count] > rest[first]) continue;
      rest[first] = tile.cycles + rest[first + count], counts[first] = count;
    }
  }
  std::vector<int> launches;
  for (int layer = 0; layer < layers; layer += counts[layer]) launches.push_back(counts[layer]);
  return launches;
}

// Where a layer's packed weights begin, in bytes, for a launch of its own and for one of thin convolutions; -1 where
// the layer is in none. They are the same where both read the same order. Sizes do not matter, so that weights stay
// packed when those change.
struct ChainPacking {
  Conv3x3Layout alone, thin;
  int64_t alone_at, thin_at;
};

inline std::vector<ChainPacking> chain_packings(const ChainShape& chain, DType dtype, bool exact, int64_t& bytes) {
  std::vector<ChainPacking> packings;
  bytes = 0;
  for (int layer = 0; layer < chain.layers(); ++layer) {
    const int64_t c_in = chain.channels[layer], c_out = chain.channels[layer + 1], r = shuffle_behind(chain, layer);
    const bool thin = dtype != DType::f32 && chain.layers() > 1 && c_in >= 1 && c_in <= kThinChannels && c_out >= 1 &&
                      c_out <= kThinOutputChannels;  // any layer may be the last of its launch
    ChainPacking p{conv3x3_layout(c_in, c_out, r, dtype, exact), {}, bytes, -1};
    bytes += packed_bytes(p.alone);
    if (thin) {
      p.thin = conv3x3_layout(c_in, c_out, r, dtype, false, kThinChannels);
      p.thin_at = p.alone_at;
      if (p.thin.columns != p.alone.columns) p.thin_at = bytes, bytes += packed_bytes(p.thin);
    }
    packings.push_back(p);
  }
  return packings;
}

}  // namespace vsr
