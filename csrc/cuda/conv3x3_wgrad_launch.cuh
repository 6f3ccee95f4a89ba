// From a problem and its plan to a launch of one of the instances of an arithmetic.
#pragma once

#include "cuda/conv3x3_wgrad.h"
#include "cuda/conv3x3_wgrad_kernel.cuh"

namespace vsr::cuda {

// One per arithmetic, each in a file of its own; `asynchronous`: the device is sm_80 or later.
cudaError_t launch_weight_gradient_bf16(const Conv3x3WeightGradient& p, const WeightGradientPlan& plan,
                                        bool asynchronous, cudaStream_t stream);
cudaError_t launch_weight_gradient_f16(const Conv3x3WeightGradient& p, const WeightGradientPlan& plan,
                                       bool asynchronous, cudaStream_t stream);
cudaError_t launch_weight_gradient_f32(const Conv3x3WeightGradient& p, const WeightGradientPlan& plan,
                                       bool asynchronous, cudaStream_t stream);

inline WeightGradientArguments weight_gradient_arguments(const Conv3x3WeightGradient& p,
                                                         const WeightGradientPlan& plan) {
  const int bytes = plan.element_bytes;
  const WeightGradientForm form = wgrad_form(plan);
  const auto vectors = [](const void* pointer, int64_t pixel) {
    return pixel % 16 == 0 && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  };
  WeightGradientArguments a{};
  a.x = static_cast<const char*>(p.x), a.grad = static_cast<const char*>(p.grad);
  a.in_channels = p.in_channels;
  a.sums = static_cast<float*>(p.workspace);
  a.split_sums = wgrad_split_sums(plan);
  a.bias_sums = wgrad_blocks(plan) * wgrad_block_tiles(form) * kWgradTile;
  const auto steps = [&](int64_t pixel) {
    const int64_t strip = wgrad_strip(bytes) * pixel, row = p.w * pixel,
                  back = plan.strip_stages * kWgradStageRows * row;
    return StripSteps{pixel, row, kWgradStageRows * row, strip - back,
                      p.h * row - (ceil_div(p.w, wgrad_strip(bytes)) - 1) * strip - back};
  };
  a.x_steps = steps(p.c_x * bytes), a.grad_steps = steps(p.c_out * bytes);
  const int64_t teams = plan.splits * form.teams;
  a.share = static_cast<int>(wgrad_stages(plan) / teams), a.remainder = static_cast<int>(wgrad_stages(plan) % teams);
  a.strip_stages = static_cast<int>(plan.strip_stages);
  a.h = static_cast<int>(p.h), a.w = static_cast<int>(p.w);
  a.c_in = static_cast<int>(p.c_in), a.c_out = static_cast<int>(p.c_out);
  a.row_strips = static_cast<int>(ceil_div(p.w, wgrad_strip(bytes)));
  a.x_by_vectors = p.in_channels == nullptr && vectors(p.x, a.x_steps.pixel);
  a.grad_by_vectors = vectors(p.grad, a.grad_steps.pixel);
  a.bias = p.grad_bias != nullptr;
  return a;
}

template <class Math, WeightGradientFormName kName>
cudaError_t launch_form(const Conv3x3WeightGradient& p, const WeightGradientPlan& plan, bool asynchronous,
                        cudaStream_t stream) {
  using Traits = WeightGradientTraits<Math, kName>;
  const int shared = wgrad_shared_bytes(Traits::kForm, Math::kBytes, asynchronous);
  const auto kernel = conv3x3_weight_gradient_kernel<Traits>;
  const cudaError_t allowed = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (allowed != cudaSuccess) return allowed;
  const dim3 grid(static_cast<unsigned>(plan.column_blocks), static_cast<unsigned>(plan.row_blocks),
                  static_cast<unsigned>(plan.splits));
  kernel<<<grid, Traits::kThreads, shared, stream>>>(weight_gradient_arguments(p, plan));
  return cudaGetLastError();
}

// The instances of 16-bit elements.
template <class Math>
cudaError_t launch_16_bit_forms(const Conv3x3WeightGradient& p, const WeightGradientPlan& plan, bool asynchronous,
                                cudaStream_t stream) {
  switch (plan.name) {
    case kWgradSquare: return launch_form<Math, kWgradSquare>(p, plan, asynchronous, stream);
    case kWgradFewOut: return launch_form<Math, kWgradFewOut>(p, plan, asynchronous, stream);
    case kWgradFewIn: return launch_form<Math, kWgradFewIn>(p, plan, asynchronous, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace vsr::cuda
