// CUDA gradient of multi-scale deformable attention; this file does not use PyTorch. Indices are 64-bit.
//
// Up to three kernels: gradients of the samples, one thread per head and query, no race and no zero fill; gradient of the boxes,
// one thread per query; gradient of value. The gradient of value is summed in shared memory, a block per (image, head, slice of
// channels, chunk of queries), and flushed once: global atomics shrink from samples x 4 to pixels per chunk. Sums are float32 or
// float64, never 16-bit, because 16-bit sums lose small terms. In the deterministic form every sum has one owner, which visits
// the queries in order.
//
// Layout, for heads M, channels D; value and its gradient (batch, pixels, M, D), upstream (batch, queries, M, D):
//
// samples_kernel: one thread per slot = (b, q, m); it owns every number that it writes, so nothing is zeroed before.
//
//   d points  (slots, samples, 2)  thread slot -> | x y | x y | ... |      samples = levels * points
//   d weights (slots, samples)     thread slot -> |  w  |  w  | ... |
//   Loops: samples > 4 corners > D channels in packs of V (16 bytes): dot = upstream . value at the corner, in a register.
//
// phased_kernel and value_kernel: gradient of value. A block has one Share (b, m, slice of channels, chunk of queries):
//
//   blockIdx.x = ((b * M + m) * slices + s) * chunks + c            slices = D / slice, chunks = ceil(queries / chunk)
//
//   sums, shared memory (pixels, slice)       lane = threadIdx.x % slice, group = threadIdx.x / slice
//     pixel 0 | lane 0 | lane 1 | ... | lane slice-1 |
//     pixel 1 | lane 0 | ...                          group g takes the samples g, g + groups, ... of the chunk, and for each
//     ...                                             of its 4 corners its lanes add one channel each (atomicAdd in shared)
//
//   phase 0: zero the sums | barrier | phase 1: add the samples | barrier | phase 2: flush to the result by global atomicAdd
//
//   Where (pixels, slice) does not fit shared memory, value_kernel<T, false> adds straight to the result. Deterministic,
//   value_kernel<T, true>: chunk = queries, slice * kOwners threads; all groups walk all samples, and group g adds only to the
//   pixels with pixel % groups == g:
//
//     pixel    0    1    2   ...  15   16   17 ...
//     group    0    1    2   ...  15    0    1 ...        (kOwners = 16)
#include "direct_backward.cuh"
#include "sorted_backward.cuh"

namespace rfdetr {
namespace {

constexpr int kOwners = 16;  // deterministic: threads that share the pixels of one channel

// d location and d weight, or d logit after a softmax.
template <class T, int V>
__global__ void __launch_bounds__(kThreads) samples_kernel(Attention call, Gradients to) {
  using A = typename AccumulateType<T>::type;
  const Problem& problem = call.problem;
  const int64_t samples = int64_t(problem.num_levels) * problem.points, row = problem.heads * problem.channels;
  const int64_t slots = problem.batch * problem.queries * problem.heads;
  for (int64_t slot = first_item(); slot < slots; slot += item_step()) {
    const int64_t b = slot / problem.heads / problem.queries, m = slot % problem.heads;
    const T* value = static_cast<const T*>(call.value) + b * problem.pixels * row + m * problem.channels;
    const T* upstream = static_cast<const T*>(to.upstream) + slot * problem.channels;
    A *d_points = static_cast<A*>(to.points) + 2 * slot * samples, *d_weights = static_cast<A*>(to.weights) + slot * samples;
    const Head<A> head(call, slot);
    A mean = 0;
#pragma unroll 1
    for (int64_t i = 0; i < samples; ++i) {
      A along_x = 0, along_y = 0, sampled = 0;
      Sample<A> at;
      const A weight = head.weight(i);
      if (head.sample(i, problem.levels[i / problem.points], problem.points, at)) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          A dot = 0;
#pragma unroll 1
          for (int64_t channel = 0; channel < problem.channels; channel += V) {
            const auto up = *reinterpret_cast<const Pack<T, V>*>(upstream + channel);
            const auto here = *reinterpret_cast<const Pack<T, V>*>(value + at.pixel[k] * row + channel);
#pragma unroll
            for (int v = 0; v < V; ++v) dot += load(up.channel[v]) * load(here.channel[v]);
          }
          sampled += at.weight[k] * dot, along_x += at.along_x[k] * dot, along_y += at.along_y[k] * dot;
        }
      }
      d_points[2 * i] = along_x * weight, d_points[2 * i + 1] = along_y * weight, d_weights[i] = sampled;
      mean += weight * sampled;
    }
    if (call.boxes) {
      for (int64_t i = 0; i < samples; ++i) d_weights[i] = head.weight(i) * (d_weights[i] - mean);
    }
  }
}

