// Floating-point state of a thread.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fastgrad {

// Subnormals count: flush-to-zero and denormals-are-zero are off while a task runs, whatever the caller set
// (torch.set_flush_denormal reaches only some threads).
class SubnormalsOn {
 public:
#if defined(__x86_64__)
  SubnormalsOn() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ & ~0x8040u); }
  ~SubnormalsOn() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  SubnormalsOn() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(saved_ & ~(uint64_t{1} << 24)));
  }
  ~SubnormalsOn() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#endif
};

}  // namespace fastgrad
