// Outputs whose memory nobody wrote to yet: the system finds and clears their pages while they are written.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "../task_grads.h"

namespace mtl_ops::cpu {

// A page of 2 MB takes 512 faults less than pages of 4 KB.  Linux gives the large ones where they are asked for (the
// setting "madvise", which is the usual one), and only where the whole of one is inside.  To memory that is in use it
// does nothing, so it need not be known here which is.
inline void ask_for_large_pages(const TaskGrads& grads) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{1} << 21;
  for (int64_t p = 0; p < grads.params(); ++p) {
    const auto begin = reinterpret_cast<uintptr_t>(grads.out(p));
    const uintptr_t first = (begin + kPage - 1) & ~(kPage - 1);
    const uintptr_t end = (begin + grads.out_bytes(p)) & ~(kPage - 1);
    // What it answers does not matter: a kernel without large pages refuses, and small ones do as well.
    if (end > first) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
  }
#else
  static_cast<void>(grads);
#endif
}

}  // namespace mtl_ops::cpu
