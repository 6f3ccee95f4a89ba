#include "cuda/pixel_shuffle.h"
#include "torch/cuda_call.h"
#include "torch/shuffle.h"

namespace vsr::op {
namespace {

Tensor run(const char* op, const Tensor& x, int64_t r, bool inverse) {
  const ShuffleCall call = prepare_shuffle(op, x, r, inverse);
  if (x.numel() > 0)
    on_stream_of(op, x, [&](cudaStream_t stream) { return cuda::launch_pixel_shuffle(call.problem, stream); });
  return call.out;
}

Tensor pixel_shuffle(const Tensor& x, int64_t r) { return run("pixel_shuffle", x, r, false); }
Tensor pixel_unshuffle(const Tensor& x, int64_t r) { return run("pixel_unshuffle", x, r, true); }

}  // namespace
}  // namespace vsr::op

STABLE_TORCH_LIBRARY_IMPL(vsr_kernels, CUDA, m) {
  m.impl("pixel_shuffle", TORCH_BOX(&vsr::op::pixel_shuffle));
  m.impl("pixel_unshuffle", TORCH_BOX(&vsr::op::pixel_unshuffle));
}
