// CPU registration of rfdetr::split_linear: argument checks, and the distribution of rows over threads. The kernels are in
// split_linear.h.
#include "split_linear.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <type_traits>

namespace rfdetr {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kGrainNumbers = 1 << 16;  // least amount that one thread packs

void check_ready() {
  STD_TORCH_CHECK(amx_ready(), "split_linear needs a processor with AMX-BF16 and Linux's permission to use it");
}

Tensor pack(const Tensor& weight, int64_t parts) {
  check_ready();
  STD_TORCH_CHECK(parts == 2 || parts == 3, "parts must be 2 or 3, is ", parts);
  STD_TORCH_CHECK(weight.dim() == 2 && weight.scalar_type() == ScalarType::Float, "weight must be float32 (outputs, inputs)");
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  STD_TORCH_CHECK(outputs > 0 && inputs > 0 && inputs % kBlock == 0, "inputs must be a multiple of ", kBlock, ", are ", inputs);
  const Tensor dense = torch::stable::contiguous(weight);
  Tensor packed = torch::stable::new_empty(weight, {blocks(outputs), inputs / kBlock, parts * 2 * kTile}, ScalarType::BFloat16);
  const float* from = static_cast<const float*>(dense.const_data_ptr());
  uint16_t* to = static_cast<uint16_t*>(packed.mutable_data_ptr());
  torch::stable::parallel_for(0, blocks(outputs), parts_of(kGrainNumbers, inputs * kBlock), [&](int64_t begin, int64_t end) {
    (parts == 3 ? pack_weight<3> : pack_weight<2>)(from, outputs, inputs, to, begin, end);
  });
  return packed;
}

Tensor split_linear(const Tensor& x, const Tensor& packed, const Tensor& bias, bool gelu) {
  check_ready();
  STD_TORCH_CHECK(x.dim() == 2 && x.scalar_type() == ScalarType::Float, "x must be float32 (rows, inputs)");
  STD_TORCH_CHECK(bias.dim() == 1 && bias.scalar_type() == ScalarType::Float, "bias must be float32 (outputs)");
  const int64_t rows = x.size(0), inputs = x.size(1), outputs = bias.size(0);
  STD_TORCH_CHECK(packed.scalar_type() == ScalarType::BFloat16 && packed.dim() == 3 && packed.is_contiguous() &&
                      packed.size(0) == blocks(outputs) && packed.size(1) * kBlock == inputs &&
                      (packed.size(2) == 4 * kTile || packed.size(2) == 6 * kTile),
                  "packed must come from split_linear_pack of a weight (", outputs, ", ", inputs, ")");
  const Tensor dense = torch::stable::contiguous(x), added = torch::stable::contiguous(bias);
  Tensor output = torch::stable::new_empty(x, {rows, outputs});
  if (rows == 0) return output;
  const float *from = static_cast<const float*>(dense.const_data_ptr()), *b = static_cast<const float*>(added.const_data_ptr());
  const uint16_t* weight = static_cast<const uint16_t*>(packed.const_data_ptr());
  float* to = static_cast<float*>(output.mutable_data_ptr());
  const auto with_parts = [&](auto parts) { return gelu ? run_rows<parts, true> : run_rows<parts, false>; };
  const bool three = packed.size(2) == 6 * kTile;
  const auto run = three ? with_parts(std::integral_constant<int, 3>()) : with_parts(std::integral_constant<int, 2>());
  const int64_t threads = std::max<int64_t>(1, torch::stable::get_num_threads());
  const int64_t tiles = parts_of(rows, kRows), bytes = tiles * kRows * std::min(kInputs, inputs) * (packed.size(2) / kTile);
  const int64_t tasks = threads * parts_of(bytes, threads * kRowsBytes);
  const int64_t step = parts_of(tiles, tasks) * kRows;  // rows of a task
  torch::stable::parallel_for(0, parts_of(rows, step), 1, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * step; first < std::min(rows, end * step); first += step) {
      run(from + first * inputs, std::min(step, rows - first), inputs, weight, b, outputs, to + first * outputs);
    }
  });
  return output;
}

}  // namespace
}  // namespace rfdetr

STABLE_TORCH_LIBRARY_FRAGMENT(rfdetr, library) {
  library.def("split_linear_pack(Tensor weight, int parts) -> Tensor");
  library.def("split_linear(Tensor x, Tensor packed, Tensor bias, bool gelu) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(rfdetr, CPU, library) {
  library.impl("split_linear_pack", TORCH_BOX(&rfdetr::pack));
  library.impl("split_linear", TORCH_BOX(&rfdetr::split_linear));
}

// 1 if split_linear runs on this machine.
extern "C" __attribute__((visibility("default"))) int rfdetr_has_split_linear() { return rfdetr::amx_ready(); }
