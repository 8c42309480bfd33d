// The samples of neighbouring heads for a few consecutive queries as a structure of arrays, for the backward pass: of one head
// with a packed map, or of several in place.
//
// A packed map has a border: a pixel is a cell, and the cells of a level of height x width are height + 2 rows of width + 1, of
// which the first and the last row and the first column are border (a row's right border is the first cell of the next row, and
// one more cell ends the map). The four cells of any sample that contributes are therefore in the map, and no corner is clamped.
// In place, a cell is one head of a pixel, a pixel has `rows` cells, and a corner outside the map is clamped to its neighbour:
//
//                     packed (one head)     in place
//     cell            top left corner, counted from the first cell of the map or of the group of heads in the image
//     east            1                     cells to the right corners: rows, or 0 where clamped
//     south           cells of a row        cells to the bottom corners: rows * width, or 0 where clamped
//
// Layout: sample j = (query * heads + head) * S + level * points + point, S = levels * points; rows of numbers as in samples.h.
#pragma once

#include "isa.h"
#include "vectors.h"

namespace rfdetr {
namespace {

constexpr int kQuerySamples = 128;  // of a chunk, unless one query has more: all rows of a chunk stay in the first-level cache

template <class A>
struct HeadSamples {
  using I = typename IntegerType<sizeof(A)>::type;
  static constexpr int kLanes = kVectorBytes / int(sizeof(A));
  static constexpr int kRow = kMaxSamples + 16;  // rows of 2^k bytes would share the same few sets of the cache
  using F = Vector<A, kLanes>;
  using N = Vector<I, kLanes>;

  int per_set, sets, per_query, chunk;                // samples of a head, heads, samples of both, queries of a chunk
  I rows;                                             // cells of a pixel
  alignas(64) A points[2 * kRow];                     // x0 y0 x1 y1 ..., then their gradients
  alignas(64) A share[kRow];                          // attention weight
  alignas(64) A scale_x[kRow], scale_y[kRow];         // width and height in pixels
  alignas(64) I pitch[kRow], start[kRow];             // of the level: cells of a row, first cell
  alignas(64) int64_t upstream[kRow];                 // of the sample: upstream gradient, counted from the chunk's first number
  alignas(64) I inside[kRow], cell[kRow];             // -1, or 0: contributes nothing
  alignas(64) I east[kRow], south[kRow];              // in place only
  alignas(64) I visible[4][kRow];                     // -1, or 0: the corner is outside the map
  alignas(64) A dx[kRow], dy[kRow], weight[4][kRow];  // weight: bilinear weight x share
  alignas(64) A dot[4 * kRow], grad_weight[kRow];     // upstream . corner, four to a sample

  // Of `heads` neighbouring heads: any number in place, one in a packed map.
  HeadSamples(const Problem& problem, int heads, bool in_place)
      : per_set(problem.num_levels * problem.points),
        sets(heads),
        per_query(sets * per_set),
        chunk(per_query < kQuerySamples ? kQuerySamples / per_query : 1),
        rows(in_place ? I(problem.heads) : 1) {
    int j = 0;
    for (int q = 0; q < chunk; ++q) {
      for (int head = 0; head < heads; ++head) {
        int64_t first = 0;
        for (int level = 0; level < problem.num_levels; first += cells_of(problem.levels[level++])) {
          const Level& size = problem.levels[level];
          for (int point = 0; point < problem.points; ++point, ++j) {
            scale_x[j] = A(size.width), scale_y[j] = A(size.height);
            pitch[j] = in_place ? I(size.width) * rows : I(size.width) + 1;
            start[j] = in_place ? I(size.start) * rows + head : I(first);
            upstream[j] = (q * problem.heads + head) * problem.channels;
          }
        }
      }
    }
    for (; j % 16 != 0; ++j) scale_x[j] = scale_y[j] = 1, pitch[j] = start[j] = 0, upstream[j] = 0;
  }

  // Copies the samples of `queries` queries, whose points and weights are 2 * stride and stride numbers apart.
  template <int kPerQuery>
  RFDETR_INLINE void copy(const A* from_points, const A* from_weights, int64_t stride, int queries) {
    const int count = kPerQuery ? kPerQuery : per_query;
    for (int q = 0; q < queries; ++q) {
      for (int j = 0; j < 2 * count; ++j) points[2 * q * count + j] = from_points[2 * q * stride + j];
      for (int j = 0; j < count; ++j) share[q * count + j] = from_weights[q * stride + j];
    }
  }
  RFDETR_ONCE void read(const A* from_points, const A* from_weights, int64_t stride, int queries) {
    if (per_query == 2) return copy<2>(from_points, from_weights, stride, queries);
    if (per_query == 4) return copy<4>(from_points, from_weights, stride, queries);
    if (per_query == 12) return copy<12>(from_points, from_weights, stride, queries);
    copy<0>(from_points, from_weights, stride, queries);
  }

  // points: offsets -> locations, from the boxes of `queries` queries.
  RFDETR_ONCE void place(const A* boxes, int queries, int points_per_level) {
    const A unit = offset_unit<A>(points_per_level);
    for (int q = 0; q < queries; ++q, boxes += 4) {
      const A cx = boxes[0], cy = boxes[1], w = boxes[2] * unit, h = boxes[3] * unit;
      A* at = points + 2 * q * per_query;
      for (int j = 0; j < per_query; ++j) at[2 * j] = cx + at[2 * j] * w, at[2 * j + 1] = cy + at[2 * j + 1] * h;
    }
  }

