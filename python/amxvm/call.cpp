// One convolution by the kernels of csrc/cpu/kernels_amx_bf16.cpp or kernels_amx_int8.cpp on the tile registers of
// machine.h, for Python. The kernels are compiled with the functions of cpu/amx.h here, or with their own ones: then
// their instructions are executed where the CPU refuses them (trap.cpp).
//
// Every buffer the kernels get lies between pages that nobody may touch, at the first byte or the last of its pages;
// theirs to write are filled with garbage before, scratch memory anew at each request.

#include <sys/mman.h>
#include <unistd.h>

#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/scratch.h"
#include "machine.h"

namespace {

using namespace vsr;

// As in __init__.py, like the calls. How a call is run: parts that its work is cut into; whether each has a thread of
// its own; whether buffers lie at the end of their pages; the byte that fills what is to be written.
struct How {
  int64_t bands, threads, at_end, garbage;
};

struct Call {
  const void *x, *weight, *bias, *slope, *residual;
  const int64_t *scatter, *channels;
  void *out, *kept;
  int64_t n, h, w, c_x, c_in, c, c_out, r, slope_count;
  int64_t weight_elements, strides[4];
  How how;
  float slope_number, scale;
  int32_t activation, dtype;
};

struct QuantizedCall {
  const void *x, *weight, *scale, *bias, *slope, *base;
  void* out;
  int64_t n, h, w, c_in, c, r, slope_count;
  int64_t weight_elements, strides[4];
  How how;
  float slope_number;
  int32_t zero_point, out_zero_point, activation;
  int32_t x_dtype, dtype;  // kBytes, or of DType
};

constexpr int32_t kBytes = 3;

class Guarded {
 public:
  Guarded(int64_t bytes, bool at_end, int garbage) {
    const int64_t page = sysconf(_SC_PAGESIZE), inner = (bytes + page - 1) / page * page;
    size_ = inner + 2 * page;
    memory_ = static_cast<char*>(mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    if (inner > 0 && mprotect(memory_ + page, inner, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    data_ = memory_ + page + (at_end ? inner - bytes : 0);
    std::memset(memory_ + page, garbage, inner);
  }
  Guarded(const Guarded&) = delete;
  ~Guarded() { munmap(memory_, size_); }
  char* data() const { return data_; }

 private:
  char *memory_, *data_;
  int64_t size_;
};

// Those of a call.
class Buffers {
 public:
  explicit Buffers(const How& how) : how_(how) {}

  // Room of so many bytes, or null where nothing is wanted.
  void* room(const void* wanted, int64_t bytes) {
    if (!wanted) return nullptr;
    made_.push_back(std::make_unique<Guarded>(bytes, how_.at_end, static_cast<int>(how_.garbage)));
    return made_.back()->data();
  }

  // A copy, or null of null.
  void* copy(const void* from, int64_t bytes) {
    void* to = room(from, bytes);
    if (to) std::memcpy(to, from, bytes);
    return to;
  }

 private:
  How how_;
  std::vector<std::unique_ptr<Guarded>> made_;
};

int64_t scratch_garbage = 0;
thread_local std::unique_ptr<Guarded> scratch_blocks[4];
thread_local sigjmp_buf* jump = nullptr;
thread_local char fault[200];

void on_fault(int) {
  if (jump) siglongjmp(*jump, 1);
  signal(SIGSEGV, SIG_DFL);
  raise(SIGSEGV);
}

void on_instruction(int, siginfo_t*, void* context) {
  try {
    amxvm::execute(context);
  } catch (const std::exception& error) {
    std::snprintf(fault, sizeof fault, "%s", error.what());
    if (jump) siglongjmp(*jump, 2);
    signal(SIGILL, SIG_DFL);
  }
}

// f() on this thread; throws if it touched a guard page, or if an instruction of AMX faulted.
template <class F>
void guard(F f) {
  sigjmp_buf place;
  jump = &place;
  const int reason = sigsetjmp(place, 1);
  if (reason != 0) {
    jump = nullptr;
    amxvm::release();
    throw std::runtime_error(reason == 1 ? "memory outside a buffer was touched" : fault);
  }
  try {
    f();
  } catch (...) {
    jump = nullptr;
    throw;
  }
  jump = nullptr;
  if (amxvm::configured()) throw std::runtime_error("tiles were not released");
}

// f(begin, end) for the bands of [0, count), last band first where they take turns.
template <class F>
void in_bands(int64_t count, const How& how, F f) {
  std::vector<std::string> errors(how.bands);
  std::vector<std::thread> threads;
  for (int64_t i = how.bands - 1; i >= 0; --i) {
    const int64_t begin = count * i / how.bands, end = count * (i + 1) / how.bands;
    if (begin == end) continue;
    const auto run = [&errors, f, i, begin, end] {
      try {
        guard([&] { f(begin, end); });
      } catch (const std::exception& error) {
        errors[i] = error.what();
      }
    };
    if (how.threads) {
      threads.emplace_back(run);
    } else {
      run();
    }
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& error : errors)
    if (!error.empty()) throw std::runtime_error(error);
}

void convolve(const Call& call) {
  const int64_t size = call.dtype == static_cast<int32_t>(DType::f32) ? 4 : 2;
  Buffers buffers(call.how);
  const int64_t pixels = call.n * call.h * call.w, out_bytes = pixels * call.r * call.r * call.c_out * size;
  const int64_t kept_bytes = pixels * call.c * size;
  cpu::Conv p{.x = buffers.copy(call.x, pixels * call.c_x * size),
              .weight = buffers.copy(call.weight, call.weight_elements * size),
              .bias = buffers.copy(call.bias, call.c * size),
              .slope = buffers.copy(call.slope, call.slope_count * size),
              .channels = static_cast<const int64_t*>(buffers.copy(call.channels, call.c_in * 8)),
              .ws = {call.strides[0], call.strides[1], call.strides[2], call.strides[3]},
              .c_x = call.c_x,
              .c_in = call.c_in,
              .slope_count = call.slope_count,
              .tail = {.out = buffers.room(call.out, out_bytes),
                       .kept = buffers.room(call.kept, kept_bytes),
                       .residual = buffers.copy(call.residual, out_bytes),
                       .scatter = static_cast<const int64_t*>(buffers.copy(call.scatter, call.c * 8)),
                       .n = call.n,
                       .h = call.h,
                       .w = call.w,
                       .c = call.c,
                       .c_out = call.c_out,
                       .r = call.r,
                       .slope = call.slope_number,
                       .scale = call.scale,
                       .activation = static_cast<Activation>(call.activation),
                       .dtype = static_cast<DType>(call.dtype)}};
  const cpu::Kernels& kernels = cpu::kernels_amx_bf16();
  p.plan = kernels.conv_plan(p);
  void* packed = buffers.room(&p, p.plan.packed_bytes);
  p.packed = packed;
  scratch_garbage = call.how.garbage;
  in_bands(p.plan.pack_units, call.how, [&](int64_t begin, int64_t end) { kernels.conv_pack(p, packed, begin, end); });
  amxvm::reset_counts();
  in_bands(p.plan.blocks, call.how, [&](int64_t begin, int64_t end) { kernels.conv3x3(p, begin, end); });
  if (call.out) std::memcpy(call.out, p.tail.out, out_bytes);
  if (call.kept) std::memcpy(call.kept, p.tail.kept, kept_bytes);
}

void convolve_bytes(const QuantizedCall& call) {
  const auto size_of = [](int32_t dtype) {
    return dtype == kBytes ? 1 : dtype == static_cast<int32_t>(DType::f32) ? 4 : 2;
  };
  const auto floating = [](int32_t dtype) { return dtype == kBytes ? DType::f32 : static_cast<DType>(dtype); };
  Buffers buffers(call.how);
  const int64_t pixels = call.n * call.h * call.w, size = size_of(call.dtype), shuffled = call.c / (call.r * call.r);
  void* packed = buffers.room(&call, cpu::quantized_layout(call.c_in, call.c).bytes);
  cpu::pack_quantized({.weight = static_cast<const int8_t*>(buffers.copy(call.weight, call.weight_elements)),
                       .scale = static_cast<const float*>(buffers.copy(call.scale, call.c * 4)),
                       .bias = static_cast<const float*>(buffers.copy(call.bias, call.c * 4)),
                       .slope = static_cast<const float*>(buffers.copy(call.slope, call.slope_count * 4)),
                       .ws = {call.strides[0], call.strides[1], call.strides[2], call.strides[3]},
                       .c_in = call.c_in,
                       .c_out = call.c,
                       .r = call.r,
                       .slope_count = call.slope_count,
                       .zero_point = call.zero_point,
                       .number = call.slope_number,
                       .activation = static_cast<Activation>(call.activation)},
                      packed);
  const cpu::QuantizedConv p{.x = buffers.copy(call.x, pixels * call.c_in * size_of(call.x_dtype)),
                             .packed = packed,
                             .base = buffers.copy(call.base, pixels * shuffled * size),
                             .c_in = call.c_in,
                             .zero_point = call.zero_point,
                             .out_zero_point = call.out_zero_point,
                             .rounds = call.x_dtype != kBytes,
                             .requantized = call.dtype == kBytes,
                             .x_dtype = floating(call.x_dtype),
                             .tail = {.out = buffers.room(call.out, pixels * call.c * size),
                                      .n = call.n,
                                      .h = call.h,
                                      .w = call.w,
                                      .c = call.c,
                                      .c_out = shuffled,
                                      .r = call.r,
                                      .scale = 1.0f,
                                      .dtype = floating(call.dtype)}};
  scratch_garbage = call.how.garbage;
  amxvm::reset_counts();
  in_bands(call.n * call.h, call.how,
           [&](int64_t begin, int64_t end) { cpu::kernels_amx_int8().quantized_conv3x3(p, begin, end); });
  std::memcpy(call.out, p.tail.out, pixels * call.c * size);
}

template <class F>
int reported(char* message, int64_t size, F f) {
  try {
    f();
    return 0;
  } catch (const std::exception& error) {
    std::snprintf(message, size, "%s", error.what());
    return 1;
  }
}

// The same with what the kernels raise caught.
template <class F>
int trapped(char* message, int64_t size, F f) {
  struct sigaction memory = {}, instruction = {}, memory_before, instruction_before;
  memory.sa_handler = on_fault;
  instruction.sa_sigaction = on_instruction;
  instruction.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &memory, &memory_before);
  sigaction(SIGILL, &instruction, &instruction_before);
  const int result = reported(message, size, f);
  sigaction(SIGSEGV, &memory_before, nullptr);
  sigaction(SIGILL, &instruction_before, nullptr);
  return result;
}

}  // namespace

namespace vsr::cpu {

// In guarded pages, and full of garbage each time.
void* scratch(int slot, int64_t bytes) {
  const int64_t whole = (bytes + 63) / 64 * 64;
  scratch_blocks[slot] = std::make_unique<Guarded>(whole, true, static_cast<int>(scratch_garbage));
  return scratch_blocks[slot]->data();
}

// What the kernels leave to others is an error here.
const Kernels& kernels_avx512_bf16() {
  static const Kernels table{
      .isa = "other", .conv_plan = [](const Conv&) -> ConvPlan { throw std::runtime_error("left to avx512_bf16"); }};
  return table;
}

const Kernels& kernels_avx512_vnni() {
  static const Kernels table{.isa = "other", .quantized_conv3x3 = [](const QuantizedConv&, int64_t, int64_t) {
                               throw std::runtime_error("left to avx512_vnni");
                             }};
  return table;
}

}  // namespace vsr::cpu

#define EXPORT extern "C" __attribute__((visibility("default")))

// 0, or 1 and why not in `message`.
EXPORT int amxvm_convolve(const Call* call, char* message, int64_t size) {
  return trapped(message, size, [&] { convolve(*call); });
}
EXPORT int amxvm_convolve_bytes(const QuantizedCall* call, char* message, int64_t size) {
  return trapped(message, size, [&] { convolve_bytes(*call); });
}

// Of the last convolution, packing left out.
EXPORT void amxvm_counts(amxvm::Counts* counts) { *counts = amxvm::counts(); }

// The instructions themselves.
EXPORT int amxvm_configure(const amxvm::TileConfig* config, char* message, int64_t size) {
  return reported(message, size, [&] { amxvm::configure(*config); });
}
EXPORT int amxvm_load(int tile, const void* rows, int64_t stride, char* message, int64_t size) {
  return reported(message, size, [&] { amxvm::load(tile, rows, stride); });
}
EXPORT int amxvm_store(int tile, void* rows, int64_t stride, char* message, int64_t size) {
  return reported(message, size, [&] { amxvm::store(tile, rows, stride); });
}
EXPORT int amxvm_multiply(int sum, int a, int b, char* message, int64_t size) {
  return reported(message, size, [&] { amxvm::multiply(sum, a, b); });
}
EXPORT int amxvm_multiply_bytes(int sum, int a, int b, char* message, int64_t size) {
  return reported(message, size, [&] { amxvm::multiply_bytes(sum, a, b); });
}
EXPORT void amxvm_release() { amxvm::release(); }
