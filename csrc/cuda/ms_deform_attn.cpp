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
  GradientTensors grads(inputs, grad_output, accumulate_type(type), false);
  void* stream = current_stream(inputs.value.get_device_index());
  const int error = rfdetr_backward_launch(&inputs.call, &grads.to, deterministic, stream);
  STD_TORCH_CHECK(error == 0, "gradient of ms_deform_attn on CUDA: ", rfdetr_cuda_error(error));
  grads.value = torch::stable::to(grads.value, type);
  return grads;
}

using Cuda = Operators<forward, backward>;

}  // namespace
}  // namespace rfdetr

STABLE_TORCH_LIBRARY_IMPL(rfdetr, CUDA, library) { RFDETR_REGISTER(library, Cuda); }