// d location -> d offset in place, and the boxes' gradient.
template <class A>
__global__ void __launch_bounds__(kThreads) boxes_kernel(Attention call, Gradients to) {
  const Problem& problem = call.problem;
  const int64_t count = problem.heads * problem.num_levels * problem.points, queries = problem.batch * problem.queries;
  for (int64_t query = first_item(); query < queries; query += item_step()) {
    box_gradient(static_cast<A*>(to.points) + 2 * query * count, static_cast<const A*>(call.points) + 2 * query * count,
                 static_cast<const A*>(call.boxes) + 4 * query, count, problem.points, static_cast<A*>(to.boxes) + 4 * query);
  }
}

// A block's share of the gradient of value: `slice` channels from `channel`, queries `first` to `last`, of one image and head.
struct Share {
  int64_t b, m, channel, first, last;

  __device__ __forceinline__ Share(const Problem& problem, int slice, int64_t chunk) {
    int64_t block = blockIdx.x;
    const int64_t chunks = (problem.queries + chunk - 1) / chunk, slices = problem.channels / slice;
    first = block % chunks * chunk, block /= chunks;
    last = first + chunk < problem.queries ? first + chunk : problem.queries;
    channel = block % slices * slice, block /= slices;
    m = block % problem.heads, b = block / problem.heads;
  }
};

// Calls add(pixel, amount) for what this thread's channel `lane` of the share gets: from every `step`-th sample, starting at
// `from`.
template <class T, class Add>
__device__ __forceinline__ void visit(const Attention& call, const Gradients& to, const Share& share, int lane, int64_t from,
                                      int64_t step, const Add& add) {
  using A = typename AccumulateType<T>::type;
  const Problem& problem = call.problem;
  const int64_t samples = int64_t(problem.num_levels) * problem.points, items = (share.last - share.first) * samples;
  for (int64_t item = from; item < items; item += step) {
    const int64_t query = share.b * problem.queries + share.first + item / samples, i = item % samples;
    const int64_t slot = query * problem.heads + share.m;
    const Head<A> head(call, slot);
    Sample<A> at;
    if (!head.sample(i, problem.levels[i / problem.points], problem.points, at)) continue;
    const A up = head.weight(i) * load(static_cast<const T*>(to.upstream)[slot * problem.channels + share.channel + lane]);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      // by place, not by weight: of an infinite gradient a weight of 0 makes NaN, as on the CPU
      if (at.visible[k] != A(0)) add(at.pixel[k], at.weight[k] * up);
    }
  }
}

// In shared memory (pixels, slice); three phases with a barrier between them.
template <class T>
struct SharedSum {
  using A = typename AccumulateType<T>::type;
  static constexpr int kPhases = 3;

  static __device__ __forceinline__ void phase(int which, const Attention& call, const Gradients& to, int slice, int64_t chunk,
                                               A* sums) {
    const Problem& problem = call.problem;
    const int64_t size = problem.pixels * slice;
    const Share share(problem, slice, chunk);
    if (which == 0) {
      for (int64_t i = threadIdx.x; i < size; i += blockDim.x) sums[i] = 0;
    } else if (which == 1) {
      const int lane = threadIdx.x % slice;
      visit<T>(call, to, share, lane, threadIdx.x / slice, blockDim.x / slice,
               [&](int pixel, A amount) { atomicAdd(sums + pixel * slice + lane, amount); });
    } else {
      const int64_t row = problem.heads * problem.channels;
      A* result = static_cast<A*>(to.value) + share.b * problem.pixels * row + share.m * problem.channels + share.channel;
      for (int64_t i = threadIdx.x; i < size; i += blockDim.x) {
        if (sums[i] != A(0)) atomicAdd(result + i / slice * row + i % slice, sums[i]);
      }
    }
  }
};

