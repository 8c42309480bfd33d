// Argument checks and sizes shared by the CPU and the CUDA registrations of rfdetr::ms_deform_attn.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <vector>

#include "bilinear.h"

namespace rfdetr {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// float16 and bfloat16 values are sampled, weighted and summed in float32; float32 and float64 in their own precision.
inline ScalarType accumulate_type(ScalarType value) {
  return value == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Raises on anything the kernels could not read safely; returns the sizes of the call.
Problem check_arguments(const Tensor& value, const std::vector<int64_t>& level_sizes, const Tensor& locations,
                        const Tensor& weights);
void check_grad_output(const Tensor& grad_output, const Tensor& value, const Problem& problem);

}  // namespace rfdetr
