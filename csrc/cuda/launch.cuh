// How the kernels are launched and reach dynamic shared memory. Macros, because the tests also compile the kernels' text for
// the host: there a header that is included first defines the first two, and the third is empty.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// Queues `kernel` with `blocks` blocks of `threads` threads and `shared_bytes` bytes of dynamic shared memory on `stream`. A
// kernel with several template arguments stands in parentheses.
#define LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...) \
  kernel<<<blocks, threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)

// Declares `name`, a `type*` to the dynamic shared memory of the block, aligned to 16 bytes.
#define SHARED_MEMORY(type, name)             \
  extern __shared__ double2 dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(dynamic_shared)
// Before a parameter of a kernel: read where the driver put the parameter, also by an index that is known at run time only.
#define CONSTANT_ARGUMENT __grid_constant__
#else
#define CONSTANT_ARGUMENT
#endif
