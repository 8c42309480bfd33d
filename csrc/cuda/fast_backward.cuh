// The fast CUDA gradient of multi-scale deformable attention. Four channels per lane, W = D / 4 lanes per slot or cell.
//
// Direct: one pass over the slots, as in the forward kernel. The gradient of value goes to memory by atomic additions of 16
// bytes,
// those of the samples are written by the lane that found the sample. For few queries.
//
// Sorted: a block has one image and head and a chunk of its queries, which it takes in tiles that fit into shared memory. A
// cell is
// the square between four neighbouring pixel centres; all samples of a cell read and add to the same four pixels. The block
// sorts
// the samples of a tile by cell (counting sort) and then a group of lanes takes up to kUnit samples of one cell at a time:
// the four
// pixels are loaded once, the gradients of the four pixels stay in registers, and the upstream gradient is read once per sample.
// Additions to the block's map in shared memory happen once per cell instead of once per sample.
//
//   phases of a tile, with a barrier between them           shared memory: sums   (pixels, D) gradient of the head's map
//     count    a thread per query: places, samples per cell                dx, dy, amount (tile * samples) of each sample
//     scan     first position of each cell, list of units                  cursor (cells), units
//     scatter  position of each sample                                     cell, order (tile * samples) 16-bit
//     sum      a group of lanes per unit
//     write    a thread per query: gradients of its samples, share of its box
//
//   In phase `sum`, dx, dy and amount of a sample are replaced by d x, d y and upstream . sampled value.
#pragma once

#include "fast.cuh"

namespace rfdetr {
namespace {

constexpr int kBackwardThreads = 128;
template <int D>
constexpr int kSortedThreads = D == 16 ? 768 : 512;  // what the registers allow
constexpr int kUnit = 32;  // samples of one cell that a group takes at most: bounds the time of a crowded cell
constexpr unsigned kNoCell = 0xffff;

// Queues zeros; nothing for an empty array.
cudaError_t fill_zero(void* to, int64_t bytes, void* stream) {
  return bytes ? cudaMemsetAsync(to, 0, size_t(bytes), static_cast<cudaStream_t>(stream)) : cudaSuccess;
}

template <class T>
struct FastGradients {
  const T* upstream;
  float *value, *points, *weights, *boxes;  // value: zero before a kernel that adds to it; boxes: likewise
};

// Inner products of the upstream gradient with the four pixels of a sample, or this lane's part of them.
struct Dots {
  float corner[4];
};

struct Slopes {
  float sampled, x, y;  // upstream . sampled value, and its derivatives by the normalised location
};

__device__ __forceinline__ Slopes slopes_of(const Dots& dots, int code, const Blend& blend, const Level& level) {
  const float left = code & 1 ? 1.0f : 0.0f, right = code & 2 ? 1.0f : 0.0f;
  const float above = code & 4 ? 1.0f : 0.0f, below = code & 8 ? 1.0f : 0.0f;
  const float* const dot = dots.corner;
  Slopes slopes;
  slopes.sampled = blend.above * (blend.left * dot[0] + blend.right * dot[1]) +
                   blend.below * (blend.left * dot[2] + blend.right * dot[3]);
  slopes.x = float(level.width) *
             (blend.above * (right * dot[1] - left * dot[0]) + blend.below * (right * dot[3] - left * dot[2]));
  slopes.y = float(level.height) *
             (blend.left * (below * dot[2] - above * dot[0]) + blend.right * (below * dot[3] - above * dot[1]));
  return slopes;
}

// Gradients of one sample's location, or offset and box.
struct BoxSum {
  float x, y, w, h;

