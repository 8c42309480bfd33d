// CUDA forward kernel of multi-scale deformable attention; this file does not use PyTorch. Indices are 64-bit.
//
// One thread per 16 bytes of output channels of one (batch, query, head); neighbouring threads read neighbouring channels of the
// same pixel. Locations from boxes and the softmax are computed on use.
//
// Layout, for heads M and channels D. V numbers of type T fill 16 bytes (V is 1 where D or a pointer is not aligned to that), and
// a head has P = D / V packs; with D = 32 in float32, V is 4 and P is 8.
//
//   output (batch, queries, M, D)          slot = (b * queries + q) * M + m
//                 |<------------ slot: D channels ----------->|<-- slot + 1 ...
//                 | pack 0 | pack 1 | ...           | pack P-1 | pack 0 |
//   item (thread)   slot*P   slot*P+1                 slot*P+P-1
//
//   value (batch, pixels, M, D)            row = M * D numbers from pixel to pixel
//     pixel s     | head 0: D  | head 1: D  | ...  | head M-1: D |
//                              [pack]<- thread (m = 1, channel = 0) reads 16 bytes here, its neighbour the 16 bytes behind
//     pixel s + 1 | ...        [pack]      top left, top right; bottom left, bottom right: four pixels of each sample
//
//   points  (batch, queries, M, levels, points, 2)  | x y | x y | ...   the P threads of a slot read the same numbers
//   weights (batch, queries, M, levels, points)     |  w  |  w  | ...   (a broadcast within the warp)
//
// Loops of a thread, outermost first: items (grid stride) > levels > points > 4 corners > V channels in registers (total[V]).
// No shared memory, no communication between threads; each item is written once.
//
// tests/ops/test_cuda_compile.py also compiles this text for the host, where a launch is a plain loop.
#include "fast_forward.cuh"

namespace rfdetr {
namespace {

template <class T, int V>
__global__ void __launch_bounds__(kThreads) forward_kernel(Attention call, T* __restrict__ output) {
  using A = typename AccumulateType<T>::type;
  const Problem& problem = call.problem;
  const int64_t packs = problem.channels / V, row = problem.heads * problem.channels;
  const int64_t items = problem.batch * problem.queries * problem.heads * packs;
  for (int64_t item = first_item(); item < items; item += item_step()) {
    const int64_t slot = item / packs, channel = item % packs * V;
    const int64_t b = slot / problem.heads / problem.queries, m = slot % problem.heads;
    const T* value = static_cast<const T*>(call.value) + b * problem.pixels * row + m * problem.channels + channel;
    const Head<A> head(call, slot);
    int64_t i = 0;
    A total[V] = {};
#pragma unroll 1
    for (int level = 0; level < problem.num_levels; ++level) {
      const Level size = problem.levels[level];
#pragma unroll 1
      for (int point = 0; point < problem.points; ++point, ++i) {
        Sample<A> at;
        if (!head.sample(i, size, problem.points, at)) continue;
        const A weight = head.weight(i);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const Pack<T, V> pack = *reinterpret_cast<const Pack<T, V>*>(value + at.pixel[k] * row);
#pragma unroll
          for (int v = 0; v < V; ++v) total[v] += weight * at.weight[k] * load(pack.channel[v]);
        }
      }
    }
    Pack<T, V> result;
#pragma unroll
    for (int v = 0; v < V; ++v) store(result.channel[v], total[v]);
    *reinterpret_cast<Pack<T, V>*>(output + slot * problem.channels + channel) = result;
  }
}

template <class T, int V>
int forward(const Attention& call, void* output, void* stream) {
  const Problem& problem = call.problem;
  const int64_t items = problem.batch * problem.queries * problem.heads * (problem.channels / V);
  if (items == 0 || problem.points == 0) return 0;  // without samples there is no first logit to read; the output is zero
  LAUNCH((forward_kernel<T, V>), blocks_for(items), kThreads, 0, stream, call, static_cast<T*>(output));
  return int(cudaGetLastError());
}

}  // namespace
}  // namespace rfdetr

using namespace rfdetr;

extern "C" int rfdetr_forward_launch(const Attention* call, void* output, void* stream) {
  const Path path = path_asked();
  if (is_fast(*call, output, path)) {
    if (call->storage == Storage::kFloat32) return fast_forward<float>(*call, output, path, stream);
    if (call->storage == Storage::kFloat16) return fast_forward<__half>(*call, output, path, stream);
    return fast_forward<__nv_bfloat16>(*call, output, path, stream);
  }
  switch (call->storage) {
    case Storage::kFloat32:
      WITH_PACKS(float, output, forward, output);
    case Storage::kFloat64:
      WITH_PACKS(double, output, forward, output);
    case Storage::kFloat16:
      WITH_PACKS(__half, output, forward, output);
    case Storage::kBFloat16:
      WITH_PACKS(__nv_bfloat16, output, forward, output);
  }
  return int(cudaErrorInvalidValue);
}

extern "C" const char* rfdetr_cuda_error(int error) { return cudaGetErrorString(cudaError_t(error)); }
