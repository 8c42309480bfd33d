// Registers the CUDA kernels of rfdetr::ms_deform_attn. Compiled without any CUDA header and loadable by a CPU-only PyTorch.
#include "../ms_deform_attn.h"

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "ms_deform_attn.cuh"

namespace rfdetr {
namespace {

using torch::stable::accelerator::DeviceGuard;

Storage storage_of(const Tensor& value) {
  switch (value.scalar_type()) {
    case ScalarType::Float:
      return Storage::kFloat32;
    case ScalarType::Double:
      return Storage::kFloat64;
    case ScalarType::Half:
      return Storage::kFloat16;
    case ScalarType::BFloat16:
      return Storage::kBFloat16;
    default:
      STD_TORCH_CHECK(false, "value must be float32, float64, float16 or bfloat16");
  }
}

// PyTorch's current CUDA stream. Looked up by name: CPU builds of PyTorch do not export the symbol.
void* current_stream(int32_t device) {
  using Getter = int (*)(int32_t, void**);
  static const Getter getter = reinterpret_cast<Getter>(dlsym(RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream"));
  STD_TORCH_CHECK(getter != nullptr, "this PyTorch is not built for CUDA");
  void* stream = nullptr;
  STD_TORCH_CHECK(getter(device, &stream) == 0, "PyTorch has no current CUDA stream");
  return stream;
}

Tensor forward_cuda(const Tensor& value, std::vector<int64_t> level_sizes, const Tensor& locations, const Tensor& weights) {
  const Problem problem = check_arguments(value, level_sizes, locations, weights);
  const DeviceGuard guard(value.get_device_index());
  const Tensor v = torch::stable::contiguous(value), xy = torch::stable::contiguous(locations),
               w = torch::stable::contiguous(weights);
  Tensor output = torch::stable::new_empty(v, {problem.batch, problem.queries, problem.heads * problem.channels});
  const int error = rfdetr_forward_launch(storage_of(v), v.const_data_ptr(), xy.const_data_ptr(), w.const_data_ptr(),
                                          output.mutable_data_ptr(), &problem, current_stream(v.get_device_index()));
  STD_TORCH_CHECK(error == 0, "ms_deform_attn on CUDA: ", rfdetr_cuda_error(error));
  return output;
}

std::tuple<Tensor, Tensor, Tensor> backward_cuda(const Tensor& grad_output, const Tensor& value, std::vector<int64_t> level_sizes,
                                                 const Tensor& locations, const Tensor& weights) {
  const Problem problem = check_arguments(value, level_sizes, locations, weights);
  check_grad_output(grad_output, value, problem);
  const DeviceGuard guard(value.get_device_index());
  const Tensor v = torch::stable::contiguous(value), xy = torch::stable::contiguous(locations),
               w = torch::stable::contiguous(weights);
  const Tensor upstream = torch::stable::contiguous(grad_output);
  Tensor grad_value = torch::stable::new_zeros(v, v.sizes(), accumulate_type(v.scalar_type()));
  Tensor grad_locations = torch::stable::new_empty(xy, xy.sizes()), grad_weights = torch::stable::new_empty(w, w.sizes());
  const rfdetr_gradients to{grad_value.mutable_data_ptr(), grad_locations.mutable_data_ptr(), grad_weights.mutable_data_ptr()};
  const int error = rfdetr_backward_launch(storage_of(v), upstream.const_data_ptr(), v.const_data_ptr(), xy.const_data_ptr(),
                                           w.const_data_ptr(), to, &problem, current_stream(v.get_device_index()));
  STD_TORCH_CHECK(error == 0, "gradient of ms_deform_attn on CUDA: ", rfdetr_cuda_error(error));
  return {torch::stable::to(grad_value, v.scalar_type()), grad_locations, grad_weights};
}

}  // namespace
}  // namespace rfdetr

STABLE_TORCH_LIBRARY_IMPL(rfdetr, CUDA, library) {
  library.impl("ms_deform_attn", TORCH_BOX(&rfdetr::forward_cuda));
  library.impl("ms_deform_attn_backward", TORCH_BOX(&rfdetr::backward_cuda));
}