  // Turns the gradient of a location into that of its offset and adds the box's share.
  __device__ __forceinline__ void add(float2& grad, float2 offset, float4 box, float unit) {
    const float dx = grad.x, dy = grad.y;
    x += dx, y += dy;
    if (dx != 0.0f) w += dx * offset.x * unit;  // a sample without a location has gradient 0, not 0 * NaN
    if (dy != 0.0f) h += dy * offset.y * unit;
    grad.x = dx != 0.0f ? dx * (box.z * unit) : 0.0f;
    grad.y = dy != 0.0f ? dy * (box.w * unit) : 0.0f;
  }
};

template <class T, int D>
__global__ void __launch_bounds__(kBackwardThreads) direct_backward_kernel(Fast<T> call, FastGradients<T> to) {
  constexpr int W = D / 4;
  const int slots = call.batch * call.queries * call.heads;
  const int item = blockIdx.x * kBackwardThreads + threadIdx.x, lane = item % W;
  const bool live = item / W < slots;
  const int slot = live ? item / W : 0, query = slot / call.heads, m = slot - query * call.heads, b = query / call.queries;
  Group<T, W, 0> group(call, slot, query, lane);
  group.softmax();
  const int row = call.heads * D, start = b * call.pixels * row + m * D + lane * 4;
  const float4 up = load4(to.upstream + slot * D + lane * 4);
  const float unit = offset_unit<float>(call.level_points);
  float mean = 0.0f;
  BoxSum box{0.0f, 0.0f, 0.0f, 0.0f};
  Width width(call);
#pragma unroll 1
  for (int round = 0; round * W < call.samples; ++round) {
    Place own;
    const float weight = group.find(round, own);
    Slopes mine{0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < W; ++j) {
      const int i = round * W + j;
      if (i >= call.samples) break;
      width.reach(call, i);
      const int code = __shfl_sync(kAllLanes, own.code, j, W);
      const float dx = __shfl_sync(kAllLanes, own.dx, j, W), dy = __shfl_sync(kAllLanes, own.dy, j, W);
      const float amount = __shfl_sync(kAllLanes, weight, j, W);
      Slopes slopes{0.0f, 0.0f, 0.0f};
      if (code >= 0 && live) {
        const Blend blend(code, dx, dy);
        const int north = start + (code >> 4) * row, south = north + pixels_down(code, width.width) * row;
        const int east = pixels_across(code) * row;
        const int at[4] = {north, north + east, south, south + east};
        const float share[4] = {blend.above * blend.left, blend.above * blend.right, blend.below * blend.left,
                                blend.below * blend.right};
        Dots dots;
#pragma unroll
        for (int k = 0; k < 4; ++k) dots.corner[k] = dot4(up, load4(call.value + at[k]));
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          float4 part = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
          add_scaled(part, share[k] * amount, up);
          if (share[k] != 0.0f) atomic_add4(to.value + at[k], part);
        }
        slopes = slopes_of(dots, code, blend, call.level[width.level]);
      }
      slopes.sampled = group_sum<W>(slopes.sampled);
      slopes.x = group_sum<W>(slopes.x), slopes.y = group_sum<W>(slopes.y);
      if (lane == j) mine = slopes;
    }
    const int i = round * W + lane;
    if (live && i < call.samples) {
      const int sample = slot * call.samples + i;
      float2 grad = make_float2(mine.x * weight, mine.y * weight);
      if (own.code < 0) grad = make_float2(0.0f, 0.0f);
      if (call.boxes) box.add(grad, group.point(i), group.raw.box, unit);
      reinterpret_cast<float2*>(to.points)[sample] = grad;
      to.weights[sample] = mine.sampled;
      mean += weight * mine.sampled;
    }
  }
  if (!call.boxes) return;
  mean = group_sum<W>(mean);
  for (int i = lane; live && i < call.samples; i += W) {  // written by this lane above
    float* const weight = to.weights + slot * call.samples + i;
    *weight = exp_of(group.weight(i) - group.top) * group.scale * (*weight - mean);
  }
  // All lanes of a warp have one query where its lanes are a multiple of a warp's.
  const bool whole = call.heads * W % kWarpLanes == 0;
  box.x = group_sum<W>(box.x), box.y = group_sum<W>(box.y), box.w = group_sum<W>(box.w), box.h = group_sum<W>(box.h);
  for (int bit = W; whole && bit < kWarpLanes; bit *= 2) {
    box.x += __shfl_xor_sync(kAllLanes, box.x, bit), box.y += __shfl_xor_sync(kAllLanes, box.y, bit);
    box.w += __shfl_xor_sync(kAllLanes, box.w, bit), box.h += __shfl_xor_sync(kAllLanes, box.h, bit);
  }
  if (live && (whole ? int(threadIdx.x) % kWarpLanes : lane) == 0) {
    atomic_add4(to.boxes + query * 4, make_float4(box.x, box.y, box.w, box.h));
  }
}

// Sizes of the sorted kernel.
struct Sorting {
  int chunk, chunks, tile;  // queries of a block and of a tile
  int cells, units;         // of all levels; at most
  unsigned reciprocal;      // of the samples: query of sample i = i * reciprocal >> 32, exact below 2^16
  int exclusive;            // a block has all queries of its image and head, so it writes instead of adding
  int first_cell[kMaxLevels];
};

// The block's part of shared memory.
struct SortedMemory {
  float *sums, *dx, *dy, *amount;
  int *cursor, *control;  // control: number of units, next unit; behind these, totals of the warps
  unsigned* units;        // cell << 16 | first position
  uint16_t *cell, *order;

