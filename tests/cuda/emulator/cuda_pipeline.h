// Copies to shared memory that arrive later.
#pragma once

#include "cuda_runtime.h"

inline void __pipeline_memcpy_async(void* to, const void* from, size_t size) {
  emulator::check_aligned(to, size);
  emulator::check_aligned(from, size);
  emulator::copy_async(to, from, size);
}
inline void __pipeline_commit() { emulator::commit(); }
inline void __pipeline_wait_prior(size_t groups) { emulator::wait_prior(groups); }