// Directly into the result, for maps that do not fit into shared memory: by atomics, or each sum by its owner.
template <class T, bool kOwned>
__global__ void __launch_bounds__(kThreads) value_kernel(Attention call, Gradients to, int slice, int64_t chunk) {
  using A = typename AccumulateType<T>::type;
  const Problem& problem = call.problem;
  const int64_t row = problem.heads * problem.channels;
  const Share share(problem, slice, chunk);
  const int lane = threadIdx.x % slice, group = threadIdx.x / slice, groups = blockDim.x / slice;
  A* result = static_cast<A*>(to.value) + share.b * problem.pixels * row + share.m * problem.channels + share.channel + lane;
  visit<T>(call, to, share, lane, kOwned ? 0 : group, kOwned ? 1 : groups, [&](int pixel, A amount) {
    if (!kOwned) {
      atomicAdd(result + pixel * row, amount);
    } else if (pixel % groups == group) {
      result[pixel * row] += amount;
    }
  });
}

template <class Phases>
__global__ void __launch_bounds__(kThreads) phased_kernel(Attention call, Gradients to, int slice, int64_t chunk) {
  SHARED_MEMORY(typename Phases::A, sums);
#pragma unroll
  for (int which = 0; which < Phases::kPhases; ++which) {
    Phases::phase(which, call, to, slice, chunk, sums);
    if (which + 1 < Phases::kPhases) __syncthreads();
  }
}

template <class T>
int backward_value(const Attention& call, const Gradients& to, bool deterministic, void* stream) {
  using A = typename AccumulateType<T>::type;
  const Problem& problem = call.problem;
  Limits limits{};
  if (const cudaError_t error = limits.read()) return int(error);
  const int64_t bytes = limits.bytes, processors = limits.processors;
  int slice = 1;  // channels of a block: the largest power of two that divides them, up to a thread each of kOwners
  while (slice < kThreads / kOwners && problem.channels % (2 * slice) == 0) slice *= 2;
  if (deterministic) {
    const int64_t blocks = problem.batch * problem.heads * (problem.channels / slice);
    if (blocks > kMaxBlocks) return int(cudaErrorInvalidValue);
    LAUNCH((value_kernel<T, true>), int(blocks), slice * kOwners, 0, stream, call, to, slice, problem.queries);
    return int(cudaGetLastError());
  }
  int shared = slice;
  while (shared > 1 && problem.pixels * shared * int64_t(sizeof(A)) > bytes) shared /= 2;
  const bool fits = problem.pixels * shared * int64_t(sizeof(A)) <= bytes && (shared >= 4 || shared == slice);
  if (fits) slice = shared;
  const int64_t tasks = problem.batch * problem.heads * (problem.channels / slice);
  const int64_t most = ceil_div(problem.queries, 64), wanted = ceil_div(2 * processors, tasks);
  const int64_t chunk = ceil_div(problem.queries, wanted < most ? wanted : most);
  const int64_t blocks = tasks * ceil_div(problem.queries, chunk);
  if (blocks > kMaxBlocks) return int(cudaErrorInvalidValue);
  if (fits) {
    const int64_t size = problem.pixels * slice * int64_t(sizeof(A));
    if (const cudaError_t error = allow_shared<phased_kernel<SharedSum<T>>>(limits, size)) return int(error);
    LAUNCH(phased_kernel<SharedSum<T>>, int(blocks), kThreads, int(size), stream, call, to, slice, chunk);
  } else {
    LAUNCH((value_kernel<T, false>), int(blocks), kThreads, 0, stream, call, to, slice, chunk);
  }
  return int(cudaGetLastError());
}

