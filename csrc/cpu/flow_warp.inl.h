// Backward warp by a flow field. Included once per instruction set, inside its namespace and target pragma.
//
// Plan. Per output pixel: split the displacement into whole pixels and a fraction (exact, unlike the sum column + dx),
// find the four corners, point those outside the image at a row of zeros, and blend. With neighbouring channels the
// blend runs over vectors of channels and each corner is one contiguous read. With planes, the corners of a whole
// row of pixels are worked out once and used for every channel.
//
// The gradient by x is a scatter: a unit of work owns one image and sixteen channels of it and walks all pixels, so
// every destination has one writer and one order of sums. The gradient by flow has one writer per pixel anyway.

struct Axis {
  int64_t i0;    // first of two neighbours; may lie outside
  float f;       // weight of the second
  bool clipped;  // the coordinate lies on or beyond the border, where border padding is flat
};

// A displacement beyond this is as far outside as any other; NaN becomes the lower end.
constexpr float kFar = 1e9f;

inline Axis locate(int64_t position, float displacement, int64_t size, bool nearest, bool border) {
  float d = displacement > -kFar ? displacement : -kFar;
  d = d < kFar ? d : kFar;
  const float whole = __builtin_floorf(d);
  Axis axis{position + static_cast<int64_t>(whole), d - whole, false};
  if (nearest) {  // ties go to the even pixel
    const bool up = axis.f > 0.5f || (axis.f == 0.5f && (axis.i0 & 1));
    axis.i0 += up;
    axis.f = 0.0f;
  }
  if (border) {
    if (axis.i0 < 0 || (axis.i0 == 0 && axis.f == 0.0f)) {
      axis = {0, 0.0f, true};
    } else if (axis.i0 >= size - 1) {
      axis = {size - 1, 0.0f, true};
    }
  }
  return axis;
}

inline bool inside(int64_t i, int64_t size) { return static_cast<uint64_t>(i) < static_cast<uint64_t>(size); }

// Where a pixel samples: offsets of its corners (row-major over dy, dx) in an image of the given strides, -1 outside.
struct Corners {
  int64_t offset[4];
  float weight[4];
  float fx, fy;
  bool clipped_x, clipped_y;
  bool any;
};

template <class Flow>
inline Corners corners(const Flow* flow, const Strides& fs, int64_t n, int64_t row, int64_t col, int64_t h, int64_t w,
                       int64_t row_stride, int64_t col_stride, bool nearest, bool border) {
  const Flow* at = flow + n * fs.n + row * fs.h + col * fs.w;
  const Axis x = locate(col, to_float(at[0]), w, nearest, border);
  const Axis y = locate(row, to_float(at[fs.c]), h, nearest, border);
  Corners c;
  const bool y0 = inside(y.i0, h), y1 = inside(y.i0 + 1, h);
  const bool x0 = inside(x.i0, w), x1 = inside(x.i0 + 1, w);
  const int64_t base = y.i0 * row_stride + x.i0 * col_stride;
  c.offset[0] = y0 && x0 ? base : -1;
  c.offset[1] = y0 && x1 ? base + col_stride : -1;
  c.offset[2] = y1 && x0 ? base + row_stride : -1;
  c.offset[3] = y1 && x1 ? base + row_stride + col_stride : -1;
  c.weight[0] = (1.0f - y.f) * (1.0f - x.f);
  c.weight[1] = (1.0f - y.f) * x.f;
  c.weight[2] = y.f * (1.0f - x.f);
  c.weight[3] = y.f * x.f;
  c.fx = x.f;
  c.fy = y.f;
  c.clipped_x = x.clipped;
  c.clipped_y = y.clipped;
  c.any = (y0 || y1) && (x0 || x1);
  return c;
}

// Zeros that stand for a pixel outside the image.
template <class T>
inline const T* zero_row(int64_t channels) {
  T* zeros = static_cast<T*>(scratch(0, channels * static_cast<int64_t>(sizeof(T))));
  __builtin_memset(zeros, 0, channels * sizeof(T));
  return zeros;
}

template <class T>
inline void blend(T* out, const T* const p[4], const float weight[4], int64_t channels) {
  const Vec w0 = Vec::set(weight[0]), w1 = Vec::set(weight[1]), w2 = Vec::set(weight[2]), w3 = Vec::set(weight[3]);
  for (int64_t c = 0; c < channels; c += Vec::kWidth) {
    const int rest = c + Vec::kWidth <= channels ? Vec::kWidth : static_cast<int>(channels - c);
    Vec v = mul(w0, load_some(p[0] + c, rest));
    v = fma(w1, load_some(p[1] + c, rest), v);
    v = fma(w2, load_some(p[2] + c, rest), v);
    store_some(fma(w3, load_some(p[3] + c, rest), v), out + c, rest);
  }
}

template <class T, class Flow>
void warp_interleaved(const FlowWarp& p, int64_t begin, int64_t end) {
  const T* zeros = zero_row<T>(p.c);
  const Flow* flow = static_cast<const Flow*>(p.flow);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / p.h, row = unit % p.h;
    const T* image = static_cast<const T*>(p.x) + n * p.xs.n;
    T* out = static_cast<T*>(p.out) + n * p.os.n + row * p.os.h;
    for (int64_t col = 0; col < p.w; ++col, out += p.os.w) {
      const Corners k = corners(flow, p.fs, n, row, col, p.h, p.w, p.xs.h, p.xs.w, p.nearest, p.border);
      const T* at[4];
      for (int i = 0; i < 4; ++i) at[i] = k.offset[i] >= 0 ? image + k.offset[i] : zeros;
      if (p.nearest || !k.any) {
        __builtin_memcpy(out, k.any ? at[0] : zeros, p.c * sizeof(T));
      } else {
        blend(out, at, k.weight, p.c);
      }
    }
  }
}

