// Schema of rfdetr::ms_deform_attn and its backward, argument checks, and the build information of this library.
//
// Uses PyTorch's stable ABI only (torch >= 2.10): one library serves every CPython and every later torch. Shape rule, gradient
// and autocast are in rfdetr_repro/ops/deform_attn.py; each device registers its kernels in its own file.
#include "ms_deform_attn.h"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <limits>

namespace rfdetr {
namespace {

Problem check_arguments(const Tensor& value, const std::vector<int64_t>& level_sizes, const Tensor& locations,
                        const Tensor& weights) {
  STD_TORCH_CHECK(value.dim() == 4, "value must be (B, S, M, D), has ", value.dim(), " axes");
  STD_TORCH_CHECK(locations.dim() == 6, "sampling_locations must be (B, Q, M, L, P, 2), has ", locations.dim(), " axes");
  STD_TORCH_CHECK(weights.dim() == 5, "attention_weights must be (B, Q, M, L, P), has ", weights.dim(), " axes");
  const int64_t num_levels = static_cast<int64_t>(level_sizes.size()) / 2;
  STD_TORCH_CHECK(level_sizes.size() % 2 == 0 && num_levels >= 1 && num_levels <= kMaxLevels, "level_sizes must hold 1 to ",
                  kMaxLevels, " pairs (height, width), has ", level_sizes.size(), " numbers");
  Problem problem{value.size(0),     value.size(1),   value.size(2),          value.size(3),
                  locations.size(1), int(num_levels), int(locations.size(4)), {}};
  int64_t start = 0;
  for (int64_t level = 0; level < num_levels; ++level) {
    const int64_t height = level_sizes[2 * level], width = level_sizes[2 * level + 1];
    constexpr int64_t limit = 1 << 24;
    STD_TORCH_CHECK(height >= 1 && width >= 1 && height <= limit && width <= limit, "level ", level, " has size ", height, " x ",
                    width);
    problem.levels[level] = {int(height), int(width), int(start)};
    start += height * width;
    STD_TORCH_CHECK(start <= std::numeric_limits<int>::max(), "level_sizes add up to ", start, " pixels, 2^31 or more");
  }
  STD_TORCH_CHECK(start == problem.pixels, "value has ", problem.pixels, " pixels, level_sizes add up to ", start);
  for (int64_t axis = 0; axis < 5; ++axis) {
    STD_TORCH_CHECK(weights.size(axis) == locations.size(axis), "sampling_locations and attention_weights differ on axis ", axis);
  }
  STD_TORCH_CHECK(locations.size(0) == problem.batch && locations.size(2) == problem.heads && locations.size(3) == num_levels &&
                      locations.size(5) == 2,
                  "sampling_locations must be (B, Q, M, L, P, 2) with B, M of value and L levels");
  const ScalarType wanted = accumulate_type(value.scalar_type());
  STD_TORCH_CHECK(
      locations.scalar_type() == wanted && weights.scalar_type() == wanted,
      "sampling_locations and attention_weights must have the accumulation type of value (float64 for float64, else float32)");
  STD_TORCH_CHECK(locations.is_cuda() == value.is_cuda() && weights.is_cuda() == value.is_cuda() &&
                      locations.get_device_index() == value.get_device_index() &&
                      weights.get_device_index() == value.get_device_index(),
                  "value, sampling_locations and attention_weights must be on one device");
  return problem;
}

void check_boxes(const Tensor& boxes, const Tensor& offsets, const Problem& problem) {
  STD_TORCH_CHECK(boxes.dim() == 3 && boxes.size(0) == problem.batch && boxes.size(1) == problem.queries && boxes.size(2) == 4,
                  "reference_boxes must be (B, Q, 4)");
  STD_TORCH_CHECK(boxes.scalar_type() == offsets.scalar_type() && boxes.is_cuda() == offsets.is_cuda() &&
                      boxes.get_device_index() == offsets.get_device_index(),
                  "reference_boxes must have the type and device of offsets");
}

void check_grad_output(const Tensor& grad_output, const Tensor& value, const Problem& problem) {
  STD_TORCH_CHECK(grad_output.dim() == 3 && grad_output.size(0) == problem.batch && grad_output.size(1) == problem.queries &&
                      grad_output.size(2) == problem.heads * problem.channels,
                  "grad_output must be (B, Q, M * D)");
  STD_TORCH_CHECK(grad_output.scalar_type() == value.scalar_type(), "grad_output must have the type of value");
  STD_TORCH_CHECK(grad_output.is_cuda() == value.is_cuda() && grad_output.get_device_index() == value.get_device_index(),
                  "grad_output must be on the device of value");
}

Storage storage_of(ScalarType type) {
  switch (type) {
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

// Boxed calls of PyTorch's dispatcher cost more than the attention of a few queries, so none is made for a tensor that is
// contiguous, and results are allocated directly.
Tensor dense(const Tensor& tensor) { return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor); }

// An uninitialised tensor with the type and device of `like`.
Tensor unfilled(const Tensor& like, const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t axis = sizes.size(); axis-- > 1;) strides[axis - 1] = strides[axis] * std::max<int64_t>(sizes[axis], 1);
  int32_t type = 0, device = 0;
  AtenTensorHandle made = nullptr;
  const bool done = aoti_torch_get_dtype(like.get(), &type) == AOTI_TORCH_SUCCESS &&
                    aoti_torch_get_device_type(like.get(), &device) == AOTI_TORCH_SUCCESS &&
                    aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), type, device,
                                             like.get_device_index(), &made) == AOTI_TORCH_SUCCESS;
  STD_TORCH_CHECK(done, "the result could not be allocated");
  return Tensor(made);
}

