// Exercises the threads of the NumPy interface under a sanitizer: every unit is done once, whoever calls and however
// many threads there are meanwhile; exceptions reach their caller. Exit status 0, or 1 for a wrong count.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <vector>

#include "numpy/threads.h"

namespace {

using vsr::numpy::parallel_for;

void expect(bool right, const char* what) {
  if (right) return;
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

void every_unit_once(int64_t count, int64_t grain) {
  std::vector<int> done(static_cast<size_t>(count));  // plain memory: a unit done twice at once is a race
  parallel_for(count, grain, [&](int64_t begin, int64_t end) {
    expect(begin == 0 || end - begin >= grain, "a range is smaller than the grain");
    for (int64_t i = begin; i < end; ++i) ++done[static_cast<size_t>(i)];
  });
  for (int times : done) expect(times == 1, "a unit was not done once");
}

void exceptions_come_back() {
  for (int64_t bad : {0, 17, 99}) {
    bool caught = false;
    try {
      parallel_for(100, 1, [&](int64_t begin, int64_t end) {
        if (begin <= bad && bad < end) throw std::runtime_error("bad unit");
      });
    } catch (const std::runtime_error&) {
      caught = true;
    }
    expect(caught, "an exception was lost");
  }
}

}  // namespace

int main() {
  for (int64_t threads : {1, 2, 5, 3}) {
    vsr::numpy::set_threads(threads);
    for (int64_t count : {0, 1, 7, 1000})
      for (int64_t grain : {1, 3, 2000}) every_unit_once(count, grain);
    exceptions_come_back();
  }
  std::atomic<bool> stop{false};
  std::thread resizer([&] {
    for (int64_t threads = 1; !stop; threads = threads % 4 + 1) vsr::numpy::set_threads(threads);
  });
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller)
    callers.emplace_back([] {
      for (int i = 0; i < 100; ++i) every_unit_once(200, 1);
      exceptions_come_back();
    });
  for (std::thread& caller : callers) caller.join();
  stop = true;
  resizer.join();
  std::puts("done");
}
