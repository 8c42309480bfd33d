// C interface between the torch-free CUDA kernels (ms_deform_attn.cu) and their registration (ms_deform_attn.cpp).
// All pointers are device memory. Each launcher queues on `stream` (a cudaStream_t of the current device) and returns a
// cudaError_t, 0 for success.
#pragma once

#include "../attention.h"

// output (B, Q, M * D) in the storage type.
extern "C" int rfdetr_forward_launch(const rfdetr::Attention* call, void* output, void* stream);

// Overwrites all gradients, with zeros where there is nothing to compute. `deterministic` gives the same bits every time and is
// much slower.
extern "C" int rfdetr_backward_launch(const rfdetr::Attention* call, const rfdetr::Gradients* to, int deterministic,
                                      void* stream);

// Message of a launcher's return value.
extern "C" const char* rfdetr_cuda_error(int error);
