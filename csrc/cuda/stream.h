// PyTorch's current CUDA stream.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "lookup.h"

namespace rfdetr {

inline void* current_stream(int32_t device) {
  using Getter = int (*)(int32_t, void**);
  static const Getter getter = reinterpret_cast<Getter>(torch_cuda_function("aoti_torch_get_current_cuda_stream"));
  STD_TORCH_CHECK(getter != nullptr, "this PyTorch is not built for CUDA");
  void* stream = nullptr;
  STD_TORCH_CHECK(getter(device, &stream) == 0, "PyTorch has no current CUDA stream");
  return stream;
}

}  // namespace rfdetr
