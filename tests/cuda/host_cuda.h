// The part of CUDA that the kernels of csrc/cuda use, for g++: types, conversions, and two ways to launch. Included before a
// .cu with -include; see threads.h and recorded.h for the launches.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <atomic>

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict

extern "C" {
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
}

using cudaStream_t = struct HostStream*;

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};
inline thread_local Dim3 blockIdx, blockDim, threadIdx, gridDim;

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

template <class T>
T __ldg(const T* pointer) {
  return *pointer;
}
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(int(bits)); }
inline int __clz(unsigned bits) { return bits ? __builtin_clz(bits) : 32; }
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline int __float2int_rn(float x) { return int(nearbyintf(x)); }

#if defined(__aarch64__)
using HostHalf = __fp16;  // GCC 12 knows no _Float16 in C++ there
#else
using HostHalf = _Float16;
#endif
struct __half {
  HostHalf bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __half2float(__half x) { return float(x.bits); }
inline __half __float2half(float x) { return {HostHalf(x)}; }
inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t word = uint32_t(x.bits) << 16;
  float result;
  memcpy(&result, &word, sizeof result);
  return result;
}
inline __nv_bfloat16 __float2bfloat16(float x) {  // round to nearest, ties to even; not for NaN
  uint32_t word;
  memcpy(&word, &x, sizeof word);
  return {uint16_t((word + 0x7fff + ((word >> 16) & 1)) >> 16)};
}

// Atomic, and no more: what a relaxed atomic of a GPU orders is its own address.
template <class T>
T atomicAdd(T* to, T x) {
  return std::atomic_ref<T>(*to).fetch_add(x, std::memory_order_relaxed);
}
inline float2 atomicAdd(float2* to, float2 x) { return {atomicAdd(&to->x, x.x), atomicAdd(&to->y, x.y)}; }
inline float4 atomicAdd(float4* to, float4 x) {
  return {atomicAdd(&to->x, x.x), atomicAdd(&to->y, x.y), atomicAdd(&to->z, x.z), atomicAdd(&to->w, x.w)};
}
template <class T>
T atomicCAS(T* to, T expected, T desired) {
  std::atomic_ref<T>(*to).compare_exchange_strong(expected, desired, std::memory_order_relaxed);
  return expected;
}
template <class T>
T atomicExch(T* to, T x) {
  return std::atomic_ref<T>(*to).exchange(x, std::memory_order_relaxed);
}
template <class T>
T atomicMax(T* to, T x) {
  T before = std::atomic_ref<T>(*to).load(std::memory_order_relaxed);
  while (before < x && !std::atomic_ref<T>(*to).compare_exchange_weak(before, x, std::memory_order_relaxed)) {
  }
  return before;
}
