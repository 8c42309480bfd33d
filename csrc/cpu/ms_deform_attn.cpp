// Registers the CPU kernels of rfdetr::ms_deform_attn and rfdetr::ms_deform_attn_fused.
#include "../ms_deform_attn.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <limits>

#include "isa.h"

namespace rfdetr {
namespace {

constexpr int64_t kGrainSamples = 4096;  // below about this many samples a second thread costs more than it saves

int64_t grain(int64_t samples_per_task) { return std::max<int64_t>(1, kGrainSamples / std::max<int64_t>(1, samples_per_task)); }

Tensor forward(const Inputs& inputs) {
  const Problem& sizes = inputs.call.problem;
  STD_TORCH_CHECK(inputs.samples() <= kMaxSamples, "levels x points must be at most ", kMaxSamples, " on the CPU");
  Tensor output = inputs.new_output();
  if (inputs.samples() == 0) return output;
  void* out = output.mutable_data_ptr();
  const IsaKernels& kernels = isa_kernels();
  torch::stable::parallel_for(0, sizes.batch * sizes.queries, grain(sizes.heads * inputs.samples()),
                              [&](int64_t begin, int64_t end) { kernels.forward(inputs.call, out, begin, end); });
  return output;
}

// The backward pass numbers the pixels of an image and of a border around each level.
void check_border(const Problem& sizes) {
  int64_t cells = 0;
  for (int level = 0; level < sizes.num_levels; ++level) cells += cells_of(sizes.levels[level]);
  STD_TORCH_CHECK(cells <= std::numeric_limits<int>::max(), "the levels have ", cells,
                  " pixels with their borders, 2^31 or more; no gradients on the CPU");
}

// The CPU's gradients are deterministic in any case.
GradientTensors backward(const Inputs& inputs, const Tensor& grad_output, bool) {
  const Problem& sizes = inputs.call.problem;
  const GradientTensors grads(inputs, grad_output, inputs.value.scalar_type(), false);
  STD_TORCH_CHECK(inputs.samples() <= kMaxSamples, "levels x points must be at most ", kMaxSamples, " on the CPU");
  if (inputs.samples() == 0) return grads;
  check_border(sizes);
  const IsaKernels& kernels = isa_kernels();
  torch::stable::parallel_for(0, sizes.batch * sizes.heads, grain(sizes.queries * inputs.samples()),
                              [&](int64_t begin, int64_t end) { kernels.backward(inputs.call, grads.to, begin, end); });
  if (grads.boxes) {
    torch::stable::parallel_for(0, sizes.batch * sizes.queries, grain(sizes.heads * inputs.samples()),
                                [&](int64_t begin, int64_t end) { kernels.backward_boxes(inputs.call, grads.to, begin, end); });
  }
  return grads;
}

using Cpu = Operators<forward, backward>;

}  // namespace

const IsaKernels& isa_kernels() {
  static const IsaKernels& chosen = widest(RFDETR_BUILDS);
  return chosen;
}

}  // namespace rfdetr

// Name of the instruction set in use; empty if RFDETR_ISA names an instruction set that this processor lacks.
extern "C" __attribute__((visibility("default"))) const char* rfdetr_isa() try {
  return rfdetr::isa_kernels().name;
} catch (...) {
  return "";
}

STABLE_TORCH_LIBRARY_IMPL(rfdetr, CPU, library) { RFDETR_REGISTER(library, Cpu); }
