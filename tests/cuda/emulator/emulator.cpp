#include <cuda_runtime.h>
#include <setjmp.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <vector>

namespace mtl_ops::cuda {
alignas(128) unsigned char shared_bytes[256 * 1024];  // dynamic shared memory
}

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
namespace {

constexpr size_t kStack = 192 * 1024;

struct Copy {
  void* to;
  const void* from;
  size_t size;
};

struct Fiber {
  enum State { kReady, kAtWarp, kAtBlock, kDone };
  ucontext_t context;  // to start in; afterwards it is left and entered by jumps, which need no system call
  jmp_buf place;
  bool started;
  std::unique_ptr<char[]> stack;
  State state;
  const char* what;   // of the meeting
  unsigned meetings;  // of its warp so far
  unsigned commits;
  std::vector<std::vector<Copy>> groups;  // copies on their way; the last group is not committed yet
};

struct Settings {
  int processors = 3;
  int shared = 227 * 1024;
  int capability = 90;
  int order = 0;  // 0: threads in order, 1: from the last to the first, else: at random from this seed
  int failure = cudaSuccess;
} settings;

// What a test may ask for afterwards.
struct Seen {
  int attributes = 0;    // limits of shared memory that were set
  int launches = 0;
  unsigned commits = 0;  // the most groups of copies that a thread committed in one launch
} seen;

std::map<const void*, size_t> allowed;  // shared memory of each kernel, beyond what needs no asking

std::vector<Fiber> fibers;
std::vector<char> board;  // what lanes give each other: two places a thread, used in turn
Fiber* current = nullptr;
std::vector<const void*> entered;  // the __shared__ variables that this block has come by
jmp_buf scheduler;
const std::function<void()>* work = nullptr;
constexpr size_t kPlace = 16;

[[noreturn]] void fail(const char* message) {
  std::fprintf(stderr, "emulated CUDA: %s (block %u, thread %u)\n", message, blockIdx.x, threadIdx.x);
  std::abort();
}

unsigned index_of(const Fiber* fiber) { return static_cast<unsigned>(fiber - fibers.data()); }

void wait(Fiber::State state, const char* what) {
  current->state = state;
  current->what = what;
  if (_setjmp(current->place) == 0) _longjmp(scheduler, 1);
}

void resume(Fiber& fiber) {
  current = &fiber;
  threadIdx.x = index_of(current);
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  setcontext(&fiber.context);
}

void enter() {
  (*work)();
  wait_prior(0);
  current->state = Fiber::kDone;
  _longjmp(scheduler, 1);
}

void start(Fiber& fiber) {
  if (!fiber.stack) fiber.stack = std::make_unique<char[]>(kStack);
  fiber.state = Fiber::kReady;
  fiber.started = false;
  fiber.meetings = fiber.commits = 0;
  fiber.groups.assign(1, {});
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStack;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, enter, 0);
}

// Lets a warp, or the block, go on if all its threads have met.
bool release(size_t begin, size_t end, Fiber::State state) {
  bool any = false;
  for (size_t i = begin; i < end; ++i) {
    if (fibers[i].state == Fiber::kDone && state == Fiber::kAtBlock) continue;  // whoever has left is not waited for
    if (fibers[i].state != state) return false;
    any = true;
  }
  if (!any) return false;
  for (size_t i = begin; i < end; ++i) {
    if (state == Fiber::kAtWarp && fibers[i].what != fibers[begin].what)
      fail("a warp's threads meet at different places");
    if (fibers[i].state == state) fibers[i].state = Fiber::kReady;
  }
  return true;
}

void run_block(std::mt19937& random) {
  const size_t n = blockDim.x;
  std::vector<size_t> order(n);
  for (size_t i = 0; i < n; ++i) order[i] = settings.order == 1 ? n - 1 - i : i;
  for (size_t i = 0; i < n; ++i) start(fibers[i]);
  // Warps that the others leave behind, until those can go no further: a ballot alone takes 32 rounds.
  const unsigned warps = (2u << (n - 1) / 32) - 1;
  unsigned held = settings.order > 1 ? random() & random() & warps : 0;
  for (;;) {
    if (settings.order > 1) std::shuffle(order.begin(), order.end(), random);
    size_t done = 0;
    bool moved = false;
    for (const size_t i : order) {
      if (held >> i / 32 & 1) continue;
      if (fibers[i].state == Fiber::kReady) {
        resume(fibers[i]);
        moved = true;
      }
    }
    for (size_t i = 0; i < n; ++i) done += fibers[i].state == Fiber::kDone;
    if (done == n) return;
    for (size_t warp = 0; warp < n; warp += 32) moved |= release(warp, std::min(n, warp + 32), Fiber::kAtWarp);
    moved |= release(0, n, Fiber::kAtBlock);
    if (!moved && held != 0) {
      held = random() & random() & warps & ~held;
      continue;
    }
    if (!moved) fail("some threads wait for others that never come");
  }
}

}  // namespace

