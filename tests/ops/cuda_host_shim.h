// Lets g++ compile csrc/cuda/ms_deform_attn.cu for the host: a launch runs every thread of every block, one after the other.
// A kernel with barriers and shared memory comes as phases: each is run for every thread of a block before the next begins.
// Included before the .cu with -include.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

struct Dim3 {
  unsigned x;
};
static thread_local Dim3 blockIdx, blockDim, threadIdx, gridDim;

#define __global__ static
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define LAUNCH(kernel, blocks, threads, stream, ...)                                        \
  do {                                                                                      \
    (void)(stream);                                                                         \
    gridDim.x = unsigned(blocks), blockDim.x = unsigned(threads);                           \
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)                              \
      for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) kernel(__VA_ARGS__);   \
  } while (0)

// Buffers are exactly as large as asked for and filled with NaN, so that sanitizers and results show what is wrong.
#define LAUNCH_PHASES(kernel, Phases, blocks, threads, bytes, stream, ...)                                   \
  do {                                                                                                       \
    (void)(stream);                                                                                          \
    gridDim.x = unsigned(blocks), blockDim.x = unsigned(threads);                                            \
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {                                             \
      std::vector<typename Phases::A> shared(size_t(bytes) / sizeof(typename Phases::A), NAN);               \
      for (int which = 0; which < Phases::kPhases; ++which)                                                  \
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) Phases::phase(which, __VA_ARGS__, shared.data()); \
    }                                                                                                        \
  } while (0)

template <class T>
T __ldg(const T* pointer) {
  return *pointer;
}
template <class T>
void atomicAdd(T* to, T x) {
  *to += x;
}

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

// The environment says how much shared memory a block of this device may have.
#define device_limits(bytes, processors) \
  (*(bytes) = atoi(getenv("RFDETR_TEST_SHARED") ? getenv("RFDETR_TEST_SHARED") : "101376"), *(processors) = 4, cudaSuccess)

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) { return error ? "invalid value" : "no error"; }
template <class Phases>
cudaError_t allow_shared(int64_t) {
  return cudaSuccess;
}
