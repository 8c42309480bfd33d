// C interface between the torch-free CUDA kernels (ms_deform_attn.cu) and their registration (ms_deform_attn.cpp).
// All tensors are contiguous device memory in the layout of rfdetr_repro.ops.ms_deform_attn. Each launcher queues on `stream` (a
// cudaStream_t of the current device) and returns a cudaError_t, 0 for success.
#pragma once

#include "../bilinear.h"

namespace rfdetr {
enum class Storage : int { kFloat32, kFloat64, kFloat16, kBFloat16 };  // type of value and output; the rest is float or double
}

// output (B, Q, M * D) in the storage type.
extern "C" int rfdetr_forward_launch(rfdetr::Storage storage, const void* value, const void* locations, const void* weights,
                                     void* output, const rfdetr::Problem* problem, void* stream);

// grad_value is (B, S, M, D) in the accumulation type, zeroed by the caller and added to; the two other gradients are
// overwritten.
struct rfdetr_gradients {
  void *value, *locations, *weights;
};
extern "C" int rfdetr_backward_launch(rfdetr::Storage storage, const void* grad_output, const void* value, const void* locations,
                                      const void* weights, rfdetr_gradients gradients, const rfdetr::Problem* problem,
                                      void* stream);

// Message of a launcher's return value.
extern "C" const char* rfdetr_cuda_error(int error);
