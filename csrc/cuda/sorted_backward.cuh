// The sorted CUDA gradient of multi-scale deformable attention, for many queries. Four channels per lane, W = D / 4 lanes per
// cell.
//
// A block has one image and head and a chunk of its queries, which it takes in tiles that fit into shared memory. A cell is the
// square between four neighbouring pixel centres; all samples of a cell read and add to the same four pixels. The block sorts
// the samples of a tile by cell (counting sort) and then a group of lanes takes a unit at a time, which is up to kUnit samples
// of one cell: the four pixels are loaded once, the gradients of the four pixels stay in registers, and the upstream gradient is
// read once per sample. Additions to the gradient of value happen once per unit, 16 bytes at a time. Units are in order of
// falling length, so that the groups of a warp have as much to do.
//
//   phases of a tile, with a barrier between them           shared memory
//     count    a thread per query: places, samples per cell   records (tile * samples): dx, dy, amount, cell
//     scan     first position of each cell, list of units     cursor (cells), units
//     scatter  position of each sample                        order of a record: the sample at the record's position
//     sum      a group of lanes per unit                      dx, dy, amount become d x, d y, upstream . sampled value
//     write    a thread per query: gradients of its samples, share of its box
#pragma once

#include "fast_gradients.cuh"

namespace rfdetr {
namespace {

template <int D, int P>
constexpr int kSortedThreads = D != 16  ? 512
                               : P == 2 ? 768
                                        : 640;  // what the registers allow
constexpr int kUnit = 32;  // samples of one cell that a group takes at most: bounds the time of a crowded cell
static_assert(kUnit == kWarpLanes, "a warp finds the first position of each length of units");
constexpr unsigned kNoCell = 0xffff;

// Sizes of the sorted kernel.
struct Sorting {
  int chunk, chunks, tile;  // queries of a block and of a tile
  int cells, units;         // of all levels; at most
  unsigned reciprocal;      // of the samples: query of sample i = i * reciprocal >> 32, exact below 2^16
  int first_cell[kMaxLevels];
};

// A sample of the tile, and at its position in the order of the cells the index of the sample that stands there.
struct alignas(16) Record {
  float number[3];  // dx, dy, amount; after phase `sum` d x, d y, upstream . sampled value
  uint16_t cell, order;
};

// The block's part of shared memory.
struct SortedMemory {
  Record* records;
  int *cursor, *control;  // control: number of units, next unit; totals of the warps; units of each length, and those placed
  unsigned* units;        // cell << 16 | first position

  static constexpr int kTotals = 2, kLengths = kTotals + kWarpLanes, kPlaced = kLengths + kUnit, kControl = kPlaced + kUnit;

  __device__ __forceinline__ SortedMemory(float* memory, int samples, const Sorting& sort) {
    records = reinterpret_cast<Record*>(memory), cursor = reinterpret_cast<int*>(records + samples);
    control = cursor + sort.cells, units = reinterpret_cast<unsigned*>(control + kControl);
  }
  static int64_t bytes(int64_t samples, int64_t cells, int64_t units) {
    return int64_t(sizeof(Record)) * samples + 4 * (cells + kControl + units);
  }
};

// K numbers, 1, 2 or 4, by one instruction; `from` is aligned to all of them.
template <int K>
__device__ __forceinline__ Pack<float, K> read(const float* from) {
  if constexpr (K == 4) {
    const float4 all = __ldg(reinterpret_cast<const float4*>(from));
    return {{all.x, all.y, all.z, all.w}};
  } else if constexpr (K == 2) {
    const float2 both = __ldg(reinterpret_cast<const float2*>(from));
    return {{both.x, both.y}};
  } else {
    return {{__ldg(from)}};
  }
}

// What a thread reads of a query with two samples on one level.
struct Pair {
  float4 points, box;
  float2 weights;
};

template <class T, int D, int P, int L>
struct SortedBlock {
  static constexpr int W = D / 4;
  static constexpr bool kPairs = P == 2 && L == 1;
  static constexpr int kBunch = P == 4 ? 4 : 1;      // samples, on one level, that a thread reads and writes together
  static constexpr int kMove = kBunch == 1 ? 2 : 4;  // numbers of their points that one instruction moves
  const Fast<T>& call;
  const FastGradients<T>& to;
  const Sorting& sort;
  SortedMemory memory;
  int b, m, first, count;  // image, head, first query of the tile and number of them

