// Shared parts of the fast CUDA kernels of multi-scale deformable attention. They take 16 or 32 channels of float32, float16 or
// bfloat16 and 32-bit indices; the host sends every other call to the general kernels.
//
// A group of lanes, next to each other in a warp, works on one slot, that is one (batch, query, head). Each lane finds the
// place of
// one sample, with its share of the softmax; the group then walks its samples and shares each place by shuffles. All lanes of a
// warp take part in every shuffle, also those that have nothing to do.
#pragma once

#include <stdlib.h>
#include <string.h>

#include <atomic>

#include "device.cuh"

namespace rfdetr {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarpLanes = 32;

// One call with 32-bit sizes. Pointers are aligned to 16 bytes.
template <class T>
struct Fast {
  const T* value;
  const float *points, *weights;
  const float* boxes;  // null when points are locations and weights are weights
  int batch, pixels, heads, queries;
  int levels, level_points, samples;  // samples = levels * level_points, of one slot
  Level level[kMaxLevels];
};

template <class T>
Fast<T> fast_call(const Attention& call) {
  const Problem& from = call.problem;
  Fast<T> to{static_cast<const T*>(call.value),
             static_cast<const float*>(call.points),
             static_cast<const float*>(call.weights),
             static_cast<const float*>(call.boxes),
             int(from.batch),
             int(from.pixels),
             int(from.heads),
             int(from.queries),
             from.num_levels,
             from.points,
             from.num_levels * from.points,
             {}};
  for (int i = 0; i < from.num_levels; ++i) to.level[i] = from.levels[i];
  return to;
}

// The kernels that a call is to take, for tests and measurements that compare them; kChosen: the host chooses.
enum class Path { kChosen, kGeneral, kDirect, kStaged, kSorted, kSortedAlone, kSortedInPairs };

// What RFDETR_CUDA_PATH asks for. A launcher reads it once, because another thread may write the environment meanwhile.
Path path_asked() {
  constexpr struct {
    const char* name;
    Path path;
  } kNames[] = {{"general", Path::kGeneral}, {"direct", Path::kDirect},        {"staged", Path::kStaged},
                {"sorted", Path::kSorted},   {"sorted-1", Path::kSortedAlone}, {"sorted-2", Path::kSortedInPairs}};
  const char* const wish = getenv("RFDETR_CUDA_PATH");
  for (const auto& known : kNames) {
    if (wish != nullptr && strcmp(wish, known.name) == 0) return known.path;
  }
  return Path::kChosen;
}

// Whether the fast kernels take a call whose other array, output or upstream gradient, is at `other`. A call without samples is
// none of theirs.
bool is_fast(const Attention& call, const void* other, Path path) {
  const Problem& problem = call.problem;
  if (call.storage == Storage::kFloat64 || (problem.channels != 16 && problem.channels != 32)) return false;
  uintptr_t bits = reinterpret_cast<uintptr_t>(other);
  for (const void* const pointer : {call.value, call.points, call.weights, call.boxes}) {
    bits |= reinterpret_cast<uintptr_t>(pointer);
  }
  constexpr int64_t kMost = int64_t(1) << 30;  // leaves room for the last grid stride
  const int64_t samples = int64_t(problem.num_levels) * problem.points;
  const int64_t row = problem.heads * problem.channels, queries = problem.batch * problem.queries;
  if (row == 0 || queries == 0 || samples == 0) return false;
  // Each factor is compared before the next product, so that nothing overflows.
  if (row > kMost || samples > kMost || problem.pixels > (1 << 26) || queries > kMost) return false;
  if (problem.batch * problem.pixels > kMost / row || queries > kMost / row) return false;
  return bits % 16 == 0 && queries * problem.heads <= kMost / (2 * samples) && path != Path::kGeneral;
}

// Channel v of a pack.
template <class T, int V>
__device__ __forceinline__ float channel_of(const Pack<T, V>& pack, int v) {
  return load(pack.channel[v]);
}
#ifdef __CUDA_ARCH__
// One instruction: a bfloat16 is the upper half of a float32.
template <int V>
__device__ __forceinline__ float channel_of(const Pack<__nv_bfloat16, V>& pack, int v) {
  unsigned two;
  memcpy(&two, pack.channel + v / 2 * 2, sizeof two);
  return __uint_as_float(v % 2 ? two & 0xffff0000u : two << 16);
}
#endif

// Four channels from 4 * sizeof(T) aligned bytes.
template <class T>
__device__ __forceinline__ float4 unpack4(const Pack<T, 4>& pack) {
  return make_float4(channel_of(pack, 0), channel_of(pack, 1), channel_of(pack, 2), channel_of(pack, 3));
}
template <class T>
__device__ __forceinline__ float4 load4(const T* from) {
  return unpack4(*reinterpret_cast<const Pack<T, 4>*>(from));
}

__device__ __forceinline__ float dot4(float4 a, float4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }

__device__ __forceinline__ void add_scaled(float4& to, float scale, float4 from) {
  to.x += scale * from.x, to.y += scale * from.y, to.z += scale * from.z, to.w += scale * from.w;
}

// Adds four numbers at 16 aligned bytes of global memory: one instruction from sm_90 on.
__device__ __forceinline__ void atomic_add4(float* to, float4 x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  atomicAdd(reinterpret_cast<float4*>(to), x);
#else
  atomicAdd(to, x.x), atomicAdd(to + 1, x.y), atomicAdd(to + 2, x.z), atomicAdd(to + 3, x.w);
#endif
}

// Where a sample lies: its north-west pixel, which of the columns left and right and of the rows above and below it are
// inside the
// map, and how far it is from the left column and the upper row. Without a contribution, `code` is negative.
struct Place {
  int code;  // pixel << 4 | below << 3 | above << 2 | right << 1 | left; of an axis with one pixel inside, `pixel` is that one
  float dx, dy;
};
constexpr int kNowhere = -1;

// Column and row of the upper left pixel, each at least -1; false for a sample that contributes nothing.
__device__ __forceinline__ bool corner_of(float x, float y, const Level& level, int& left, int& top, float& dx, float& dy) {
  const float width = float(level.width), height = float(level.height);
  const float column = x * width - 0.5f, row = y * height - 0.5f;
  const bool inside = column > -1.0f && row > -1.0f && column < width && row < height;  // false for NaN
  const float west = floorf(inside ? column : 0.0f), north = floorf(inside ? row : 0.0f);
  left = int(west), top = int(north), dx = column - west, dy = row - north;
  return inside;
}

__device__ __forceinline__ int code_of(int left, int top, const Level& level) {
  const int has_left = left >= 0, has_right = left + 1 < level.width, has_above = top >= 0, has_below = top + 1 < level.height;
  const int pixel = level.start + (has_above ? top : 0) * level.width + (has_left ? left : 0);
  return pixel << 4 | has_below << 3 | has_above << 2 | has_right << 1 | has_left;
}

__device__ __forceinline__ Place place_of(float x, float y, const Level& level) {
  Place place;
  int left, top;
  const bool inside = corner_of(x, y, level, left, top, place.dx, place.dy);
  place.code = inside ? code_of(left, top, level) : kNowhere;
  return place;
}

// Pixels from the left to the right column and from the upper to the lower row: 0 where one of the two is outside.
__device__ __forceinline__ int pixels_across(int code) { return (code & 3) == 3 ? 1 : 0; }
__device__ __forceinline__ int pixels_down(int code, int width) { return (code & 12) == 12 ? width : 0; }

// Weights of the two columns and the two rows.
struct Blend {
  float left, right, above, below;
  __device__ __forceinline__ Blend(int code, float dx, float dy)
      : left(code & 1 ? 1.0f - dx : 0.0f),
        right(code & 2 ? dx : 0.0f),
        above(code & 4 ? 1.0f - dy : 0.0f),
        below(code & 8 ? dy : 0.0f) {}
};

// Of the W lanes of a group.
template <int W>
__device__ __forceinline__ float group_sum(float x) {
#pragma unroll
  for (int bit = W / 2; bit > 0; bit /= 2) x += __shfl_xor_sync(kAllLanes, x, bit, W);
  return x;
}
template <int W>
__device__ __forceinline__ float group_max(float x) {
#pragma unroll
  for (int bit = W / 2; bit > 0; bit /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, x, bit, W);
    x = other > x ? other : x;
  }
  return x;
}