Tensor unfilled_like(const Tensor& like) { return unfilled(like, {like.sizes().begin(), like.sizes().end()}); }

}  // namespace

Inputs::Inputs(const Tensor& v, const std::vector<int64_t>& level_sizes, const std::optional<Tensor>& reference_boxes,
               const Tensor& p, const Tensor& w)
    : value(dense(v)), points(dense(p)), weights(dense(w)) {
  const Problem problem = check_arguments(v, level_sizes, p, w);
  if (reference_boxes) {
    check_boxes(*reference_boxes, p, problem);
    boxes = dense(*reference_boxes);
  }
  call = {problem,
          storage_of(value.scalar_type()),
          value.const_data_ptr(),
          points.const_data_ptr(),
          weights.const_data_ptr(),
          boxes ? boxes->const_data_ptr() : nullptr};
}

Tensor Inputs::new_output() const {
  const Problem& sizes = call.problem;
  Tensor output = unfilled(value, {sizes.batch, sizes.queries, sizes.heads * sizes.channels});
  return samples() == 0 ? torch::stable::zero_(output) : output;
}

GradientTensors::GradientTensors(const Inputs& inputs, const Tensor& grad_output, ScalarType value_type, bool zeroed)
    : upstream(dense(grad_output)),
      value(zeroed || inputs.samples() == 0
                ? torch::stable::new_zeros(inputs.value, inputs.value.sizes(), value_type)
                : unfilled_like(value_type == inputs.value.scalar_type() ? inputs.value : inputs.points)),
      points(unfilled_like(inputs.points)),
      weights(unfilled_like(inputs.weights)) {
  check_grad_output(grad_output, inputs.value, inputs.call.problem);
  if (inputs.boxes) {
    boxes = unfilled_like(*inputs.boxes);
    if (inputs.samples() == 0) boxes = torch::stable::zero_(*boxes);
  }
  to = {upstream.const_data_ptr(), value.mutable_data_ptr(), points.mutable_data_ptr(), weights.mutable_data_ptr(),
        boxes ? boxes->mutable_data_ptr() : nullptr};
}

}  // namespace rfdetr

STABLE_TORCH_LIBRARY(rfdetr, library) {
  library.def("ms_deform_attn(Tensor value, int[] level_sizes, Tensor sampling_locations, Tensor attention_weights) -> Tensor");
  library.def(
      "ms_deform_attn_backward(Tensor grad_output, Tensor value, int[] level_sizes, Tensor sampling_locations, "
      "Tensor attention_weights, bool deterministic=False) -> (Tensor, Tensor, Tensor)");
  library.def(
      "ms_deform_attn_fused(Tensor value, int[] level_sizes, Tensor offsets, Tensor reference_boxes, Tensor attention_logits) "
      "-> Tensor");
  library.def(
      "ms_deform_attn_fused_backward(Tensor grad_output, Tensor value, int[] level_sizes, Tensor offsets, "
      "Tensor reference_boxes, Tensor attention_logits, bool deterministic=False) -> (Tensor, Tensor, Tensor, Tensor)");
}

#ifndef RFDETR_CUDA_ARCHS
#define RFDETR_CUDA_ARCHS ""
#endif

// "torch version|CUDA architectures, empty for a CPU-only build|compiler"
extern "C" __attribute__((visibility("default"))) const char* rfdetr_build_info() {
  return TORCH_VERSION "|" RFDETR_CUDA_ARCHS "|" __VERSION__;
}