  __device__ __forceinline__ int samples() const { return P * L ? P * L : call.samples; }
  __device__ __forceinline__ int level_points() const { return P ? P : call.level_points; }
  __device__ __forceinline__ int query(int q) const { return b * call.queries + first + q; }
  __device__ __forceinline__ int slot(int q) const { return query(q) * call.heads + m; }
  __device__ __forceinline__ float4 box_of(int q) const {
    return call.boxes ? __ldg(reinterpret_cast<const float4*>(call.boxes) + query(q)) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  }

  // Softmax of a slot's logits; without boxes, weights are used as they are.
  __device__ __forceinline__ void softmax(const float* weights, float& top, float& scale) const {
    top = 0.0f, scale = 1.0f;
    if (!call.boxes) return;
    top = __ldg(weights);
    for (int i = kBunch == 1 ? 1 : 0; i < samples(); i += kBunch) {
      const Pack<float, kBunch> logits = read<kBunch>(weights + i);
#pragma unroll
      for (int k = 0; k < kBunch; ++k) top = logits.channel[k] > top ? logits.channel[k] : top;
    }
    float total = 0.0f;
    for (int i = 0; i < samples(); i += kBunch) {
      const Pack<float, kBunch> logits = read<kBunch>(weights + i);
#pragma unroll
      for (int k = 0; k < kBunch; ++k) total += exp_of(logits.channel[k] - top);
    }
    scale = 1.0f / total;
  }
  __device__ __forceinline__ float weight(float given, float top, float scale) const {
    return call.boxes ? exp_of(given - top) * scale : given;
  }
  __device__ __forceinline__ Pair pair_of(int q) const {
    return Pair{__ldg(reinterpret_cast<const float4*>(call.points) + slot(q)), box_of(q),
                __ldg(reinterpret_cast<const float2*>(call.weights) + slot(q))};
  }
  // The pair's weights after the softmax.
  __device__ __forceinline__ float2 amounts(const Pair& pair) const {
    if (!call.boxes) return pair.weights;
    const float top = pair.weights.x > pair.weights.y ? pair.weights.x : pair.weights.y;
    const float x = exp_of(pair.weights.x - top), y = exp_of(pair.weights.y - top), scale = 1.0f / (x + y);
    return make_float2(x * scale, y * scale);
  }

  // The points of a bunch.
  __device__ __forceinline__ static void read_points(const float* from, float2 (&to)[kBunch]) {
#pragma unroll
    for (int i = 0; i < 2 * kBunch; i += kMove) {
      const Pack<float, kMove> numbers = read<kMove>(from + i);
#pragma unroll
      for (int k = 0; k < kMove; k += 2) to[(i + k) / 2] = make_float2(numbers.channel[k], numbers.channel[k + 1]);
    }
  }
  __device__ __forceinline__ static void write_points(float* to, const float2 (&from)[kBunch]) {
#pragma unroll
    for (int i = 0; i < 2 * kBunch; i += kMove) {
      Pack<float, kMove> numbers;
#pragma unroll
      for (int k = 0; k < kMove; k += 2) {
        numbers.channel[k] = from[(i + k) / 2].x, numbers.channel[k + 1] = from[(i + k) / 2].y;
      }
      *reinterpret_cast<Pack<float, kMove>*>(to + i) = numbers;
    }
  }

