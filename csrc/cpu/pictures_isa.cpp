// The kernels of pictures.h, compiled once per instruction set (RFDETR_KERNELS names the result), and without joined
// multiply-adds: sums are rounded as NumPy and Pillow round them.
//
// across: the same filter applies to all rows, so that rows are the lanes of the vectors.
//
//   rows     (16, bytes)             16 source rows, RGB after RGB
//   columns  (bytes, 16)             transposed in blocks of 16 x 16: the 48 bytes of a pixel's 16 rows follow each other
//   mixed    (size, 3, 16)           sum over the taps of columns * weight, rounded
//   planes   (3, 16, pitch)          transposed back
//
// down: the lanes are neighbouring columns.
#include "pictures.h"

#include "vectors.h"

namespace rfdetr {
namespace pictures {
namespace {

constexpr int kBits = 22;  // of a weight behind the point, as in Pillow
constexpr int32_t kHalf = 1 << (kBits - 1);
constexpr int kLanes = kVectorBytes / 4;
constexpr int64_t kPixel = 3 * kStrip;  // bytes of one pixel in all rows of a strip

using Bytes = Vector<uint8_t, 16>;
using Numbers = Vector<int32_t, kLanes>;

int64_t most_taps(int64_t window, int64_t size) {
  const double scale = double(window) / double(size), support = scale < 1 ? 1 : scale;
  return 2 * int64_t(__builtin_ceil(support)) + 1;
}

// The weights of Pillow's bilinear filter with antialiasing.
void find_taps(int64_t side, int64_t low, int64_t high, int64_t size, const Taps& to) {
  const double scale = double(high - low) / double(size), support = scale < 1 ? 1 : scale, narrow = 1 / support;
  const auto triangle = [](double x) {
    const double distance = x < 0 ? -x : x;
    return distance < 1 ? 1 - distance : 0.0;
  };
  for (int64_t i = 0; i < size; ++i) {
    const double centre = double(low) + (double(i) + 0.5) * scale;
    int64_t first = int64_t(centre - support + 0.5), last = int64_t(centre + support + 0.5);
    if (first < 0) first = 0;
    if (last > side) last = side;
    double total = 0;
    for (int64_t x = first; x < last; ++x) total += triangle((double(x) - centre + 0.5) * narrow);
    int32_t* weight = to.weight + i * to.most;
    for (int64_t x = first; x < last; ++x) {
      double share = triangle((double(x) - centre + 0.5) * narrow);
      if (total != 0) share /= total;
      weight[x - first] = int32_t(0.5 + share * (1 << kBits));
    }
    to.first[i] = int32_t(first);
    to.count[i] = int32_t(last - first);
  }
}

#if defined(__clang__) || __GNUC__ >= 12
#define RFDETR_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define RFDETR_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Bytes{__VA_ARGS__})
#endif

RFDETR_INLINE Bytes lower_halves(const Bytes& a, const Bytes& b) {
  return RFDETR_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
RFDETR_INLINE Bytes upper_halves(const Bytes& a, const Bytes& b) {
  return RFDETR_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// Each round moves one bit of the column's number into the row's number.
RFDETR_INLINE void transpose(Bytes (&block)[16]) {
  for (int round = 0; round < 4; ++round) {
    Bytes next[16];
    for (int i = 0; i < 8; ++i) {
      next[2 * i] = lower_halves(block[i], block[i + 8]);
      next[2 * i + 1] = upper_halves(block[i], block[i + 8]);
    }
    for (int i = 0; i < 16; ++i) block[i] = next[i];
  }
}

RFDETR_INLINE Numbers widened(const uint8_t* from) {
#if defined(__AVX512F__)
  return (Numbers)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif defined(__AVX2__)
  return (Numbers)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#elif defined(__SSE4_1__)
  int32_t four;
  memcpy(&four, from, sizeof four);
  return (Numbers)_mm_cvtepu8_epi32(_mm_cvtsi32_si128(four));
#else
  return __builtin_convertvector((load<uint8_t, kLanes>(from)), Numbers);
#endif
}

// 16 numbers of at least 0, the larger ones as 255.
RFDETR_INLINE Bytes narrowed(const Numbers* from) {
#if defined(__AVX512F__)
  return (Bytes)_mm512_cvtusepi32_epi8((__m512i)from[0]);
#elif defined(__SSE4_1__)
  __m128i quarter[4];
  for (int k = 0; k < 4; ++k) {
#if defined(__AVX2__)
    const __m256i half = (__m256i)from[k / 2];
    quarter[k] = k % 2 ? _mm256_extracti128_si256(half, 1) : _mm256_castsi256_si128(half);
#else
    quarter[k] = (__m128i)from[k];
#endif
  }
  return (Bytes)_mm_packus_epi16(_mm_packs_epi32(quarter[0], quarter[1]), _mm_packs_epi32(quarter[2], quarter[3]));
#else
  Bytes result;
  for (int i = 0; i < 16; ++i) {
    const int32_t value = from[i / kLanes][i % kLanes];
    result[i] = uint8_t(value < 255 ? value : 255);
  }
  return result;
#endif
}

// Sums over rows of 16 * kBlocks bytes that lie `step` bytes apart, rounded to 0..255: the weights are at least 0, and their sum
// may exceed 1 by a little.
template <int kBlocks>
RFDETR_INLINE void filter(const uint8_t* from, int64_t step, const int32_t* weight, int64_t count, uint8_t* to) {
  constexpr int kParts = kBlocks * 16 / kLanes;
  Numbers sums[kParts];
  for (int part = 0; part < kParts; ++part) sums[part] = Numbers{} + kHalf;
  for (int64_t tap = 0; tap < count; ++tap) {
    const Numbers share = Numbers{} + weight[tap];
    for (int part = 0; part < kParts; ++part) sums[part] += widened(from + tap * step + part * kLanes) * share;
  }
  for (int part = 0; part < kParts; ++part) sums[part] >>= kBits;
  for (int block = 0; block < kBlocks; ++block) {
    store_vector<uint8_t, 16>(to + 16 * block, narrowed(sums + block * 16 / kLanes));
  }
}

void across(const uint8_t* const* rows, int64_t bytes, const Taps& taps, int64_t from, int64_t size, uint8_t* columns,
            uint8_t* mixed, uint8_t* planes, int64_t plane, int64_t pitch) {
  for (int64_t begin = 0; begin < bytes; begin += 16) {
    const int64_t byte = begin + 16 <= bytes ? begin : bytes - 16;  // the last block overlaps the block before it
    Bytes block[16];
    for (int r = 0; r < 16; ++r) block[r] = load<uint8_t, 16>(rows[r] + byte);
    transpose(block);
    for (int k = 0; k < 16; ++k) store_vector<uint8_t, 16>(columns + (byte + k) * kStrip, block[k]);
  }
  for (int64_t x = 0; x < size; ++x) {
    filter<3>(columns + (taps.first[x] - from) * kPixel, kPixel, taps.weight + x * taps.most, taps.count[x], mixed + x * kPixel);
  }
  for (int64_t x = 0; x < pitch; x += 16) {
    for (int c = 0; c < 3; ++c) {
      Bytes block[16];
      for (int k = 0; k < 16; ++k) block[k] = load<uint8_t, 16>(mixed + (x + k) * kPixel + c * kStrip);
      transpose(block);
      for (int r = 0; r < 16; ++r) store_vector<uint8_t, 16>(planes + c * plane + r * pitch + x, block[r]);
    }
  }
}

void down(const uint8_t* rows, int64_t step, int64_t bytes, const int32_t* weight, int64_t count, uint8_t* to) {
  int64_t x = 0;
  for (; x + 64 <= bytes; x += 64) filter<4>(rows + x, step, weight, count, to + x);
  for (; x + 16 <= bytes; x += 16) filter<1>(rows + x, step, weight, count, to + x);
  if (x < bytes) filter<1>(rows + bytes - 16, step, weight, count, to + bytes - 16);
}

// In float32 throughout, as in PyTorch with align_corners=False.
void find_pairs(int64_t side, int64_t low, int64_t size, const Pairs& to) {
  const float scale = float(double(side) / double(size));
  for (int64_t i = 0; i < size; ++i) {
    const float position = (float(i) + 0.5f) * scale - 0.5f, centre = position < 0 ? 0.0f : position;
    const int64_t near = int64_t(centre), first = near < side - 1 ? near : side - 1;
    to.first[i] = low + first;
    to.second[i] = low + (first + 1 < side - 1 ? first + 1 : side - 1);
    to.share[i] = centre - float(first);
  }
}

void plain(const uint8_t* upper, const uint8_t* lower, const Pairs& columns, float share, int64_t size, uint8_t* room, float mean,
           float deviation, float* to) {
  uint8_t *a = room, *b = room + size, *c = room + 2 * size, *d = room + 3 * size;
  for (int64_t x = 0; x < size; ++x) {
    const int64_t first = columns.first[x], second = columns.second[x];
    const uint8_t corners[4] = {upper[first], upper[second], lower[first], lower[second]};
    a[x] = corners[0];
    b[x] = corners[1];
    c[x] = corners[2];
    d[x] = corners[3];
  }
  const float rest = 1 - share;
#pragma omp simd
  for (int64_t x = 0; x < size; ++x) {
    const float right = columns.share[x], left = 1 - right;
    const float above = float(a[x]) * left + float(b[x]) * right, below = float(c[x]) * left + float(d[x]) * right;
    to[x] = ((above * rest + below * share) / 255.0f - mean) / deviation;
  }
}

void table(float mean, float deviation, float* to) {
  for (int value = 0; value < 256; ++value) to[value] = (float(value) / 255.0f - mean) / deviation;
}

}  // namespace

const IsaKernels RFDETR_KERNELS = {RFDETR_ISA_NAME, most_taps, find_taps, across, down, find_pairs, plain, table};

}  // namespace pictures
}  // namespace rfdetr