  static constexpr int kControl = 2 + kWarpLanes;

  __device__ __forceinline__ SortedMemory(float* memory, int numbers, int samples, const Sorting& sort) {
    sums = memory, dx = sums + numbers, dy = dx + samples, amount = dy + samples;
    cursor = reinterpret_cast<int*>(amount + samples), control = cursor + sort.cells;
    units = reinterpret_cast<unsigned*>(control + kControl);
    cell = reinterpret_cast<uint16_t*>(units + sort.units), order = cell + samples;
  }
  static int64_t bytes(int64_t numbers, int64_t samples, int64_t cells, int64_t units) {
    return 4 * (numbers + 3 * samples + cells + kControl + units) + 2 * 2 * samples;
  }
};

// What a sample needs in phase `sum`.
struct Sorted {
  int index;
  float dx, dy, amount;
  float4 up;
};

template <class T, int D, int N>
struct SortedBlock {
  static constexpr int W = D / 4;
  const Fast<T>& call;
  const FastGradients<T>& to;
  const Sorting& sort;
  SortedMemory memory;
  int b, m, first, count;  // image, head, first query of the tile and number of them

  __device__ __forceinline__ int samples() const { return N ? N : call.samples; }
  __device__ __forceinline__ int query(int q) const { return b * call.queries + first + q; }
  __device__ __forceinline__ int slot(int q) const { return query(q) * call.heads + m; }

  // Softmax of a slot's logits; without boxes, weights are used as they are.
  __device__ __forceinline__ void softmax(const float* weights, float& top, float& scale) const {
    top = 0.0f, scale = 1.0f;
    if (!call.boxes) return;
    top = __ldg(weights);
    for (int i = 1; i < samples(); ++i) {
      const float logit = __ldg(weights + i);
      top = logit > top ? logit : top;
    }
    float total = 0.0f;
    for (int i = 0; i < samples(); ++i) total += exp_of(__ldg(weights + i) - top);
    scale = 1.0f / total;
  }
  __device__ __forceinline__ float weight(float given, float top, float scale) const {
    return call.boxes ? exp_of(given - top) * scale : given;
  }

  __device__ __forceinline__ void count_cells() {
    const float unit = offset_unit<float>(call.level_points);
    for (int q = threadIdx.x; q < count; q += blockDim.x) {
      const float* const weights = call.weights + slot(q) * samples();
      const float2* const points = reinterpret_cast<const float2*>(call.points) + slot(q) * samples();
      float4 box = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (call.boxes) box = __ldg(reinterpret_cast<const float4*>(call.boxes) + query(q));
      float top, scale;
      softmax(weights, top, scale);
      int level = 0, end = call.level_points;
      for (int i = 0; i < samples(); ++i) {
        if (i == end) ++level, end += call.level_points;
        const float2 at = __ldg(points + i);
        float x = at.x, y = at.y;
        if (call.boxes) x = box.x + x * (box.z * unit), y = box.y + y * (box.w * unit);
        const Level size = call.level[level];
        int left, top_row;
        float dx, dy;
        const bool inside = corner_of(x, y, size, left, top_row, dx, dy);
        const int cell = sort.first_cell[level] + (top_row + 1) * (size.width + 1) + left + 1, index = q * samples() + i;
        memory.dx[index] = inside ? dx : 0.0f, memory.dy[index] = inside ? dy : 0.0f;
        memory.amount[index] = inside ? weight(__ldg(weights + i), top, scale) : 0.0f;
        memory.cell[index] = uint16_t(inside ? unsigned(cell) : kNoCell);
        if (inside) atomicAdd(memory.cursor + cell, 1);
      }
    }
  }

