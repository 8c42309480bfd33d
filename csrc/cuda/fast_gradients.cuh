// What the two fast CUDA gradients of multi-scale deformable attention share: where the gradients go, and how that of a location
// becomes those of an offset and a box.
#pragma once

#include "fast.cuh"

namespace rfdetr {
namespace {

// Queues zeros; nothing for an empty array.
cudaError_t fill_zero(void* to, int64_t bytes, void* stream) {
  return bytes ? cudaMemsetAsync(to, 0, size_t(bytes), static_cast<cudaStream_t>(stream)) : cudaSuccess;
}

template <class T>
struct FastGradients {
  const T* upstream;
  float *value, *points, *weights, *boxes;  // value: zero before a kernel that adds to it; boxes: likewise
};

// Gradients of one sample's location, or offset and box.
struct BoxSum {
  float x, y, w, h;

  // Turns the gradient of a location into that of its offset and adds the box's share.
  __device__ __forceinline__ void add(float2& grad, float2 offset, float4 box, float unit) {
    const float dx = grad.x, dy = grad.y;
    x += dx, y += dy;
    if (dx != 0.0f) w += dx * offset.x * unit;  // a sample without a location has gradient 0, not 0 * NaN
    if (dy != 0.0f) h += dy * offset.y * unit;
    grad.x = dx != 0.0f ? dx * (box.z * unit) : 0.0f;
    grad.y = dy != 0.0f ? dy * (box.w * unit) : 0.0f;
  }
};

}  // namespace
}  // namespace rfdetr