void meet_warp(const char* what) {
  ++current->meetings;
  wait(Fiber::kAtWarp, what);
}

void meet_block() { wait(Fiber::kAtBlock, "__syncthreads"); }

void exchange(void* value, size_t size, unsigned lane, const char* what) {
  if (size > kPlace) fail("a value too large to exchange");
  const auto place = [](unsigned i) { return board.data() + (2 * i + current->meetings % 2) * kPlace; };
  const unsigned mine = index_of(current);
  char* theirs = place(mine / 32 * 32 + lane);
  std::memcpy(place(mine), value, size);
  meet_warp(what);
  std::memcpy(value, theirs, size);
}

void check_aligned(const void* address, size_t size) {
  if (reinterpret_cast<uintptr_t>(address) % size != 0) fail("an address that is not aligned");
}

void enter_shared(void* address, size_t size) {
  if (std::find(entered.begin(), entered.end(), address) != entered.end()) return;
  entered.push_back(address);
  std::memset(address, 0xff, size);
}

void copy_async(void* to, const void* from, size_t size) { current->groups.back().push_back({to, from, size}); }

void commit() {
  current->groups.emplace_back();
  seen.commits = std::max(seen.commits, ++current->commits);
}

void wait_prior(size_t groups) {
  auto& all = current->groups;
  while (all.size() > groups + 1) {
    for (const Copy& copy : all.front()) std::memcpy(copy.to, copy.from, copy.size);
    all.erase(all.begin());
  }
}

void run(unsigned grid, unsigned count, size_t shared, const std::function<void()>& kernel) {
  if (fibers.size() < count) fibers.resize(count);
  board.resize(2 * kPlace * ((count + 31) / 32 * 32));
  blockDim.x = count;
  gridDim.x = grid;
  work = &kernel;
  std::mt19937 random(settings.order);
  std::vector<unsigned> order(grid);
  for (unsigned i = 0; i < grid; ++i) order[i] = settings.order == 1 ? grid - 1 - i : i;
  if (settings.order > 1) std::shuffle(order.begin(), order.end(), random);
  for (const unsigned i : order) {
    blockIdx.x = i;
    entered.clear();
    std::memset(mtl_ops::cuda::shared_bytes, 0xff, shared);
    run_block(random);
  }
}

}  // namespace emulator

using emulator::seen;
using emulator::settings;

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  switch (which) {
    case cudaDevAttrMultiProcessorCount:
      *value = settings.processors;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = settings.shared + 1024;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = settings.shared;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = settings.capability / 10;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = settings.capability % 10;
      break;
  }
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes) {
  ++seen.attributes;
  if (bytes > settings.shared) return cudaErrorInvalidValue;
  emulator::allowed[kernel] = bytes;
  return cudaSuccess;
}

// What the hardware refuses.
cudaError_t cudaLaunchResult(const void* kernel, const cudaLaunchConfig_t& config, size_t argument_bytes) {
  const auto found = emulator::allowed.find(kernel);
  const size_t allowed = found == emulator::allowed.end() ? 48 * 1024 : found->second;
  if (settings.failure != cudaSuccess) return static_cast<cudaError_t>(settings.failure);
  ++seen.launches;
  const bool fits = config.gridDim.x >= 1 && config.gridDim.x <= 0x7fffffffu && config.blockDim.x >= 1 &&
                    config.blockDim.x <= 1024 && argument_bytes <= 32764 &&
                    config.dynamicSmemBytes <= std::min(allowed, static_cast<size_t>(settings.shared));
  return fits ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

#define EXPORT __attribute__((visibility("default")))

// The tensors are the CPU's: there is no device to choose and no stream.
extern "C" {
AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) { return *guard = nullptr, 0; }
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return 0; }
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) { return *stream = nullptr, 0; }

EXPORT void emulate_processors(int count) { settings.processors = count; }
EXPORT void emulate_shared_memory(int bytes) { settings.shared = bytes; }
EXPORT int emulated_attributes() { return seen.attributes; }
EXPORT int emulated_launches() { return seen.launches; }
EXPORT unsigned emulated_commits() { return std::exchange(seen.commits, 0u); }
EXPORT void emulate_order(int order) { settings.order = order; }
EXPORT void emulate_failure(int error, int capability) {
  settings.failure = error;
  settings.capability = capability;
}
}
