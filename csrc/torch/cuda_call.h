// What every CUDA operator does around its launch: the tensor's device, the current stream, the launch check.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "torch/tensors.h"

namespace vsr::op {

// Runs launch(stream) on x's device and current stream and raises the error it returns.
template <class Launch>
void on_stream_of(const char* op, const Tensor& x, Launch launch) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device());
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device(), &stream));
  const cudaError_t error = launch(static_cast<cudaStream_t>(stream));
  STD_TORCH_CHECK(error == cudaSuccess, op, ": the launch failed: ", cudaGetErrorString(error));
}

}  // namespace vsr::op
