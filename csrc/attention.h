// One call of multi-scale deformable attention, in the form that the kernels of every device take.
#pragma once

#include "bilinear.h"

namespace rfdetr {

// One call. All arrays are contiguous; A is double for float64 values, else float. `boxes` is null when `points` are sampling
// locations and `weights` attention weights; otherwise they are offsets relative to the boxes and logits of a softmax.
struct Attention {
  Problem problem;
  Storage storage;
  const void* value;    // (B, S, M, D) of the storage type
  const void* points;   // A (B, Q, M, L, P, 2)
  const void* weights;  // A (B, Q, M, L, P)
  const void* boxes;    // A (B, Q, 4) cxcywh
};

struct Gradients {
  const void* upstream;  // (B, Q, M, D) of the storage type
  void* value;           // (B, S, M, D): of the storage type on the CPU, A on CUDA
  void *points, *weights, *boxes;
};

}  // namespace rfdetr
