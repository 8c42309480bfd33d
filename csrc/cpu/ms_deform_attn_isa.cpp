// The CPU kernels of multi-scale deformable attention, compiled once per instruction set (RFDETR_KERNELS names the result).
//
// Forward: query by query. The samples of a query are located together, then each head gathers its channels in registers.
// Backward: head by head. A task owns one head of one image: its gradient is summed in a buffer that fits the cache, queries are
// visited in order, and there are no atomics. So no result depends on the number of threads.
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
// backward: a thread owns the heads begin..end of (batch, M), some of one image at a time (`together`). Loops: heads > query, in
// order > head > sample > 4 corners > D / L registers:
//
//     grad, one row of together * D sums per pixel (`sums` for 16-bit values, the result itself otherwise)
//       pixel s     | head m: D | head m + 1: D | ... |       <- pitch ->
//     dot[k][j] = upstream . value at corner k of sample j: lanes of the four corners are summed together at the end
//
//   d points and d weights (as points and weights) come from dot after each query, by columns again.
#include <new>

#include "samples.h"

namespace rfdetr {
namespace {

constexpr int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t kCacheBytes = 1 << 20;  // bytes of the second-level cache for the values and sums of the backward pass

template <class T>
struct Buffer {  // uninitialised
  T* data;
  explicit Buffer(int64_t count) : data(static_cast<T*>(::operator new(sizeof(T) * size_t(count), std::align_val_t(64)))) {}
  ~Buffer() { ::operator delete(data, std::align_val_t(64)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
};

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
      for (int part = 0; part < kParts; ++part) {
        if constexpr (sizeof(T) == sizeof(A)) {
          *reinterpret_cast<V*>(out + part * kLanes) = total[part];
        } else {
          for (int lane = 0; lane < kLanes; ++lane) store(out + part * kLanes + lane, total[part][lane]);
        }
      }
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
        if (call.boxes) at.softmax_of(sets, samples);
        const bool all = at.template locate<false>(sets * samples, static_cast<typename Samples<A>::I>(heads));
        T* out = output + query * row + m * channels;
        for (int h = 0; h < sets; ++h) {
          const T* head = image + (m + h) * channels;
          if (all) {
            gather<false>(at, head, h * samples, (h + 1) * samples, out + h * channels);
          } else {
            gather<true>(at, head, h * samples, (h + 1) * samples, out + h * channels);
          }
        }
      }
    }
  }

  // Adds the samples of one head and query to `grad`, and their products with `value` to at.dot. Both start at the head's first
  // channel; `pitch` and `grad_pitch` are distances from pixel to pixel, in numbers.
  RFDETR_INLINE void scatter(Samples<A>& at, const T* upstream, const T* value, A* grad, int64_t grad_pitch, int first) const {
    const int last = first + samples;
    if constexpr (kChannels != 0) {
      constexpr int kParts = kChannels / kLanes;
      V up[kParts];
      for (int part = 0; part < kParts; ++part) up[part] = load<A, kLanes>(upstream + part * kLanes);
      for (int j = first; j < last; ++j) {
        V dot[4] = {};
        if (at.inside[j] != A(0)) {
          for (int k = 0; k < 4; ++k) {
            const T* corner = value + at.offset[k][j] * row;
            A* target = grad + at.offset[k][j] * grad_pitch;
            const A weight = at.weight[k][j] * at.share[j];
            for (int part = 0; part < kParts; ++part) {
              dot[k] += up[part] * load<A, kLanes>(corner + part * kLanes);
              *reinterpret_cast<V*>(target + part * kLanes) += weight * up[part];
            }
          }
        }
        sums_of_lanes<V, A>(dot, {&at.dot[0][j], &at.dot[1][j], &at.dot[2][j], &at.dot[3][j]});
      }
    } else {
      for (int j = first; j < last; ++j) {
        for (int k = 0; k < 4; ++k) {
          const T* __restrict__ corner = value + at.offset[k][j] * row;
          A* __restrict__ target = grad + at.offset[k][j] * grad_pitch;
          const A weight = at.weight[k][j] * at.share[j];
          A dot = 0;
          for (int64_t c = 0; at.inside[j] != A(0) && c < channels; ++c) {
            const A up = widen<A>(upstream + c);
            dot += up * widen<A>(corner + c);
            target[c] += weight * up;
          }
          at.dot[k][j] = dot;
        }
      }
    }
  }

  // A few heads of an image at a time, as many as keep values and sums in the second-level cache. Sums of 16-bit values are in a
  // separate buffer, other sums in the result itself. A head's sums run over the queries in order, in any thread.
  void backward(const Gradients& to, int64_t begin, int64_t end) const {
    constexpr bool kApart = sizeof(T) != sizeof(A);
    const Buffer<Samples<A>> scratch(1);
    Samples<A>& at = *scratch.data;
    const int64_t heads = problem.heads, cached = kCacheBytes / (int64_t(2 * sizeof(A)) * problem.pixels * channels);
    const int64_t most = min_of(min_of(heads, kMaxSamples / samples), cached > 1 ? cached : 1);
    const Buffer<A> sums(kApart ? problem.pixels * most * channels : 0);
    at.set_levels(problem, int(most));
    for (int64_t task = begin, together; task < end; task += together) {
      const int64_t b = task / heads, m = task % heads, corner = b * problem.pixels * row + m * channels;
      together = min_of(min_of(most, heads - m), end - task);
      const T* value = static_cast<const T*>(call.value) + corner;
      T* result = static_cast<T*>(to.value) + corner;
      A* grad = kApart ? sums.data : reinterpret_cast<A*>(result);
      const int64_t pitch = kApart ? together * channels : row;
      for (int64_t s = 0; s < problem.pixels; ++s) memset(grad + s * pitch, 0, sizeof(A) * size_t(together * channels));
      for (int64_t query = b * problem.queries; query < (b + 1) * problem.queries; ++query) {
        const int64_t first = (query * heads + m) * samples, count = together * samples;
        at.read(points() + 2 * first, weights() + first, box(query), int(count), problem.points);
        if (call.boxes) at.softmax_of(int(together), samples);
        at.template locate<true>(int(count), 1);
        const T* upstream = static_cast<const T*>(to.upstream) + query * row + m * channels;
        for (int h = 0; h < together; ++h) {
          scatter(at, upstream + h * channels, value + h * channels, grad + h * channels, pitch, h * samples);
        }
        at.finish(int(together), samples, call.boxes != nullptr, static_cast<A*>(to.points) + 2 * first,
                  static_cast<A*>(to.weights) + first);
      }
      for (int64_t s = 0; kApart && s < problem.pixels; ++s) {
        for (int64_t c = 0; c < together * channels; ++c) store(result + s * row + c, grad[s * pitch + c]);
      }
    }
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