  // Replaces the number of samples of each cell by the position of its first, and lists the units.
  __device__ __forceinline__ void scan() {
    const int each = (sort.cells + int(blockDim.x) - 1) / int(blockDim.x), warp = threadIdx.x / kWarpLanes;
    const int begin = threadIdx.x * each, limit = begin + each, end = limit < sort.cells ? limit : sort.cells;
    int own = 0;
    for (int cell = begin; cell < end; ++cell) own += memory.cursor[cell];
    int before = own;  // up to and with this lane
#pragma unroll
    for (int distance = 1; distance < kWarpLanes; distance *= 2) {
      const int other = __shfl_up_sync(kAllLanes, before, unsigned(distance));
      if (int(threadIdx.x) % kWarpLanes >= distance) before += other;
    }
    int* const totals = memory.control + 2;
    if (threadIdx.x % kWarpLanes == kWarpLanes - 1) totals[warp] = before;
    __syncthreads();
    int position = before - own;
    for (int i = 0; i < warp; ++i) position += totals[i];
    for (int cell = begin; cell < end; ++cell) {
      const int size = memory.cursor[cell], pieces = (size + kUnit - 1) / kUnit;
      memory.cursor[cell] = position;
      const int unit = pieces ? atomicAdd(memory.control, pieces) : 0;
      for (int i = 0; i < pieces; ++i) memory.units[unit + i] = unsigned(cell) << 16 | unsigned(position + i * kUnit);
      position += size;
    }
  }

  __device__ __forceinline__ void scatter() {
    for (int index = threadIdx.x; index < count * samples(); index += blockDim.x) {
      const unsigned cell = memory.cell[index];
      if (cell != kNoCell) memory.order[atomicAdd(memory.cursor + cell, 1)] = uint16_t(index);
    }
  }

  __device__ __forceinline__ Sorted fetch(int position, bool active, int lane) const {
    Sorted sample{0, 0.0f, 0.0f, 0.0f, make_float4(0.0f, 0.0f, 0.0f, 0.0f)};
    if (active) {
      sample.index = memory.order[position];
      sample.dx = memory.dx[sample.index], sample.dy = memory.dy[sample.index], sample.amount = memory.amount[sample.index];
      const int q = N ? sample.index / (N ? N : 1) : int((uint64_t(sample.index) * sort.reciprocal) >> 32);
      sample.up = load4(to.upstream + slot(q) * D + lane * 4);
    }
    return sample;
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

  __device__ __forceinline__ void sum() {
    constexpr int kGroups = kWarpLanes / W;
    const int lane = threadIdx.x % W, number = threadIdx.x % kWarpLanes / W, row = call.heads * D;
    const T* const value = call.value + b * call.pixels * row + m * D + lane * 4;
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
      int level = 0;
      while (level + 1 < call.levels && cell >= sort.first_cell[level + 1]) ++level;
      const Level size = call.level[level];
      const int inner = cell - sort.first_cell[level], line = inner / (size.width + 1);
      const int code = code_of(inner - line * (size.width + 1) - 1, line - 1, size);
      const int north = code >> 4, south = north + pixels_down(code, size.width), east = pixels_across(code);
      const int pixel[4] = {north, north + east, south, south + east};
      float4 here[4], total[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        here[k] = load4(value + pixel[k] * row);
        total[k] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      }
      Sorted coming = fetch(from, length > 0, lane);
#pragma unroll 1
      for (int i = 0; i < longest; ++i) {
        const Sorted sample = coming;
        coming = fetch(from + i + 1, i + 1 < length, lane);
        const Blend blend(code, sample.dx, sample.dy);
        const float above = blend.above * sample.amount, below = blend.below * sample.amount;
        add_scaled(total[0], above * blend.left, sample.up), add_scaled(total[1], above * blend.right, sample.up);
        add_scaled(total[2], below * blend.left, sample.up), add_scaled(total[3], below * blend.right, sample.up);
        Dots dots;
#pragma unroll
        for (int k = 0; k < 4; ++k) dots.corner[k] = dot4(sample.up, here[k]);
        const Slopes slopes = slopes_of(dots, code, blend, size);
        const float result = spread_sums(slopes.sampled, slopes.x * sample.amount, slopes.y * sample.amount, lane);
        __syncwarp();  // every lane has read the sample's place before three of them overwrite it
        if (i < length && lane < 3) (lane == 0 ? memory.amount : lane == 1 ? memory.dx : memory.dy)[sample.index] = result;
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const bool inside = (code & (k % 2 ? 2 : 1)) && (code & (k / 2 ? 8 : 4));
        if (!live || !inside) continue;
        float* const at = memory.sums + pixel[k] * D + lane * 4;
        atomicAdd(at, total[k].x), atomicAdd(at + 1, total[k].y), atomicAdd(at + 2, total[k].z), atomicAdd(at + 3, total[k].w);
      }
    }
  }

