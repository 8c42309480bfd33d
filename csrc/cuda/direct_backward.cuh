// The direct CUDA gradient of multi-scale deformable attention, for few queries: one pass over the slots, as in the forward
// kernel, with four channels per lane and W = D / 4 lanes per slot. The gradient of value goes to memory by atomic additions of
// 16 bytes, those of the samples are written by the lane that found the sample.
#pragma once

#include "fast_gradients.cuh"

namespace rfdetr {
namespace {

constexpr int kDirectBackwardThreads = 128;

// Inner products of the upstream gradient with the four pixels of a sample, or this lane's part of them.
struct Dots {
  float corner[4];
};

struct Slopes {
  float sampled, x, y;  // upstream . sampled value, and its derivatives by the normalised location
};

__device__ __forceinline__ Slopes slopes_of(const Dots& dots, int code, const Blend& blend, const Level& level) {
  const float left = code & 1 ? 1.0f : 0.0f, right = code & 2 ? 1.0f : 0.0f;
  const float above = code & 4 ? 1.0f : 0.0f, below = code & 8 ? 1.0f : 0.0f;
  const float* const dot = dots.corner;
  Slopes slopes;
  slopes.sampled =
      blend.above * (blend.left * dot[0] + blend.right * dot[1]) + blend.below * (blend.left * dot[2] + blend.right * dot[3]);
  slopes.x =
      float(level.width) * (blend.above * (right * dot[1] - left * dot[0]) + blend.below * (right * dot[3] - left * dot[2]));
  slopes.y =
      float(level.height) * (blend.left * (below * dot[2] - above * dot[0]) + blend.right * (below * dot[3] - above * dot[1]));
  return slopes;
}

template <class T, int D, int P>
__global__ void __launch_bounds__(kDirectBackwardThreads) direct_backward_kernel(Fast<T> call, FastGradients<T> to) {
  constexpr int W = D / 4;
  const int slots = call.batch * call.queries * call.heads;
  const int item = blockIdx.x * kDirectBackwardThreads + threadIdx.x, lane = item % W;
  const bool live = item / W < slots;
  const int slot = live ? item / W : 0, query = slot / call.heads, m = slot - query * call.heads, b = query / call.queries;
  Group<T, W, P, 0> group(call, slot, query, lane);
  group.softmax();
  const int row = call.heads * D, start = b * call.pixels * row + m * D + lane * 4;
  const float4 up = load4(to.upstream + slot * D + lane * 4);
  const float unit = offset_unit<float>(group.level_points());
  float mean = 0.0f;
  BoxSum box{0.0f, 0.0f, 0.0f, 0.0f};
  Width width(call);
#pragma unroll 1
  for (int round = 0; round * W < call.samples; ++round) {
    Place own;
    const float weight = group.find(round, own);
    Slopes mine{0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < W; ++j) {
      const int i = round * W + j;
      if (!group.kWhole && i >= call.samples) break;
      width.reach(group, round, j);
      const int code = __shfl_sync(kAllLanes, own.code, j, W);
      const float dx = __shfl_sync(kAllLanes, own.dx, j, W), dy = __shfl_sync(kAllLanes, own.dy, j, W);
      const float amount = __shfl_sync(kAllLanes, weight, j, W);
      Slopes slopes{0.0f, 0.0f, 0.0f};
      if (code >= 0 && live) {
        const Blend blend(code, dx, dy);
        const int north = start + (code >> 4) * row, south = north + pixels_down(code, width.width) * row;
        const int east = pixels_across(code) * row;
        const int at[4] = {north, north + east, south, south + east};
        // By place, not by share: of an infinite gradient a share of 0 is NaN, as on the CPU.
        const bool inside[4] = {(code & 5) == 5, (code & 6) == 6, (code & 9) == 9, (code & 10) == 10};
        const float share[4] = {blend.above * blend.left, blend.above * blend.right, blend.below * blend.left,
                                blend.below * blend.right};
        Dots dots;
#pragma unroll
        for (int k = 0; k < 4; ++k) dots.corner[k] = dot4(up, load4(call.value + at[k]));
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          float4 part = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
          add_scaled(part, share[k] * amount, up);
          if (inside[k]) atomic_add4(to.value + at[k], part);
        }
        slopes = slopes_of(dots, code, blend, call.level[width.level]);
      }
      slopes.sampled = group_sum<W>(slopes.sampled);
      slopes.x = group_sum<W>(slopes.x), slopes.y = group_sum<W>(slopes.y);
      if (lane == j) mine = slopes;
    }
    const int i = round * W + lane;
    if (live && (group.kWhole || i < call.samples)) {
      const int sample = slot * call.samples + i;
      float2 grad = make_float2(mine.x * weight, mine.y * weight);
      if (own.code < 0) grad = make_float2(0.0f, 0.0f);
      if (call.boxes) box.add(grad, group.point(i), group.raw.box, unit);
      reinterpret_cast<float2*>(to.points)[sample] = grad;
      to.weights[sample] = mine.sampled;
      mean += weight * mine.sampled;
    }
  }
  if (!call.boxes) return;
  mean = group_sum<W>(mean);
  for (int i = lane; live && i < call.samples; i += W) {  // written by this lane above
    float* const weight = to.weights + slot * call.samples + i;
    *weight = exp_of(group.weight(i) - group.top) * group.scale * (*weight - mean);
  }
  // All lanes of a warp have one query where its lanes are a multiple of a warp's.
  const bool whole = call.heads * W % kWarpLanes == 0;
  box.x = group_sum<W>(box.x), box.y = group_sum<W>(box.y), box.w = group_sum<W>(box.w), box.h = group_sum<W>(box.h);
  for (int bit = W; whole && bit < kWarpLanes; bit *= 2) {
    box.x += __shfl_xor_sync(kAllLanes, box.x, bit), box.y += __shfl_xor_sync(kAllLanes, box.y, bit);
    box.w += __shfl_xor_sync(kAllLanes, box.w, bit), box.h += __shfl_xor_sync(kAllLanes, box.h, bit);
  }
  if (live && (whole ? int(threadIdx.x) % kWarpLanes : lane) == 0) {
    atomic_add4(to.boxes + query * 4, make_float4(box.x, box.y, box.w, box.h));
  }
}

template <class T, int D, int P>
int launch_direct(const Fast<T>& call, const FastGradients<T>& to, void* stream) {
  const int64_t blocks = ceil_div(int64_t(call.batch) * call.queries * call.heads * (D / 4), kDirectBackwardThreads);
  LAUNCH((direct_backward_kernel<T, D, P>), int(blocks), kDirectBackwardThreads, 0, stream, call, to);
  return int(cudaGetLastError());
}

}  // namespace
}  // namespace rfdetr
