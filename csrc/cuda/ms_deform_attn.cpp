// Registers the CUDA kernels of rfdetr::ms_deform_attn. Compiled without any CUDA header and loadable by a CPU-only PyTorch.
#include "../ms_deform_attn.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "ms_deform_attn.cuh"
#include "stream.h"

namespace rfdetr {
namespace {

using torch::stable::accelerator::DeviceGuard;

Tensor forward(const Inputs& inputs) {
  const DeviceGuard guard(inputs.value.get_device_index());
  Tensor output = inputs.new_output();
  const int error =
      rfdetr_forward_launch(&inputs.call, output.mutable_data_ptr(), current_stream(inputs.value.get_device_index()));
  STD_TORCH_CHECK(error == 0, "ms_deform_attn on CUDA: ", rfdetr_cuda_error(error));
  return output;
}

GradientTensors backward(const Inputs& inputs, const Tensor& grad_output, bool deterministic) {
  const DeviceGuard guard(inputs.value.get_device_index());
  const ScalarType type = inputs.value.scalar_type();
  GradientTensors grads(inputs, grad_output, accumulate_type(type), true);
  void* stream = current_stream(inputs.value.get_device_index());
  const int error = rfdetr_backward_launch(&inputs.call, &grads.to, deterministic, stream);
  STD_TORCH_CHECK(error == 0, "gradient of ms_deform_attn on CUDA: ", rfdetr_cuda_error(error));
  grads.value = torch::stable::to(grads.value, type);
  return grads;
}

Tensor forward_cuda(const Tensor& value, std::vector<int64_t> level_sizes, const Tensor& locations, const Tensor& weights) {
  return forward(Inputs(value, level_sizes, std::nullopt, locations, weights));
}

std::tuple<Tensor, Tensor, Tensor> backward_cuda(const Tensor& grad_output, const Tensor& value, std::vector<int64_t> level_sizes,
                                                 const Tensor& locations, const Tensor& weights, bool deterministic) {
  const Inputs inputs(value, level_sizes, std::nullopt, locations, weights);
  const GradientTensors grads = backward(inputs, grad_output, deterministic);
  return {grads.value, grads.points, grads.weights};
}

Tensor fused_cuda(const Tensor& value, std::vector<int64_t> level_sizes, const Tensor& offsets, const Tensor& boxes,
                  const Tensor& logits) {
  return forward(Inputs(value, level_sizes, boxes, offsets, logits));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> fused_backward_cuda(const Tensor& grad_output, const Tensor& value,
                                                               std::vector<int64_t> level_sizes, const Tensor& offsets,
                                                               const Tensor& boxes, const Tensor& logits, bool deterministic) {
  const GradientTensors grads = backward(Inputs(value, level_sizes, boxes, offsets, logits), grad_output, deterministic);
  return {grads.value, grads.points, *grads.boxes, grads.weights};
}

}  // namespace
}  // namespace rfdetr

STABLE_TORCH_LIBRARY_IMPL(rfdetr, CUDA, library) {
  library.impl("ms_deform_attn", TORCH_BOX(&rfdetr::forward_cuda));
  library.impl("ms_deform_attn_backward", TORCH_BOX(&rfdetr::backward_cuda));
  library.impl("ms_deform_attn_fused", TORCH_BOX(&rfdetr::fused_cuda));
  library.impl("ms_deform_attn_fused_backward", TORCH_BOX(&rfdetr::fused_backward_cuda));
}