template <class T, int V>
int backward(const Attention& call, const Gradients& to, bool deterministic, void* stream) {
  const Problem& problem = call.problem;
  using A = typename AccumulateType<T>::type;
  const int64_t queries = problem.batch * problem.queries, slots = queries * problem.heads;
  const int64_t numbers = problem.batch * problem.pixels * problem.heads * problem.channels;
  if (const cudaError_t error = fill_zero(to.value, numbers * int64_t(sizeof(A)), stream)) return int(error);
  if (slots * problem.channels * problem.points == 0) {  // no kernel writes the other gradients
    const int64_t samples = slots * problem.num_levels * problem.points;
    const int64_t boxes = call.boxes ? 4 * queries : 0;
    if (const cudaError_t error = fill_zero(to.points, 2 * samples * int64_t(sizeof(A)), stream)) return int(error);
    if (const cudaError_t error = fill_zero(to.weights, samples * int64_t(sizeof(A)), stream)) return int(error);
    return int(fill_zero(to.boxes, boxes * int64_t(sizeof(A)), stream));
  }
  LAUNCH((samples_kernel<T, V>), blocks_for(slots), kThreads, 0, stream, call, to);
  if (call.boxes) LAUNCH((boxes_kernel<A>), blocks_for(queries), kThreads, 0, stream, call, to);
  if (const cudaError_t error = cudaGetLastError()) return int(error);
  return backward_value<T>(call, to, deterministic, stream);
}

// The sorted gradient where it fits and pays, else the direct one.
template <class T, int D>
int fast_backward(const Attention& attention, const Gradients& grads, Path path, void* stream) {
  const Fast<T> call = fast_call<T>(attention);
  const FastGradients<T> to{static_cast<const T*>(grads.upstream), static_cast<float*>(grads.value),
                            static_cast<float*>(grads.points), static_cast<float*>(grads.weights),
                            static_cast<float*>(grads.boxes)};
  const int64_t values = int64_t(call.batch) * call.pixels * call.heads * D, queries = int64_t(call.batch) * call.queries;
  Limits limits{};
  if (const cudaError_t error = limits.read()) return int(error);
  const SortedLaunch launch = sorted_launch<T, D>(call, limits, path);
  if (const cudaError_t error = fill_zero(to.value, 4 * values, stream)) return int(error);
  if (call.boxes) {
    if (const cudaError_t error = fill_zero(to.boxes, 16 * queries, stream)) return int(error);
  }
  if (launch.bytes != 0 && path != Path::kDirect) {
    if constexpr (D == 16) {
      if (call.levels == 1 && call.samples == 2) return launch_sorted<T, D, 2, 1>(call, to, launch, limits, stream);
      if (call.level_points == 4) return launch_sorted<T, D, 4, 0>(call, to, launch, limits, stream);
    }
    return launch_sorted<T, D, 0, 0>(call, to, launch, limits, stream);
  }
  if constexpr (D == 16) {
    if (call.level_points == 4) return launch_direct<T, D, 4>(call, to, stream);
  }
  return launch_direct<T, D, 0>(call, to, stream);
}

template <class T>
int fast_backward(const Attention& call, const Gradients& to, Path path, void* stream) {
  return call.problem.channels == 32 ? fast_backward<T, 32>(call, to, path, stream)
                                     : fast_backward<T, 16>(call, to, path, stream);
}

bool aligned(const Gradients& to) {
  const uintptr_t bits = reinterpret_cast<uintptr_t>(to.value) | reinterpret_cast<uintptr_t>(to.points) |
                         reinterpret_cast<uintptr_t>(to.weights) | reinterpret_cast<uintptr_t>(to.boxes);
  return bits % 16 == 0;
}

}  // namespace
}  // namespace rfdetr

using namespace rfdetr;

extern "C" int rfdetr_backward_launch(const Attention* call, const Gradients* to, int deterministic, void* stream) {
  const Path path = path_asked();
  if (!deterministic && is_fast(*call, to->upstream, path) && aligned(*to)) {
    if (call->storage == Storage::kFloat32) return fast_backward<float>(*call, *to, path, stream);
    if (call->storage == Storage::kFloat16) return fast_backward<__half>(*call, *to, path, stream);
    return fast_backward<__nv_bfloat16>(*call, *to, path, stream);
  }
  switch (call->storage) {
    case Storage::kFloat32:
      WITH_PACKS(float, to->upstream, backward, *to, deterministic != 0);
    case Storage::kFloat64:
      WITH_PACKS(double, to->upstream, backward, *to, deterministic != 0);
    case Storage::kFloat16:
      WITH_PACKS(__half, to->upstream, backward, *to, deterministic != 0);
    case Storage::kBFloat16:
      WITH_PACKS(__nv_bfloat16, to->upstream, backward, *to, deterministic != 0);
  }
  return int(cudaErrorInvalidValue);
}
