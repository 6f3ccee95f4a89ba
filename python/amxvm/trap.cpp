// Executes the AMX instructions of compiled code, which a CPU without AMX refuses.

#include <ucontext.h>

#include <cstring>

#include "machine.h"

namespace amxvm {
namespace {

// Of ucontext, in the order of the numbers that instructions use.
constexpr int kRegisters[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

struct Operand {
  uintptr_t address;  // without the index
  int64_t stride;     // the index, scaled
  const uint8_t* next;
};

// The memory operand whose ModRM byte is at `at`, of an instruction that ends with it.
Operand memory_operand(const uint8_t* at, const greg_t* registers, int index_high, int base_high) {
  const int mod = *at >> 6, rm = *at & 7;
  ++at;
  Operand o{0, 0, nullptr};
  int base = rm | base_high;
  bool has_base = true;
  if (rm == 4) {
    const int scale = *at >> 6, index = (*at >> 3 & 7) | index_high;
    base = (*at & 7) | base_high;
    has_base = mod != 0 || (*at & 7) != 5;
    ++at;
    if (index != 4) o.stride = static_cast<int64_t>(registers[kRegisters[index]]) << scale;
  }
  const bool relative = mod == 0 && rm == 5;
  int32_t wide = 0;
  if (mod == 1) {
    wide = static_cast<int8_t>(*at);
    at += 1;
  } else if (mod == 2 || relative || !has_base) {
    std::memcpy(&wide, at, sizeof wide);
    at += 4;
  }
  if (relative) {
    o.address = reinterpret_cast<uintptr_t>(at);
  } else if (has_base) {
    o.address = static_cast<uintptr_t>(registers[kRegisters[base]]);
  }
  o.address += static_cast<uintptr_t>(static_cast<intptr_t>(wide));
  o.next = at;
  return o;
}

}  // namespace

void execute(void* context) {
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const uint8_t* at = reinterpret_cast<const uint8_t*>(registers[REG_RIP]);
  // A three-byte VEX prefix, the map of 0F 38, 128 bits, W = 0.
  if (at[0] != 0xc4 || (at[1] & 0x1f) != 2 || (at[2] & 0x84) != 0) throw Fault("not an instruction of AMX");
  const int index_high = at[1] & 0x40 ? 0 : 8, base_high = at[1] & 0x20 ? 0 : 8;
  const int second = ~at[2] >> 3 & 15, prefix = at[2] & 3, opcode = at[3], modrm = at[4];
  const int tile = modrm >> 3 & 7;
  const bool in_registers = modrm >> 6 == 3;
  enum { kNone, k66, kF3, kF2 };
  if (opcode == 0x49 && prefix == kNone && modrm == 0xc0) {
    release();
    registers[REG_RIP] += 5;
  } else if (opcode == 0x5c && prefix == kF3 && in_registers) {
    multiply(tile, modrm & 7, second);
    registers[REG_RIP] += 5;
  } else if (opcode == 0x5e && prefix == k66 && in_registers) {
    multiply_bytes(tile, modrm & 7, second);
    registers[REG_RIP] += 5;
  } else if (!in_registers && (opcode == 0x49 || opcode == 0x4b)) {
    const Operand o = memory_operand(at + 4, registers, index_high, base_high);
    void* memory = reinterpret_cast<void*>(o.address);
    if (opcode == 0x49 && prefix == kNone) {
      TileConfig config;
      std::memcpy(&config, reinterpret_cast<const void*>(o.address + o.stride), sizeof config);
      configure(config);
    } else if (opcode == 0x4b && prefix == kF2) {
      load(tile, memory, o.stride);
    } else if (opcode == 0x4b && prefix == kF3) {
      store(tile, memory, o.stride);
    } else {
      throw Fault("an instruction of AMX that is not known here");
    }
    registers[REG_RIP] = reinterpret_cast<greg_t>(o.next);
  } else {
    throw Fault("an instruction of AMX that is not known here");
  }
}

}  // namespace amxvm
