// Backward warp by a flow field. Included once per instruction set, inside its namespace and target pragma.
//
// Plan. Pixels of a row go in runs. First the coordinates of a run are worked out, many pixels at a time: each
// displacement is split into whole pixels and a fraction (exact, unlike the sum column + dx). Then pixel by pixel:
// where all four corners lie inside, which is nearly everywhere, they are one address and two steps; elsewhere corners
// outside the image point at a row of zeros. With neighbouring channels the blend runs over vectors of channels and
// each corner is one contiguous read. What the next row will read first is asked for a row ahead, which is worth a
// tenth (Zen 4, images beyond the L2 cache); asking some pixels ahead makes it slower. Outputs are asked for 8 KiB
// ahead, which is worth another seventh in float32 and nothing in 16 bits. With planes, the coordinates of a run serve
// every channel.
//
// The gradient by x is a scatter: a unit of work owns one image and a band of its rows, finds the pixels that reach
// into it, run by run, and adds to no other row; so every destination has one writer and one order of sums. The
// gradient by flow has one writer per pixel anyway.

constexpr int kWarpRun = 64;  // pixels whose coordinates are worked out together

constexpr int64_t kOutputsAhead = 8192;  // bytes

// A displacement beyond this is as far outside as any other; NaN becomes the lower end. Sums with a coordinate fit into
// 32 bits.
constexpr float kFar = 1e9f;

struct Axis {
  int32_t i0[kWarpRun];       // first of two neighbours; may lie outside
  float f[kWarpRun];          // weight of the second
  int32_t clipped[kWarpRun];  // the coordinate lies on or beyond the border, where border padding is flat
};

// Displacements d of pixels at position, position + step, ... Loops without branches, which compilers turn into
// vectors.
inline void locate(Axis& axis, const float* d, int32_t position, int32_t step, int64_t size, bool nearest,
                   bool border) {
  for (int i = 0; i < kWarpRun; ++i) {
    float clamped = d[i] > -kFar ? d[i] : -kFar;
    clamped = clamped < kFar ? clamped : kFar;
    const float whole = __builtin_floorf(clamped);
    axis.i0[i] = position + i * step + static_cast<int32_t>(whole);
    axis.f[i] = clamped - whole;
    axis.clipped[i] = 0;
  }
  if (nearest) {
    for (int i = 0; i < kWarpRun; ++i) {  // ties go to the even pixel
      const int32_t odd = axis.i0[i] & 1;
      axis.i0[i] += axis.f[i] > 0.5f ? 1 : axis.f[i] == 0.5f ? odd : 0;
      axis.f[i] = 0.0f;
    }
  }
  if (border) {
    const int32_t end = static_cast<int32_t>(size - 1);
    for (int i = 0; i < kWarpRun; ++i) {
      const int32_t first = axis.i0[i];
      const bool low = (first < 0) | ((first == 0) & (axis.f[i] == 0.0f)), clipped = low | (first >= end);
      axis.i0[i] = low ? 0 : first >= end ? end : first;
      axis.f[i] = clipped ? 0.0f : axis.f[i];
      axis.clipped[i] = clipped;
    }
  }
}

inline bool inside(int64_t i, int64_t size) { return static_cast<uint64_t>(i) < static_cast<uint64_t>(size); }

// Where a run of pixels samples. Corners in row-major order over dy, dx.
struct Samples {
  Axis x, y;
  float weight[4][kWarpRun];
  int32_t interior[kWarpRun];  // all corners lie inside
};

template <class Flow>
inline void load_flow(const Flow* from, int64_t step, int count, float* to) {
  for (int i = 0; i < count; ++i) to[i] = to_float(from[i * step]);
  for (int i = count; i < kWarpRun; ++i) to[i] = 0.0f;
}
inline void load_flow(const float* from, int64_t step, int count, float* to) {
  if (step == 1 && count == kWarpRun) return static_cast<void>(__builtin_memcpy(to, from, kWarpRun * sizeof(float)));
  for (int i = 0; i < count; ++i) to[i] = from[i * step];
  for (int i = count; i < kWarpRun; ++i) to[i] = 0.0f;
}

