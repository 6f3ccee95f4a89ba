#include "cpu/scratch.h"

#include <cstdlib>
#include <new>

namespace vsr::cpu {
namespace {

constexpr int kSlots = 4;

struct Block {
  void* memory = nullptr;
  int64_t bytes = 0;
  ~Block() { std::free(memory); }
};

}  // namespace

void* scratch(int slot, int64_t bytes) {
  thread_local Block blocks[kSlots];
  Block& block = blocks[slot];
  if (bytes > block.bytes) {
    std::free(block.memory);
    block.bytes = (bytes + 63) / 64 * 64;
    block.memory = std::aligned_alloc(64, block.bytes);
    if (!block.memory) {
      block.bytes = 0;
      throw std::bad_alloc();
    }
  }
  return block.memory;
}

}  // namespace vsr::cpu
