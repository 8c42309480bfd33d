// CPU registration of rfdetr::packed_linear: argument checks, and the distribution of rows and outputs over threads.
#include "packed_linear.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <optional>

#include "buffer.h"

namespace rfdetr {
namespace packed_linear {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kGrainNumbers = int64_t(1) << 16;  // least amount that one thread packs
constexpr int64_t kTaskProducts = int64_t(1) << 20;  // least number of multiplications that pay for a thread

const IsaKernels& isa_kernels() {
  static const IsaKernels& chosen = widest(RFDETR_BUILDS);
  return chosen;
}

// Numbers of a packed weight for each input.
int64_t padded(const IsaKernels& kernels, int64_t outputs) { return parts_of(outputs, kernels.lanes) * kernels.lanes; }

void check_float(const Tensor& given, int64_t dims, const char* what) {
  STD_TORCH_CHECK(given.dim() == dims && given.scalar_type() == ScalarType::Float, what);
}

Tensor pack(const Tensor& weight) {
  const IsaKernels& kernels = isa_kernels();
  check_float(weight, 2, "weight must be float32 (outputs, inputs)");
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  STD_TORCH_CHECK(outputs > 0 && inputs > 0, "weight must not be empty");
  Tensor packed = torch::stable::new_empty(weight, {inputs, padded(kernels, outputs)});
  const float* from = static_cast<const float*>(weight.const_data_ptr());
  float* to = static_cast<float*>(packed.mutable_data_ptr());
  const int64_t panel = kernels.panel;
  torch::stable::parallel_for(0, parts_of(outputs, panel), parts_of(kGrainNumbers, inputs * panel),
                              [&](int64_t begin, int64_t end) {
                                kernels.pack(from, outputs, inputs, weight.stride(0), weight.stride(1), to, begin, end);
                              });
  return packed;
}

Tensor packed_linear(const Tensor& x, const Tensor& packed, const Tensor& bias, int64_t activation,
                     const std::optional<Tensor>& scale, const std::optional<Tensor>& residual) {
  const IsaKernels& kernels = isa_kernels();
  check_float(x, 2, "x must be float32 (rows, inputs)");
  check_float(bias, 1, "bias must be float32 (outputs)");
  const int64_t rows = x.size(0), inputs = x.size(1), outputs = bias.size(0);
  check_float(packed, 2, "packed must be float32 of two dimensions");
  STD_TORCH_CHECK(packed.is_contiguous() && packed.size(0) == inputs && packed.size(1) == padded(kernels, outputs),
                  "packed must come from packed_linear_pack of a weight (", outputs, ", ", inputs, ")");
  STD_TORCH_CHECK(activation >= 0 && activation <= 2, "activation must be 0 (none), 1 (ReLU) or 2 (GELU), is ", activation);
  Tensor factors, added;
  if (scale) {
    STD_TORCH_CHECK(scale->dim() == 1 && scale->scalar_type() == ScalarType::Float && scale->size(0) == outputs,
                    "scale must be float32 (", outputs, ")");
    factors = torch::stable::contiguous(*scale);
  }
  if (residual) {
    STD_TORCH_CHECK(residual->dim() == 2 && residual->scalar_type() == ScalarType::Float && residual->size(0) == rows &&
                        residual->size(1) == outputs,
                    "residual must be float32 (", rows, ", ", outputs, ")");
    added = torch::stable::contiguous(*residual);
  }
  Tensor output = torch::stable::new_empty(x, {rows, outputs});
  if (rows == 0) return output;
  const bool in_place = x.stride(1) == 1 && x.stride(0) >= inputs;
  const Tensor dense = in_place ? x : torch::stable::contiguous(x), sums = torch::stable::contiguous(bias);
  const Call call{
      static_cast<const float*>(dense.const_data_ptr()),
      rows,
      inputs,
      dense.stride(0),
      static_cast<const float*>(packed.const_data_ptr()),
      outputs,
      static_cast<const float*>(sums.const_data_ptr()),
      static_cast<Activation>(activation),
      scale ? static_cast<const float*>(factors.const_data_ptr()) : nullptr,
      residual ? static_cast<const float*>(added.const_data_ptr()) : nullptr,
      static_cast<float*>(output.mutable_data_ptr()),
  };
  // Tasks are rows x panels: rows first, because tasks of the same rows pack them each.
  const int64_t panels = parts_of(outputs, kernels.panel), blocks = parts_of(rows, kernels.rows);
  const int64_t wanted =
      std::clamp<int64_t>(rows * inputs * outputs / kTaskProducts, 1, std::max<int64_t>(1, torch::stable::get_num_threads()));
  const int64_t down = std::min(wanted, parts_of(blocks, 4)), across = std::min(panels, parts_of(wanted, down));
  const int64_t step = parts_of(blocks, down) * kernels.rows, stride = parts_of(panels, across);
  torch::stable::parallel_for(0, down * across, 1, [&](int64_t begin, int64_t end) {
    const Buffer<float> room(kernels.room_of(inputs, stride));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task / across * step, panel = task % across * stride;
      if (first >= rows || panel >= panels) continue;
      kernels.run(call, first, std::min(rows, first + step), panel, std::min(panels, panel + stride), room.data);
    }
  });
  return output;
}

}  // namespace
}  // namespace packed_linear
}  // namespace rfdetr

STABLE_TORCH_LIBRARY_FRAGMENT(rfdetr, library) {
  library.def("packed_linear_pack(Tensor weight) -> Tensor");
  library.def("packed_linear(Tensor x, Tensor packed, Tensor bias, int activation, Tensor? scale, Tensor? residual) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(rfdetr, CPU, library) {
  library.impl("packed_linear_pack", TORCH_BOX(&rfdetr::packed_linear::pack));
  library.impl("packed_linear", TORCH_BOX(&rfdetr::packed_linear::packed_linear));
}