  __device__ __forceinline__ void count_sample(int index, int level, float2 at, float4 box, float unit, float amount) const {
    if (call.boxes) at.x = box.x + at.x * (box.z * unit), at.y = box.y + at.y * (box.w * unit);
    const Level size = call.level[level];
    int left, top_row;
    float dx, dy;
    const bool inside = corner_of(at.x, at.y, size, left, top_row, dx, dy);
    const int cell = sort.first_cell[level] + (top_row + 1) * (size.width + 1) + left + 1;
    memory.records[index] = inside ? Record{{dx, dy, amount}, uint16_t(cell), 0} : Record{{0, 0, 0}, uint16_t(kNoCell), 0};
    if (inside) atomicAdd(memory.cursor + cell, 1);
  }

  __device__ __forceinline__ void count_pairs() const {
    const float unit = offset_unit<float>(P);
    Pair next = pair_of(int(threadIdx.x) < count ? threadIdx.x : 0);
    for (int q = threadIdx.x; q < count; q += blockDim.x) {
      const Pair pair = next;
      if (q + int(blockDim.x) < count) next = pair_of(q + blockDim.x);  // in flight while this query is counted
      const float2 amount = amounts(pair);
      count_sample(2 * q, 0, make_float2(pair.points.x, pair.points.y), pair.box, unit, amount.x);
      count_sample(2 * q + 1, 0, make_float2(pair.points.z, pair.points.w), pair.box, unit, amount.y);
    }
  }

  __device__ __forceinline__ void count_any() const {
    const float unit = offset_unit<float>(level_points());
    for (int q = threadIdx.x; q < count; q += blockDim.x) {
      const float* const weights = call.weights + slot(q) * samples();
      const float* const points = call.points + 2 * slot(q) * samples();
      const float4 box = box_of(q);
      float top, scale;
      softmax(weights, top, scale);
      int level = 0, end = level_points();
#pragma unroll(kBunch == 1 ? 4 : 1)
      for (int i = 0; i < samples(); i += kBunch) {
        if (i == end) ++level, end += level_points();
        float2 at[kBunch];
        read_points(points + 2 * i, at);
        const Pack<float, kBunch> given = read<kBunch>(weights + i);
#pragma unroll
        for (int k = 0; k < kBunch; ++k) {
          count_sample(q * samples() + i + k, level, at[k], box, unit, weight(given.channel[k], top, scale));
        }
      }
    }
  }

  // Units of a length that stand before all shorter ones: number `kUnit - length` of the lengths.
  __device__ __forceinline__ static int shorter_by(int samples) { return (kUnit - samples % kUnit) % kUnit; }

  // Replaces the number of samples of each cell by the position of its first, and lists the units, long ones first.
  __device__ __forceinline__ void scan() const {
    const int each = (sort.cells + int(blockDim.x) - 1) / int(blockDim.x), warp = threadIdx.x / kWarpLanes;
    const int begin = threadIdx.x * each, limit = begin + each, end = limit < sort.cells ? limit : sort.cells;
    const int lane = threadIdx.x % kWarpLanes;
    int* const lengths = memory.control + SortedMemory::kLengths;
    int* const placed = memory.control + SortedMemory::kPlaced;
    int own = 0;
    for (int cell = begin; cell < end; ++cell) {
      const int size = memory.cursor[cell];
      own += size;
      if (size >= kUnit) atomicAdd(lengths, size / kUnit);
      if (size % kUnit) atomicAdd(lengths + shorter_by(size), 1);
    }
    int before = own;  // up to and with this lane
#pragma unroll
    for (int distance = 1; distance < kWarpLanes; distance *= 2) {
      const int other = __shfl_up_sync(kAllLanes, before, unsigned(distance));
      if (lane >= distance) before += other;
    }
    int* const totals = memory.control + SortedMemory::kTotals;
    if (lane == kWarpLanes - 1) totals[warp] = before;
    __syncthreads();
    int position = before - own;
    for (int i = 0; i < warp; ++i) position += totals[i];
    int start = lengths[lane];  // of the units of length kUnit - lane
    const int same = start;
#pragma unroll
    for (int distance = 1; distance < kWarpLanes; distance *= 2) {
      const int other = __shfl_up_sync(kAllLanes, start, unsigned(distance));
      if (lane >= distance) start += other;
    }
    if (threadIdx.x == kWarpLanes - 1) memory.control[0] = start;
    start -= same;
    const int longest = __shfl_sync(kAllLanes, start, 0);
    for (int k = 0; k < each; ++k) {
      const int cell = begin + k, size = cell < end ? memory.cursor[cell] : 0, full = size / kUnit;
      const int rest = __shfl_sync(kAllLanes, start, shorter_by(size));
      if (cell < end) memory.cursor[cell] = position;
      if (full) {
        const int at = longest + atomicAdd(placed, full);
        for (int i = 0; i < full; ++i) memory.units[at + i] = unsigned(cell) << 16 | unsigned(position + i * kUnit);
      }
      if (size % kUnit) {
        memory.units[rest + atomicAdd(placed + shorter_by(size), 1)] = unsigned(cell) << 16 | unsigned(position + full * kUnit);
      }
      position += size;
    }
  }