// Pixels [col, col + count) of one row, count <= kWarpRun.
template <class Flow, class Problem>
inline void find_samples(Samples& s, const Problem& p, int64_t n, int64_t row, int64_t col, int count) {
  const Flow* at = static_cast<const Flow*>(p.flow) + n * p.fs.n + row * p.fs.h + col * p.fs.w;
  float d[kWarpRun];
  load_flow(at, p.fs.w, count, d);
  locate(s.x, d, static_cast<int32_t>(col), 1, p.w, p.nearest, p.border);
  load_flow(at + p.fs.c, p.fs.w, count, d);
  locate(s.y, d, static_cast<int32_t>(row), 0, p.h, p.nearest, p.border);
  for (int i = 0; i < kWarpRun; ++i) {
    const float fx = s.x.f[i], fy = s.y.f[i];
    s.weight[0][i] = (1.0f - fy) * (1.0f - fx);
    s.weight[1][i] = (1.0f - fy) * fx;
    s.weight[2][i] = fy * (1.0f - fx);
    s.weight[3][i] = fy * fx;
  }
  const uint32_t last_x = static_cast<uint32_t>(p.w - 1), last_y = static_cast<uint32_t>(p.h - 1);
  for (int i = 0; i < kWarpRun; ++i)
    s.interior[i] = (static_cast<uint32_t>(s.x.i0[i]) < last_x) & (static_cast<uint32_t>(s.y.i0[i]) < last_y);
}

// Offsets of the corners of one pixel, -1 outside.
template <class Problem>
inline void find_corners(const Samples& s, int i, const Problem& p, int64_t row_stride, int64_t col_stride,
                         int64_t corner[4]) {
  for (int k = 0; k < 4; ++k) {
    const int64_t y = s.y.i0[i] + int64_t{k / 2}, x = s.x.i0[i] + int64_t{k % 2};
    corner[k] = inside(y, p.h) && inside(x, p.w) ? y * row_stride + x * col_stride : -1;
  }
}

// The corners of one pixel of an image with neighbouring channels.
template <class T>
struct Corners {
  const T* at[4];
};

template <class T, class Problem>
inline Corners<T> corners_of(const Samples& s, int i, const Problem& p, const T* image, const T* zeros) {
  const int64_t down = p.xs.h, right = p.xs.w;
  if (s.interior[i]) {
    const T* first = image + s.y.i0[i] * down + s.x.i0[i] * right;
    return {{first, first + right, first + down, first + down + right}};
  }
  int64_t corner[4];
  find_corners(s, i, p, down, right, corner);
  Corners<T> c;
  for (int k = 0; k < 4; ++k) c.at[k] = corner[k] >= 0 ? image + corner[k] : zeros;
  return c;
}

// Asks the L2 cache for the pixel `step` bytes on, which need not be one.
template <bool kWrite, class T>
inline void prefetch_pixel(const T* pixel, int64_t step, int64_t channels) {
  const uintptr_t from = reinterpret_cast<uintptr_t>(pixel) + static_cast<uintptr_t>(step);
  for (uintptr_t at = 0; at < channels * sizeof(T); at += 64)
    __builtin_prefetch(reinterpret_cast<const void*>(from + at), kWrite, 2);
}

// Zeros that stand for a pixel outside the image.
template <class T>
inline const T* zero_row(int64_t channels) {
  T* zeros = static_cast<T*>(scratch(0, channels * static_cast<int64_t>(sizeof(T))));
  __builtin_memset(static_cast<void*>(zeros), 0, channels * sizeof(T));
  return zeros;
}

template <class T>
inline void blend(T* out, const Corners<T>& from, const Samples& s, int i, int64_t channels) {
  Vec weight[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) weight[k] = Vec::set(s.weight[k][i]);
  const auto& at = from.at;
  int64_t c = 0;
  for (; c + 2 * Vec::kWidth <= channels; c += 2 * Vec::kWidth) {
    const Wide first = load_wide(at[0] + c);
    Wide sum{mul(weight[0], first.a), mul(weight[0], first.b)};
#pragma GCC unroll 3
    for (int k = 1; k < 4; ++k) {
      const Wide v = load_wide(at[k] + c);
      sum = {fma(weight[k], v.a, sum.a), fma(weight[k], v.b, sum.b)};
    }
    store_wide(sum, out + c);
  }
  for (; c < channels; c += Vec::kWidth) {
    const int rest = c + Vec::kWidth <= channels ? Vec::kWidth : static_cast<int>(channels - c);
    Vec sum = mul(weight[0], load_some(at[0] + c, rest));
#pragma GCC unroll 3
    for (int k = 1; k < 4; ++k) sum = fma(weight[k], load_some(at[k] + c, rest), sum);
    store_some(sum, out + c, rest);
  }
}

// f(samples, image, row, col, count) for every run of rows [begin, end) of N * H.
template <class Flow, class Problem, class F>
inline void each_run(const Problem& p, int64_t begin, int64_t end, F f) {
  Samples samples;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / p.h, row = unit % p.h;
    for (int64_t col = 0; col < p.w; col += kWarpRun) {
      const int count = col + kWarpRun <= p.w ? kWarpRun : static_cast<int>(p.w - col);
      find_samples<Flow>(samples, p, n, row, col, count);
      f(samples, n, row, col, count);
    }
  }
}