template <class T, class Flow>
void warp_planar(const FlowWarp& p, int64_t begin, int64_t end) {
  Corners* row_corners = static_cast<Corners*>(scratch(1, p.w * static_cast<int64_t>(sizeof(Corners))));
  const Flow* flow = static_cast<const Flow*>(p.flow);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / p.h, row = unit % p.h;
    for (int64_t col = 0; col < p.w; ++col)
      row_corners[col] = corners(flow, p.fs, n, row, col, p.h, p.w, p.xs.h, p.xs.w, p.nearest, p.border);
    for (int64_t c = 0; c < p.c; ++c) {
      const T* plane = static_cast<const T*>(p.x) + n * p.xs.n + c * p.xs.c;
      T* out = static_cast<T*>(p.out) + n * p.os.n + c * p.os.c + row * p.os.h;
      for (int64_t col = 0; col < p.w; ++col) {
        const Corners& k = row_corners[col];
        if (p.nearest) {
          out[col * p.os.w] = k.offset[0] >= 0 ? plane[k.offset[0]] : T{};
          continue;
        }
        float v = 0.0f;
        for (int i = 0; i < 4; ++i)
          if (k.offset[i] >= 0) v += k.weight[i] * to_float(plane[k.offset[i]]);
        out[col * p.os.w] = from_float<T>(v);
      }
    }
  }
}

template <class T, class Flow>
void warp_typed(const FlowWarp& p, int64_t begin, int64_t end) {
  const bool interleaved = p.c > 1 && p.xs.c == 1 && p.os.c == 1;
  interleaved ? warp_interleaved<T, Flow>(p, begin, end) : warp_planar<T, Flow>(p, begin, end);
}

template <class T, class Flow>
void warp_grad_x_typed(const FlowWarpBackward& p, int64_t begin, int64_t end) {
  const int64_t blocks = grad_x_blocks(p.c);
  const Flow* flow = static_cast<const Flow*>(p.flow);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / blocks, first = unit % blocks * kGradBlock;
    const int64_t channels = first + kGradBlock <= p.c ? kGradBlock : p.c - first;
    const T* grads = static_cast<const T*>(p.grad) + n * p.gs.n + first;
    float* image = static_cast<float*>(p.grad_x) + n * p.h * p.w * p.c + first;
    for (int64_t row = 0; row < p.h; ++row) {
      const T* grad = grads + row * p.gs.h;
      for (int64_t col = 0; col < p.w; ++col, grad += p.gs.w) {
        const Corners k = corners(flow, p.fs, n, row, col, p.h, p.w, p.w * p.c, p.c, p.nearest, p.border);
        for (int i = 0; i < 4; ++i) {
          if (k.offset[i] < 0) continue;
          float* to = image + k.offset[i];
          const Vec weight = Vec::set(k.weight[i]);
          for (int64_t c = 0; c < channels; c += Vec::kWidth) {
            const int rest = c + Vec::kWidth <= channels ? Vec::kWidth : static_cast<int>(channels - c);
            store_some(fma(weight, load_some(grad + c, rest), load_some(to + c, rest)), to + c, rest);
          }
        }
      }
    }
  }
}

template <class T, class Flow>
void warp_grad_flow_typed(const FlowWarpBackward& p, int64_t begin, int64_t end) {
  const T* zeros = zero_row<T>(p.c);
  const Flow* flow = static_cast<const Flow*>(p.flow);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / p.h, row = unit % p.h;
    const T* image = static_cast<const T*>(p.x) + n * p.xs.n;
    const T* grad = static_cast<const T*>(p.grad) + n * p.gs.n + row * p.gs.h;
    Flow* to_x = static_cast<Flow*>(p.grad_flow) + (n * 2 * p.h + row) * p.w;
    Flow* to_y = to_x + p.h * p.w;
    for (int64_t col = 0; col < p.w; ++col, grad += p.gs.w) {
      const Corners k = corners(flow, p.fs, n, row, col, p.h, p.w, p.xs.h, p.xs.w, p.nearest, p.border);
      float by_x = 0.0f, by_y = 0.0f;
      if (k.any && !p.nearest) {
        const T* at[4];
        for (int i = 0; i < 4; ++i) at[i] = k.offset[i] >= 0 ? image + k.offset[i] : zeros;
        const Vec fx = Vec::set(k.fx), gx = Vec::set(1.0f - k.fx), fy = Vec::set(k.fy), gy = Vec::set(1.0f - k.fy);
        Vec sum_x = Vec::set(0.0f), sum_y = Vec::set(0.0f);
        for (int64_t c = 0; c < p.c; c += Vec::kWidth) {
          const int rest = c + Vec::kWidth <= p.c ? Vec::kWidth : static_cast<int>(p.c - c);
          const Vec g = load_some(grad + c, rest);
          const Vec nw = load_some(at[0] + c, rest), ne = load_some(at[1] + c, rest);
          const Vec sw = load_some(at[2] + c, rest), se = load_some(at[3] + c, rest);
          sum_x = fma(g, fma(fy, sub(se, sw), mul(gy, sub(ne, nw))), sum_x);
          sum_y = fma(g, fma(fx, sub(se, ne), mul(gx, sub(sw, nw))), sum_y);
        }
        by_x = sum_x.sum();
        by_y = sum_y.sum();
      }
      to_x[col] = from_float<Flow>(k.clipped_x ? 0.0f : by_x);
      to_y[col] = from_float<Flow>(k.clipped_y ? 0.0f : by_y);
    }
  }
}
