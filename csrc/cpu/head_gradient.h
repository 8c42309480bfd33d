// The backward pass of one head of one image: see ms_deform_attn_isa.cpp.
#pragma once

#include "buffer.h"
#include "head_samples.h"
#include "samples.h"

namespace rfdetr {
namespace {

constexpr int kTurn = 8;                    // chunks of a head before the next one's turn
constexpr int kTogether = 2;                // heads whose maps are made together: processors fetch lines in pairs
constexpr int64_t kCacheBytes = 768 << 10;  // of the second-level cache, for their maps

constexpr int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }

// kChannels is the channel count when known at compile time, 0 otherwise.
template <class T, int kChannels>
struct HeadGradient {
  using A = typename AccumulateType<T>::type;
  static constexpr int kWide = kVectorBytes / int(sizeof(A));
  static constexpr int kLanes = kChannels ? int(min_of(kWide, kChannels)) : kWide;
  static constexpr int kParts = kChannels / kLanes;
  // Samples whose dot products are summed over lanes together; with more than one register to a head, its own suffice.
  static constexpr int kBlock = kVectorBytes == 64 && kLanes == 16 && kParts == 1 ? 4 : 1;
  using V = Vector<A, kLanes>;

  const Problem& problem;
  const int64_t channels = kChannels ? kChannels : problem.channels, row = problem.heads * channels;

  static RFDETR_INLINE V& at(A* numbers) { return *reinterpret_cast<V*>(numbers); }

  // Of one head's map. A cell is `channels` values, then as many sums of their gradients.
  int64_t numbers() const {
    int64_t cells = 0;
    for (int level = 0; level < problem.num_levels; ++level) cells += cells_of(problem.levels[level]);
    return 2 * channels * cells;
  }

  // action(pixel, cell) for every pixel: its index in the concatenated maps, and that of its cell.
  template <class Action>
  RFDETR_INLINE void for_pixels(const Action& action) const {
    int64_t pixel = 0, cell = 0;
    for (int level = 0; level < problem.num_levels; ++level) {
      const int64_t height = problem.levels[level].height, width = problem.levels[level].width;
      cell += width + 1;
      for (int64_t r = 0; r < height; ++r, cell += width + 1) {
        for (int64_t c = 1; c <= width; ++c, ++pixel) action(pixel, cell + c);
      }
      cell += width + 2;
    }
  }

  // Values of `heads` neighbouring heads, whose pixels are `row` numbers apart, to the cells of as many maps; the sums become
  // zero, except those of the border, which nothing reads.
  void pack(const T* value, A* maps, int heads) const {
    const int64_t map = numbers();
    for_pixels([&](int64_t pixel, int64_t cell) {
      for (int h = 0; h < heads; ++h) {
        const T* from = value + pixel * row + h * channels;
        A* to = maps + h * map + cell * (2 * channels);
        if constexpr (kChannels != 0) {
          for (int part = 0; part < kParts; ++part) {
            at(to + part * kLanes) = load<A, kLanes>(from + part * kLanes), at(to + kChannels + part * kLanes) = V{};
          }
        } else {
          for (int64_t k = 0; k < channels; ++k) to[k] = widen<A>(from + k), to[channels + k] = 0;
        }
      }
    });
  }

  // The sums of the maps, to the gradient of the heads' values.
  void unpack(const A* maps, T* grad, int heads) const {
    const int64_t map = numbers();
    for_pixels([&](int64_t pixel, int64_t cell) {
      for (int h = 0; h < heads; ++h) {
        const A* from = maps + h * map + cell * (2 * channels) + channels;
        T* to = grad + pixel * row + h * channels;
        if constexpr (kChannels != 0 && sizeof(T) == sizeof(A)) {
          for (int part = 0; part < kParts; ++part) {
            store_vector<T, kLanes>(to + part * kLanes, load<A, kLanes>(from + part * kLanes));
          }
        } else {
          for (int64_t k = 0; k < channels; ++k) store(to + k, from[k]);
        }
      }
    });
  }

  // Heads whose maps are in the cache together, at most `most`.
  int together(int64_t most) const {
    const int64_t bytes = int64_t(sizeof(A)) * numbers(), fit = bytes ? kCacheBytes / bytes : kTogether;
    return int(min_of(min_of(most, kTogether), fit > 1 ? fit : 1));
  }

