// Fibers: stacks, the switch between them, and telling the sanitizers about it. Included by cuda_on_cpu.cpp alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif
// CUDA_ON_CPU_UCONTEXT is for trying the fallback where it is not needed.
#if defined(__x86_64__) && !defined(CUDA_ON_CPU_UCONTEXT)
#define CUDA_ON_CPU_OWN_SWITCH
#else
#include <ucontext.h>
#endif

// The scheduler's own memory is shared by all fibers without the synchronization that the kernels are checked for.
#define UNCHECKED __attribute__((no_sanitize_thread))

namespace cuda_on_cpu {

struct Context {
#ifdef CUDA_ON_CPU_OWN_SWITCH
  void* stack_pointer = nullptr;
#else
  ucontext_t registers;
#endif
  char* stack = nullptr;
  size_t stack_bytes = 0;
#ifdef __SANITIZE_ADDRESS__
  void* fake_stack = nullptr;
#endif
#ifdef __SANITIZE_THREAD__
  void* tsan_fiber = nullptr;
#endif
};

#ifdef CUDA_ON_CPU_OWN_SWITCH
extern "C" void cuda_on_cpu_switch(void** save, void* load);
// What the calling convention says a function keeps: six registers and the two floating point control words.
__asm__(R"(
.text
.p2align 4
.hidden cuda_on_cpu_switch
.globl cuda_on_cpu_switch
.type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  subq $8, %rsp
  stmxcsr (%rsp)
  fnstcw 4(%rsp)
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  ldmxcsr (%rsp)
  fldcw 4(%rsp)
  addq $8, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_cpu_switch, .-cuda_on_cpu_switch
)");
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif

// Stacks are kept for the next launch. ThreadSanitizer takes a reused stack for memory that two threads share, so
// there each fiber gets a new one.
class Stacks {
 public:
  UNCHECKED char* take() {
    if (!free_.empty()) {
      char* stack = free_.back();
      free_.pop_back();
#ifdef __SANITIZE_ADDRESS__
      __asan_unpoison_memory_region(stack, kStackBytes);  // the last fiber never returned from its frames
#endif
      return stack;
    }
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* memory = mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) {
      fprintf(stderr, "cuda_on_cpu: no memory for the stack of a thread\n");
      abort();
    }
    return static_cast<char*>(memory) + page;
  }

  UNCHECKED void give(char* stack) {
#ifdef __SANITIZE_THREAD__
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    munmap(stack - page, kStackBytes + page);
#else
    free_.push_back(stack);
#endif
  }

 private:
  std::vector<char*> free_;
};

// Makes `context` start with entry(). `number` shifts the stack's top: were the tops of all stacks equal modulo the
// page size, they would share one set of the first-level cache.
UNCHECKED inline void prepare(Context& context, char* stack, unsigned number, void (*entry)()) {
  context.stack = stack;
  context.stack_bytes = kStackBytes;
  const size_t used = kStackBytes - number % 32 * 448;
#ifdef CUDA_ON_CPU_OWN_SWITCH
  auto* top = reinterpret_cast<uint64_t*>(stack + used);
  top[-1] = 0;  // no return address: entry never returns
  top[-2] = reinterpret_cast<uint64_t>(entry);
  for (int i = 3; i <= 8; ++i) top[-i] = 0;
  uint32_t control[2];
  __asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(control[0]), "=m"(control[1]));
  control[0] &= ~0x8040u;  // a GPU does not flush subnormals, whatever the caller has set
  top[-9] = static_cast<uint64_t>(control[1] & 0xffffu) << 32 | control[0];
  context.stack_pointer = top - 9;
#else
  getcontext(&context.registers);
  context.registers.uc_stack.ss_sp = stack;
  context.registers.uc_stack.ss_size = used;
  context.registers.uc_link = nullptr;
  makecontext(&context.registers, entry, 0);
#endif
#ifdef __SANITIZE_THREAD__
  context.tsan_fiber = __tsan_create_fiber(0);
#endif
}

// The launching thread's own context, to switch back to.
UNCHECKED inline void adopt_current(Context& context) {
#ifdef __SANITIZE_ADDRESS__
  pthread_attr_t attributes;
  void* stack = nullptr;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &stack, &context.stack_bytes);
  pthread_attr_destroy(&attributes);
  context.stack = static_cast<char*>(stack);
#endif
#ifdef __SANITIZE_THREAD__
  context.tsan_fiber = __tsan_get_current_fiber();
#endif
  (void)context;
}

UNCHECKED inline void release(Context& context) {
#ifdef __SANITIZE_THREAD__
  if (context.tsan_fiber) __tsan_destroy_fiber(context.tsan_fiber);
  context.tsan_fiber = nullptr;
#endif
  (void)context;
}

// `from` is the running context; a dying one is never switched back to.
UNCHECKED inline void switch_context(Context& from, Context& to, bool dying = false) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(dying ? nullptr : &from.fake_stack, to.stack, to.stack_bytes);
#endif
#ifdef __SANITIZE_THREAD__
  __tsan_switch_to_fiber(to.tsan_fiber, 1);
#endif
#ifdef CUDA_ON_CPU_OWN_SWITCH
  cuda_on_cpu_switch(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.registers, &to.registers);
#endif
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
  (void)dying;
}

// The first thing a new fiber does.
UNCHECKED inline void arrive_first_time() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

// What orders memory between fibers, for ThreadSanitizer.
UNCHECKED inline void happens_before(void* token) {
#ifdef __SANITIZE_THREAD__
  __tsan_release(token);
#endif
  (void)token;
}
UNCHECKED inline void happens_after(void* token) {
#ifdef __SANITIZE_THREAD__
  __tsan_acquire(token);
#endif
  (void)token;
}

// The same for a fiber that is never to run again.
UNCHECKED inline void happens_before_for(Context& abandoned, void* token) {
#ifdef __SANITIZE_THREAD__
  void* const own = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(abandoned.tsan_fiber, 1);
  __tsan_release(token);
  __tsan_switch_to_fiber(own, 1);
#endif
  (void)abandoned;
  (void)token;
}

// While one lives, allocating, freeing and writing memory is nobody's access.
#ifdef __SANITIZE_THREAD__
extern "C" void AnnotateIgnoreWritesBegin(const char* file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char* file, int line);
struct IgnoreAccesses {
  UNCHECKED IgnoreAccesses() { AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
  UNCHECKED ~IgnoreAccesses() { AnnotateIgnoreWritesEnd(__FILE__, __LINE__); }
};
#else
struct IgnoreAccesses {
  IgnoreAccesses() {}
};
#endif

// One event with the threads that take part in it: a token of its own each time, because a thread that runs ahead
// to the next event must not be taken for one that was ordered by this one. A token counts who has yet to leave.
UNCHECKED inline void arrive_at(int*& token) {
#ifdef __SANITIZE_THREAD__
  if (!token) token = new int(0);
  ++*token;
  __tsan_release(token);
#endif
  (void)token;
}
UNCHECKED inline void leave(int* token) {
#ifdef __SANITIZE_THREAD__
  __tsan_acquire(token);
  if (--*token == 0) delete token;
#endif
  (void)token;
}

}  // namespace cuda_on_cpu