// What a lane reads of its slot before it can find its first sample.
struct Raw {
  float2 point;
  float weight;
  float4 box;
};

// The samples of one slot, of which this lane has every W-th: P points on each of L levels. Each is 0 if only the call knows.
template <class T, int W, int P, int L>
struct Group {
  static constexpr bool kWhole = P != 0 && P % W == 0;  // each round has W samples, all on one level
  const Fast<T>& call;
  int slot, lane;
  Raw raw;
  float top, scale;  // of the softmax

  __device__ __forceinline__ Group(const Fast<T>& call, int slot, int query, int lane) : call(call), slot(slot), lane(lane) {
    raw.point = point(lane < samples() ? lane : 0);
    raw.weight = weight(lane < samples() ? lane : 0);
    raw.box = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (call.boxes) raw.box = __ldg(reinterpret_cast<const float4*>(call.boxes) + query);
  }
  __device__ __forceinline__ Group(const Fast<T>& call, int slot, int, int lane, const Raw& raw)
      : call(call), slot(slot), lane(lane), raw(raw) {}

  __device__ __forceinline__ int samples() const { return P * L ? P * L : call.samples; }
  __device__ __forceinline__ int level_points() const { return P ? P : call.level_points; }
  // Level of the sample that lane `of` has in a round.
  __device__ __forceinline__ int level(int round, int of) const {
    if (L == 1 || (P == 0 && call.levels == 1)) return 0;
    return kWhole ? round / (P < W ? 1 : P / W) : (round * W + of) / level_points();
  }
  __device__ __forceinline__ float2 point(int i) const {
    return __ldg(reinterpret_cast<const float2*>(call.points) + slot * samples() + i);
  }
  __device__ __forceinline__ float weight(int i) const { return __ldg(call.weights + slot * samples() + i); }

