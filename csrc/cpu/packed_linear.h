// A float32 linear layer whose weight is stored in the order in which the product reads it, and whose bias, activation and
// residual are added while the sums are in the cache. The kernels are compiled once per instruction set (packed_linear_isa.cpp);
// this file holds their interface.
//
// Layout: a panel is some vectors of outputs, the last panel of a weight may have fewer.
//
//   packed weight  [panel] > [input] > [outputs of the panel]   missing outputs of the last vector are zero
//   packed rows    [kRows rows] > [input] > [kRows rows]        the last row stands for missing ones
//
// Loops of a task (some rows, some panels): rows that fit into the L2 cache > panels > inputs of which a panel fits into the L1
// cache > kRows rows.
#pragma once

#include <stdint.h>

#include "instruction_sets.h"

namespace rfdetr {
namespace packed_linear {

enum class Activation { kNone, kRelu, kGelu };

struct Call {
  const float* x;  // (rows, inputs), `step` numbers from row to row
  int64_t rows, inputs, step;
  const float* weight;  // packed
  int64_t outputs;
  const float* bias;  // (outputs)
  Activation activation;
  const float* scale;     // (outputs) or null: factors of the result after the activation
  const float* residual;  // (rows, outputs) or null: added after the factors
  float* to;              // (rows, outputs)
};

struct IsaKernels {
  const char* name;
  int64_t lanes;  // of a vector
  int64_t panel;  // outputs
  int64_t rows;   // of a packed block
  // weight (outputs, inputs), with any strides, panels begin..end
  void (*pack)(const float* weight, int64_t outputs, int64_t inputs, int64_t output_step, int64_t input_step, float* to,
               int64_t begin, int64_t end);
  // Rows first..last and panels begin..end; `first` is a multiple of `rows`. `room`: room_of(inputs, panels)
  // numbers, aligned to 64 bytes.
  void (*run)(const Call& call, int64_t first, int64_t last, int64_t begin, int64_t end, float* room);
  int64_t (*room_of)(int64_t inputs, int64_t panels);
};

extern const IsaKernels RFDETR_BUILDS;

// count / size, rounded up. Static, because differently compiled files call it (see vectors.h).
static inline int64_t parts_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

}  // namespace packed_linear
}  // namespace rfdetr
