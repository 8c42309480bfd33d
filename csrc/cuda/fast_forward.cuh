// The fast CUDA forward kernel. 16 bytes of output per lane, W = D * sizeof(T) / 16 lanes per slot, heads next to each other.
//
//   warp, float32, D = 16 (W = 4)     | slot: lanes 0-3 | slot + 1: 4-7 | ... | slot + 7: 28-31 |
//     lane j of a slot                  place and weights of sample j (then j + W, ...), by shuffles to all W lanes
//     lane j of a slot                  channels 4 j to 4 j + 3 of the four pixels of each sample: 16-byte loads
//
// Staged: a block first copies the maps of `group` heads to shared memory, (pixels, group, D), and then serves the queries
// of its
// chunk. Eight lanes read 128 bytes at a time: their heads are neighbours in a row of at least 128 bytes, so no two lanes
// need the
// same bank. A block is (b, chunk, heads), heads fastest: the blocks that share sectors of points and weights run together.
//
//   blockIdx.x = (b * chunks + chunk) * (heads / group) + heads' number
//
// Otherwise one thread per 16 bytes of output, and the maps come from the caches.
#pragma once

#include "fast.cuh"

namespace rfdetr {
namespace {

constexpr int kDirectThreads = 128;
template <class T, int P>
constexpr int kStagedThreads = sizeof(T) == 4 || P != 0 ? 1024 : 768;  // what the registers allow

// Adds the samples of `group` to `total`; base: the lane's channels of the slot's head at pixel 0, row: numbers between pixels.
template <class T, int W, int P, int L>
__device__ __forceinline__ void gather(const Group<T, W, P, L>& group, const T* base, int row, float (&total)[16 / sizeof(T)]) {
  constexpr int V = 16 / sizeof(T);
  const int samples = group.samples();
  Width level(group.call);
#pragma unroll
  for (int round = 0; round * W < samples; ++round) {
    Place own;
    const float weight = group.find(round, own);
    const Blend blend(own.code, own.dx, own.dy);
    const float above = blend.above * weight, below = blend.below * weight;
    const float mine[4] = {above * blend.left, above * blend.right, below * blend.left, below * blend.right};
#pragma unroll
    for (int j = 0; j < W; ++j) {
      const int i = round * W + j;
      if (!group.kWhole && i >= samples) break;
      level.reach(group, round, j);
      const int code = __shfl_sync(kAllLanes, own.code, j, W);
      float corner[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) corner[k] = __shfl_sync(kAllLanes, mine[k], j, W);
      if (code < 0) continue;  // the lanes meet again at the next shuffle
      const T* const north = base + (code >> 4) * row;
      const T* const south = north + pixels_down(code, level.width) * row;
      const int east = pixels_across(code) * row;
      const Pack<T, V> pack[4] = {*reinterpret_cast<const Pack<T, V>*>(north), *reinterpret_cast<const Pack<T, V>*>(north + east),
                                  *reinterpret_cast<const Pack<T, V>*>(south),
                                  *reinterpret_cast<const Pack<T, V>*>(south + east)};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int v = 0; v < V; ++v) total[v] += corner[k] * channel_of(pack[k], v);
      }
    }
  }
}

template <class T>
__device__ __forceinline__ void write_pack(T* to, const float (&total)[16 / sizeof(T)]) {
  constexpr int V = 16 / sizeof(T);
  Pack<T, V> result;
#pragma unroll
  for (int v = 0; v < V; ++v) store(result.channel[v], total[v]);
  *reinterpret_cast<Pack<T, V>*>(to) = result;
}

template <class T, int D, int P, int L>
__global__ void __launch_bounds__(kDirectThreads)
    direct_forward_kernel(const CONSTANT_ARGUMENT Fast<T> call, T* __restrict__ output) {
  constexpr int V = 16 / sizeof(T), W = D / V;
  const int slots = call.batch * call.queries * call.heads;
  const int item = blockIdx.x * kDirectThreads + threadIdx.x, lane = item % W;
  const bool live = item / W < slots;
  const int slot = live ? item / W : 0, query = slot / call.heads, m = slot - query * call.heads, b = query / call.queries;
  Group<T, W, P, L> group(call, slot, query, lane);
  group.softmax();
  float total[V] = {};
  const int row = call.heads * D;
  gather(group, call.value + b * call.pixels * row + m * D + lane * V, row, total);
  if (live) write_pack(output + slot * D + lane * V, total);
}

