// The CPU kernels of multi-scale deformable attention, compiled once per instruction set (RFDETR_KERNELS names the result).
//
// Forward: query by query. The samples of a query are located together, then each head gathers its channels in registers.
// Backward: a task owns one head of one image, queries are visited in order, and there are no atomics. So no result depends on
// the number of threads. The heads of a thread are taken together and their gradients summed in place, unless the maps exceed the
// cache and are read many times: then heads are taken one by one, and values and sums packed in a map that fits the cache.
//
// Layout, for heads M, channels D, row = M * D; L = kLanes numbers of a vector register, S = levels * points samples of a head:
//
//   value (batch, pixels, M, D)
//     pixel s     | head 0: D | head 1: D | ... |     <- row ->
//     pixel s + 1 | head 0: D | ...
//
//   points (batch, queries, M, S, 2), weights (batch, queries, M, S): those of the heads of a round follow each other, and
//   Samples<A> turns them into columns, one entry per (head, sample), L entries to a register (see samples.h):
//
//     j            0 ... S-1 | S ... 2S-1 | ...  | padded up to a multiple of L
//     x, y, share  head m    | head m + 1 | ...
//     offset[4], weight[4]   the four corners: top left, top right, bottom left, bottom right
//
// forward: a thread owns the queries begin..end. Loops: query > round of heads > (locate all of its samples, L at a time) >
// head > sample > 4 corners > D / L registers:
//
//     total    [ part 0: lanes 0..L-1 ][ part 1 ] ... [ part D/L - 1 ]   += weight[k][j] * value[offset[k][j] + part * L ...]
//     output   (batch, queries, M, D): the D numbers of a head, stored once
//
//   offset counts rows of D channels: (pixel * M) * D from the head's own first channel, because value is read in place.
//
// backward: a thread owns the heads begin..end of (batch, M). Loops: chunk of queries (locate the samples of all heads, L at a
//   time) > sample > 4 corners > D / L registers. With packed maps, two heads > a few hundred queries > head come before:
//
//     map, one cell per pixel and a border around each level (see head_samples.h)
//       cell    | value: D | sum of gradients: D |
//     dot[j][k] = upstream . value at corner k of sample j: with AVX-512, lanes of the corners of four samples are summed
//     together
//
//   d points and d weights come from dot after each chunk, by columns again; the sums are written once, at the end.
#include "buffer.h"
#include "head_gradient.h"
#include "samples.h"

namespace rfdetr {
namespace {

// kChannels is the channel count when known at compile time, 0 otherwise.
template <class T, int kChannels>
struct Kernels {
  using A = typename AccumulateType<T>::type;
  static constexpr int kWide = kVectorBytes / int(sizeof(A));
  static constexpr int kLanes = kChannels ? int(min_of(kWide, kChannels)) : kWide;
  using V = Vector<A, kLanes>;

  const Attention& call;
  const Problem& problem = call.problem;
  const int samples = problem.num_levels * problem.points;
  const int64_t channels = kChannels ? kChannels : problem.channels, row = problem.heads * channels;

  const A* points() const { return static_cast<const A*>(call.points); }
  const A* weights() const { return static_cast<const A*>(call.weights); }
  const A* box(int64_t query) const { return call.boxes ? static_cast<const A*>(call.boxes) + 4 * query : nullptr; }

  // Weighted corners of samples first..last of one head into `out` (channels()).
  template <bool kSkip>
  RFDETR_INLINE void gather(const Samples<A>& at, const T* head, int first, int last, T* out) const {
    if constexpr (kChannels != 0) {
      constexpr int kParts = kChannels / kLanes;
      V total[kParts] = {};
      for (int j = first; j < last; ++j) {
        if (kSkip && at.inside[j] == A(0)) continue;
        for (int k = 0; k < 4; ++k) {
          const T* corner = head + at.offset[k][j] * channels;
          for (int part = 0; part < kParts; ++part) total[part] += at.weight[k][j] * load<A, kLanes>(corner + part * kLanes);
        }
      }
      for (int part = 0; part < kParts; ++part) store_lanes<T, A, kLanes>(out + part * kLanes, total[part]);
    } else {
      for (int64_t c = 0; c < channels; ++c) {
        A total = 0;
        for (int j = first; j < last; ++j) {
          if (kSkip && at.inside[j] == A(0)) continue;
          for (int k = 0; k < 4; ++k) total += at.weight[k][j] * widen<A>(head + at.offset[k][j] * channels + c);
        }
        store(out + c, total);
      }
    }
  }