  __device__ __forceinline__ void scatter() const {
    for (int index = threadIdx.x; index < count * samples(); index += blockDim.x) {
      const unsigned cell = memory.records[index].cell;
      if (cell != kNoCell) memory.records[atomicAdd(memory.cursor + cell, 1)].order = uint16_t(index);
    }
  }

  __device__ __forceinline__ int ordered(int position, bool active) const { return active ? memory.records[position].order : 0; }
  __device__ __forceinline__ Record record_of(int index, bool active) const { return active ? memory.records[index] : Record{}; }
  // The lane's part of the upstream gradient of a sample, not converted yet: nothing waits for the memory here.
  __device__ __forceinline__ Pack<T, 4> upstream_of(const T* upstream, int index, bool active) const {
    const int q = kPairs ? index / 2 : int((uint64_t(index) * sort.reciprocal) >> 32);
    return active ? *reinterpret_cast<const Pack<T, 4>*>(upstream + q * (call.heads * D)) : Pack<T, 4>{};
  }

  // The sums over the lanes of a group of three numbers: of `a` for lane 0, of `b` for lane 1, of `c` for lane 2.
  __device__ __forceinline__ static float spread_sums(float a, float b, float c, int lane) {
#pragma unroll
    for (int bit = W / 2; bit > 2; bit /= 2) {
      a += __shfl_xor_sync(kAllLanes, a, bit, W), b += __shfl_xor_sync(kAllLanes, b, bit, W);
      c += __shfl_xor_sync(kAllLanes, c, bit, W);
    }
    const bool high = lane & 2, odd = lane & 1;
    const float from_even = __shfl_xor_sync(kAllLanes, high ? a : c, 2, W);
    const float from_odd = __shfl_xor_sync(kAllLanes, high ? b : 0.0f, 2, W);
    const float even = (high ? c : a) + from_even, uneven = (high ? 0.0f : b) + from_odd;
    return (odd ? uneven : even) + __shfl_xor_sync(kAllLanes, odd ? even : uneven, 1, W);
  }

  __device__ __forceinline__ int level_of(int cell) const {
    int level = 0;
    while (!kPairs && level + 1 < call.levels && cell >= sort.first_cell[level + 1]) ++level;
    return level;
  }

