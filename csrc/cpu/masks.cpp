// rfdetr::masks_from_logits and rfdetr::mask_runs on the CPU: csrc/cpu/masks.h on tensors.
#include "masks.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

#include "../masks.h"

namespace rfdetr {
namespace {

using torch::stable::Tensor;

template <class Work>
void for_each_mask(const Tensor& logits, int64_t height, int64_t width, const std::optional<Tensor>& boxes, const Work& work) {
  const Tensor grid = torch::stable::contiguous(logits);
  const Tensor limits = boxes ? torch::stable::contiguous(*boxes) : grid;
  const float* from = static_cast<const float*>(grid.const_data_ptr());
  const float* box = boxes ? static_cast<const float*>(limits.const_data_ptr()) : nullptr;
  const MaskAxis across(grid.size(2), width), down(grid.size(1), height);
  torch::stable::parallel_for(0, grid.size(0), 1, [&](int64_t begin, int64_t end) {
    MaskUpsampler upsampler(across, down);
    for (int64_t k = begin; k < end; ++k) {
      work(upsampler, k, from + k * across.size * down.size, box ? upsampler.inside(box + 4 * k) : upsampler.whole());
    }
  });
}

Tensor masks_cpu(const Tensor& logits, int64_t height, int64_t width, const std::optional<Tensor>& boxes, bool packed) {
  check_masks(logits, height, width, boxes);
  Tensor out = new_masks(logits, height, width, packed);
  uint8_t* to = static_cast<uint8_t*>(out.mutable_data_ptr());
  const int64_t row = packed ? (width + 7) / 8 : width;
  for_each_mask(logits, height, width, boxes, [&](auto& upsampler, int64_t k, const float* from, const MaskWindow& window) {
    if (packed) {
      upsampler.bits(from, window, to + k * height * row);
    } else {
      upsampler.bitmap(from, window, to + k * height * row);
    }
  });
  return out;
}

// All run lengths one after the other, (runs), and the index at which each mask's runs begin, (K + 1).
std::tuple<Tensor, Tensor> runs_cpu(const Tensor& logits, int64_t height, int64_t width, const std::optional<Tensor>& boxes) {
  check_masks(logits, height, width, boxes);
  const int64_t count = logits.size(0);
  std::vector<std::vector<uint32_t>> all(static_cast<size_t>(count));
  for_each_mask(logits, height, width, boxes, [&](auto& upsampler, int64_t k, const float* from, const MaskWindow& window) {
    upsampler.runs(from, window, all[size_t(k)]);
  });
  Tensor starts = torch::stable::new_empty(logits, {count + 1}, torch::headeronly::ScalarType::Long);
  int64_t* start = static_cast<int64_t*>(starts.mutable_data_ptr());
  start[0] = 0;
  for (int64_t k = 0; k < count; ++k) start[k + 1] = start[k] + int64_t(all[size_t(k)].size());
  Tensor runs = torch::stable::new_empty(logits, {start[count]}, torch::headeronly::ScalarType::Int);
  int32_t* to = static_cast<int32_t*>(runs.mutable_data_ptr());
  for (int64_t k = 0; k < count; ++k) std::copy(all[size_t(k)].begin(), all[size_t(k)].end(), to + start[k]);
  return {runs, starts};
}

}  // namespace
}  // namespace rfdetr

STABLE_TORCH_LIBRARY_IMPL(rfdetr, CPU, library) {
  library.impl("masks_from_logits", TORCH_BOX(&rfdetr::masks_cpu));
  library.impl("mask_runs", TORCH_BOX(&rfdetr::runs_cpu));
}
