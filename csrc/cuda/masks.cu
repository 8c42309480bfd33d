// CUDA kernel of rfdetr::masks_from_logits: bilinear (align_corners=false), then > 0, with the bits of the CPU's operator. A
// thread owns eight neighbouring pixels of several rows and writes the eight of a row at once: eight bytes, or one if packed.
//
// Layout, for K masks. A row of the image has `groups` groups of eight pixels, and group g begins at pixel 8 * g - shift:
//
//   out (K, out_height, row) bytes, row = out_width, or ceil(out_width / 8) if packed
//
//     address of a row modulo 8 = shift |. . . x x x x x|x x x x x x x x|x x x x . . . .|   bool, shift = 3
//                                       | group 0       | group 1       | group 2       |
//                                         byte by byte    8 bytes         byte by byte
//     packed: shift = 0, bit i of the group's one byte is pixel 8 * g + i
//
//   With an odd out_width the next row has another shift, and eight rows further on there is the same shift again. So a thread
//   takes rows that are period = 8 / gcd(out_width, 8) apart (1 if packed), and its eight columns stay the same:
//
//     thread = ((k * bands + band) * period + residue) * groups + g
//     rows of a thread: (band * rows + 0) * period + residue, (band * rows + 1) * period + residue, ... `rows` of them
//
//   logits (K, height, width) float. A cell lies between two neighbouring rows and columns of the map:
//
//       low  high      <- columns of pixel x
//     +----+----+  low (upper)    Bilinear values are convex combinations: between corners that are all positive every pixel
//     | a    b  |                 is set, and between corners that are all not positive none is. Corners that are tiny,
//     +----+----+  high (lower)   infinite or NaN decide nothing: 0 * inf is NaN and sets nothing.
//     | c    d  |
//
// Loops of a thread: rows of cells > its rows of the image there > 8 pixels. On entering a row of cells the thread reads the
// corners of its columns, and they either decide all its pixels, which are then only stored, or are interpolated along x, once
// for all rows of the image between them: two products and a sum a pixel remain. Where eight pixels touch many columns of the map
// (it is enlarged little, or made smaller), nothing is shared, and each pixel is read and computed for itself.
//
// Products and sums are rounded one by one (__fmul_rn, __fadd_rn): a fused multiply-add would give other bits than the CPU.
// Arithmetic of indices has 32 bits where everything fits, else 64.
#include "masks.cuh"

#include <type_traits>

#include "launch.cuh"

namespace {

constexpr int kThreads = 256, kBlocks = 3;  // of a multiprocessor: 80 registers a thread
constexpr int kGroup = 8;
constexpr int kMaxRows = 64;                            // of a thread
constexpr int64_t kEnoughThreads = 1 << 18;             // fill the largest devices once
constexpr int64_t kMaxBlocks = (int64_t(1) << 31) - 1;  // what a launch takes
constexpr int kColumns = 4;                             // of the map around eight pixels, if they are far enough apart
constexpr float kHuge = 3e38f, kTiny = 1e-30f;          // corners between them decide

// Below this many bytes, floats and threads, every index fits 32 bits with room for a step.
#ifndef RFDETR_INDEX_LIMIT
#define RFDETR_INDEX_LIMIT (int64_t(1) << 30)
#endif

// What the host works out for all threads.
struct Plan {
  int64_t groups, rows, bands, threads;
  int period_bits;  // period = 2 ** period_bits
  float scale_x, scale_y;
};

// Position on the map's axis of the pixel with centre `middle`, not below the first.
__device__ __forceinline__ float source_of(float middle, float scale) {
  const float source = __fadd_rn(__fmul_rn(scale, middle), -0.5f);
  return source > 0 ? source : 0;
}

template <class Index>
__device__ __forceinline__ Index low_of(float source, Index size) {
  return Index(source) < size - 1 ? Index(source) : size - 1;
}

__device__ __forceinline__ float high_weight_of(float source, float low) {
  const float weight = __fadd_rn(source, -low);
  return weight < 1 ? weight : 1;
}

__device__ __forceinline__ float between(float a, float b, float high_weight) {
  return __fadd_rn(__fmul_rn(__fadd_rn(1, -high_weight), a), __fmul_rn(high_weight, b));
}

// One mask's map, and the thread's eight columns of the image, from x on. Some may lie beside the image.
template <class Index>
struct View {
  const float* logits;
  Index map, height, width, x;  // map: index of the first logit
  float scale_x;

