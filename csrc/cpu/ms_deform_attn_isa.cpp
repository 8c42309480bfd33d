// The CPU kernels of multi-scale deformable attention, compiled once per instruction set (RFDETR_KERNELS names the result).
//
// Forward: query by query. The samples of a query are located together, then each head gathers its channels in registers.
// Backward: head by head. A task owns one head of one image: its gradient is summed in a scratch that fits the cache, the queries
// are walked in order, there are no atomics. So nothing depends on the number of threads.
#include <new>

#include "samples.h"

namespace rfdetr {
namespace {

constexpr int min_of(int a, int b) { return a < b ? a : b; }

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
  static constexpr int kLanes = kChannels ? min_of(kWide, kChannels) : kWide;
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
        at.read(points() + 2 * first, weights() + first, box(query), 1, sets * samples, 0, problem.points);
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

  // Whether the backward pass reads a widened copy of a head's values instead of the values themselves.
  static constexpr bool kCopied = sizeof(T) != sizeof(A);

  // Adds samples first..last of one query's `upstream` to `grad`, and their products with `value` to at.dot.
  RFDETR_INLINE void scatter(Samples<A>& at, const A* upstream, const A* value, A* grad, int first, int last) const {
    const int64_t pitch = kCopied ? channels : row;  // of value, from pixel to pixel
    if constexpr (kChannels != 0) {
      constexpr int kParts = kChannels / kLanes;
      V up[kParts];
      for (int part = 0; part < kParts; ++part) up[part] = load<A, kLanes>(upstream + part * kLanes);
      for (int j = first; j < last; ++j) {
        V dot[4] = {};
        if (at.inside[j] != A(0)) {
          for (int k = 0; k < 4; ++k) {
            const A* corner = value + at.offset[k][j] * pitch;
            A* target = grad + at.offset[k][j] * channels;
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
          const A* __restrict__ corner = value + at.offset[k][j] * pitch;
          A* __restrict__ target = grad + at.offset[k][j] * channels;
          const A weight = at.weight[k][j] * at.share[j];
          A dot = 0;
          for (int64_t c = 0; at.inside[j] != A(0) && c < channels; ++c) {
            dot += upstream[c] * corner[c];
            target[c] += weight * upstream[c];
          }
          at.dot[k][j] = dot;
        }
      }
    }
  }

  void backward(const Gradients& to, int64_t begin, int64_t end) const {
    const Buffer<Samples<A>> scratch(1);
    Samples<A>& at = *scratch.data;
    const int64_t heads = problem.heads, size = problem.pixels * channels, stride = heads * samples;
    const int most = min_of(kMaxSamples, 128) / samples, together = most > 1 ? most : 1;  // queries per round
    const Buffer<A> copied(kCopied ? size : 0), grad(size), upstream(channels);
    at.set_levels(problem, together);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / heads, m = task % heads, corner = b * problem.pixels * row + m * channels;
      const T* head = static_cast<const T*>(call.value) + corner;
      const A* value = copied.data;
      if constexpr (kCopied) {
        for (int64_t s = 0; s < problem.pixels; ++s) copy(copied.data + s * channels, head + s * row);
      } else {
        value = head;
      }
      memset(grad.data, 0, sizeof(A) * size_t(size));
      for (int64_t q = 0; q < problem.queries; q += together) {
        const int sets = int(problem.queries - q < together ? problem.queries - q : together);
        const int64_t query = b * problem.queries + q, first = (query * heads + m) * samples;
        at.read(points() + 2 * first, weights() + first, box(query), sets, samples, stride, problem.points);
        if (call.boxes) at.softmax_of(sets, samples);
        at.template locate<true>(sets * samples, 1);
        for (int set = 0; set < sets; ++set) {
          copy(upstream.data, static_cast<const T*>(to.upstream) + (query + set) * row + m * channels);
          scatter(at, upstream.data, value, grad.data, set * samples, (set + 1) * samples);
        }
        at.finish(sets, samples, call.boxes != nullptr, static_cast<A*>(to.points) + 2 * first,
                  static_cast<A*>(to.weights) + first, stride);
      }
      T* result = static_cast<T*>(to.value) + corner;
      for (int64_t s = 0; s < problem.pixels; ++s) write(result + s * row, grad.data + s * channels);
    }
  }

  RFDETR_INLINE void write(T* to, const A* from) const {
    if constexpr (kChannels != 0 && sizeof(T) == sizeof(A)) {
      for (int c = 0; c < kChannels; c += kLanes) *reinterpret_cast<V*>(to + c) = load<A, kLanes>(from + c);
    } else {
      for (int64_t c = 0; c < channels; ++c) store(to + c, from[c]);
    }
  }

  RFDETR_INLINE void copy(A* to, const T* from) const {
    if constexpr (kChannels != 0) {
      for (int c = 0; c < kChannels; c += kLanes) *reinterpret_cast<V*>(to + c) = load<A, kLanes>(from + c);
    } else {
      for (int64_t c = 0; c < channels; ++c) to[c] = widen<A>(from + c);
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