  void forward(T* output, int64_t begin, int64_t end) const {
    const Buffer<Samples<A>> scratch(1);
    Samples<A>& at = *scratch.data;
    const int64_t heads = problem.heads;
    const int together = int(heads < kMaxSamples / samples ? heads : kMaxSamples / samples);  // heads per round
    at.set_levels(problem, together);
    for (int64_t query = begin; query < end; ++query) {
      const T* image = static_cast<const T*>(call.value) + query / problem.queries * problem.pixels * row;
      for (int64_t m = 0; m < heads; m += together) {
        const int sets = int(heads - m < together ? heads - m : together);
        const int64_t first = (query * heads + m) * samples;
        at.read(points() + 2 * first, weights() + first, box(query), sets * samples, problem.points);
        if (call.boxes) softmax(at.share, sets, samples);
        const bool all = at.locate(sets * samples, static_cast<typename Samples<A>::I>(heads));
        T* out = output + query * row + m * channels;
        for (int h = 0; h < sets; ++h) {
          const T* head = image + (m + h) * channels;
          if (all && samples == 2) {  // a number that the compiler knows, so that it unrolls the loop
            gather<false>(at, head, 2 * h, 2 * h + 2, out + h * channels);
          } else if (all) {
            gather<false>(at, head, h * samples, (h + 1) * samples, out + h * channels);
          } else {
            gather<true>(at, head, h * samples, (h + 1) * samples, out + h * channels);
          }
        }
      }
    }
  }

  void backward(const Gradients& to, int64_t begin, int64_t end) const {
    HeadGradient<T, kChannels>{problem}.run(call, to, begin, end);
  }
};

// Calls action(Kernels<...>, T()) for the value's type and channel count.
template <class T, class Action>
void with_channels(const Attention& call, const Action& action) {
  switch (call.problem.channels) {
    case 8:
      return action(Kernels<T, 8>{call}, T());
    case 16:
      return action(Kernels<T, 16>{call}, T());
    case 32:
      return action(Kernels<T, 32>{call}, T());
    case 64:
      return action(Kernels<T, 64>{call}, T());
    default:
      return action(Kernels<T, 0>{call}, T());
  }
}

template <class Action>
void dispatch(const Attention& call, const Action& action) {
  switch (call.storage) {
    case Storage::kFloat32:
      return with_channels<float>(call, action);
    case Storage::kFloat64:
      return with_channels<double>(call, action);
    case Storage::kFloat16:
      return with_channels<Float16>(call, action);
    case Storage::kBFloat16:
      return with_channels<BFloat16>(call, action);
  }
}

void forward(const Attention& call, void* output, int64_t begin, int64_t end) {
  dispatch(call, [&](const auto& kernels, auto type) { kernels.forward(static_cast<decltype(type)*>(output), begin, end); });
}

void backward(const Attention& call, const Gradients& to, int64_t begin, int64_t end) {
  dispatch(call, [&](const auto& kernels, auto) { kernels.backward(to, begin, end); });
}

void backward_boxes(const Attention& call, const Gradients& to, int64_t begin, int64_t end) {
  (call.storage == Storage::kFloat64 ? finish_boxes<double> : finish_boxes<float>)(call, to, begin, end);
}

}  // namespace

const IsaKernels RFDETR_KERNELS = {RFDETR_ISA_NAME, forward, backward, backward_boxes};

}  // namespace rfdetr