  // Finds the cells and weights of the first `count` samples. The rest of the last 16 do not contribute. Returns whether all do.
  template <bool kInPlace>
  RFDETR_ONCE bool locate(int count) {
    alignas(64) A x[kRow], y[kRow];
#pragma omp simd
    for (int j = 0; j < count; ++j) x[j] = points[2 * j], y[j] = points[2 * j + 1];
    for (int j = count; j % 16 != 0; ++j) x[j] = y[j] = A(-2), share[j] = 0;  // outside
    const F zero = {}, one = zero + A(1);
    const N none = {}, single = none + 1;
    N all = ~none;
    for (int j = 0; j < (count + 15) / 16 * 16; j += kLanes) {
      const F sx = load<A, kLanes>(scale_x + j), sy = load<A, kLanes>(scale_y + j), factor = load<A, kLanes>(share + j);
      const F column = load<A, kLanes>(x + j) * sx - A(0.5), row = load<A, kLanes>(y + j) * sy - A(0.5);
      const N in = (N)((column > A(-1)) & (row > A(-1)) & (column < sx) & (row < sy));  // 0 for NaN
      const F c = in ? column : zero, r = in ? row : zero;
      N left = convert<N>(c), top = convert<N>(r);  // truncates towards zero: floor for all but (-1, 0)
      left -= c < convert<F>(left) ? single : none;
      top -= r < convert<F>(top) ? single : none;
      const F fx = c - convert<F>(left), fy = r - convert<F>(top);
      const F right = fx * factor, bottom = fy * right, bottom_left = fy * factor - bottom, top_right = right - bottom;
      F corner[4] = {(one - fx) * (one - fy) * factor, top_right, bottom_left, bottom};
      const N begin = load<I, kLanes>(start + j), step = load<I, kLanes>(pitch + j);
      const N has_left = left >= 0, has_right = left + 1 < convert<N>(sx), has_top = top >= 0,
              has_bottom = top + 1 < convert<N>(sy);
      const N seen[4] = {has_left & has_top, has_right & has_top, has_left & has_bottom, has_right & has_bottom};
      for (int k = 0; k < 4; ++k) store_vector<I, kLanes>(visible[k] + j, seen[k]);
      if constexpr (kInPlace) {
        for (int k = 0; k < 4; ++k) corner[k] = seen[k] ? corner[k] : zero;
        store_vector<I, kLanes>(cell + j, begin + (top & has_top) * step + (left & has_left) * rows);
        store_vector<I, kLanes>(east + j, (none + rows) & has_left & has_right);
        store_vector<I, kLanes>(south + j, step & has_top & has_bottom);
      } else {
        store_vector<I, kLanes>(cell + j, begin + (top + 1) * step + left + 1);
      }
      store_vector<I, kLanes>(inside + j, in);
      store_vector<A, kLanes>(dx + j, fx), store_vector<A, kLanes>(dy + j, fy);
      for (int k = 0; k < 4; ++k) store_vector<A, kLanes>(weight[k] + j, corner[k]);
      all &= in;
    }
    I each = ~I(0);
    for (int lane = 0; lane < kLanes; ++lane) each &= all[lane];
    return each != 0;
  }

  // Whether all numbers of `dot` are finite, which they are not if the upstream gradient of one of the samples is not.
  RFDETR_ONCE bool finite(int count) const {
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < 4 * count; ++j) sum += A(0) * dot[j];
    return sum == A(0);
  }

  // From `dot`: points becomes d location, grad_weight d weight. A corner outside the map counts as 0, also where its product is
  // not: in place it is a neighbour's, and 0 times infinity is NaN in a packed map.
  RFDETR_ONCE void differentiate(int count) {
#pragma omp simd
    for (int j = 0; j < count; ++j) {
      A corner[4] = {dot[4 * j], dot[4 * j + 1], dot[4 * j + 2], dot[4 * j + 3]};  // read unasked: that is faster
      for (int k = 0; k < 4; ++k) corner[k] = visible[k][j] ? corner[k] : A(0);
      const A top = corner[1] - corner[0], bottom = corner[3] - corner[2];
      const A upper = corner[0] + dx[j] * top, down = corner[2] + dx[j] * bottom - upper;
      grad_weight[j] = upper + dy[j] * down;
      points[2 * j] = scale_x[j] * share[j] * (top + dy[j] * (bottom - top));
      points[2 * j + 1] = scale_y[j] * share[j] * down;
    }
  }

  // grad_weight: d weight -> d logit.
  RFDETR_ONCE void differentiate_softmax(int queries) {
    for (int first = 0; first < queries * per_query; first += per_set) {
      A mean = 0;
      for (int j = first; j < first + per_set; ++j) mean += share[j] * grad_weight[j];
      for (int j = first; j < first + per_set; ++j) grad_weight[j] = share[j] * (grad_weight[j] - mean);
    }
  }

  // The reverse of `read`, for the gradients.
  template <int kPerQuery>
  RFDETR_INLINE void copy_back(A* to_points, A* to_weights, int64_t stride, int queries) const {
    const int count = kPerQuery ? kPerQuery : per_query;
    for (int q = 0; q < queries; ++q) {
      for (int j = 0; j < 2 * count; ++j) to_points[2 * q * stride + j] = points[2 * q * count + j];
      for (int j = 0; j < count; ++j) to_weights[q * stride + j] = grad_weight[q * count + j];
    }
  }
  RFDETR_ONCE void write(A* to_points, A* to_weights, int64_t stride, int queries) const {
    if (per_query == 2) return copy_back<2>(to_points, to_weights, stride, queries);
    if (per_query == 4) return copy_back<4>(to_points, to_weights, stride, queries);
    if (per_query == 12) return copy_back<12>(to_points, to_weights, stride, queries);
    copy_back<0>(to_points, to_weights, stride, queries);
  }
};

}  // namespace
}  // namespace rfdetr
