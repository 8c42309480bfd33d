// The part of CUDA that the kernels of csrc/cuda use, for g++: types (host_types.h), functions, and two ways to launch. Included
// before a .cu with -include; see threads.h and recorded.h for the launches.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <atomic>

#include "host_types.h"

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};
inline thread_local Dim3 blockIdx, blockDim, threadIdx, gridDim;

inline int __ffs(unsigned bits) { return __builtin_ffs(int(bits)); }
inline int __clz(unsigned bits) { return bits ? __builtin_clz(bits) : 32; }
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline int __float2int_rn(float x) { return int(nearbyintf(x)); }

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
