// Working memory of a thread, kept between calls. Defined outside the instruction-set files: a std::vector instantiated
// there would be compiled for that instruction set, and the linker might keep that copy for everybody.
#pragma once

#include <cstdint>

namespace vsr::cpu {

// At least `bytes` bytes, 64-byte aligned, contents undefined; valid until the same slot is asked for again on this
// thread.
void* scratch(int slot, int64_t bytes);

}  // namespace vsr::cpu