template <class T, int D, int P, int L>
__global__ void __launch_bounds__(kStagedThreads<T, P>)
    staged_forward_kernel(const CONSTANT_ARGUMENT Fast<T> call, T* __restrict__ output, int heads, int chunk, int chunks) {
  constexpr int V = 16 / sizeof(T), W = D / V;
  SHARED_MEMORY(T, maps);
  const int groups = call.heads / heads, part = blockIdx.x / groups;
  const int first_head = (blockIdx.x - part * groups) * heads, b = part / chunks, first = (part - b * chunks) * chunk;
  const int last = first + chunk < call.queries ? first + chunk : call.queries;
  const int row = heads * D, packs = heads * W, from_row = call.heads * D;  // heads and W are powers of two
  const T* const value = call.value + b * call.pixels * from_row + first_head * D;
#pragma unroll 4
  for (int i = threadIdx.x; i < call.pixels * packs; i += blockDim.x) {
    const int pixel = i / packs, at = (i - pixel * packs) * V;
    *reinterpret_cast<Pack<T, V>*>(maps + pixel * row + at) = *reinterpret_cast<const Pack<T, V>*>(value + pixel * from_row + at);
  }
  __syncthreads();
  const int local = threadIdx.x % packs, head = local / W, lane = local % W, step = blockDim.x / packs;
  const T* const base = maps + head * D + lane * V;
  const auto slot_of = [&](int q) { return (b * call.queries + q) * call.heads + first_head + head; };
  const auto clamped = [&](int q) { return q < last ? q : last - 1; };
  int q = first + threadIdx.x / packs;
  Raw next = Group<T, W, P, L>(call, slot_of(clamped(q)), b * call.queries + clamped(q), lane).raw;
  for (int turn = 0; first + turn * step < last; ++turn, q += step) {
    const int now = clamped(q), later = clamped(q + step);
    Group<T, W, P, L> group(call, slot_of(now), b * call.queries + now, lane, next);
    next = Group<T, W, P, L>(call, slot_of(later), b * call.queries + later, lane).raw;  // in flight while this query is summed
    group.softmax();
    float total[V] = {};
    gather(group, base, row, total);
    if (q < last) write_pack(output + slot_of(now) * D + lane * V, total);
  }
}

// How the staged kernel is launched; chunks is 0 where the maps do not fit or are read too rarely to be copied first.
struct Stage {
  int heads, chunk, chunks, threads;
  int64_t bytes;
};

template <class T, int D, int P, int L>
Stage stage_of(const Fast<T>& call, const Limits& limits, Path path) {
  constexpr int kRow = 256;  // bytes of a pixel's row: two of the 128 bytes that eight lanes read at a time
  constexpr int kReads = 4;  // of each number, on average, that pay for its copy
  Stage stage{1, 0, 0, kStagedThreads<T, P>, 0};
  const auto bytes = [&](int heads) { return int64_t(call.pixels) * heads * D * int64_t(sizeof(T)); };
  while (stage.heads * 2 * D * int(sizeof(T)) <= kRow && call.heads % (stage.heads * 2) == 0 &&
         bytes(stage.heads * 2) <= limits.bytes) {
    stage.heads *= 2;
  }
  stage.bytes = bytes(stage.heads);
  if (stage.bytes > limits.bytes) return stage;
  int resident = 1;  // blocks of a multiprocessor; the driver keeps 1 KB of each
  while (resident < 4 && 2 * resident * (stage.bytes + 1024) <= limits.bytes + 1024) resident *= 2;
  stage.threads = kStagedThreads<T, P> / resident;
  const int64_t tasks = int64_t(call.batch) * (call.heads / stage.heads), room = int64_t(limits.processors) * resident;
  const int64_t wanted = tasks < room ? room / tasks : 1;
  const int64_t chunk = ceil_div(call.queries, wanted < call.queries ? wanted : call.queries);
  const bool busy = 2 * tasks * ceil_div(call.queries, chunk) >= limits.processors;
  const bool pays = busy && chunk * call.samples * 4 >= int64_t(kReads) * call.pixels;
  if (!pays && path != Path::kStaged) return stage;
  stage.chunk = int(chunk), stage.chunks = int(ceil_div(call.queries, chunk));
  return stage;
}

template <class T, int D, int P, int L>
int fast_forward(const Attention& attention, void* output, Path path, void* stream) {
  constexpr int W = D * int(sizeof(T)) / 16;
  const Fast<T> call = fast_call<T>(attention);
  const int slots = call.batch * call.queries * call.heads;
  Limits limits{};
  if (const cudaError_t error = limits.read()) return int(error);
  const Stage stage = stage_of<T, D, P, L>(call, limits, path);
  if (stage.chunks != 0 && path != Path::kDirect) {
    if (const cudaError_t error = allow_shared<staged_forward_kernel<T, D, P, L>>(limits, stage.bytes)) return int(error);
    const int64_t blocks = int64_t(call.batch) * stage.chunks * (call.heads / stage.heads);
    if (blocks > kMaxBlocks) return int(cudaErrorInvalidValue);
    LAUNCH((staged_forward_kernel<T, D, P, L>), int(blocks), stage.threads, int(stage.bytes), stream, call,
           static_cast<T*>(output), stage.heads, stage.chunk, stage.chunks);
  } else {
    const int blocks = int(ceil_div(int64_t(slots) * W, kDirectThreads));
    LAUNCH((direct_forward_kernel<T, D, P, L>), blocks, kDirectThreads, 0, stream, call, static_cast<T*>(output));
  }
  return int(cudaGetLastError());
}

// Kernels for two points on one level and for four on any number of levels, which are the sizes of the models, all with 16
// channels, and for any number of samples.
template <class T>
int fast_forward(const Attention& call, void* output, Path path, void* stream) {
  const Problem& problem = call.problem;
  if (problem.channels == 32) return fast_forward<T, 32, 0, 0>(call, output, path, stream);
  if (problem.points == 2 && problem.num_levels == 1) return fast_forward<T, 16, 2, 1>(call, output, path, stream);
  if (problem.points == 4) return fast_forward<T, 16, 4, 0>(call, output, path, stream);
  return fast_forward<T, 16, 0, 0>(call, output, path, stream);
}

}  // namespace
}  // namespace rfdetr
