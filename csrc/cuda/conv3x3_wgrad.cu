// Choice of the instance of the weight gradient, and its second launch, which adds the splits.
//
// Plan of the second launch. A block adds three tiles of sums, those of one ky of 16 x 8 channels, as the first launch
// stored them: a lane takes four neighbouring sums of each, a warp every eighth split; the eight warps' sums are then
// added in order. Loads are whole and contiguous; stores have runs of three, the taps of a row, of neighbouring
// channels. Further blocks do the same for the sums of grad. Where nothing was summed (no splits), zeros come out.

#include <cstdint>

#include "cuda/conv3x3_wgrad_launch.cuh"
#include "cuda/device.h"
#include "cuda/elements.cuh"

namespace vsr::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kTaps = 3;                    // of a block
constexpr int kTapPitch = kWgradTile + 16;  // taps 0 and 1 of what a warp reads lie in different banks

struct SplitArguments {
  const float* sums;
  int64_t split_sums, bias_sums;
  void* grad_weight;
  void* grad_bias;
  int splits, c_in, c_out;
};

// This warp's share of the splits: four neighbouring sums of kTiles tiles, kNextTile tiles apart, `from` those of split
// 0, to `to`.
template <int kTiles, int kNextTile = 1>
__device__ __forceinline__ void add_splits(const SplitArguments& a, const float* from, float* to) {
  constexpr int kAtOnce = 2;  // splits
  const int first = threadIdx.x / 32;
  float4 total[kTiles] = {};
  from += first * a.split_sums;
  for (int split = first; split < a.splits; split += kAtOnce * kWarps) {
    float4 found[kAtOnce][kTiles] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
      if (split + i * kWarps < a.splits)
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile)
          found[i][tile] =
              *reinterpret_cast<const float4*>(from + i * kWarps * a.split_sums + tile * kNextTile * kWgradTile);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const float4 v = found[i][tile];
        total[tile].x += v.x, total[tile].y += v.y, total[tile].z += v.z, total[tile].w += v.w;
      }
    from += kAtOnce * kWarps * a.split_sums;
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) *reinterpret_cast<float4*>(to + tile * kTapPitch) = total[tile];
}

// Grid: groups of three tiles of a block of channels, and one more for its sums of grad; column blocks; row blocks.
template <class T, WeightGradientFormName kName>
__global__ void __launch_bounds__(32 * kWarps, 4) add_splits_kernel(const __grid_constant__ SplitArguments a) {
  constexpr WeightGradientForm kForm = kWeightGradientForms[kName];
  constexpr int kRows = wgrad_rows(kForm), kColumns = wgrad_columns(kForm), kTiles = wgrad_block_tiles(kForm);
  constexpr int kRowTiles = kForm.row_tiles, kColumnTiles = kForm.column_tiles;
  constexpr int kBytes = sizeof(T);
  __shared__ __align__(16) float parts[kWarps][kTaps][kTapPitch];
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, group = blockIdx.x;
  const auto whole = [&](int tap, int at) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) sum += parts[i][tap][at];
    return sum;
  };
  const int first_row = blockIdx.z * kRows;
  if (group == kTiles / kTaps) {
    if (blockIdx.y != 0) return;
    if (4 * lane < kRows) add_splits<1>(a, a.sums + a.bias_sums + first_row + 4 * lane, &parts[warp][0][4 * lane]);
    __syncthreads();
    if (thread < kRows && first_row + thread < a.c_out)
      static_cast<T*>(a.grad_bias)[first_row + thread] = from_float<T>(whole(0, thread));
    return;
  }

  const int column_tile = group % kColumnTiles, row_tile = group / kColumnTiles % kRowTiles;
  const int ky = group / (kColumnTiles * kRowTiles) % 3, member = group / (kColumnTiles * kRowTiles * 3);
  const int tile = (member * 3 + ky) * kTaps * kRowTiles * kColumnTiles + row_tile * kColumnTiles + column_tile;
  const int64_t block = static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
  add_splits<kTaps, kRowTiles * kColumnTiles>(a, a.sums + (block * kTiles + tile) * kWgradTile + 4 * lane,
                                              &parts[warp][0][4 * lane]);
  __syncthreads();
  // A warp has two rows: taps 0 and 1 in one turn, tap 2 in another.
  const int half = lane / 8 % 2, c = lane % 8;
  const int held = warp * 16 + c / 2 * 4 + half * 2 + c % 2;  // lane, sum of the lane
  const int row = first_row + wgrad_row(kRowTiles, kBytes, member, row_tile, warp + 8 * half);
  const int column = blockIdx.y * kColumns + wgrad_column(kColumnTiles, kBytes, member, column_tile, c);
  if (row >= a.c_out || column >= a.c_in) return;
  T* const to = static_cast<T*>(a.grad_weight) + (static_cast<int64_t>(row) * a.c_in + column) * 9 + ky * 3;
  to[lane / 16] = from_float<T>(whole(lane / 16, held));
  if (lane < 16) to[2] = from_float<T>(whole(2, held));
}