  __device__ __forceinline__ void write() {
    const float unit = offset_unit<float>(call.level_points);
    for (int q = threadIdx.x; q < count; q += blockDim.x) {
      const int sample = slot(q) * samples(), index = q * samples();
      float2* const d_points = reinterpret_cast<float2*>(to.points) + sample;
      float4 box = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (call.boxes) box = __ldg(reinterpret_cast<const float4*>(call.boxes) + query(q));
      float top, scale, mean = 0.0f;
      softmax(call.weights + sample, top, scale);
      for (int i = 0; call.boxes && i < samples(); ++i) {
        mean += weight(__ldg(call.weights + sample + i), top, scale) * memory.amount[index + i];
      }
      BoxSum sums{0.0f, 0.0f, 0.0f, 0.0f};
      for (int i = 0; i < samples(); ++i) {
        float2 grad = make_float2(memory.dx[index + i], memory.dy[index + i]);
        float d_weight = memory.amount[index + i];
        if (call.boxes) {
          sums.add(grad, __ldg(reinterpret_cast<const float2*>(call.points) + sample + i), box, unit);
          d_weight = weight(__ldg(call.weights + sample + i), top, scale) * (d_weight - mean);
        }
        d_points[i] = grad, to.weights[sample + i] = d_weight;
      }
      if (call.boxes) atomic_add4(to.boxes + query(q) * 4, make_float4(sums.x, sums.y, sums.w, sums.h));
    }
  }

