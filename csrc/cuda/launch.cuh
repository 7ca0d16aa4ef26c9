// What every CUDA file needs: the tensors' device and stream, checked launches, tables that travel as kernel
// arguments, and loads of 16 bytes.
//
// Nothing here waits for the device, allocates outside of torch's allocator, or copies from host memory that may
// change: all that the host knows reaches the device as arguments of kernels, so a captured graph replays it as it
// was.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <map>
#include <mutex>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "../launch/plan.h"
#include "../launch/team.h"
#include "../task_grads.h"

namespace mtl_ops::cuda {

using bfloat16 = torch::headeronly::BFloat16;
using float16 = torch::headeronly::Half;

constexpr int kWarp = 32;

// ---- errors -------------------------------------------------------------------------------------------------------

inline void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // the next call should not find this one's error
  int device = 0, major = 0, minor = 0;
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion) {
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    STD_TORCH_CHECK(false, "this build of mtl_ops has no kernels for compute capability ", major, ".", minor,
                    ". Build it with TORCH_CUDA_ARCH_LIST=\"", major, ".", minor, "\".");
  }
  STD_TORCH_CHECK(false, "a CUDA call of mtl_ops failed: ", cudaGetErrorString(error), ".");
}

// ---- where the work goes ------------------------------------------------------------------------------------------

/// The most multiprocessors that launches are planned for: MTL_OPS_CUDA_PROCESSORS, if it is set.  With one, tensors of
/// a few thousand elements take a block through as many tiles as large ones do: for tools that slow kernels down.
inline int64_t most_processors() {
  const char* text = std::getenv("MTL_OPS_CUDA_PROCESSORS");
  if (text == nullptr || *text == '\0') return INT64_MAX;
  char* end = nullptr;
  const int64_t most = std::strtoll(text, &end, 10);
  STD_TORCH_CHECK(*end == '\0' && most > 0, "MTL_OPS_CUDA_PROCESSORS should be a positive integer. Found ", text, ".");
  return most;
}

// Makes a tensor's device the current one while it lives, and knows the stream torch uses there.
class Device {
 public:
  explicit Device(const Tensor& tensor) : kind_(tensor), guard_(kind_.device_index) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(kind_.device_index, &stream_));
  }

  cudaStream_t stream() const { return static_cast<cudaStream_t>(stream_); }
  int index() const { return kind_.device_index; }
  int64_t processors() const { return std::min<int64_t>(attribute(cudaDevAttrMultiProcessorCount), most_processors()); }
  /// Bytes of shared memory of a multiprocessor, and the most that one block may ask for.
  size_t shared_of_processor() const { return attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor); }
  size_t shared_limit() const { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }

  /// An uninitialised float64 tensor there.  Its memory may be given up as soon as what uses it is launched.
  Tensor new_float64(std::initializer_list<int64_t> sizes) const { return detail::new_float64(sizes, kind_); }

  const detail::Kind& kind() const { return kind_; }

 private:
  int attribute(cudaDeviceAttr which) const {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, kind_.device_index));
    return value;
  }

  detail::Kind kind_;
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

struct Grid {
  int64_t blocks;
  int threads;
  size_t shared = 0;  // bytes of dynamic shared memory
};

/// Allows a kernel all the shared memory that a block may have, the first time it needs much.  Never less: another
/// thread's launch of the same kernel, with other sizes, may stand between this and ours.
inline void allow_shared(const Device& device, const void* kernel, size_t bytes) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, size_t> allowed;
  const std::lock_guard<std::mutex> lock(mutex);
  size_t& now = allowed[{kernel, device.index()}];
  if (bytes <= now) return;
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kernel));
  const size_t most = device.shared_limit() - attributes.sharedSizeBytes;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(most)));
  now = most;
}

