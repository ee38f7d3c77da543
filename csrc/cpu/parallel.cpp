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

struct Work {
  std::atomic<int64_t> next{0};
  int64_t tasks;
  const std::function<void(int64_t)>* task;

  void run() {
    const SubnormalsOn guard;
    for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < tasks;
         i = next.fetch_add(1, std::memory_order_relaxed)) {
      (*task)(i);
    }
  }
};

void run_work(void* work) { static_cast<Work*>(work)->run(); }

}  // namespace

void watch_forks() {
#if defined(__unix__) || defined(__APPLE__)
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif
}

void parallel_for(int64_t tasks, int threads, const std::function<void(int64_t)>& task) {
  Work work;
  work.tasks = tasks;
  work.task = &task;
  const GompParallel team = openmp();
  const int64_t wanted = threads < tasks ? threads : tasks;
  if (wanted <= 1 || forked) {
    work.run();
  } else if (team != nullptr) {
    team(run_work, &work, static_cast<unsigned>(wanted), 0);
  } else {
    std::vector<std::thread> others;
    for (int64_t i = 1; i < wanted; ++i) others.emplace_back(run_work, &work);
    work.run();
    for (std::thread& other : others) other.join();
  }
}

const char* parallel_engine() {
  const GompParallel team = openmp();
  if (forked) return "one thread (forked)";
  return team != nullptr ? openmp_name.c_str() : "std::thread";
}

}  // namespace fastgrad
