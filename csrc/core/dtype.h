// Element types, and the 16-bit floats as plain bits with portable conversions.
#pragma once

#include "core/platform.h"

#if !defined(__CUDACC_RTC__)
#include <cstring>
#endif

namespace vsr {

enum class DType { f32, f16, bf16 };

#if !defined(__CUDACC_RTC__)  // device code has conversions of its own

struct bfloat16 {
  uint16_t bits;
};

struct float16 {
  uint16_t bits;
};

inline float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t as_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float to_float(float value) { return value; }

inline float to_float(bfloat16 value) { return as_float(static_cast<uint32_t>(value.bits) << 16); }

// The exponent is rebiased by a multiplication, which also normalises subnormals.
inline float to_float(float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
  if ((value.bits & 0x7c00u) == 0x7c00u) return as_float(sign | 0x7f800000u | (magnitude & 0x007fffffu));
  return as_float(sign | as_bits(as_float(magnitude) * 0x1p112f));
}

template <class T>
T from_float(float value);

template <>
inline float from_float<float>(float value) {
  return value;
}

// Round to nearest, ties to even; NaN stays a (quiet) NaN instead of being carried into infinity.
template <>
inline bfloat16 from_float<bfloat16>(float value) {
  const uint32_t bits = as_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x0040u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

template <>
inline float16 from_float<float16>(float value) {
  const uint32_t bits = as_bits(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // rounds to 2^16 or above
  if (magnitude < 0x38800000u) {
    // Subnormal: adding 0.5 puts the wanted bits at the end of the mantissa, rounded by the adder itself.
    return {static_cast<uint16_t>(sign | (as_bits(as_float(magnitude) + 0.5f) - as_bits(0.5f)))};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return {static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

#endif

}  // namespace vsr
