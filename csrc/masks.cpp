// Schemas of the mask operators and their argument checks.
#include "masks.h"

#include <torch/csrc/stable/library.h>

namespace rfdetr {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void check_masks(const Tensor& logits, int64_t height, int64_t width, const std::optional<Tensor>& boxes) {
  STD_TORCH_CHECK(logits.dim() == 3 && logits.size(1) >= 1 && logits.size(2) >= 1,
                  "mask logits must be (K, h, w) with h, w >= 1");
  STD_TORCH_CHECK(logits.scalar_type() == ScalarType::Float, "mask logits must be float32");
  constexpr int64_t most = (int64_t(1) << 31) - 1, side = 1 << 24;
  STD_TORCH_CHECK(
      height >= 1 && width >= 1 && height <= most && width <= most / height && logits.size(1) < side && logits.size(2) < side,
      "cannot enlarge masks of ", logits.size(1), " x ", logits.size(2), " to ", height, " x ", width, " pixels");
  if (!boxes) return;
  STD_TORCH_CHECK(
      boxes->dim() == 2 && boxes->size(0) == logits.size(0) && boxes->size(1) == 4 && boxes->scalar_type() == ScalarType::Float,
      "boxes must be float32 (K, 4)");
  STD_TORCH_CHECK(boxes->is_cuda() == logits.is_cuda() && boxes->get_device_index() == logits.get_device_index(),
                  "boxes must be on the device of the mask logits");
}

Tensor new_masks(const Tensor& logits, int64_t height, int64_t width, bool packed) {
  const ScalarType type = packed ? ScalarType::Byte : ScalarType::Bool;
  return torch::stable::new_empty(logits, {logits.size(0), height, packed ? (width + 7) / 8 : width}, type);
}

}  // namespace rfdetr

STABLE_TORCH_LIBRARY_FRAGMENT(rfdetr, library) {
  library.def("masks_from_logits(Tensor logits, int height, int width, Tensor? boxes, bool packed) -> Tensor");
  library.def("mask_runs(Tensor logits, int height, int width, Tensor? boxes) -> (Tensor, Tensor)");
}
