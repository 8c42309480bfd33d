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

  // Raises for anything that the kernels could not read safely.
  Inputs(const Tensor& value, const std::vector<int64_t>& level_sizes, const std::optional<Tensor>& boxes, const Tensor& points,
         const Tensor& weights);

  int64_t samples() const { return int64_t(call.problem.num_levels) * call.problem.points; }  // of one head and query
  Tensor new_output() const;
};

// The gradients of one call, uninitialised; the gradient of value has the requested type, and is zero if `zeroed`.
struct GradientTensors {
  Tensor upstream, value, points, weights;
  std::optional<Tensor> boxes;
  Gradients to;

  GradientTensors(const Inputs& inputs, const Tensor& grad_output, ScalarType value_type, bool zeroed);
};

// The operators of a device from its kernels: forward(inputs) and backward(inputs, upstream, deterministic).
template <Tensor (*forward)(const Inputs&), GradientTensors (*backward)(const Inputs&, const Tensor&, bool)>
struct Operators {
  static Tensor plain(const Tensor& value, std::vector<int64_t> level_sizes, const Tensor& locations, const Tensor& weights) {
    return forward(Inputs(value, level_sizes, std::nullopt, locations, weights));
  }

  static std::tuple<Tensor, Tensor, Tensor> plain_backward(const Tensor& upstream, const Tensor& value,
                                                           std::vector<int64_t> level_sizes, const Tensor& locations,
                                                           const Tensor& weights, bool deterministic) {
    const GradientTensors grads = backward(Inputs(value, level_sizes, std::nullopt, locations, weights), upstream, deterministic);
    return {grads.value, grads.points, grads.weights};
  }

  static Tensor fused(const Tensor& value, std::vector<int64_t> level_sizes, const Tensor& offsets, const Tensor& boxes,
                      const Tensor& logits) {
    return forward(Inputs(value, level_sizes, boxes, offsets, logits));
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> fused_backward(const Tensor& upstream, const Tensor& value,
                                                                   std::vector<int64_t> level_sizes, const Tensor& offsets,
                                                                   const Tensor& boxes, const Tensor& logits,
                                                                   bool deterministic) {
    const GradientTensors grads = backward(Inputs(value, level_sizes, boxes, offsets, logits), upstream, deterministic);
    return {grads.value, grads.points, *grads.boxes, grads.weights};
  }
};

// Inside STABLE_TORCH_LIBRARY_IMPL.
#define RFDETR_REGISTER(library, Device)                                               \
  library.impl("ms_deform_attn", TORCH_BOX(&rfdetr::Device::plain));                   \
  library.impl("ms_deform_attn_backward", TORCH_BOX(&rfdetr::Device::plain_backward)); \
  library.impl("ms_deform_attn_fused", TORCH_BOX(&rfdetr::Device::fused));             \
  library.impl("ms_deform_attn_fused_backward", TORCH_BOX(&rfdetr::Device::fused_backward))

}  // namespace rfdetr
