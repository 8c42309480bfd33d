// The backward pass of the heads of one image, in place or in packed maps: see ms_deform_attn_isa.cpp, kernel facts section 2.
#pragma once

#include <limits>

#include "buffer.h"
#include "head_samples.h"
#include "samples.h"

namespace rfdetr {
namespace {

constexpr int kTurn = 8;                    // chunks of a head before the next one's turn
constexpr int kTogether = 2;                // heads whose maps are made together: processors fetch lines in pairs
constexpr int64_t kCacheBytes = 768 << 10;  // of the second-level cache, for their maps
constexpr int64_t kInPlaceBytes = 3 << 20;  // of an image's values and their gradients, up to which packing them is not faster

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
        if constexpr (kChannels != 0) {
          for (int part = 0; part < kParts; ++part) {
            store_lanes<T, A, kLanes>(to + part * kLanes, load<A, kLanes>(from + part * kLanes));
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

  // Adds sample j to `sums`; its products with the four corners, of which the lanes are still to be summed, replace `dot`.
  template <bool kInPlace>
  RFDETR_INLINE void add(const HeadSamples<A>& samples, int j, const T* upstream, const A* value, A* sums, V* dot) const {
    const int64_t width = kChannels ? kChannels : channels, unit = kInPlace ? width : 2 * width;  // numbers of a cell
    const T* up = upstream + samples.upstream[j];
    const int64_t corner = samples.cell[j] * unit, right = kInPlace ? samples.east[j] * unit : unit,
                  down = (kInPlace ? samples.south[j] : samples.pitch[j]) * unit;
    const int64_t corners[4] = {corner, corner + right, corner + down, corner + down + right};
    if constexpr (kChannels != 0) {
      for (int part = 0; part < kParts; ++part) {
        const V u = load<A, kLanes>(up + part * kLanes);
        for (int k = 0; k < 4; ++k) {
          const V product = u * load<A, kLanes>(value + corners[k] + part * kLanes);
          dot[k] = part == 0 ? product : dot[k] + product;
          at(sums + corners[k] + part * kLanes) += samples.weight[k][j] * u;
        }
      }
    } else {
      for (int k = 0; k < 4; ++k) {
        const A* __restrict__ from = value + corners[k];
        A* __restrict__ sum = sums + corners[k];
        A total = 0;
        for (int64_t c = 0; c < width; ++c) {
          const A u = widen<A>(up + c);
          total += u * from[c];
          sum[c] += samples.weight[k][j] * u;
        }
        dot[k] = V{total};
      }
    }
  }

  // Adds `count` samples to `sums`, and writes their products with `value` to samples.dot; both are arrays of cells, in place
  // those of the arguments. `upstream` is that of the chunk.
  template <bool kInPlace>
  RFDETR_INLINE void scatter(HeadSamples<A>& samples, const T* upstream, const A* value, A* sums, int count, bool all) const {
    for (int first = 0; first < count; first += kBlock) {
      A* const dots = samples.dot + 4 * first;
      bool whole = true;
      for (int i = 0; i < kBlock; ++i) whole &= all || samples.inside[first + i] != 0;
      if (whole) {  // without conditions between its samples, the block stays in registers
        V dot[4 * kBlock];
        for (int i = 0; i < kBlock; ++i) add<kInPlace>(samples, first + i, upstream, value, sums, dot + 4 * i);
        sum_lanes(dot, dots);
      } else {
        V dot[4 * kBlock] = {};
        for (int i = 0; i < kBlock; ++i) {
          if (samples.inside[first + i] != 0) add<kInPlace>(samples, first + i, upstream, value, sums, dot + 4 * i);
        }
        sum_lanes(dot, dots);
      }
    }
  }

  // Like scatter in place, but without additions to corners outside the map: there the weight 0 makes NaN of an upstream
  // gradient that is not finite. Slow, because it is needed for such gradients only.
  RFDETR_ONCE void scatter_inside(HeadSamples<A>& samples, const T* upstream, const A* value, A* sums, int count) const {
    for (int j = 0; j < count; ++j) {
      const T* up = upstream + samples.upstream[j];
      for (int k = 0; k < 4; ++k) {
        A total = 0;
        if (samples.inside[j] != 0 && samples.visible[k][j] != 0) {
          const int64_t corner = samples.cell[j] + (k % 2 ? samples.east[j] : 0) + (k / 2 ? samples.south[j] : 0);
          for (int64_t c = 0; c < channels; ++c) {
            const A u = widen<A>(up + c);
            total += u * value[corner * channels + c], sums[corner * channels + c] += samples.weight[k][j] * u;
          }
        }
        samples.dot[4 * j + k] = total;
      }
    }
  }

  RFDETR_INLINE void sum_lanes(const V (&dot)[4 * kBlock], A* to) const {
    if constexpr (kBlock == 4) {
      sums_of_16(dot, to);
    } else if constexpr (kChannels != 0) {
      sums_of_lanes<V, A>(dot, {to, to + 1, to + 2, to + 3});
    } else {
      for (int k = 0; k < 4; ++k) to[k] = dot[k][0];
    }
  }

  // The samples of the heads from m on of image b in queries begin..end. Returns false if an upstream gradient may not be finite.
  template <bool kInPlace, bool kInside>
  bool sweep(const Attention& call, const Gradients& to, int64_t b, int64_t m, int64_t begin, int64_t end,
             HeadSamples<A>& samples, const A* value, A* sums) const {
    const int64_t set = samples.per_set, stride = problem.heads * set;
    bool finite = true;
    for (int64_t q = begin; q < end; q += samples.chunk) {
      const int queries = int(min_of(samples.chunk, end - q)), count = queries * samples.per_query;
      const int64_t query = b * problem.queries + q, first = query * stride + m * set;
      samples.read(static_cast<const A*>(call.points) + 2 * first, static_cast<const A*>(call.weights) + first, stride, queries);
      if (call.boxes) {
        samples.place(static_cast<const A*>(call.boxes) + 4 * query, queries, problem.points);
        softmax(samples.share, queries * samples.sets, samples.per_set);
      }
      const T* upstream = static_cast<const T*>(to.upstream) + query * row + m * channels;
      const bool all = samples.template locate<kInPlace>(count);
      if constexpr (kInside) {
        scatter_inside(samples, upstream, value, sums, count);
      } else {
        scatter<kInPlace>(samples, upstream, value, sums, count, all);
        if (kInPlace) finite &= samples.finite(count);
      }
      samples.differentiate(count);
      if (call.boxes) samples.differentiate_softmax(queries);
      samples.write(static_cast<A*>(to.points) + 2 * first, static_cast<A*>(to.weights) + first, stride, queries);
    }
    return finite;
  }

  // `heads` heads of image b from head m on; `maps` holds numbers() for each: their borders are zero. A head's sums run
  // over the queries in order. The heads take turns after a few queries, because their points, weights and upstream gradients
  // share cache lines.
  void packed(const Attention& call, const Gradients& to, int64_t b, int64_t m, int heads, HeadSamples<A>& samples,
              A* maps) const {
    const int64_t first = b * problem.pixels * row + m * channels, turn = int64_t(kTurn) * samples.chunk;
    pack(static_cast<const T*>(call.value) + first, maps, heads);
    for (int64_t q = 0; q < problem.queries; q += turn) {
      for (int h = 0; h < heads; ++h) {
        A* const map = maps + h * numbers();
        sweep<false, false>(call, to, b, m + h, q, min_of(q + turn, problem.queries), samples, map, map + channels);
      }
    }
    unpack(maps, static_cast<T*>(to.value) + first, heads);
  }

  // As many heads as `samples` has, of image b from head m on, without maps: the sums are the result. They are made again where
  // the fast way may have spoilt them.
  template <bool kInside>
  void in_place(const Attention& call, const Gradients& to, int64_t b, int64_t m, HeadSamples<A>& samples) const {
    const int64_t first = b * problem.pixels * row + m * channels;
    A* const sums = static_cast<A*>(to.value) + first;
    for (int64_t pixel = 0; pixel < problem.pixels; ++pixel) {
      memset(sums + pixel * row, 0, sizeof(A) * size_t(samples.sets * channels));
    }
    const A* const value = static_cast<const A*>(call.value) + first;
    if (!sweep<true, kInside>(call, to, b, m, 0, problem.queries, samples, value, sums)) {
      in_place<true>(call, to, b, m, samples);
    }
  }

  // Whether packing the maps would cost more than it saves: few samples to a pixel, or maps that the second-level cache nearly
  // holds as they are. Sums of 16-bit values need maps in any case. No thread's share of the work enters.
  bool prefers_in_place() const {
    const int64_t samples = problem.queries * problem.num_levels * problem.points;
    const bool numbered = problem.pixels <= std::numeric_limits<int>::max() / problem.heads;  // cells are heads of pixels
    return sizeof(T) == sizeof(A) && numbered &&
           (samples <= problem.pixels || 2 * int64_t(sizeof(A)) * problem.pixels * row <= kInPlaceBytes);
  }

  // The heads begin..end of (batch, heads).
  void run(const Attention& call, const Gradients& to, int64_t begin, int64_t end) const {
    const bool direct = prefers_in_place();
    const int64_t most = direct ? min_of(min_of(end - begin, problem.heads), kMaxSamples / (problem.num_levels * problem.points))
                                : together(end - begin);
    const Buffer<HeadSamples<A>> scratch(1);
    HeadSamples<A>* samples = new (scratch.data) HeadSamples<A>(problem, direct ? int(most) : 1, direct);
    const int64_t size = direct ? 0 : most * numbers();
    const Buffer<A> maps(size);
    memset(maps.data, 0, sizeof(A) * size_t(size));
    for (int64_t task = begin, heads; task < end; task += heads) {
      const int64_t b = task / problem.heads, m = task % problem.heads;
      heads = min_of(min_of(most, problem.heads - m), end - task);
      if (!direct) {
        packed(call, to, b, m, int(heads), *samples, maps.data);
      } else {
        if (heads != samples->sets) samples = new (scratch.data) HeadSamples<A>(problem, int(heads), true);
        in_place<false>(call, to, b, m, *samples);
      }
    }
  }
};

}  // namespace
}  // namespace rfdetr