template <class T, class Flow>
void warp_interleaved(const FlowWarp& p, int64_t begin, int64_t end) {
  const T* zeros = zero_row<T>(p.c);
  each_run<Flow>(p, begin, end, [&](const Samples& s, int64_t n, int64_t row, int64_t col, int count) {
    const T* image = static_cast<const T*>(p.x) + n * p.xs.n;
    T* out = static_cast<T*>(p.out) + n * p.os.n + row * p.os.h + col * p.os.w;
    const FlowWarp local = p;  // which outputs cannot be taken to overlap
    for (int i = 0; i < count; ++i, out += local.os.w) {
      const Corners<T> from = corners_of(s, i, local, image, zeros);
      prefetch_pixel<false>(from.at[0], 2 * local.xs.h * static_cast<int64_t>(sizeof(T)), local.c);
      prefetch_pixel<true>(out, kOutputsAhead, local.c);
      if (local.nearest)
        __builtin_memcpy(out, from.at[0], local.c * sizeof(T));
      else
        blend(out, from, s, i, local.c);
    }
  });
}

template <class T, class Flow>
void warp_planar(const FlowWarp& p, int64_t begin, int64_t end) {
  each_run<Flow>(p, begin, end, [&](const Samples& s, int64_t n, int64_t row, int64_t col, int count) {
    int64_t corner[kWarpRun][4];
    for (int i = 0; i < count; ++i) find_corners(s, i, p, p.xs.h, p.xs.w, corner[i]);
    for (int64_t c = 0; c < p.c; ++c) {
      const T* plane = static_cast<const T*>(p.x) + n * p.xs.n + c * p.xs.c;
      T* out = static_cast<T*>(p.out) + n * p.os.n + c * p.os.c + row * p.os.h + col * p.os.w;
      for (int i = 0; i < count; ++i, out += p.os.w) {
        if (p.nearest) {
          *out = corner[i][0] >= 0 ? plane[corner[i][0]] : T{};
          continue;
        }
        float v = 0.0f;
        for (int k = 0; k < 4; ++k)
          if (corner[i][k] >= 0) v += s.weight[k][i] * to_float(plane[corner[i][k]]);
        *out = from_float<T>(v);
      }
    }
  });
}

template <class T, class Flow>
void warp_typed(const FlowWarp& p, int64_t begin, int64_t end) {
  const bool interleaved = p.c > 1 && p.xs.c == 1 && p.os.c == 1;
  interleaved ? warp_interleaved<T, Flow>(p, begin, end) : warp_planar<T, Flow>(p, begin, end);
}

// to += weight * grad
template <class T>
inline void add_scaled(float* to, Vec weight, const T* grad, int64_t channels) {
  int64_t c = 0;
  for (; c + Vec::kWidth <= channels; c += Vec::kWidth)
    fma(weight, Vec::load(grad + c), Vec::load(to + c)).store(to + c);
  if (c == channels) return;
  const int rest = static_cast<int>(channels - c);
  fma(weight, Vec::load(grad + c, rest), Vec::load(to + c, rest)).store(to + c, rest);
}

template <class T, class Flow>
void warp_grad_x_typed(const FlowWarpBackward& p, int64_t begin, int64_t end) {
  const int64_t bands = grad_x_bands(p.h), row_stride = p.w * p.c;
  Samples s;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / bands, band = unit % bands;
    const int64_t top = band * p.h / bands, bottom = (band + 1) * p.h / bands;
    float* image = static_cast<float*>(p.grad_x) + n * p.h * row_stride;
    const Flow* flow_y = static_cast<const Flow*>(p.flow) + n * p.fs.n + p.fs.c;
    for (int64_t row = 0; row < p.h; ++row) {
      for (int64_t col = 0; col < p.w; col += kWarpRun) {
        const int count = col + kWarpRun <= p.w ? kWarpRun : static_cast<int>(p.w - col);
        float d[kWarpRun];
        load_flow(flow_y + row * p.fs.h + col * p.fs.w, p.fs.w, count, d);
        locate(s.y, d, static_cast<int32_t>(row), 0, p.h, p.nearest, p.border);
        int32_t least = s.y.i0[0], most = s.y.i0[0];
        for (int i = 0; i < count; ++i) {
          least = s.y.i0[i] < least ? s.y.i0[i] : least;
          most = s.y.i0[i] > most ? s.y.i0[i] : most;
        }
        if (least >= bottom || most + 1 < top) continue;
        find_samples<Flow>(s, p, n, row, col, count);
        const T* grad = static_cast<const T*>(p.grad) + n * p.gs.n + row * p.gs.h + col * p.gs.w;
        for (int i = 0; i < count; ++i, grad += p.gs.w) {
          for (int k = 0; k < 4; ++k) {
            const int64_t y = s.y.i0[i] + int64_t{k / 2}, x = s.x.i0[i] + int64_t{k % 2};
            if (y < top || y >= bottom || !inside(x, p.w)) continue;
            add_scaled(image + y * row_stride + x * p.c, Vec::set(s.weight[k][i]), grad, p.c);
          }
        }
      }
    }
  }
}