template <class... Params, class... Args>
void launch(const Device& device, void (*kernel)(Params...), const Grid& grid, Args&&... args) {
  constexpr size_t without_asking = 48 * 1024;
  if (grid.shared > without_asking) {
    STD_TORCH_CHECK(grid.shared <= device.shared_limit(), "this problem needs ", grid.shared,
                    " bytes of shared memory a block. Found a device with ", device.shared_limit(), ".");
    allow_shared(device, reinterpret_cast<const void*>(kernel), grid.shared);
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid.blocks));
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.dynamicSmemBytes = grid.shared;
  config.stream = device.stream();
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...));
}

template <class T>
__device__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  return reinterpret_cast<T*>(shared_bytes);
}

// ---- from the host to the device ----------------------------------------------------------------------------------

constexpr size_t kSmallArgument = 3072;   // with what else a kernel takes, within the 4 KB that every driver allows
constexpr size_t kLargeArgument = 32000;  // within the 32,764 bytes that drivers for CUDA 12.1 and later allow
constexpr size_t kLargeTable = 30720;     // with what else a kernel takes
constexpr bool kLargeTables = CUDART_VERSION >= 12010;

template <size_t BYTES>
struct alignas(16) Argument {
  unsigned char bytes[BYTES];
};

// A thread stores 16 bytes; what it reads of an argument has an address of its own, and a warp's are read one by one.
template <size_t BYTES>
__global__ void __launch_bounds__(kWarp)
    store_argument(const __grid_constant__ Argument<BYTES> argument, int vectors, uint4* out) {
  const int i = blockIdx.x * kWarp + threadIdx.x;
  if (i < vectors) out[i] = reinterpret_cast<const uint4*>(argument.bytes)[i];
}

template <size_t BYTES>
void upload_pieces(const Device& device, const unsigned char* from, size_t size, unsigned char* to) {
  for (const launch::Piece& piece : launch::pieces_of(size, BYTES)) {
    Argument<BYTES> argument;
    std::memcpy(argument.bytes, from + piece.begin, piece.size);
    const int vectors = static_cast<int>((piece.size + sizeof(uint4) - 1) / sizeof(uint4));
    launch(device, store_argument<BYTES>, {launch::ceil_div(vectors, kWarp), kWarp}, argument, vectors,
           reinterpret_cast<uint4*>(to + piece.begin));
  }
}

inline bool takes_large_arguments() {
#if CUDART_VERSION >= 12010
  static const bool takes = [] {
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess && version >= 12010;
  }();
  return takes;
#else
  return false;
#endif
}

/// Host memory to device memory, which has room for whole vectors, in the arguments of as many launches as it takes.
inline void upload(const Device& device, const void* from, size_t size, void* to) {
  const auto* source = static_cast<const unsigned char*>(from);
  auto* target = static_cast<unsigned char*>(to);
#if CUDART_VERSION >= 12010
  if (size > kSmallArgument && takes_large_arguments())
    return upload_pieces<kLargeArgument>(device, source, size, target);
#endif
  upload_pieces<kSmallArgument>(device, source, size, target);
}

// Bytes the host knows, as an argument of a kernel: inside it if they fit, else in device memory.
template <size_t BYTES>
struct PayloadOf {
  const unsigned char* memory = nullptr;
  Argument<BYTES> inside;

  __device__ const unsigned char* data() const { return memory != nullptr ? memory : inside.bytes; }
};
using Payload = PayloadOf<kSmallArgument>;

class DevicePayload {
 public:
  DevicePayload(const Device& device, const void* bytes, size_t size) {
    if (size <= kSmallArgument) {
      std::memcpy(argument_.inside.bytes, bytes, size);
      return;
    }
    memory_ = device.new_float64({static_cast<int64_t>((size + sizeof(uint4) - 1) / sizeof(uint4) * 2)});
    upload(device, bytes, size, memory_->mutable_data_ptr());
    argument_.memory = static_cast<const unsigned char*>(memory_->const_data_ptr());
  }

  const Payload& argument() const { return argument_; }

 private:
  Payload argument_;
  std::optional<Tensor> memory_;
};

