// Memory from the system comes in pages of 4 KB, each of which is made at its first touch: for outputs that are written
// once that takes longer than the writing.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastgrad {

// Asks for pages of 2 MB in the part of the memory that is made of whole ones. Only where the system leaves it to
// programs (transparent_hugepage: madvise) does it change anything; the values in the memory stay what they are.
inline void prefer_large_pages([[maybe_unused]] uintptr_t memory, [[maybe_unused]] uint64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const uintptr_t first = (memory + kPage - 1) / kPage * kPage, last = (memory + bytes) / kPage * kPage;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace fastgrad
