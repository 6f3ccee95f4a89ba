// Found before the file of the same name in csrc: CPU tensors stand for those of a GPU, and ptxvm runs the launches.
#pragma once

#include <cuda_runtime_api.h>

#include "torch/tensors.h"

namespace vsr::op {

inline void raise(const char* op, cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, op, ": the launch failed: ", cudaGetErrorString(error));
}

class StreamOf {
 public:
  explicit StreamOf(const Tensor&) {}
  operator cudaStream_t() const { return nullptr; }
};

template <class Launch>
void on_stream_of(const char* op, const Tensor&, Launch launch) {
  raise(op, launch(nullptr));
}

}  // namespace vsr::op
