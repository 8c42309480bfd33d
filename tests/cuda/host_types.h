// Types of CUDA and conversions between them, for g++: what every way to run the kernels' text on the host has in common.
#pragma once

#include <stdint.h>
#include <string.h>

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
