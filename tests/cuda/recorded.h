// The launchers of csrc/cuda for g++, where nvcc is missing: a launch goes to the runtime of fake_runtime.cpp, kernels do not
// run.
#pragma once

#include "host_cuda.h"

extern "C" {
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device);
cudaError_t cudaGetLastError();
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);
const char* cudaGetErrorString(cudaError_t error);
void fake_name(const void* kernel, const char* name);
int cudaFuncSetAttribute(const void* kernel, int which, int value);
int cudaLaunchKernel(const void* kernel, Dim3 grid, Dim3 block, void** arguments, size_t shared, void* stream);
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute which, int value) {
  return cudaError_t(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), int(which), value));
}

namespace recorded {

template <auto kKernel>
void launch(unsigned blocks, unsigned threads, size_t shared, void* stream) {
  const void* const kernel = reinterpret_cast<const void*>(kKernel);
  fake_name(kernel, __PRETTY_FUNCTION__);
  cudaLaunchKernel(kernel, {blocks, 1, 1}, {threads, 1, 1}, nullptr, shared, stream);
}

}  // namespace recorded

#define LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...) \
  recorded::launch<&kernel>(unsigned(blocks), unsigned(threads), size_t(shared_bytes), stream)
#define SHARED_MEMORY(type, name) type* const name = nullptr

inline void __syncthreads() {}
inline void __syncwarp(unsigned = 0xffffffffu) {}
inline void __threadfence() {}
template <class T>
T __shfl_sync(unsigned, T value, int, int = 32) {
  return value;
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int, int = 32) {
  return value;
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned, int = 32) {
  return value;
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned, int = 32) {
  return value;
}
inline unsigned __ballot_sync(unsigned, int) { return 0; }
inline int __any_sync(unsigned, int) { return 0; }
inline int __all_sync(unsigned, int) { return 0; }