  __device__ __forceinline__ void sum() const {
    constexpr int kGroups = kWarpLanes / W;
    const int lane = threadIdx.x % W, number = threadIdx.x % kWarpLanes / W, row = call.heads * D;
    const int start = b * call.pixels * row + m * D + lane * 4;
    const T* const upstream = to.upstream + slot(0) * D + lane * 4;
    const int units = memory.control[0];
    for (;;) {
      int next = threadIdx.x % kWarpLanes == 0 ? atomicAdd(memory.control + 1, kGroups) : 0;
      next = __shfl_sync(kAllLanes, next, 0);
      if (next >= units) break;
      const bool live = next + number < units;
      const unsigned packed = live ? memory.units[next + number] : 0;
      const int cell = int(packed >> 16), from = int(packed & 0xffff), end = memory.cursor[cell];
      const int length = live ? (end - from < kUnit ? end - from : kUnit) : 0;
      int longest = length;
#pragma unroll
      for (int bit = W; bit < kWarpLanes; bit *= 2) {
        const int other = __shfl_xor_sync(kAllLanes, longest, bit);
        longest = other > longest ? other : longest;
      }
      // Of the unit's samples 0, 1 and 2, and then of the three from sample i on.
      int index = ordered(from, length > 0), next_index = ordered(from + 1, length > 1);
      int last_index = ordered(from + 2, length > 2);
      Pack<T, 4> up = upstream_of(upstream, index, length > 0), next_up = upstream_of(upstream, next_index, length > 1);
      Record record = record_of(index, length > 0);
      const int level = level_of(cell);
      const Level size = call.level[level];
      const int inner = cell - sort.first_cell[level], line = inner / (size.width + 1);
      const int code = code_of(inner - line * (size.width + 1) - 1, line - 1, size);
      const int north = code >> 4, south = north + pixels_down(code, size.width), east = pixels_across(code);
      const int pixel[4] = {north, north + east, south, south + east};
      const bool inside[4] = {live && (code & 5) == 5, live && (code & 6) == 6, live && (code & 9) == 9,
                              live && (code & 10) == 10};
      const float side = lane == 0 ? float(size.width) : lane == 1 ? float(size.height) : 1.0f;
      float4 here[4], total[4];  // a pixel outside the map is 0, and its gradient is dropped
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        here[k] = total[k] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (inside[k]) here[k] = load4(call.value + start + pixel[k] * row);
      }
#pragma unroll 1
      for (int i = 0; i < longest; ++i) {
        const int sample = index;
        const float4 given = unpack4(up);
        const float dx = record.number[0], dy = record.number[1], amount = record.number[2];
        index = next_index, next_index = last_index, up = next_up;
        next_up = upstream_of(upstream, next_index, i + 2 < length);  // in flight while two samples are summed
        record = record_of(index, i + 1 < length);
        last_index = ordered(from + i + 3, i + 3 < length);
        __syncwarp();  // every lane has read the sample's record before three of them overwrite it
        const float below = amount * dy, above = amount - below, above_right = above * dx, below_right = below * dx;
        add_scaled(total[0], above - above_right, given), add_scaled(total[1], above_right, given);
        add_scaled(total[2], below - below_right, given), add_scaled(total[3], below_right, given);
        float dot[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) dot[k] = dot4(given, here[k]);
        const float across_above = dot[1] - dot[0], across_below = dot[3] - dot[2];
        const float at_above = dot[0] + dx * across_above, at_below = dot[2] + dx * across_below, down = at_below - at_above;
        const float across = across_above + dy * (across_below - across_above);
        const float result = spread_sums(across, down, at_above + dy * down, lane) * side;
        if (i < length && lane < 3) memory.records[sample].number[lane] = lane == 2 ? result : result * amount;
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (inside[k]) atomic_add4(to.value + start + pixel[k] * row, total[k]);
      }
    }
  }

  __device__ __forceinline__ void write_pairs() const {
    const float unit = offset_unit<float>(P);
    Pair next{};
    if (call.boxes && int(threadIdx.x) < count) next = pair_of(threadIdx.x);
    for (int q = threadIdx.x; q < count; q += blockDim.x) {
      const Record one = memory.records[2 * q], two = memory.records[2 * q + 1];
      float2 grad = make_float2(one.number[0], one.number[1]), other = make_float2(two.number[0], two.number[1]);
      float2 d_weight = make_float2(one.number[2], two.number[2]);
      if (call.boxes) {
        const Pair pair = next;
        if (q + int(blockDim.x) < count) next = pair_of(q + blockDim.x);
        const float2 amount = amounts(pair);
        const float mean = amount.x * d_weight.x + amount.y * d_weight.y;
        BoxSum sums{0.0f, 0.0f, 0.0f, 0.0f};
        sums.add(grad, make_float2(pair.points.x, pair.points.y), pair.box, unit);
        sums.add(other, make_float2(pair.points.z, pair.points.w), pair.box, unit);
        d_weight.x = amount.x * (d_weight.x - mean), d_weight.y = amount.y * (d_weight.y - mean);
        atomic_add4(to.boxes + query(q) * 4, make_float4(sums.x, sums.y, sums.w, sums.h));
      }
      reinterpret_cast<float4*>(to.points)[slot(q)] = make_float4(grad.x, grad.y, other.x, other.y);
      reinterpret_cast<float2*>(to.weights)[slot(q)] = d_weight;
    }
  }

