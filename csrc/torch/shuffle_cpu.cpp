#include "cpu/kernels.h"
#include "torch/shuffle.h"

namespace vsr::op {
namespace {

Tensor run(const char* op, const Tensor& x, int64_t r, bool inverse, const OptionalTensor& out = std::nullopt) {
  const ShuffleCall call = prepare_shuffle(op, x, r, inverse, out);
  const PixelShuffle& p = call.problem;
  if (x.numel() > 0)
    torch::stable::parallel_for(0, cpu::shuffle_units(p), 1,
                                [&](int64_t begin, int64_t end) { cpu::kernels().pixel_shuffle(p, begin, end); });
  return call.out;
}

Tensor pixel_shuffle(const Tensor& x, int64_t r) { return run("pixel_shuffle", x, r, false); }
Tensor pixel_unshuffle(const Tensor& x, int64_t r) { return run("pixel_unshuffle", x, r, true); }

void pixel_shuffle_into(Tensor out, const Tensor& x, int64_t r, bool inverse) {
  run("pixel_shuffle_into", x, r, inverse, out);
}

}  // namespace
}  // namespace vsr::op

STABLE_TORCH_LIBRARY_IMPL(vsr_kernels, CPU, m) {
  m.impl("pixel_shuffle", TORCH_BOX(&vsr::op::pixel_shuffle));
  m.impl("pixel_shuffle_into", TORCH_BOX(&vsr::op::pixel_shuffle_into));
  m.impl("pixel_unshuffle", TORCH_BOX(&vsr::op::pixel_unshuffle));
}
