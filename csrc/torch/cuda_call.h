// What every CUDA operator does around its launch: the tensor's device, the current stream, the launch check.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "torch/tensors.h"

namespace vsr::op {

inline void raise(const char* op, cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, op, ": the launch failed: ", cudaGetErrorString(error));
}

// The current stream of x's device, which is the current device as long as this lives.
class StreamOf {
 public:
  explicit StreamOf(const Tensor& x) : guard_(x.get_device()) {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device(), &stream_));
  }
  operator cudaStream_t() const { return static_cast<cudaStream_t>(stream_); }

 private:
  const torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

// Runs launch(stream) on x's device and current stream and raises the error it returns.
template <class Launch>
void on_stream_of(const char* op, const Tensor& x, Launch launch) {
  const StreamOf stream(x);
  raise(op, launch(static_cast<cudaStream_t>(stream)));
}

}  // namespace vsr::op