  __device__ __forceinline__ Index row(Index y) const { return map + y * width; }
  __device__ __forceinline__ float at(Index row, Index column) const { return __ldg(logits + (row + column)); }
  __device__ __forceinline__ float source(int i) const { return source_of(float(x + i) + 0.5f, scale_x); }
};

// Eight pixels of a map with large cells: they touch kColumns columns at most. What rows of the image share is kept.
template <class Index, class Word, int kBits>
struct LargeCells {
  Index first;                                   // column of the map
  unsigned steps = 0;                            // cells from there to each pixel's, two bits a pixel
  float high_weight[kGroup];                     // of the columns
  float above[kGroup] = {}, below[kGroup] = {};  // at the eight pixels, on the row of the map above and below
  float cell_low = 0, cell_end = -1;             // rows of the map around the present cells; none yet
  bool mixed = false;                            // whether the corners leave the pixels open
  Word filled = 0;                               // what they decide otherwise

  __device__ __forceinline__ explicit LargeCells(const View<Index>& view) {
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      const float source = view.source(i);
      const Index low = low_of(source, view.width);
      if (i == 0) first = low;
      steps |= unsigned(low - first) << (2 * i);
      high_weight[i] = high_weight_of(source, float(low));
    }
  }

  // `corners` are the columns first, first + 1, ... of one row of the map.
  __device__ __forceinline__ float at_pixel(int i, const float (&corners)[kColumns]) const {
    const unsigned step = steps & (3u << (2 * i)), one = 1u << (2 * i);
    return between(step == 0 ? corners[0] : (step == one ? corners[1] : corners[2]),
                   step == 0 ? corners[1] : (step == one ? corners[2] : corners[3]), high_weight[i]);
  }

  __device__ __forceinline__ void enter(const View<Index>& view, float source, Word wanted) {
    const Index low = low_of(source, view.height), high = low < view.height - 1 ? low + 1 : low;
    cell_low = float(low), cell_end = low < view.height - 1 ? float(high) : INFINITY;
    float upper[kColumns], lower[kColumns], least = INFINITY, most = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const Index column = first + i < view.width ? first + i : view.width - 1;
      upper[i] = view.at(view.row(low), column), lower[i] = view.at(view.row(high), column);
      least = fminf(least, fminf(upper[i], lower[i])), most = fmaxf(most, fmaxf(upper[i], lower[i]));
      sum += upper[i] + lower[i];  // NaN if a corner is, which neither fminf nor fmaxf tells
    }
    const bool numbers = least >= -kHuge && most <= kHuge && sum == sum, set = numbers && least >= kTiny;
    mixed = !set && !(numbers && most <= 0);
    filled = set ? wanted : 0;
    if (!mixed) return;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) above[i] = at_pixel(i, upper), below[i] = at_pixel(i, lower);
  }

  // Whether the row of the image at `source` of the map lies in the same cells.
  __device__ __forceinline__ bool holds(float source) const { return source < cell_end; }

  // The pixels that are set there, where the corners leave that open.
  __device__ __forceinline__ Word computed(const View<Index>&, float source) const {
    const float share = high_weight_of(source, cell_low);
    Word word = 0;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      if (between(above[i], below[i], share) > 0) word |= Word(1) << (i * kBits);
    }
    return word;
  }
};

// Eight pixels of a map with small cells: every pixel is read and computed for itself.
template <class Index, class Word, int kBits>
struct SmallCells {
  static constexpr bool mixed = true;
  static constexpr Word filled = 0;

  __device__ __forceinline__ explicit SmallCells(const View<Index>&) {}
  __device__ __forceinline__ void enter(const View<Index>&, float, Word) {}
  __device__ __forceinline__ bool holds(float) const { return true; }

