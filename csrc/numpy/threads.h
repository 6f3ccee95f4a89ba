// Threads for callers of the CPU kernels that have none of their own.
#pragma once

#include <cstdint>

namespace vsr::numpy {

// Of all calls from now on; at first the CPUs that this process may use. set_threads waits for calls in progress.
int64_t threads();
void set_threads(int64_t count);

// Work over ranges [begin, end): a function and what it is called with.
struct Ranges {
  void (*run)(const void* context, int64_t begin, int64_t end);
  const void* context;
};
void run_ranges(const Ranges& work, int64_t count, int64_t grain);

// f(begin, end) over ranges that make up [0, count), each of `grain` units or more, in any order and at once. The first
// exception of any range is thrown again when all threads are done.
template <class F>
void parallel_for(int64_t count, int64_t grain, const F& f) {
  run_ranges(
      {[](const void* context, int64_t begin, int64_t end) { (*static_cast<const F*>(context))(begin, end); }, &f},
      count, grain);
}

}  // namespace vsr::numpy
