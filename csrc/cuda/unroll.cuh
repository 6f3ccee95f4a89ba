// Loops whose index is a constant of the type system, for what needs one: immediate offsets inside instructions.
#pragma once

#include "cuda/standard.cuh"

namespace vsr::cuda {

template <int kValue>
using Index = std::integral_constant<int, kValue>;

template <class Body, int... kIndices>
__device__ __forceinline__ void unroll(Body body, std::integer_sequence<int, kIndices...>) {
  (body(Index<kIndices>{}), ...);
}

// body(Index<0>{}), body(Index<1>{}), ... body(Index<kCount - 1>{})
template <int kCount, class Body>
__device__ __forceinline__ void unroll(Body body) {
  unroll(body, std::make_integer_sequence<int, kCount>{});
}

}  // namespace vsr::cuda
