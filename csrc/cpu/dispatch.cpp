#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/amx_compiler.h"
#include "cpu/kernels.h"

#if defined(VSR_HAS_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

bool has_avx512_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }

// Every CPU with these instructions has those above.
bool has_avx512_bf16() { return has_avx512_vnni() && __builtin_cpu_supports("avx512bf16"); }
#else
bool has_avx2() { return false; }
bool has_avx512() { return false; }
bool has_avx512_vnni() { return false; }
bool has_avx512_bf16() { return false; }
#endif

#if defined(VSR_HAS_AMX)
// Whether the CPU has tiles and this bit of EDX in leaf 7, and the operating system lets this process use them, which
// asking it brings about.
bool permit_amx(unsigned feature) {
  constexpr unsigned kTile = 1u << 24;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  if ((edx & feature) == 0 || (edx & kTile) == 0) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#else
bool permit_amx(unsigned) { return false; }
#endif

bool has_amx_bf16() { return has_avx512_bf16() && permit_amx(1u << 22); }

// Every CPU with these instructions has those above.
bool has_amx_int8() { return has_amx_bf16() && permit_amx(1u << 25); }

// Best first.
struct Choice {
  const char* name;
  bool (*runs)();
  const Kernels& (*table)();
};

constexpr Choice kChoices[] = {{"amx_int8", has_amx_int8, kernels_amx_int8},
                               {"amx_bf16", has_amx_bf16, kernels_amx_bf16},
                               {"avx512_bf16", has_avx512_bf16, kernels_avx512_bf16},
                               {"avx512_vnni", has_avx512_vnni, kernels_avx512_vnni},
                               {"avx512", has_avx512, kernels_avx512},
                               {"avx2", has_avx2, kernels_avx2},
                               {"portable", [] { return true; }, kernels_portable}};

const Kernels& choose() {
  const char* asked = std::getenv("VSR_KERNELS_CPU_ISA");
  const std::string name = asked ? asked : "";
  for (const Choice& choice : kChoices) {
    if (name.empty() ? choice.runs() : name == choice.name) {
      if (!choice.runs()) throw std::runtime_error("VSR_KERNELS_CPU_ISA: this CPU does not have " + name);
      return choice.table();
    }
  }
  throw std::runtime_error(
      "VSR_KERNELS_CPU_ISA: expected portable, avx2, avx512, avx512_vnni, avx512_bf16, amx_bf16 or amx_int8, got " +
      name);
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace vsr::cpu
