// The samples of a few heads of one query as a structure of arrays, located all at once.
//
// Layout: sample j = set * S + level * points + point, where a set is one head and S = levels * points. Every member is a row of
// kMaxSamples numbers, so that kLanes samples that follow each other fill one vector register:
//
//     j           0    1   ... kLanes-1 | kLanes ...            | count-1 |  up to a multiple of kLanes: nowhere, share 0
//     x, y        [      register       ][      register       ]
//     share       [      register       ] ...
//     offset[k]   [      register       ] ...    k = 0..3: corners top left, top right, bottom left, bottom right
//     weight[k]   [      register       ] ...
//
//   memory of a call:  points | x0 y0 x1 y1 ... |  ->  x | x0 x1 ... |, y | y0 y1 ... |     (read)
#pragma once

#include "isa.h"
#include "vectors.h"

namespace rfdetr {
namespace {

template <class A>
struct Samples {
  using I = typename IntegerType<sizeof(A)>::type;
  static constexpr int kLanes = kVectorBytes / int(sizeof(A));
  using F = Vector<A, kLanes>;
  using N = Vector<I, kLanes>;

  alignas(64) A x[kMaxSamples], y[kMaxSamples];  // normalised location
  alignas(64) A share[kMaxSamples];              // attention weight
  alignas(64) I height[kMaxSamples], width[kMaxSamples], start[kMaxSamples];
  alignas(64) A inside[kMaxSamples];     // 1, or 0: contributes nothing
  alignas(64) I offset[4][kMaxSamples];  // of the corner, in rows of channels
  alignas(64) A weight[4][kMaxSamples];  // bilinear weight x share for the forward pass, without share for the backward
  alignas(64) A along_x[4][kMaxSamples], along_y[4][kMaxSamples];
  alignas(64) A dot[4][kMaxSamples];  // upstream gradient . corner

  // Which level each of `sets` consecutive (level, point) sets of samples belongs to.
  RFDETR_ONCE void set_levels(const Problem& problem, int sets) {
    int j = 0;
    for (int set = 0; set < sets; ++set) {
      for (int level = 0; level < problem.num_levels; ++level) {
        for (int point = 0; point < problem.points; ++point, ++j) {
          height[j] = problem.levels[level].height, width[j] = problem.levels[level].width;
          start[j] = problem.levels[level].start;
        }
      }
    }
    for (; j % kLanes != 0; ++j) height[j] = width[j] = 1, start[j] = 0;
  }

  // Copies `count` samples of a query; its box, four numbers, turns offsets into locations.
  RFDETR_ONCE void read(const A* __restrict__ points, const A* __restrict__ weights, const A* box, int count, int per_level) {
    const A unit = offset_unit<A>(per_level);
    const A cx = box ? box[0] : A(0), cy = box ? box[1] : A(0), w = box ? box[2] * unit : A(1), h = box ? box[3] * unit : A(1);
#pragma omp simd
    for (int j = 0; j < count; ++j) x[j] = cx + points[2 * j] * w, y[j] = cy + points[2 * j + 1] * h, share[j] = weights[j];
  }

  // share: logits -> softmax over every `per_set` consecutive samples of `sets`.
  template <int kPerSet>
  RFDETR_ONCE void softmax(int sets, int samples) {
    const int per_set = kPerSet ? kPerSet : samples;
    alignas(64) A shifted[kMaxSamples];
    for (int set = 0; set < sets; ++set) {
      const A* logit = share + set * per_set;
      A top = logit[0];
      for (int j = 1; j < per_set; ++j) top = logit[j] > top ? logit[j] : top;
      for (int j = 0; j < per_set; ++j) shifted[set * per_set + j] = logit[j] - top;
    }
#pragma omp simd
    for (int j = 0; j < sets * per_set; ++j) share[j] = exp_of(shifted[j]);
    for (int set = 0; set < sets; ++set) {
      A* part = share + set * per_set;
      A total = 0;
      for (int j = 0; j < per_set; ++j) total += part[j];
      const A scale = A(1) / total;
      for (int j = 0; j < per_set; ++j) part[j] *= scale;
    }
  }

  RFDETR_ONCE void softmax_of(int sets, int samples) {
    if (samples == 2) return softmax<2>(sets, samples);
    if (samples == 4) return softmax<4>(sets, samples);
    if (samples == 12) return softmax<12>(sets, samples);
    softmax<0>(sets, samples);
  }

  // Computes corners and weights of the first `count` samples; `rows` rows of channels from pixel to pixel. Returns whether all
  // samples contribute.
  template <bool kBackward>
  RFDETR_ONCE bool locate(int count, I rows) {
    for (int j = count; j % kLanes != 0; ++j) x[j] = y[j] = A(0.5), share[j] = 0;
    F all = F{} + A(1);
    for (int j = 0; j < count; j += kLanes) {
      Sample<F, N> at;
      const F in = bilinear_sample<A>(load<A, kLanes>(x + j), load<A, kLanes>(y + j), load<I, kLanes>(height + j),
                                      load<I, kLanes>(width + j), load<I, kLanes>(start + j), at);
      const F factor = kBackward ? F{} + A(1) : load<A, kLanes>(share + j);
      store_vector<A, kLanes>(inside + j, in);
      all = all < in ? all : in;
      for (int k = 0; k < 4; ++k) {
        store_vector<I, kLanes>(offset[k] + j, at.pixel[k] * rows);
        store_vector<A, kLanes>(weight[k] + j, at.weight[k] * factor);
        if (kBackward) {
          store_vector<A, kLanes>(along_x[k] + j, at.along_x[k]);
          store_vector<A, kLanes>(along_y[k] + j, at.along_y[k]);
        }
      }
    }
    return sum_of_lanes(all) == A(kLanes);
  }

  // After a backward `locate`: d location and d weight of the samples of `sets` heads from `dot`, or d logit after a softmax.
  RFDETR_ONCE void finish(int sets, int samples, bool softmax, A* __restrict__ grad_points, A* __restrict__ grad_weights) const {
    const int count = sets * samples;
#pragma omp simd
    for (int j = 0; j < count; ++j) {
      A by_x = 0, by_y = 0, sum = 0;
      for (int k = 0; k < 4; ++k) {
        by_x += along_x[k][j] * dot[k][j], by_y += along_y[k][j] * dot[k][j], sum += weight[k][j] * dot[k][j];
      }
      grad_points[2 * j] = by_x * share[j], grad_points[2 * j + 1] = by_y * share[j], grad_weights[j] = sum;
    }
    for (int set = 0; softmax && set < sets; ++set) {
      A mean = 0;
      for (int j = set * samples; j < (set + 1) * samples; ++j) mean += share[j] * grad_weights[j];
      for (int j = set * samples; j < (set + 1) * samples; ++j) grad_weights[j] = share[j] * (grad_weights[j] - mean);
    }
  }
};

// d location -> d offset in place, and the boxes' gradient: sums over a query's samples in their order.
template <class A>
RFDETR_ONCE void finish_boxes(const Attention& call, const Gradients& to, int64_t begin, int64_t end) {
  const int64_t count = call.problem.heads * call.problem.num_levels * call.problem.points;
  for (int64_t query = begin; query < end; ++query) {
    box_gradient(static_cast<A*>(to.points) + 2 * query * count, static_cast<const A*>(call.points) + 2 * query * count,
                 static_cast<const A*>(call.boxes) + 4 * query, count, call.problem.points,
                 static_cast<A*>(to.boxes) + 4 * query);
  }
}

}  // namespace
}  // namespace rfdetr
