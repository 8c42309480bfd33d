// Argument checks shared by the CPU and the CUDA registrations of the mask operators.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>

namespace rfdetr {

// Raises unless logits are float32 (K, h, w), boxes float32 (K, 4) on the same device, and the image has 1 to 2^31 - 1 pixels.
void check_masks(const torch::stable::Tensor& logits, int64_t height, int64_t width,
                 const std::optional<torch::stable::Tensor>& boxes);

// bool (K, height, width) or, packed, uint8 (K, height, ceil(width / 8)), uninitialised.
torch::stable::Tensor new_masks(const torch::stable::Tensor& logits, int64_t height, int64_t width, bool packed);

}  // namespace rfdetr
