// CUDA kernels of rfdetr::ms_deform_attn; nothing of PyTorch in here.
//
// Forward: one thread per 16 bytes of output channels of one (batch, query, head); neighbouring threads read neighbouring
// channels of the same pixel. Backward: one thread per sample, which walks the head's channels, writes its own location and
// weight gradients (no zero fill, no race) and adds to grad_value by float32 or float64 atomics; never by 16-bit ones, which lose
// small terms. Indices are 64-bit. tests/test_cuda_compile.py also compiles this text for the host, where LAUNCH is a plain loop.
#include "ms_deform_attn.cuh"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define LAUNCH(kernel, blocks, threads, stream, ...) \
  kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#endif

namespace rfdetr {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 30;  // beyond that a thread takes several items

__device__ __forceinline__ float load(float x) { return x; }
__device__ __forceinline__ double load(double x) { return x; }
__device__ __forceinline__ float load(__half x) { return __half2float(x); }
__device__ __forceinline__ float load(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void store(float& to, float x) { to = x; }
__device__ __forceinline__ void store(double& to, double x) { to = x; }
__device__ __forceinline__ void store(__half& to, float x) { to = __float2half(x); }
__device__ __forceinline__ void store(__nv_bfloat16& to, float x) { to = __float2bfloat16(x); }

// Channels moved by one memory instruction.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T channel[V];
};

__device__ __forceinline__ int64_t first_item() { return blockIdx.x * int64_t(blockDim.x) + threadIdx.x; }
__device__ __forceinline__ int64_t item_step() { return gridDim.x * int64_t(blockDim.x); }

template <class T, class A, int V>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const T* __restrict__ value, const A* __restrict__ locations, const A* __restrict__ weights,
                   T* __restrict__ output, Problem problem) {
  const int64_t packs = problem.channels / V, row = problem.heads * problem.channels;
  const int64_t items = problem.batch * problem.queries * problem.heads * packs;
  for (int64_t item = first_item(); item < items; item += item_step()) {
    const int64_t slot = item / packs, channel = item % packs * V;  // slot: index over (batch, query, head)
    const int64_t b = slot / problem.heads / problem.queries, m = slot % problem.heads;
    const T* head = value + b * problem.pixels * row + m * problem.channels + channel;
    int64_t i = slot * problem.num_levels * problem.points;
    A total[V] = {};
#pragma unroll 1
    for (int level = 0; level < problem.num_levels; ++level) {
      const Level size = problem.levels[level];
#pragma unroll 2
      for (int point = 0; point < problem.points; ++point, ++i) {
        Sample<A> at;
        if (!bilinear_sample(__ldg(locations + 2 * i), __ldg(locations + 2 * i + 1), size, at)) continue;
        const A weight = __ldg(weights + i);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const Pack<T, V> pack = *reinterpret_cast<const Pack<T, V>*>(head + at.pixel[k] * row);
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

template <class T, class A, int V>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const T* __restrict__ grad_output, const T* __restrict__ value, const A* __restrict__ locations,
                    const A* __restrict__ weights, A* __restrict__ grad_value, A* __restrict__ grad_locations,
                    A* __restrict__ grad_weights, Problem problem) {
  const int64_t samples = int64_t(problem.num_levels) * problem.points, row = problem.heads * problem.channels;
  const int64_t items = problem.batch * problem.queries * problem.heads * samples;
  for (int64_t i = first_item(); i < items; i += item_step()) {
    const int64_t slot = i / samples, b = slot / problem.heads / problem.queries, m = slot % problem.heads;
    const Level size = problem.levels[i % samples / problem.points];
    A along_x = 0, along_y = 0, sampled = 0;
    const A weight = __ldg(weights + i);
    Sample<A> at;
    if (bilinear_sample(__ldg(locations + 2 * i), __ldg(locations + 2 * i + 1), size, at)) {
      const int64_t head = b * problem.pixels * row + m * problem.channels;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int64_t pixel = head + at.pixel[k] * row;
        const A share = weight * at.weight[k];
        A dot = 0;
#pragma unroll 1
        for (int64_t channel = 0; channel < problem.channels; channel += V) {
          const auto up = *reinterpret_cast<const Pack<T, V>*>(grad_output + slot * problem.channels + channel);
          const auto here = *reinterpret_cast<const Pack<T, V>*>(value + pixel + channel);
#pragma unroll
          for (int v = 0; v < V; ++v) {
            dot += load(up.channel[v]) * load(here.channel[v]);
            if (share != A(0)) atomicAdd(grad_value + pixel + channel + v, share * load(up.channel[v]));
          }
        }
        sampled += at.weight[k] * dot, along_x += at.along_x[k] * dot, along_y += at.along_y[k] * dot;
      }
    }
    grad_locations[2 * i] = along_x * weight, grad_locations[2 * i + 1] = along_y * weight, grad_weights[i] = sampled;
  }
}

int blocks_for(int64_t items) {
  const int64_t blocks = (items + kThreads - 1) / kThreads;
  return int(blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

template <class T>
bool packs_of_16_bytes(const void* a, const void* b, const Problem& problem) {
  const uintptr_t bytes =
      reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) | uintptr_t(problem.channels * sizeof(T));
  return bytes % 16 == 0;
}

template <class T, class A, int V>
int forward(const void* value, const void* locations, const void* weights, void* output, const Problem& problem, void* stream) {
  const int64_t items = problem.batch * problem.queries * problem.heads * (problem.channels / V);
  if (items == 0) return 0;
  LAUNCH((forward_kernel<T, A, V>), blocks_for(items), kThreads, stream, static_cast<const T*>(value),
         static_cast<const A*>(locations), static_cast<const A*>(weights), static_cast<T*>(output), problem);
  return int(cudaGetLastError());
}

template <class T, class A, int V>
int backward(const void* grad_output, const void* value, const void* locations, const void* weights, rfdetr_gradients to,
             const Problem& problem, void* stream) {
  const int64_t items = problem.batch * problem.queries * problem.heads * problem.num_levels * problem.points;
  if (items == 0) return 0;
  LAUNCH((backward_kernel<T, A, V>), blocks_for(items), kThreads, stream, static_cast<const T*>(grad_output),
         static_cast<const T*>(value), static_cast<const A*>(locations), static_cast<const A*>(weights),
         static_cast<A*>(to.value), static_cast<A*>(to.locations), static_cast<A*>(to.weights), problem);
  return int(cudaGetLastError());
}

}  // namespace
}  // namespace rfdetr

using rfdetr::Storage;

// Calls `function` with 16-byte packs where pointers and channel count allow it, else channel by channel.
#define WITH_PACKS(T, A, other, function, ...)                                            \
  return rfdetr::packs_of_16_bytes<T>(value, other, *problem)                             \
             ? rfdetr::function<T, A, int(16 / sizeof(T))>(__VA_ARGS__, *problem, stream) \
             : rfdetr::function<T, A, 1>(__VA_ARGS__, *problem, stream)

extern "C" int rfdetr_forward_launch(Storage storage, const void* value, const void* locations, const void* weights, void* output,
                                     const rfdetr::Problem* problem, void* stream) {
  switch (storage) {
    case Storage::kFloat32:
      WITH_PACKS(float, float, output, forward, value, locations, weights, output);
    case Storage::kFloat64:
      WITH_PACKS(double, double, output, forward, value, locations, weights, output);
    case Storage::kFloat16:
      WITH_PACKS(__half, float, output, forward, value, locations, weights, output);
    case Storage::kBFloat16:
      WITH_PACKS(__nv_bfloat16, float, output, forward, value, locations, weights, output);
  }
  return int(cudaErrorInvalidValue);
}

extern "C" int rfdetr_backward_launch(Storage storage, const void* grad_output, const void* value, const void* locations,
                                      const void* weights, rfdetr_gradients to, const rfdetr::Problem* problem, void* stream) {
  switch (storage) {
    case Storage::kFloat32:
      WITH_PACKS(float, float, grad_output, backward, grad_output, value, locations, weights, to);
    case Storage::kFloat64:
      WITH_PACKS(double, double, grad_output, backward, grad_output, value, locations, weights, to);
    case Storage::kFloat16:
      WITH_PACKS(__half, float, grad_output, backward, grad_output, value, locations, weights, to);
    case Storage::kBFloat16:
      WITH_PACKS(__nv_bfloat16, float, grad_output, backward, grad_output, value, locations, weights, to);
  }
  return int(cudaErrorInvalidValue);
}

extern "C" const char* rfdetr_cuda_error(int error) { return cudaGetErrorString(cudaError_t(error)); }
