// torch's parallel_for on threads of the standard library, for a build with ThreadSanitizer: it does not see the barriers of OpenMP,
// and would take what one parallel region writes and the next one reads for a race.
#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

extern "C" int32_t torch_parallel_for(int64_t begin, int64_t end, int64_t grain_size,
                                      void (*work)(int64_t begin, int64_t end, void* context), void* context) {
  constexpr int64_t most = 4;
  const int64_t count =
      std::min(most, (end - begin + std::max<int64_t>(grain_size, 1) - 1) / std::max<int64_t>(grain_size, 1));
  if (count <= 0) return 0;
  const int64_t share = (end - begin + count - 1) / count;
  std::vector<std::thread> threads;
  for (int64_t from = begin; from < end; from += share) {
    threads.emplace_back(work, from, std::min(end, from + share), context);
  }
  for (std::thread& thread : threads) thread.join();
  return 0;  // AOTI_TORCH_SUCCESS
}