  __device__ __forceinline__ Word computed(const View<Index>& view, float source) const {
    const Index y = low_of(source, view.height), upper = view.row(y), lower = y < view.height - 1 ? view.row(y + 1) : upper;
    const float share = high_weight_of(source, float(y));
    Word word = 0;
#pragma unroll 1
    for (int i = 0; i < kGroup; ++i) {
      const float across = view.source(i);
      const Index low = low_of(across, view.width), high = low < view.width - 1 ? low + 1 : low;
      const float weight = high_weight_of(across, float(low));
      const float above = between(view.at(upper, low), view.at(upper, high), weight);
      const float below = between(view.at(lower, low), view.at(lower, high), weight);
      word |= Word(between(above, below, share) > 0) << (i * kBits);
    }
    return word;
  }
};

// The rows of the image that a thread still has to write, `step` apart; `out` is the first byte of row y.
template <class Index, bool kPacked>
struct Rows {
  uint8_t* out;
  Index y, to, step, stride;  // stride: bytes from one of the rows to the next
  Index begin, end, x;        // pixels of the group that are in the image; the first of the eight
  float scale_y;

  __device__ __forceinline__ bool any() const { return y < to; }
  __device__ __forceinline__ float middle() const { return float(y) + 0.5f; }
  __device__ __forceinline__ float source() const { return source_of(middle(), scale_y); }

  // Writes the pixels of row y and goes on to the next.
  template <class Word>
  __device__ __forceinline__ void put(Word word) {
    if (kPacked) {
      out[x / kGroup] = uint8_t(word);
    } else if (end - begin == kGroup) {
      *reinterpret_cast<uint64_t*>(out + x) = word;
    } else {
#pragma unroll 1
      for (Index at = begin; at < end; ++at) out[at] = uint8_t(word >> (int(at - x) * 8) & 1);
    }
    y += step, out += stride;
  }
};

// The eight pixels from x on that are in the image and between the columns left and right.
template <class Word, int kBits, class Index>
__device__ __forceinline__ Word wanted_pixels(Index x, Index out_width, float left, float right) {
  Word wanted = 0;
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    const float middle = float(x + i) + 0.5f;
    if (x + i >= 0 && x + i < out_width && left <= middle && middle < right) wanted |= Word(1) << (i * kBits);
  }
  return wanted;
}

