// The samples of a few heads of one query as a structure of arrays, located all at once, for the forward pass.
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

// logits -> softmax over every `samples` consecutive of sets * samples numbers; at most kMaxSamples numbers.
template <int kPerSet, class A>
RFDETR_ONCE void softmax_of_sets(A* share, int sets, int samples) {
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

template <class A>
RFDETR_ONCE void softmax(A* share, int sets, int samples) {
  if (samples == 2) return softmax_of_sets<2>(share, sets, samples);
  if (samples == 4) return softmax_of_sets<4>(share, sets, samples);
  if (samples == 12) return softmax_of_sets<12>(share, sets, samples);
  softmax_of_sets<0>(share, sets, samples);
}

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
  alignas(64) A weight[4][kMaxSamples];  // bilinear weight x share

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
    int j = 0;
    for (; j + kLanes <= count; j += kLanes) {
      F even, odd;
      load_pairs<A, kLanes>(points + 2 * j, even, odd, std::make_integer_sequence<int, kLanes>());
      store_vector<A, kLanes>(x + j, cx + even * w), store_vector<A, kLanes>(y + j, cy + odd * h);
      store_vector<A, kLanes>(share + j, load<A, kLanes>(weights + j));
    }
    for (; j < count; ++j) x[j] = cx + points[2 * j] * w, y[j] = cy + points[2 * j + 1] * h, share[j] = weights[j];
  }

  // Computes corners and weights of the first `count` samples; `rows` rows of channels from pixel to pixel. Returns whether all
  // samples contribute.
  RFDETR_ONCE bool locate(int count, I rows) {
    for (int j = count; j % kLanes != 0; ++j) x[j] = y[j] = A(0.5), share[j] = 0;
    F all = F{} + A(1);
    for (int j = 0; j < count; j += kLanes) {
      Sample<F, N> at;
      const F in = bilinear_sample<A>(load<A, kLanes>(x + j), load<A, kLanes>(y + j), load<I, kLanes>(height + j),
                                      load<I, kLanes>(width + j), load<I, kLanes>(start + j), at);
      const F factor = load<A, kLanes>(share + j);
      store_vector<A, kLanes>(inside + j, in);
      all = all < in ? all : in;
      for (int k = 0; k < 4; ++k) {
        store_vector<I, kLanes>(offset[k] + j, at.pixel[k] * rows);
        store_vector<A, kLanes>(weight[k] + j, at.weight[k] * factor);
      }
    }
    return sum_of_lanes(all) == A(kLanes);
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
