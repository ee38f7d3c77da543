// Running independent tasks on several threads, without a thread pool of our own.
#pragma once

#include <cstdint>
#include <functional>

namespace fastgrad {

// Calls task(i) once for every i in [0, tasks), on up to `threads` threads. No task may depend on another.
//
// If the process has an OpenMP runtime loaded (PyTorch brings one), its team is used: two runtimes in one
// process would spin against each other on the same cores. Otherwise threads are started for the call. A forked
// child runs everything on its one thread, because an OpenMP team does not survive a fork.
void parallel_for(int64_t tasks, int threads, const std::function<void(int64_t)>& task);

// To be called when the module is loaded: the team of a process that forks may be somebody else's.
void watch_forks();

// "OpenMP (libgomp...)", "std::thread" or "one thread (forked)".
const char* parallel_engine();

}  // namespace fastgrad