template <class Index, bool kPacked, bool kLarge>
__global__ void __launch_bounds__(kThreads, kBlocks) masks_kernel(rfdetr_masks masks, Plan plan) {
  using Word = std::conditional_t<kPacked, uint32_t, uint64_t>;  // eight pixels
  using Count = std::make_unsigned_t<Index>;                     // divided by the hardware's shortest way
  constexpr int kBits = kPacked ? 1 : 8;                         // of a pixel
  const Count thread = Count(blockIdx.x) * kThreads + threadIdx.x;
  if (thread >= Count(plan.threads)) return;
  const Count groups = Count(plan.groups), line = thread / groups, strip = line >> plan.period_bits;
  const Index group = Index(thread % groups), residue = Index(line) & ((Index(1) << plan.period_bits) - 1);
  const Index k = Index(strip / Count(plan.bands)), band = Index(strip % Count(plan.bands));
  const Index out_height = Index(masks.out_height), out_width = Index(masks.out_width);
  const Index row_bytes = kPacked ? Index(groups) : out_width;
  const Index from = ((band * Index(plan.rows)) << plan.period_bits) + residue;
  const Index to =
      from + (Index(plan.rows) << plan.period_bits) < out_height ? from + (Index(plan.rows) << plan.period_bits) : out_height;
  if (from >= out_height) return;

  uint8_t* out = masks.out + (k * out_height + from) * row_bytes;  // of a row
  const Index shift = kPacked ? 0 : Index(reinterpret_cast<uintptr_t>(out) % kGroup), x = group * kGroup - shift;
  if (x >= out_width) return;
  const float* const box = masks.boxes ? masks.boxes + 4 * k : nullptr;
  const float left = box ? __ldg(box) : -INFINITY, top = box ? __ldg(box + 1) : -INFINITY;
  const float right = box ? __ldg(box + 2) : INFINITY, bottom = box ? __ldg(box + 3) : INFINITY;
  const Word wanted = wanted_pixels<Word, kBits>(x, out_width, left, right);

  const Index step = Index(1) << plan.period_bits, begin = x < 0 ? 0 : x, end = x + kGroup < out_width ? x + kGroup : out_width;
  Rows<Index, kPacked> rows{out, from, to, step, step * row_bytes, begin, end, x, plan.scale_y};
  const Index height = Index(masks.height), width = Index(masks.width);
  const View<Index> view{masks.logits, k * height * width, height, width, x, plan.scale_x};
  std::conditional_t<kLarge, LargeCells<Index, Word, kBits>, SmallCells<Index, Word, kBits>> pixels(view);
#pragma unroll 1
  while (rows.any() && !(top <= rows.middle())) rows.put(Word(0));
#pragma unroll 1
  while (rows.any() && rows.middle() < bottom) {
    pixels.enter(view, rows.source(), wanted);
    if (pixels.mixed) {
#pragma unroll 1
      do {
        rows.put(pixels.computed(view, rows.source()) & wanted);
      } while (rows.any() && rows.middle() < bottom && pixels.holds(rows.source()));
    } else {
#pragma unroll 1
      do {
        rows.put(pixels.filled);
      } while (rows.any() && rows.middle() < bottom && pixels.holds(rows.source()));
    }
  }
#pragma unroll 1
  while (rows.any()) rows.put(Word(0));
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

Plan plan_of(const rfdetr_masks& masks) {
  const int64_t width = masks.out_width;
  Plan plan{};
  plan.groups = ceil_div(width, kGroup);
  plan.scale_x = float(masks.width) / float(masks.out_width), plan.scale_y = float(masks.height) / float(masks.out_height);
  if (!masks.packed) {
    plan.period_bits = width % 8 == 0 ? 0 : (width % 4 == 0 ? 1 : (width % 2 == 0 ? 2 : 3));
    const bool shifted = plan.period_bits > 0 || reinterpret_cast<uintptr_t>(masks.out) % kGroup != 0;
    if (shifted) plan.groups = ceil_div(width + kGroup - 1, kGroup);
  }
  const int64_t wanted = masks.count * masks.out_height * plan.groups / kEnoughThreads;
  plan.rows = wanted < 1 ? 1 : (wanted < kMaxRows ? wanted : kMaxRows);
  plan.bands = ceil_div(masks.out_height, plan.rows << plan.period_bits);
  plan.threads = masks.count * (plan.bands << plan.period_bits) * plan.groups;
  return plan;
}

// Whether every index of the kernel, and a step beyond, fits 32 bits.
bool fits_32_bits(const rfdetr_masks& masks, const Plan& plan) {
  const int64_t rows = (plan.bands * plan.rows) << plan.period_bits;  // with those beyond the last that a band may reach
  return masks.count * rows * plan.groups * kGroup < RFDETR_INDEX_LIMIT &&
         masks.count * masks.height * masks.width < RFDETR_INDEX_LIMIT && plan.threads < RFDETR_INDEX_LIMIT;
}

// Whether eight neighbouring pixels never touch more than kColumns columns of the map, rounding included.
bool has_large_cells(const Plan& plan) { return plan.scale_x * (kGroup - 1) < kColumns - 2.05f; }

template <class Index, bool kPacked>
void launch(const rfdetr_masks& masks, const Plan& plan, int blocks, void* stream) {
  if (has_large_cells(plan)) {
    LAUNCH((masks_kernel<Index, kPacked, true>), blocks, kThreads, 0, stream, masks, plan);
  } else {
    LAUNCH((masks_kernel<Index, kPacked, false>), blocks, kThreads, 0, stream, masks, plan);
  }
}

}  // namespace

extern "C" int rfdetr_masks_launch(const rfdetr_masks* masks, void* stream) {
  if (masks->count == 0) return 0;
  const Plan plan = plan_of(*masks);
  const int64_t blocks = ceil_div(plan.threads, kThreads);
  if (blocks > kMaxBlocks) return int(cudaErrorInvalidValue);
  const bool narrow = fits_32_bits(*masks, plan);
  if (masks->packed) {
    narrow ? launch<int, true>(*masks, plan, int(blocks), stream) : launch<int64_t, true>(*masks, plan, int(blocks), stream);
  } else {
    narrow ? launch<int, false>(*masks, plan, int(blocks), stream) : launch<int64_t, false>(*masks, plan, int(blocks), stream);
  }
  return int(cudaGetLastError());
}
