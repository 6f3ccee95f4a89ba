// The part of the standard library that device code uses. The run-time compiler (NVRTC) has no headers of a host
// compiler, and gets the few names that it needs here; integers are in core/platform.h.
#pragma once

#if !defined(__CUDACC_RTC__)

#include <cmath>
#include <type_traits>
#include <utility>

#else

#define INFINITY __int_as_float(0x7f800000)

namespace std {

template <class T, T kValue>
struct integral_constant {
  static constexpr T value = kValue;
};

template <class T, T... kValues>
struct integer_sequence {};

template <class T, T kSize>
using make_integer_sequence = __make_integer_seq<integer_sequence, T, kSize>;

template <class A, class B>
inline constexpr bool is_same_v = false;
template <class A>
inline constexpr bool is_same_v<A, A> = true;

}  // namespace std

#endif
