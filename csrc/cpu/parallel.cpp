#include "parallel.h"

#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "subnormals.h"

#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <unistd.h>
#endif
namespace fastgrad {
namespace {

// The entry point that GCC's OpenMP pragma compiles to; libgomp, libomp and libiomp5 all have it.
using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

std::string openmp_name;
std::atomic<bool> forked{false};

int (*omp_number)() = nullptr;

int thread_number() { return omp_number != nullptr ? omp_number() : 0; }

#if defined(__linux__)
int remember_openmp(dl_phdr_info* info, size_t, void* found) {
  for (const char* name : {"libgomp", "libomp", "libiomp5"}) {
    if (info->dlpi_name != nullptr && std::strstr(info->dlpi_name, name) != nullptr) {
      *static_cast<std::string*>(found) = info->dlpi_name;
      return 1;
    }
  }
  return 0;
}
#endif

GompParallel find_openmp() {
#if defined(__linux__)
  std::string path;
  dl_iterate_phdr(remember_openmp, &path);
  if (path.empty()) return nullptr;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  const auto entry = reinterpret_cast<GompParallel>(dlsym(library, "GOMP_parallel"));
  const size_t slash = path.rfind('/');
  omp_number = reinterpret_cast<int (*)()>(dlsym(library, "omp_get_thread_num"));
  if (entry != nullptr) openmp_name = "OpenMP (" + path.substr(slash == std::string::npos ? 0 : slash + 1) + ")";
  return entry;
#else
  return nullptr;
#endif
}

GompParallel openmp() {
  static const GompParallel entry = find_openmp();
  return entry;
}

// Each thread has a share of consecutive tasks, the same from one loop over a list to the next, so that what it finds in
// its own cache is what it left there. Who is done takes tasks of the others.
struct Share {
  alignas(64) std::atomic<int64_t> next;
  int64_t end;
};

struct Work {
  std::vector<Share> shares;
  const std::function<void(int64_t)>* task;

  Work(int64_t tasks, int64_t threads, const std::function<void(int64_t)>& task) : shares(threads), task(&task) {
    for (int64_t t = 0; t < threads; ++t) {
      shares[t].next = tasks * t / threads;
      shares[t].end = tasks * (t + 1) / threads;
    }
  }
  void run(int own) {
    const SubnormalsOn guard;
    const int threads = static_cast<int>(shares.size());
    for (int other = 0; other < threads; ++other) {
      Share& share = shares[(own + other) % threads];
      for (int64_t i; (i = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) (*task)(i);
    }
  }
};

void run_work(void* work) { static_cast<Work*>(work)->run(thread_number()); }

}  // namespace

void watch_forks() {
#if defined(__unix__) || defined(__APPLE__)
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif
}

void parallel_for(int64_t tasks, int threads, const std::function<void(int64_t)>& task) {
  const GompParallel team = openmp();
  const int64_t wanted = threads < tasks ? threads : tasks;
  const bool alone = wanted <= 1 || forked;
  Work work(tasks, alone ? 1 : wanted, task);
  if (alone) {
    work.run(0);
  } else if (team != nullptr) {
    team(run_work, &work, static_cast<unsigned>(wanted), 0);
  } else {
    std::vector<std::thread> others;
    for (int64_t i = 1; i < wanted; ++i) others.emplace_back([&work, i] { work.run(static_cast<int>(i)); });
    work.run(0);
    for (std::thread& other : others) other.join();
  }
}

const char* parallel_engine() {
  const GompParallel team = openmp();
  if (forked) return "one thread (forked)";
  return team != nullptr ? openmp_name.c_str() : "std::thread";
}

}  // namespace fastgrad
