#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"

namespace vsr::cpu {
namespace {

#if defined(__x86_64__)
// __builtin_cpu_supports also asks the operating system (XGETBV) whether it saves the wide registers.
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#else
bool has_avx2() { return false; }
bool has_avx512() { return false; }
#endif

const Kernels& choose() {
  const char* asked = std::getenv("VSR_KERNELS_CPU_ISA");
  const std::string name = asked ? asked : "";
  if (name.empty()) return has_avx512() ? kernels_avx512() : has_avx2() ? kernels_avx2() : kernels_portable();
  if (name == "portable") return kernels_portable();
  if (name != "avx2" && name != "avx512")
    throw std::runtime_error("VSR_KERNELS_CPU_ISA: expected portable, avx2 or avx512, got " + name);
  if (name == "avx2" ? !has_avx2() : !has_avx512())
    throw std::runtime_error("VSR_KERNELS_CPU_ISA: this CPU does not have " + name);
  return name == "avx2" ? kernels_avx2() : kernels_avx512();
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace vsr::cpu