  // Largest logit and reciprocal of the sum, over all samples of the slot.
  __device__ __forceinline__ void softmax() {
    if (!call.boxes) return;
    top = lane < samples() ? raw.weight : -INFINITY;
    for (int i = lane + W; i < samples(); i += W) {
      const float logit = weight(i);
      top = logit > top ? logit : top;
    }
    top = group_max<W>(top);
    float total = lane < samples() ? exp_of(raw.weight - top) : 0.0f;
    for (int i = lane + W; i < samples(); i += W) total += exp_of(weight(i) - top);
    scale = 1.0f / group_sum<W>(total);
  }

  // Weight and place of the lane's sample of a round; a weight of 0 and no place behind the last sample.
  __device__ __forceinline__ float find(int round, Place& place) const {
    const int i = round * W + lane;
    if (!kWhole && i >= samples()) {
      place = Place{kNowhere, 0.0f, 0.0f};
      return 0.0f;
    }
    const float2 at = round == 0 ? raw.point : point(i);
    const float given = round == 0 ? raw.weight : weight(i);
    float x = at.x, y = at.y;
    if (call.boxes) {
      const float unit = offset_unit<float>(level_points());
      x = raw.box.x + x * (raw.box.z * unit), y = raw.box.y + y * (raw.box.w * unit);
    }
    place = place_of(x, y, call.level[level(round, lane)]);
    return call.boxes ? exp_of(given - top) * scale : given;
  }
};

// Walks over the levels in step with samples 0, 1, 2, ...
struct Width {
  int level, end, width;

  template <class T>
  __device__ __forceinline__ explicit Width(const Fast<T>& call) : level(0), end(call.level_points), width(call.level[0].width) {}
  // The sample of lane `of` in a round of `group`.
  template <class T, int W, int P, int L>
  __device__ __forceinline__ void reach(const Group<T, W, P, L>& group, int round, int of) {
    if (P != 0) {
      level = group.level(round, of), width = group.call.level[level].width;
    } else if (round * W + of == end) {
      ++level, end += group.call.level_points, width = group.call.level[level].width;
    }
  }
};

// Bytes of shared memory that a block may use, and number of multiprocessors, of the current device.
struct Limits {
  int device, bytes, processors;

  cudaError_t read() {
    cudaError_t error = cudaGetDevice(&device);
    if (!error) error = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (!error) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    return error;
  }
};

// Lets `kernel` use `needed` bytes of dynamic shared memory. The first call that needs more than every kernel may use raises the
// limit, once per device and to the most that the device has: threads that launch with different sizes do not undo each other.
template <auto kernel>
cudaError_t allow_shared(const Limits& limits, int64_t needed) {
  constexpr int kDefault = 48 << 10, kDevices = 64;
  static std::atomic<int> allowed[kDevices];
  if (needed > limits.bytes) return cudaErrorInvalidValue;
  const bool known = limits.device < kDevices;
  if (needed <= kDefault || (known && needed <= allowed[limits.device].load())) return cudaSuccess;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limits.bytes);
  if (!error && known) allowed[limits.device].store(limits.bytes);
  return error;
}

}  // namespace
}  // namespace rfdetr
