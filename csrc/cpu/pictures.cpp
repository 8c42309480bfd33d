// rfdetr::network_input: pictures.h on tensors.
#include "pictures.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

namespace rfdetr {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// uint8 (B, H, W, 3), with any strides -> float32 (B, 3, height, width); `scale` float32 (2, 3): mean and deviation.
Tensor network_input(const Tensor& pictures, int64_t height, int64_t width, const Tensor& scale, bool antialias) {
  STD_TORCH_CHECK(pictures.dim() == 4 && pictures.size(3) == 3 && pictures.scalar_type() == ScalarType::Byte,
                  "pictures must be uint8 (B, H, W, 3)");
  STD_TORCH_CHECK(scale.dim() == 2 && scale.size(0) == 2 && scale.size(1) == 3 && scale.scalar_type() == ScalarType::Float,
                  "scale must be float32 (2, 3)");
  const Tensor dense = torch::stable::contiguous(scale);
  const float* numbers = static_cast<const float*>(dense.const_data_ptr());
  const int64_t batch = pictures.size(0), h = pictures.size(1), w = pictures.size(2);
  pictures::Call call{
      nullptr,
      pictures.stride(1),
      pictures.stride(2),
      pictures.stride(3),
      h,
      w,
      0,
      0,
      w,
      h,
      false,
      nullptr,
      0,
      width,
      height,
      width,
      {numbers[0], numbers[1], numbers[2]},
      {numbers[3], numbers[4], numbers[5]},
  };
  pictures::check(call);
  pictures::isa_kernels();  // raises before parallel_for, in which errors lose their text
  call.to_plane = height * width;
  Tensor result = torch::stable::new_empty(pictures, {batch, 3, height, width}, ScalarType::Float);
  const uint8_t* from = static_cast<const uint8_t*>(pictures.const_data_ptr());
  float* to = static_cast<float*>(result.mutable_data_ptr());
  torch::stable::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) {
      pictures::Call one = call;
      one.pixels = from + image * pictures.stride(0);
      one.to = to + image * 3 * call.to_plane;
      pictures::network_input(one, antialias);
    }
  });
  return result;
}

}  // namespace
}  // namespace rfdetr

STABLE_TORCH_LIBRARY_FRAGMENT(rfdetr, library) {
  library.def("network_input(Tensor pictures, int height, int width, Tensor scale, bool antialias) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(rfdetr, CPU, library) { library.impl("network_input", TORCH_BOX(&rfdetr::network_input)); }
