// Registers the CUDA kernel of rfdetr::masks_from_logits. Run lengths are made on the CPU.
#include "../masks.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "masks.cuh"
#include "ms_deform_attn.cuh"
#include "stream.h"

namespace rfdetr {
namespace {

using torch::stable::Tensor;

Tensor masks_cuda(const Tensor& logits, int64_t height, int64_t width, const std::optional<Tensor>& boxes, bool packed) {
  check_masks(logits, height, width, boxes);
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const Tensor grid = torch::stable::contiguous(logits), limits = boxes ? torch::stable::contiguous(*boxes) : grid;
  Tensor out = new_masks(logits, height, width, packed);
  const rfdetr_masks masks{static_cast<const float*>(grid.const_data_ptr()),
                           boxes ? static_cast<const float*>(limits.const_data_ptr()) : nullptr,
                           grid.size(0),
                           grid.size(1),
                           grid.size(2),
                           height,
                           width,
                           packed,
                           static_cast<uint8_t*>(out.mutable_data_ptr())};
  const int error = rfdetr_masks_launch(&masks, current_stream(logits.get_device_index()));
  STD_TORCH_CHECK(error == 0, "masks_from_logits on CUDA: ", rfdetr_cuda_error(error));
  return out;
}

}  // namespace
}  // namespace rfdetr

STABLE_TORCH_LIBRARY_IMPL(rfdetr, CUDA, library) { library.impl("masks_from_logits", TORCH_BOX(&rfdetr::masks_cuda)); }
