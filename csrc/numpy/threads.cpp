// Plan. Workers live from call to call, because the kernels keep working memory per thread (cpu/scratch.h). A call is
// cut into a few bands per thread; the caller and the workers take the next band from a counter until none is left, so
// that a worker which wakes late delays nobody. One call at a time has the workers: another one that comes meanwhile,
// from another Python thread, does its bands alone. Which thread runs a band changes no result.

#include "numpy/threads.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace vsr::numpy {
namespace {

constexpr int64_t kBandsPerThread = 4;

struct Job {
  Ranges work;
  int64_t count, bands;
  std::atomic<int64_t> next{0};
  int64_t helpers = 0;            // workers inside; guarded by the pool's mutex
  std::exception_ptr error = {};  // likewise
};

class Pool {
 public:
  // Whether the workers were free.
  bool run(Job& job) {
    const std::unique_lock<std::mutex> owner(busy_, std::try_to_lock);
    if (!owner) return false;
    while (static_cast<int64_t>(workers_.size()) < threads() - 1) workers_.emplace_back([this] { help(); });
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      ++generation_;
    }
    posted_.notify_all();
    work(job);
    std::unique_lock<std::mutex> lock(mutex_);
    job_ = nullptr;
    left_.wait(lock, [&] { return job.helpers == 0; });
    return true;
  }

  void work(Job& job) {
    try {
      for (int64_t band = job.next++; band < job.bands; band = job.next++)
        job.work.run(job.work.context, job.count * band / job.bands, job.count * (band + 1) / job.bands);
    } catch (...) {
      job.next = job.bands;
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!job.error) job.error = std::current_exception();
    }
  }

  // Ends the workers; the next call starts as many as it needs.
  void stop() {
    const std::lock_guard<std::mutex> owner(busy_);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    posted_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
    stopping_ = false;
  }

 private:
  void help() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (uint64_t seen = 0;;) {
      posted_.wait(lock, [&] { return stopping_ || (job_ && generation_ != seen); });
      if (stopping_) return;
      seen = generation_;
      Job& job = *job_;
      ++job.helpers;
      lock.unlock();
      work(job);
      lock.lock();
      if (--job.helpers == 0) left_.notify_one();
    }
  }

  std::mutex busy_;   // held by the call that has the workers
  std::mutex mutex_;  // guards what follows
  std::condition_variable posted_, left_;
  Job* job_ = nullptr;
  uint64_t generation_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> workers_;
};

int64_t usable_cpus() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                     : std::max(1u, std::thread::hardware_concurrency());
}

// Never destroyed, since workers may be waiting in it when the process ends; a new one in a forked child, which has
// none of its parent's workers.
Pool* the_pool = nullptr;
std::atomic<int64_t> the_threads{usable_cpus()};

Pool& pool() {
  static const int once = [] {
    the_pool = new Pool;
    return pthread_atfork(nullptr, nullptr, [] { the_pool = new Pool; });
  }();
  static_cast<void>(once);
  return *the_pool;
}

}  // namespace

int64_t threads() { return the_threads; }

void set_threads(int64_t count) {
  the_threads = count;
  pool().stop();
}

void run_ranges(const Ranges& work, int64_t count, int64_t grain) {
  const int64_t many = threads();
  Job job{.work = work, .count = count, .bands = std::min(count / std::max<int64_t>(grain, 1), kBandsPerThread * many)};
  job.bands = std::max<int64_t>(job.bands, 1);
  if (many == 1 || job.bands == 1 || !pool().run(job)) return work.run(work.context, 0, count);
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace vsr::numpy
