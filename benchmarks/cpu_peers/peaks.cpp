// Raw peaks of the cores it is pinned to: peaks THREADS BYTES...
//
// Prints one line per figure, "name value": float32 FMA and bfloat16 dot products in GFLOP/s, from registers only, and
// copies that move so many bytes (read and written) in GB/s, each thread its own part. Best of several runs: a peak is
// what can be reached. An instruction set that the CPU lacks prints nothing.
#include <immintrin.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

namespace {

constexpr int kRuns = 5, kChains = 12;  // independent sums, enough to hide the latency of one
constexpr long kSteps = 1'000'000;

// Sums are stored here so that their computation stays.
alignas(64) thread_local float sink[16 * kChains];

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void fma256() {
  __m256 sum[kChains], factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(0.001f);
  for (auto& s : sum) s = _mm256_set1_ps(1.5f);
  for (long i = 0; i < kSteps; ++i)
    for (auto& s : sum) s = _mm256_fmadd_ps(s, factor, term);
  for (int c = 0; c < kChains; ++c) _mm256_storeu_ps(sink + 8 * c, sum[c]);
}

__attribute__((target("avx512f"))) void fma512() {
  __m512 sum[kChains], factor = _mm512_set1_ps(0.999f), term = _mm512_set1_ps(0.001f);
  for (auto& s : sum) s = _mm512_set1_ps(1.5f);
  for (long i = 0; i < kSteps; ++i)
    for (auto& s : sum) s = _mm512_fmadd_ps(s, factor, term);
  for (int c = 0; c < kChains; ++c) _mm512_storeu_ps(sink + 16 * c, sum[c]);
}

__attribute__((target("avx512f,avx512bf16"))) void dot512() {
  const __m512 values = _mm512_set1_ps(0.37f);
  const __m512bh pairs = _mm512_cvtne2ps_pbh(values, values);
  __m512 sum[kChains];
  for (auto& s : sum) s = _mm512_set1_ps(1.5f);
  for (long i = 0; i < kSteps; ++i)
    for (auto& s : sum) s = _mm512_dpbf16_ps(s, pairs, pairs);
  for (int c = 0; c < kChains; ++c) _mm512_storeu_ps(sink + 16 * c, sum[c]);
}
#endif

using Clock = std::chrono::steady_clock;

// Least seconds of `work`, done by all threads at once, from the first start to the last end.
double best(int threads, const std::function<void(int)>& work) {
  double least = 1e30;
  for (int run = 0; run < kRuns; ++run) {
    std::barrier ready(threads);
    std::vector<std::thread> pool;
    std::vector<Clock::time_point> start(threads), end(threads);
    for (int t = 0; t < threads; ++t)
      pool.emplace_back([&, t] {
        ready.arrive_and_wait();
        start[t] = Clock::now();
        work(t);
        end[t] = Clock::now();
      });
    for (auto& thread : pool) thread.join();
    const std::chrono::duration<double> seconds =
        *std::max_element(end.begin(), end.end()) - *std::min_element(start.begin(), start.end());
    least = std::min(least, seconds.count());
  }
  return least;
}

void report_flops(const char* name, int threads, double per_step, void (*work)()) {
  const double seconds = best(threads, [work](int) { work(); });
  std::printf("%s %.1f\n", name, per_step * kChains * kSteps * threads / seconds * 1e-9);
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f"))
    report_flops("float32", threads, 32, fma512);
  else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    report_flops("float32", threads, 16, fma256);
  if (__builtin_cpu_supports("avx512bf16")) report_flops("bfloat16", threads, 64, dot512);
#endif
  for (int i = 2; i < argc; ++i) {
    const size_t part = std::atoll(argv[i]) / 2 / threads;
    std::vector<std::vector<char>> from(threads, std::vector<char>(part, 1)), to = from;
    const int repeats = 1 + static_cast<int>((64 << 20) / (part + 1));  // long enough for the clock
    const double seconds = best(threads, [&](int t) {
      for (int r = 0; r < repeats; ++r) {
        std::memcpy(to[t].data(), from[t].data(), part);
        asm volatile("" ::: "memory");  // or the repetitions are one
      }
    });
    std::printf("copy%s %.2f\n", argv[i], 2.0 * part * threads * repeats / seconds * 1e-9);
  }
}
