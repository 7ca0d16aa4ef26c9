// CUDA played by the CPU, for machines without a GPU: as much of the runtime and of the device's language as
// csrc/cuda uses.
//
// The threads of a block are fibers of one thread, which run from one barrier or shuffle to the next in an order that
// the test chooses: whoever reads what another thread has not yet written, or has already overwritten, gets another
// answer in another order.  Loads of 16 bytes check their alignment, a copy into shared memory arrives when it is
// waited for and no sooner, and shared memory is poisoned before every block.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <utility>

#define CUDART_VERSION 13000
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

namespace emulator {

// A point that every thread of the warp, or of the block, has to reach before any goes on.
void meet_warp(const char* what);
void meet_block();
// Gives `value` of `size` bytes to the warp and takes what `lane` gave.
void exchange(void* value, size_t size, unsigned lane, const char* what);
// Poisons a __shared__ variable, once a block.
void enter_shared(void* address, size_t size);
void check_aligned(const void* address, size_t size);
void copy_async(void* to, const void* from, size_t size);
void commit();
void wait_prior(size_t groups);
void run(unsigned grid, unsigned threads, size_t shared, const std::function<void()>& kernel);

}  // namespace emulator

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { emulator::meet_block(); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulator::meet_warp("__syncwarp"); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  emulator::exchange(&value, sizeof(T), threadIdx.x % 32 ^ mask, "__shfl_xor_sync");
  return value;
}

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  emulator::exchange(&value, sizeof(T), lane % 32, "__shfl_sync");
  return value;
}

inline unsigned __ballot_sync(unsigned, bool value) {
  unsigned all = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    bool other = value;
    emulator::exchange(&other, sizeof(bool), lane, "__ballot_sync");
    all |= static_cast<unsigned>(other) << lane;
  }
  return all;
}

using std::max;
using std::min;

inline int __popc(unsigned value) { return __builtin_popcount(value); }

template <class T>
T __ldg(const T* address) {
  emulator::check_aligned(address, sizeof(T));
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return __ldg(address);
}

// ---- the host's side ----------------------------------------------------------------------------------------------

enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidValue,
  cudaErrorNoKernelImageForDevice,
  cudaErrorUnsupportedPtxVersion
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
using cudaStream_t = void*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device);
cudaError_t cudaLaunchResult(const void* kernel, const cudaLaunchConfig_t& config, size_t argument_bytes);
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaGetLastError();
inline const char* cudaGetErrorString(cudaError_t) { return "an emulated error"; }
struct cudaFuncAttributes {
  size_t sharedSizeBytes;
};
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* out, const void*) {
  return out->sharedSizeBytes = 0, cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute which, int bytes);

template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args&&... args) {
  const std::tuple<Params...> arguments(std::forward<Args>(args)...);
  const auto* name = reinterpret_cast<const void*>(kernel);
  const cudaError_t result = cudaLaunchResult(name, *config, (sizeof(Params) + ... + 0));
  if (result != cudaSuccess) return result;
  emulator::run(config->gridDim.x, config->blockDim.x, config->dynamicSmemBytes,
                [&] { std::apply(kernel, arguments); });
  return cudaSuccess;
}