  __device__ __forceinline__ void flush() {
    const int row = call.heads * D;
    float* const result = to.value + b * call.pixels * row + m * D;
    for (int i = threadIdx.x; i < call.pixels * W; i += blockDim.x) {
      const int pixel = i / W, channel = (i - pixel * W) * 4;
      const float4 sums = *reinterpret_cast<const float4*>(memory.sums + i * 4);
      float* const at = result + pixel * row + channel;
      if (sort.exclusive) {
        *reinterpret_cast<float4*>(at) = sums;
      } else if (sums.x != 0.0f || sums.y != 0.0f || sums.z != 0.0f || sums.w != 0.0f) {
        atomic_add4(at, sums);
      }
    }
  }
};

// blockIdx.x = (b * chunks + chunk) * heads + m: blocks that share sectors of points and weights run together.
template <class T, int D, int N>
__global__ void __launch_bounds__(kSortedThreads<D>) sorted_backward_kernel(Fast<T> call, FastGradients<T> to, Sorting sort) {
  SHARED_MEMORY(float, shared);
  const int part = blockIdx.x / call.heads, m = blockIdx.x - part * call.heads, b = part / sort.chunks;
  const int begin = (part - b * sort.chunks) * sort.chunk;
  const int end = begin + sort.chunk < call.queries ? begin + sort.chunk : call.queries;
  const SortedMemory memory(shared, call.pixels * D, sort.tile * call.samples, sort);
  for (int i = threadIdx.x; i < call.pixels * D; i += blockDim.x) memory.sums[i] = 0.0f;
  for (int first = begin; first < end; first += sort.tile) {
    SortedBlock<T, D, N> block{call, to, sort, memory, b, m, first, end - first < sort.tile ? end - first : sort.tile};
    for (int i = threadIdx.x; i < sort.cells; i += blockDim.x) memory.cursor[i] = 0;
    if (threadIdx.x < 2) memory.control[threadIdx.x] = 0;
    __syncthreads();
    block.count_cells();
    __syncthreads();
    block.scan();
    __syncthreads();
    block.scatter();
    __syncthreads();
    block.sum();
    __syncthreads();
    block.write();
    __syncthreads();  // before the next tile, or the end, uses the memory
    if (first + sort.tile >= end) block.flush();
  }
}

// How the sorted kernel is launched; bytes is 0 where it does not fit or does not pay.
struct SortedLaunch {
  Sorting sort;
  int blocks, threads;
  int64_t bytes;
};

template <class T, int D>
SortedLaunch sorted_launch(const Fast<T>& call, const Limits& limits) {
  constexpr int kEach = 2;  // samples per cell, on average, that pay for the sorting
  SortedLaunch launch{};
  Sorting& sort = launch.sort;
  int64_t cells = 0;
  for (int i = 0; i < call.levels; ++i) {
    sort.first_cell[i] = int(cells);
    cells += int64_t(call.level[i].height + 1) * (call.level[i].width + 1);
    if (cells >= int64_t(kNoCell)) return launch;
  }
  const int64_t numbers = int64_t(call.pixels) * D, samples = call.samples, tasks = int64_t(call.batch) * call.heads;
  const int64_t wanted = tasks < limits.processors ? limits.processors / tasks : 1;
  const int64_t chunk = ceil_div(call.queries, wanted < call.queries ? wanted : call.queries);
  const auto units_of = [&](int64_t tile) { return cells + tile * samples / kUnit; };
  const auto bytes_of = [&](int64_t tile) {
    return SortedMemory::bytes(numbers, tile * samples, cells, units_of(tile));
  };
  const int64_t left = limits.bytes - bytes_of(0), each = 16 * samples + ceil_div(4 * samples, kUnit);
  int64_t tile = left < each ? 0 : left / each;
  tile = tile < chunk ? tile : chunk;
  tile = tile * samples <= int64_t(kNoCell) ? tile : int64_t(kNoCell) / samples;
  if (tile == 0) return launch;
  tile = ceil_div(chunk, ceil_div(chunk, tile));  // tiles of equal size
  const int64_t chunks = ceil_div(call.queries, chunk), blocks = tasks * chunks;
  const bool pays = tile * samples >= kEach * cells && 2 * blocks >= limits.processors;
  if ((!pays && !path_is("sorted")) || blocks > kMaxBlocks || bytes_of(tile) > limits.bytes) return launch;
  sort.chunk = int(chunk), sort.chunks = int(chunks), sort.tile = int(tile), sort.cells = int(cells);
  sort.units = int(units_of(tile)), sort.exclusive = chunks == 1;
  sort.reciprocal = unsigned(((uint64_t(1) << 32) + uint64_t(samples) - 1) / uint64_t(samples));
  launch.blocks = int(blocks), launch.threads = kSortedThreads<D>, launch.bytes = bytes_of(tile);
  return launch;
}

template <class T, int D, int N>
int launch_sorted(const Fast<T>& call, const FastGradients<T>& to, const SortedLaunch& launch, const Limits& limits,
                  void* stream) {
  if (const cudaError_t error = allow_shared<sorted_backward_kernel<T, D, N>>(limits, launch.bytes)) return int(error);
  LAUNCH((sorted_backward_kernel<T, D, N>), launch.blocks, launch.threads, int(launch.bytes), stream, call, to, launch.sort);
  return int(cudaGetLastError());
}

template <class T, int D>
int fast_backward(const Attention& attention, const Gradients& grads, void* stream) {
  const Fast<T> call = fast_call<T>(attention);
  const FastGradients<T> to{static_cast<const T*>(grads.upstream), static_cast<float*>(grads.value),
                            static_cast<float*>(grads.points), static_cast<float*>(grads.weights),
                            static_cast<float*>(grads.boxes)};
  const int64_t values = int64_t(call.batch) * call.pixels * call.heads * D, queries = int64_t(call.batch) * call.queries;
  Limits limits{};
  if (const cudaError_t error = limits.read()) return int(error);
  const SortedLaunch launch = sorted_launch<T, D>(call, limits);
  const bool sorted = launch.bytes != 0 && !path_is("direct");
  if (!sorted || !launch.sort.exclusive) {
    if (const cudaError_t error = fill_zero(to.value, 4 * values, stream)) return int(error);
  }
  if (call.boxes) {
    if (const cudaError_t error = fill_zero(to.boxes, 16 * queries, stream)) return int(error);
  }
  if (sorted) {
    if constexpr (D == 16) {
      if (call.samples == 2) return launch_sorted<T, D, 2>(call, to, launch, limits, stream);
    }
    return launch_sorted<T, D, 0>(call, to, launch, limits, stream);
  }
  const int64_t blocks = ceil_div(queries * call.heads * (D / 4), kBackwardThreads);
  LAUNCH((direct_backward_kernel<T, D>), int(blocks), kBackwardThreads, 0, stream, call, to);
  return int(cudaGetLastError());
}

}  // namespace
}  // namespace rfdetr