template <class T, class Flow>
void warp_grad_flow_typed(const FlowWarpBackward& p, int64_t begin, int64_t end) {
  const T* zeros = zero_row<T>(p.c);
  each_run<Flow>(p, begin, end, [&](const Samples& s, int64_t n, int64_t row, int64_t col, int count) {
    const T* image = static_cast<const T*>(p.x) + n * p.xs.n;
    const T* grad = static_cast<const T*>(p.grad) + n * p.gs.n + row * p.gs.h + col * p.gs.w;
    Flow* to_x = static_cast<Flow*>(p.grad_flow) + (n * 2 * p.h + row) * p.w + col;
    Flow* to_y = to_x + p.h * p.w;
    for (int i = 0; i < count; ++i, grad += p.gs.w) {
      if (p.nearest) {
        to_x[i] = to_y[i] = from_float<Flow>(0.0f);
        continue;
      }
      const Corners<T> from = corners_of(s, i, p, image, zeros);
      const auto& at = from.at;
      const float right = s.x.f[i], down = s.y.f[i];
      const Vec fx = Vec::set(right), gx = Vec::set(1.0f - right), fy = Vec::set(down), gy = Vec::set(1.0f - down);
      Vec sum_x = Vec::set(0.0f), sum_y = Vec::set(0.0f);
      const auto step = [&](Vec g, Vec nw, Vec ne, Vec sw, Vec se) {
        sum_x = fma(g, fma(fy, sub(se, sw), mul(gy, sub(ne, nw))), sum_x);
        sum_y = fma(g, fma(fx, sub(se, ne), mul(gx, sub(sw, nw))), sum_y);
      };
      int64_t c = 0;
      for (; c + 2 * Vec::kWidth <= p.c; c += 2 * Vec::kWidth) {
        const Wide g = load_wide(grad + c), nw = load_wide(at[0] + c), ne = load_wide(at[1] + c),
                   sw = load_wide(at[2] + c), se = load_wide(at[3] + c);
        step(g.a, nw.a, ne.a, sw.a, se.a);
        step(g.b, nw.b, ne.b, sw.b, se.b);
      }
      for (; c < p.c; c += Vec::kWidth) {
        const int rest = c + Vec::kWidth <= p.c ? Vec::kWidth : static_cast<int>(p.c - c);
        step(load_some(grad + c, rest), load_some(at[0] + c, rest), load_some(at[1] + c, rest),
             load_some(at[2] + c, rest), load_some(at[3] + c, rest));
      }
      to_x[i] = from_float<Flow>(s.x.clipped[i] ? 0.0f : sum_x.sum());
      to_y[i] = from_float<Flow>(s.y.clipped[i] ? 0.0f : sum_y.sum());
    }
  });
}

// Calls f with a value of the element type and one of the flow field's, which is float32 or the same.
template <class F>
inline void with_types(DType dtype, DType flow_dtype, F f) {
  with_type(dtype, [&](auto element) {
    if (flow_dtype == DType::f32) return f(element, float{});
    return f(element, element);
  });
}

void flow_warp(const FlowWarp& p, int64_t begin, int64_t end) {
  with_types(p.dtype, p.flow_dtype,
             [&](auto element, auto flow) { warp_typed<decltype(element), decltype(flow)>(p, begin, end); });
}

void flow_warp_grad_flow(const FlowWarpBackward& p, int64_t begin, int64_t end) {
  with_types(p.dtype, p.flow_dtype,
             [&](auto element, auto flow) { warp_grad_flow_typed<decltype(element), decltype(flow)>(p, begin, end); });
}

void flow_warp_grad_x(const FlowWarpBackward& p, int64_t begin, int64_t end) {
  with_types(p.dtype, p.flow_dtype,
             [&](auto element, auto flow) { warp_grad_x_typed<decltype(element), decltype(flow)>(p, begin, end); });
}