template <class T>
cudaError_t launch_add_splits(const Conv3x3WeightGradient& p, const WeightGradientPlan& plan, cudaStream_t stream) {
  const int tiles = wgrad_block_tiles(wgrad_form(plan));
  SplitArguments a{};
  a.sums = static_cast<const float*>(p.workspace);
  a.split_sums = wgrad_split_sums(plan), a.bias_sums = wgrad_blocks(plan) * tiles * kWgradTile;
  a.grad_weight = p.grad_weight, a.grad_bias = p.grad_bias;
  a.splits = static_cast<int>(plan.splits);
  a.c_in = static_cast<int>(p.c_in), a.c_out = static_cast<int>(p.c_out);
  const dim3 grid(tiles / kTaps + (p.grad_bias == nullptr ? 0 : 1), static_cast<unsigned>(plan.column_blocks),
                  static_cast<unsigned>(plan.row_blocks));
  switch (plan.name) {
    case kWgradSquare: add_splits_kernel<T, kWgradSquare><<<grid, 32 * kWarps, 0, stream>>>(a); break;
    case kWgradFewOut: add_splits_kernel<T, kWgradFewOut><<<grid, 32 * kWarps, 0, stream>>>(a); break;
    case kWgradFewIn: add_splits_kernel<T, kWgradFewIn><<<grid, 32 * kWarps, 0, stream>>>(a); break;
    case kWgradForms: return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}

bool in_range(const Conv3x3WeightGradient& p, const WeightGradientPlan& plan) {
  constexpr int64_t kMax = 0x7fffffff, kMaxGridYZ = 65535;
  return p.h <= kMax - 32 && p.w <= kMax - 32 && p.c_x <= kMax - 64 && wgrad_stages(plan) <= kMax &&
         plan.row_blocks <= kMaxGridYZ && plan.column_blocks <= kMaxGridYZ && plan.splits <= kMaxGridYZ;
}

WeightGradientPlan plan_for(const Conv3x3WeightGradient& p, const Gpu& gpu, int64_t workspace) {
  return weight_gradient_plan(p.n, p.h, p.w, p.c_in, p.c_out, p.dtype, p.exact,
                              {gpu.capability, gpu.multiprocessors, gpu.shared_per_multiprocessor}, workspace);
}

cudaError_t launch_splits(const Conv3x3WeightGradient& p, const WeightGradientPlan& plan, bool asynchronous,
                          cudaStream_t stream) {
  switch (p.dtype) {
    case DType::bf16: return launch_weight_gradient_bf16(p, plan, asynchronous, stream);
    case DType::f16: return launch_weight_gradient_f16(p, plan, asynchronous, stream);
    case DType::f32: return launch_weight_gradient_f32(p, plan, asynchronous, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t launch_both(const Conv3x3WeightGradient& p, const WeightGradientPlan& plan, bool asynchronous,
                        cudaStream_t stream) {
  if (p.c_out == 0) return cudaSuccess;
  if (!in_range(p, plan) || wgrad_workspace_bytes(plan) > p.workspace_bytes) return cudaErrorInvalidValue;
  if (reinterpret_cast<uintptr_t>(p.workspace) % 16 != 0) return cudaErrorMisalignedAddress;
  if (plan.splits > 0) {
    const cudaError_t error = launch_splits(p, plan, asynchronous, stream);
    if (error != cudaSuccess) return error;
  }
  switch (p.dtype) {
    case DType::bf16: return launch_add_splits<__nv_bfloat16>(p, plan, stream);
    case DType::f16: return launch_add_splits<__half>(p, plan, stream);
    case DType::f32: return launch_add_splits<float>(p, plan, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t conv3x3_weight_gradient_workspace(const Conv3x3WeightGradient& p, int64_t& bytes) {
  Gpu gpu{};
  const cudaError_t error = current_gpu(gpu);
  if (error == cudaSuccess) bytes = wgrad_workspace_bytes(plan_for(p, gpu, kWgradWorkspace));
  return error;
}

cudaError_t launch_conv3x3_weight_gradient(const Conv3x3WeightGradient& p, const WeightGradientPlan& plan,
                                           cudaStream_t stream) {
  Gpu gpu{};
  const cudaError_t error = current_gpu(gpu);
  if (error != cudaSuccess) return error;
  if (!conv3x3_weight_gradient_runs_on(p.dtype, gpu.capability)) return cudaErrorNotSupported;
  return launch_both(p, plan, gpu.capability >= 80, stream);
}

cudaError_t launch_conv3x3_weight_gradient(const Conv3x3WeightGradient& p, cudaStream_t stream) {
  Gpu gpu{};
  const cudaError_t error = current_gpu(gpu);
  if (error != cudaSuccess) return error;
  const int64_t room = p.workspace_bytes < kWgradWorkspace ? p.workspace_bytes : kWgradWorkspace;
  return launch_conv3x3_weight_gradient(p, plan_for(p, gpu, room), stream);
}

}  // namespace vsr::cuda