  __device__ __forceinline__ void write_any() const {
    const float unit = offset_unit<float>(level_points());
    for (int q = threadIdx.x; q < count; q += blockDim.x) {
      const int sample = slot(q) * samples(), index = q * samples();
      const float4 box = box_of(q);
      float top, scale, mean = 0.0f;
      softmax(call.weights + sample, top, scale);
      for (int i = 0; call.boxes && i < samples(); i += kBunch) {
        const Pack<float, kBunch> given = read<kBunch>(call.weights + sample + i);
#pragma unroll
        for (int k = 0; k < kBunch; ++k) {
          mean += weight(given.channel[k], top, scale) * memory.records[index + i + k].number[2];
        }
      }
      BoxSum sums{0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll(kBunch == 1 ? 4 : 1)
      for (int i = 0; i < samples(); i += kBunch) {
        float2 grad[kBunch], offset[kBunch];
        Pack<float, kBunch> given, d_weight;
        if (call.boxes) {
          read_points(call.points + 2 * (sample + i), offset);
          given = read<kBunch>(call.weights + sample + i);
        }
#pragma unroll
        for (int k = 0; k < kBunch; ++k) {
          const Record record = memory.records[index + i + k];
          grad[k] = make_float2(record.number[0], record.number[1]), d_weight.channel[k] = record.number[2];
          if (!call.boxes) continue;
          sums.add(grad[k], offset[k], box, unit);
          d_weight.channel[k] = weight(given.channel[k], top, scale) * (d_weight.channel[k] - mean);
        }
        write_points(to.points + 2 * (sample + i), grad);
        *reinterpret_cast<Pack<float, kBunch>*>(to.weights + sample + i) = d_weight;
      }
      if (call.boxes) atomic_add4(to.boxes + query(q) * 4, make_float4(sums.x, sums.y, sums.w, sums.h));
    }
  }
};

// blockIdx.x = (b * chunks + chunk) * heads + m: blocks that share sectors of points and weights run together.
template <class T, int D, int P, int L>
__global__ void __launch_bounds__(kSortedThreads<D, P>)
    sorted_backward_kernel(const CONSTANT_ARGUMENT Fast<T> call, const CONSTANT_ARGUMENT FastGradients<T> to,
                           const CONSTANT_ARGUMENT Sorting sort) {
  SHARED_MEMORY(float, shared);
  const int part = blockIdx.x / call.heads, m = blockIdx.x - part * call.heads, b = part / sort.chunks;
  const int begin = (part - b * sort.chunks) * sort.chunk;
  const int end = begin + sort.chunk < call.queries ? begin + sort.chunk : call.queries;
  const SortedMemory memory(shared, sort.tile * call.samples, sort);
  for (int first = begin; first < end; first += sort.tile) {
    const SortedBlock<T, D, P, L> block{call, to, sort, memory, b, m, first, end - first < sort.tile ? end - first : sort.tile};
    for (int i = threadIdx.x; i < sort.cells + SortedMemory::kControl; i += blockDim.x) memory.cursor[i] = 0;
    __syncthreads();
    if constexpr (SortedBlock<T, D, P, L>::kPairs) {
      block.count_pairs();
    } else {
      block.count_any();
    }
    __syncthreads();
    block.scan();
    __syncthreads();
    block.scatter();
    __syncthreads();
    block.sum();
    __syncthreads();
    if constexpr (SortedBlock<T, D, P, L>::kPairs) {
      block.write_pairs();
    } else {
      block.write_any();
    }
    __syncthreads();  // before the next tile uses the memory
  }
}

// How the sorted kernel is launched; bytes is 0 where it does not fit or does not pay.
struct SortedLaunch {
  Sorting sort;
  int blocks, resident;  // resident: blocks of a multiprocessor at the same time
  int64_t bytes;
};

template <class T, int D>
SortedLaunch sorted_launch(const Fast<T>& call, const Limits& limits, Path path) {
  constexpr int kEach = 2;       // samples per cell of a tile, on average, that pay for the sorting
  constexpr int kEachOfTwo = 4;  // and for half the memory of a multiprocessor
  SortedLaunch launch{};
  if (call.samples == 1) return launch;  // the reciprocal of 1 does not fit 32 bits
  Sorting& sort = launch.sort;
  int64_t cells = 0;
  for (int i = 0; i < call.levels; ++i) {
    sort.first_cell[i] = int(cells);
    cells += int64_t(call.level[i].height + 1) * (call.level[i].width + 1);
    if (cells >= int64_t(kNoCell)) return launch;
  }
  const int64_t samples = call.samples, tasks = int64_t(call.batch) * call.heads;
  const int64_t wanted = tasks < limits.processors ? limits.processors / tasks : 1;
  const int64_t chunk = ceil_div(call.queries, wanted < call.queries ? wanted : call.queries);
  const int64_t chunks = ceil_div(call.queries, chunk), blocks = tasks * chunks;
  const auto units_of = [&](int64_t tile) { return cells + tile * samples / kUnit; };
  const auto bytes_of = [&](int64_t tile) { return SortedMemory::bytes(tile * samples, cells, units_of(tile)); };
  // Queries of a tile, so that `resident` blocks fit on a multiprocessor; the driver keeps 1 KB of each.
  const auto tile_of = [&](int resident) {
    const int64_t left = (limits.bytes + 1024) / resident - 1024 - bytes_of(0);
    const int64_t each = int64_t(sizeof(Record)) * samples + ceil_div(4 * samples, kUnit);
    int64_t tile = left < each ? 0 : left / each;
    tile = tile < chunk ? tile : chunk;
    tile = tile * samples <= int64_t(kNoCell) ? tile : int64_t(kNoCell) / samples;
    return tile ? ceil_div(chunk, ceil_div(chunk, tile)) : 0;  // tiles of equal size
  };
  // With two blocks, one works while the other is at a barrier or waits for memory, but tiles are smaller.
  const bool full = blocks > limits.processors && tile_of(2) * samples >= kEachOfTwo * cells;
  const int resident = tile_of(2) && path != Path::kSortedAlone && (full || path == Path::kSortedInPairs) ? 2 : 1;
  const int64_t tile = tile_of(resident);
  if (tile == 0) return launch;
  const bool asked = path == Path::kSorted || path == Path::kSortedAlone || path == Path::kSortedInPairs;
  const bool pays = tile * samples >= kEach * cells && 2 * blocks >= limits.processors;
  if ((!pays && !asked) || blocks > kMaxBlocks) return launch;
  sort.chunk = int(chunk), sort.chunks = int(chunks), sort.tile = int(tile), sort.cells = int(cells);
  sort.units = int(units_of(tile));
  sort.reciprocal = unsigned(((uint64_t(1) << 32) + uint64_t(samples) - 1) / uint64_t(samples));
  launch.blocks = int(blocks), launch.resident = resident, launch.bytes = bytes_of(tile);
  return launch;
}

template <class T, int D, int P, int L>
int launch_sorted(const Fast<T>& call, const FastGradients<T>& to, const SortedLaunch& launch, const Limits& limits,
                  void* stream) {
  if (const cudaError_t error = allow_shared<sorted_backward_kernel<T, D, P, L>>(limits, launch.bytes)) return int(error);
  const int threads = kSortedThreads<D, P> / launch.resident;
  LAUNCH((sorted_backward_kernel<T, D, P, L>), launch.blocks, threads, int(launch.bytes), stream, call, to, launch.sort);
  return int(cudaGetLastError());
}

}  // namespace
}  // namespace rfdetr