  // Adds `count` samples to the sums of the map, and writes their products with its values to samples.dot. `upstream` is that of
  // the first query, and rows are `row` numbers apart.
  RFDETR_INLINE void scatter(HeadSamples<A>& samples, const T* upstream, A* map, int count, bool all) const {
    for (int first = 0; first < count; first += kBlock) {
      V dot[4 * kBlock] = {};
      for (int i = 0; i < kBlock; ++i) {
        const int j = first + i;
        if (!all && samples.inside[j] == 0) continue;
        const T* up = upstream + samples.query[j] * row;
        A* const top = map + int64_t(samples.cell[j]) * (2 * channels);
        A* const bottom = top + int64_t(samples.pitch[j]) * (2 * channels);
        A* const corners[4] = {top, top + 2 * channels, bottom, bottom + 2 * channels};
        if constexpr (kChannels != 0) {
          for (int part = 0; part < kParts; ++part) {
            const V u = load<A, kLanes>(up + part * kLanes);
            for (int k = 0; k < 4; ++k) {
              dot[4 * i + k] += u * at(corners[k] + part * kLanes);
              at(corners[k] + kChannels + part * kLanes) += samples.weight[k][j] * u;
            }
          }
        } else {
          for (int k = 0; k < 4; ++k) {
            const A* __restrict__ value = corners[k];
            A* __restrict__ sum = corners[k] + channels;
            A total = 0;
            for (int64_t c = 0; c < channels; ++c) {
              const A u = widen<A>(up + c);
              total += u * value[c];
              sum[c] += samples.weight[k][j] * u;
            }
            dot[4 * i + k][0] = total;
          }
        }
      }
      A* const sums = samples.dot + 4 * first;
      if constexpr (kBlock == 4) {
        sums_of_16(dot, sums);
      } else if constexpr (kChannels != 0) {
        sums_of_lanes<V, A>(dot, {sums, sums + 1, sums + 2, sums + 3});
      } else {
        for (int k = 0; k < 4; ++k) sums[k] = dot[k][0];
      }
    }
  }

  // The samples of head m of image b in queries begin..end.
  void sweep(const Attention& call, const Gradients& to, int64_t b, int64_t m, int64_t begin, int64_t end,
             HeadSamples<A>& samples, A* map) const {
    const int64_t set = samples.per_query, stride = problem.heads * set;
    for (int64_t q = begin; q < end; q += samples.chunk) {
      const int queries = int(min_of(samples.chunk, end - q)), count = queries * samples.per_query;
      const int64_t query = b * problem.queries + q, first = query * stride + m * set;
      samples.read(static_cast<const A*>(call.points) + 2 * first, static_cast<const A*>(call.weights) + first, stride, queries);
      if (call.boxes) {
        samples.place(static_cast<const A*>(call.boxes) + 4 * query, queries, problem.points);
        softmax(samples.share, queries, samples.per_query);
      }
      const T* upstream = static_cast<const T*>(to.upstream) + query * row + m * channels;
      scatter(samples, upstream, map, count, samples.locate(count));
      samples.differentiate(count);
      if (call.boxes) samples.differentiate_softmax(queries);
      samples.write(static_cast<A*>(to.points) + 2 * first, static_cast<A*>(to.weights) + first, stride, queries);
    }
  }

  // `heads` heads of image b from head m on; `maps` holds numbers() for each: their borders are zero. A head's sums run
  // over the queries in order. The heads take turns after a few queries, because their points, weights and upstream gradients
  // share cache lines.
  void run(const Attention& call, const Gradients& to, int64_t b, int64_t m, int heads, HeadSamples<A>& samples, A* maps) const {
    const int64_t first = b * problem.pixels * row + m * channels, turn = int64_t(kTurn) * samples.chunk;
    pack(static_cast<const T*>(call.value) + first, maps, heads);
    for (int64_t q = 0; q < problem.queries; q += turn) {
      for (int h = 0; h < heads; ++h) {
        sweep(call, to, b, m + h, q, min_of(q + turn, problem.queries), samples, maps + h * numbers());
      }
    }
    unpack(maps, static_cast<T*>(to.value) + first, heads);
  }
};

}  // namespace
}  // namespace rfdetr
