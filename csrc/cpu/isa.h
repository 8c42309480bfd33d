// One build of the deformable attention kernels per instruction set, chosen at run time.
#pragma once

#include "../attention.h"
#include "instruction_sets.h"

namespace rfdetr {

constexpr int kMaxSamples = 512;  // of one head and query: levels x points

// Pixels of a level with a border, as the backward pass numbers them (head_samples.h). Static, because differently compiled files
// call it (see vectors.h).
static constexpr int64_t cells_of(const Level& level) { return int64_t(level.height + 2) * (level.width + 1) + 1; }

// Ranges can be split between threads in any way without changing a bit of any result.
struct IsaKernels {
  const char* name;
  void (*forward)(const Attention&, void* output, int64_t begin, int64_t end);             // batch * queries
  void (*backward)(const Attention&, const Gradients&, int64_t begin, int64_t end);        // batch * heads; writes d location
  void (*backward_boxes)(const Attention&, const Gradients&, int64_t begin, int64_t end);  // batch * queries; to d offset, d box
};

extern const IsaKernels RFDETR_BUILDS;

// The widest instruction set of this processor; RFDETR_ISA=sse4.1|avx2|avx512 in the environment (read once) chooses another.
const IsaKernels& isa_kernels();

}  // namespace rfdetr
