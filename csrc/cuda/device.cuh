// Shared parts of the CUDA kernels of multi-scale deformable attention: conversions, the samples of a head, launches.
#pragma once

#include "launch.cuh"
#include "ms_deform_attn.cuh"

namespace rfdetr {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 30;  // with more items a thread processes several

__device__ __forceinline__ float load(float x) { return x; }
__device__ __forceinline__ double load(double x) { return x; }
__device__ __forceinline__ float load(__half x) { return __half2float(x); }
__device__ __forceinline__ float load(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void store(float& to, float x) { to = x; }
__device__ __forceinline__ void store(double& to, double x) { to = x; }
__device__ __forceinline__ void store(__half& to, float x) { to = __float2half(x); }
__device__ __forceinline__ void store(__nv_bfloat16& to, float x) { to = __float2bfloat16(x); }
__device__ __forceinline__ float exp_of(float x) { return expf(x); }
__device__ __forceinline__ double exp_of(double x) { return exp(x); }

// Channels moved by one memory instruction.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T channel[V];
};

__device__ __forceinline__ int64_t first_item() { return blockIdx.x * int64_t(blockDim.x) + threadIdx.x; }
__device__ __forceinline__ int64_t item_step() { return gridDim.x * int64_t(blockDim.x); }

// The samples of one head and query; slot: index over (batch, query, head).
template <class A>
struct Head {
  const A *points, *weights, *box;  // box: null when points are locations and weights are weights
  A top, scale;                     // softmax: e^(logit - top) * scale

  __device__ __forceinline__ Head(const Attention& call, int64_t slot) {
    const int64_t samples = int64_t(call.problem.num_levels) * call.problem.points;
    points = static_cast<const A*>(call.points) + 2 * slot * samples;
    weights = static_cast<const A*>(call.weights) + slot * samples;
    box = call.boxes ? static_cast<const A*>(call.boxes) + slot / call.problem.heads * 4 : nullptr;
    top = 0, scale = 1;
    if (box) {
      top = weights[0];
      for (int64_t i = 1; i < samples; ++i) top = weights[i] > top ? weights[i] : top;
      A total = 0;
      for (int64_t i = 0; i < samples; ++i) total += exp_of(weights[i] - top);
      scale = A(1) / total;
    }
  }

  __device__ __forceinline__ A weight(int64_t i) const {
    const A weight = __ldg(weights + i);
    return box ? exp_of(weight - top) * scale : weight;
  }

  __device__ __forceinline__ bool sample(int64_t i, const Level& level, int count, Sample<A>& at) const {
    A x = __ldg(points + 2 * i), y = __ldg(points + 2 * i + 1);
    if (box) {
      const A unit = offset_unit<A>(count);
      x = __ldg(box) + x * (__ldg(box + 2) * unit), y = __ldg(box + 1) + y * (__ldg(box + 3) * unit);
    }
    return bilinear_sample<A>(x, y, level.height, level.width, level.start, at) != A(0);
  }
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int blocks_for(int64_t items) { return int(ceil_div(items, kThreads) < kMaxBlocks ? ceil_div(items, kThreads) : kMaxBlocks); }

template <class T>
bool packs_of_16_bytes(const void* a, const void* b, const Problem& problem) {
  const uintptr_t bytes =
      reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) | uintptr_t(problem.channels * sizeof(T));
  return bytes % 16 == 0;
}

// Calls `function` with 16-byte packs where pointers and channel count allow it, else channel by channel.
#define WITH_PACKS(T, other, function, ...)                                                                                     \
  return packs_of_16_bytes<T>(call->value, other, call->problem) ? function<T, int(16 / sizeof(T))>(*call, __VA_ARGS__, stream) \
                                                                 : function<T, 1>(*call, __VA_ARGS__, stream)

}  // namespace
}  // namespace rfdetr