// A plan's table as an argument.
template <size_t BYTES>
struct TableArgumentOf {
  PayloadOf<BYTES> payload;
  launch::Plan::Layout layout;

  __device__ launch::Table table() const { return layout.view(payload.data()); }
};
using TableArgument = TableArgumentOf<kSmallArgument>;
using LargeTableArgument = TableArgumentOf<kLargeTable>;

class DeviceTable {
 public:
  DeviceTable(const Device& device, const launch::Plan& plan) : DeviceTable(device, plan, plan.bytes()) {}

  TableArgument argument() const { return {payload_.argument(), layout_}; }

 private:
  DeviceTable(const Device& device, const launch::Plan& plan, const std::vector<unsigned char>& bytes)
      : layout_(plan.layout()), payload_(device, bytes.data(), bytes.size()) {}

  launch::Plan::Layout layout_;
  DevicePayload payload_;
};

/// Calls f(argument) with a plan's table inside the argument, a small or (if LARGE) a large one, if it fits into any, else
/// in device memory.
template <bool LARGE, class F>
void with_table(const Device& device, const launch::Plan& plan, F f) {
  if constexpr (LARGE && kLargeTables) {
    const size_t size = plan.size();
    if (size > kSmallArgument && size <= kLargeTable && takes_large_arguments()) {
      LargeTableArgument large;
      plan.write(large.payload.inside.bytes);
      large.layout = plan.layout();
      return f(large);
    }
  }
  const DeviceTable table(device, plan);
  f(table.argument());
}

// ---- dtypes -------------------------------------------------------------------------------------------------------

/// What elements of type S are computed with.
template <class S>
using Compute = std::conditional_t<sizeof(S) == 8, double, float>;

template <class S>
struct TypeTag {
  using type = S;
};

template <class F>
void dispatch(ScalarType dtype, F f) {
  switch (dtype) {
    case ScalarType::Double:
      return f(TypeTag<double>{});
    case ScalarType::BFloat16:
      return f(TypeTag<bfloat16>{});
    case ScalarType::Half:
      return f(TypeTag<float16>{});
    default:
      return f(TypeTag<float>{});
  }
}

/// The parameters of each dtype that occurs, by segment: f(dtype, parameters, whether it is the last).
template <class F>
void for_each_dtype(const TaskGrads& grads, F f) {
  std::vector<std::pair<ScalarType, std::vector<int64_t>>> found;
  for (const ScalarType dtype : {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half, ScalarType::Double}) {
    std::vector<int64_t> params;
    for (int64_t p = 0; p < grads.params(); ++p) {
      if (grads.dtype(p) == dtype && grads.numel(p) > 0) params.push_back(p);
    }
    if (params.empty()) continue;
    std::stable_sort(params.begin(), params.end(),
                     [&](int64_t a, int64_t b) { return grads.segment(a) < grads.segment(b); });
    found.emplace_back(dtype, std::move(params));
  }
  for (size_t i = 0; i < found.size(); ++i) f(found[i].first, found[i].second, i + 1 == found.size());
}

// ---- loads --------------------------------------------------------------------------------------------------------

// As many elements as one 16-byte load brings.
template <class S>
struct Vector {
  static constexpr int kSize = launch::kVectorBytes / sizeof(S);
  uint4 bits;

  __device__ S operator[](int i) const {
    S element;
    memcpy(&element, reinterpret_cast<const char*>(&bits) + i * sizeof(S), sizeof(S));
    return element;
  }
  __device__ void set(int i, S element) { memcpy(reinterpret_cast<char*>(&bits) + i * sizeof(S), &element, sizeof(S)); }
};

/// Inf and NaN become NaN: a clip must not hide that a gradient is broken.
template <class A>
__device__ A clamp(A x, A limit) {
  const A broken = x - x;  // 0, or NaN
  x = x > limit ? limit : x;
  x = x < -limit ? -limit : x;
  return x + broken;
}

}  // namespace mtl_ops::cuda
