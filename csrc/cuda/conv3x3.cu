// Choice of the instance of the 3x3 convolution: by arithmetic, and by tile height for the current device.
//
// The plan of the kernel itself is in conv3x3_kernel.cuh.

#include <cstdint>

#include "cuda/conv3x3.h"
#include "cuda/conv3x3_launch.cuh"

namespace vsr::cuda {
namespace {

struct Device {
  ConvDevice limits;
  int capability;
};

cudaError_t current_device(Device& device) {
  int index = 0, major = 0, minor = 0;
  cudaError_t error = cudaGetDevice(&index);
  const auto ask = [&](int& value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, attribute, index);
  };
  ask(device.limits.multiprocessors, cudaDevAttrMultiProcessorCount);
  ask(device.limits.shared_per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  ask(device.limits.shared_per_multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  ask(major, cudaDevAttrComputeCapabilityMajor);
  ask(minor, cudaDevAttrComputeCapabilityMinor);
  device.capability = major * 10 + minor;
  return error;
}

bool in_range(const Conv3x3& p) {
  constexpr int64_t kMax = 0x7fffffff;
  return p.h <= kMax - 32 && p.w <= kMax - 32 && p.c_in <= kMax - 64 && p.c_out <= kMax - 64 && p.c_total <= kMax - 64;
}

}  // namespace

cudaError_t launch_conv3x3(const Conv3x3& p, int tile_height, cudaStream_t stream) {
  if (p.n * p.h * p.w * p.c_out == 0) return cudaSuccess;
  const bool listed = p.out_channels != nullptr;
  if (!in_range(p) || p.c_out % (p.r * p.r) != 0 || (listed && p.r != 1)) return cudaErrorInvalidValue;
  const Conv3x3Layout layout = conv3x3_layout(p.c_in, p.c_out, p.r, p.dtype, p.exact);
  const bool aligned = on_vectors(p.kept) && (listed || (on_vectors(p.out) && on_vectors(p.residual)));
  if (whole_vectors(layout) && !aligned) return cudaErrorMisalignedAddress;
  switch (p.dtype) {
    case DType::bf16: return launch_conv3x3_bf16(p, tile_height, stream);
    case DType::f16: return launch_conv3x3_f16(p, tile_height, stream);
    case DType::f32: return launch_conv3x3_f32(p, tile_height, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t launch_conv3x3(const Conv3x3& p, cudaStream_t stream) {
  Device device{};
  const cudaError_t error = current_device(device);
  if (error != cudaSuccess) return error;
  if (!conv3x3_runs_on(p.dtype, device.capability)) return cudaErrorNotSupported;
  const Conv3x3Layout layout = conv3x3_layout(p.c_in, p.c_out, p.r, p.dtype, p.exact);
  const int height = conv_tile_height(layout, p.n, p.h, p.w, conv_assembles(p), device.limits);
  return height == 0 ? cudaErrorNotSupported : launch_conv3x3(p, height, stream);
}

}  // namespace vsr::cuda
