// Argument checks and sizes shared by the CPU and the CUDA registrations of rfdetr::ms_deform_attn.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <tuple>
#include <vector>

#include "attention.h"

namespace rfdetr {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// float16 and bfloat16 values are sampled, weighted and summed in float32; float32 and float64 in their own precision.
inline ScalarType accumulate_type(ScalarType value) {
  return value == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Contiguous tensors of one call, kept alive while the kernels read them.
struct Inputs {
  Tensor value, points, weights;
  std::optional<Tensor> boxes;
  Attention call;

  // Raises on anything the kernels could not read safely.
  Inputs(const Tensor& value, const std::vector<int64_t>& level_sizes, const std::optional<Tensor>& boxes, const Tensor& points,
         const Tensor& weights);

  int64_t samples() const { return int64_t(call.problem.num_levels) * call.problem.points; }  // of one head and query
  Tensor new_output() const;
};

// The gradients of one call, not filled in; value's in the type asked for, and zero if `zeroed`.
struct GradientTensors {
  Tensor upstream, value, points, weights;
  std::optional<Tensor> boxes;
  Gradients to;

  GradientTensors(const Inputs& inputs, const Tensor& grad_output, ScalarType value_type, bool zeroed);
};

}  // namespace rfdetr
