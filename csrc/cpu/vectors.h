// Vectors of the instruction set that a file is compiled for: widening loads, rounding stores, sums over lanes.
//
// Everything is in an unnamed namespace: functions of differently compiled files must never be merged by the linker.
#pragma once

#include <stdint.h>
#include <string.h>

#include <type_traits>
#include <utility>

#pragma GCC diagnostic ignored "-Wignored-attributes"  // vectors as template arguments: alignment is not needed there
#pragma GCC diagnostic ignored "-Wpsabi"               // vectors as arguments: of inlined functions only
#if defined(__x86_64__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in GCC 12's own AVX-512 header
#include <immintrin.h>
#endif

namespace rfdetr {
namespace {

#define RFDETR_INLINE inline __attribute__((always_inline))
#define RFDETR_ONCE __attribute__((noinline))  // compiled once for all types and channel counts that share it

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class T, int N>
struct VectorType {
  typedef T type __attribute__((vector_size(N * sizeof(T)), aligned(sizeof(T)), may_alias));
};
template <class T, int N>
using Vector = typename VectorType<T, N>::type;

template <int kBytes>
struct IntegerType {
  using type = int32_t;
};
template <>
struct IntegerType<8> {
  using type = int64_t;
};

template <class A, int N>
RFDETR_INLINE Vector<A, N> load(const A* from) {
  return *reinterpret_cast<const Vector<A, N>*>(from);
}

template <class A, int N>
RFDETR_INLINE void store_vector(A* to, const Vector<A, N>& x) {
  *reinterpret_cast<Vector<A, N>*>(to) = x;
}

template <class A, int N>
RFDETR_INLINE Vector<float, N> load(const BFloat16* from) {
  const auto bits = *reinterpret_cast<const Vector<uint16_t, N>*>(from);
  const Vector<uint32_t, N> word = __builtin_convertvector(bits, Vector<uint32_t, N>) << 16;
  return (Vector<float, N>)word;
}

template <class A, int N>
RFDETR_INLINE Vector<float, N> load(const Float16* from) {
#if defined(__AVX512F__)
  if constexpr (N == 16) return (Vector<float, N>)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#endif
#if defined(__F16C__)
  if constexpr (N == 8) return (Vector<float, N>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#endif
  // Exponent and mantissa moved into place, rescaled by 2^112; infinities and NaN get the full exponent.
  const auto half = __builtin_convertvector(*reinterpret_cast<const Vector<uint16_t, N>*>(from), Vector<uint32_t, N>);
  const Vector<uint32_t, N> magnitude = (half & 0x7fffu) << 13, sign = (half & 0x8000u) << 16;
  const Vector<float, N> scaled = (Vector<float, N>)magnitude * 0x1p112f;
  const Vector<uint32_t, N> special = (Vector<uint32_t, N>)(magnitude >= (0x7c00u << 13));
  return (Vector<float, N>)(((Vector<uint32_t, N>)scaled | (special & 0x7f800000u)) | sign);
}

// Round to nearest, ties to even.
RFDETR_INLINE void store(float* to, float x) { *to = x; }
RFDETR_INLINE void store(double* to, double x) { *to = x; }
RFDETR_INLINE void store(BFloat16* to, float x) {
  uint32_t word;
  memcpy(&word, &x, sizeof word);
  const uint32_t rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
  to->bits = uint16_t((word & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
RFDETR_INLINE void store(Float16* to, float x) {
  uint32_t word;
  memcpy(&word, &x, sizeof word);
  const uint32_t sign = (word >> 16) & 0x8000u, magnitude = word & 0x7fffffffu;
  float clipped;
  memcpy(&clipped, &magnitude, sizeof clipped);
  // Below 2^-14 the spacing is constant: adding 0.5 aligns the last bit of the sum with it.
  const float shifted = clipped + 0.5f;
  uint32_t tiny;
  memcpy(&tiny, &shifted, sizeof tiny);
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t infinite = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < (113u << 23) ? tiny - 0x3f000000u : normal;
  to->bits = uint16_t(sign | (magnitude >= 0x47800000u ? infinite : finite));
}

template <class A>
RFDETR_INLINE A widen(const A* from) {
  return *from;
}
template <class A>
RFDETR_INLINE A widen(const BFloat16* from) {
  return load<A, 1>(from)[0];
}
template <class A>
RFDETR_INLINE A widen(const Float16* from) {
  return load<A, 1>(from)[0];
}

template <class V>
RFDETR_INLINE auto sum_of_lanes(const V& v) {
  auto total = v[0];
  for (unsigned lane = 1; lane < sizeof(V) / sizeof(v[0]); ++lane) total += v[lane];
  return total;
}

// The sums over the lanes of four vectors.
template <class V, class A>
RFDETR_INLINE void sums_of_lanes(const V (&v)[4], A* const (&to)[4]) {
#if defined(__SSE4_1__)
  if constexpr (sizeof(A) == 4) {
    __m128 quarter[4];
    for (int k = 0; k < 4; ++k) {
#if defined(__AVX512F__)
      if constexpr (sizeof(V) == 64) {
        const __m512 whole = (__m512)v[k];
        const __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)whole, 1));
        const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(whole), upper);
        quarter[k] = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
      }
#endif
#if defined(__AVX2__)
      if constexpr (sizeof(V) == 32) {
        const __m256 half = (__m256)v[k];
        quarter[k] = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
      }
#endif
      if constexpr (sizeof(V) == 16) quarter[k] = (__m128)v[k];
    }
    const __m128 sums = _mm_hadd_ps(_mm_hadd_ps(quarter[0], quarter[1]), _mm_hadd_ps(quarter[2], quarter[3]));
    for (int k = 0; k < 4; ++k) *to[k] = sums[k];
    return;
  }
#endif
  for (int k = 0; k < 4; ++k) *to[k] = sum_of_lanes(v[k]);
}

#if defined(__AVX512F__)
// The sums over the lanes of sixteen vectors, to sixteen numbers in a row.
RFDETR_INLINE void sums_of_16(const Vector<float, 16> (&v)[16], float* to) {
  // Each step adds two vectors, of which one half of each is exchanged, so that half as many hold as many sums.
  __m512 x[16];
  for (int i = 0; i < 16; i += 2) {  // within 128 bits: a0 a1 b2 b3 + a2 a3 b0 b1
    const __m512 a = (__m512)v[i], b = (__m512)v[i + 1];
    x[i / 2] = _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, a, b), _mm512_shuffle_ps(a, b, 0x4e));
  }
  const __m512i odd_even = _mm512_setr_epi32(1, 16, 3, 18, 5, 20, 7, 22, 9, 24, 11, 26, 13, 28, 15, 30);
  for (int i = 0; i < 8; i += 2) {  // a0 b1 a2 b3 + a1 b0 a3 b2: sums 0 2 1 3 of each 128 bits
    x[i / 2] = _mm512_add_ps(_mm512_mask_blend_ps(0xaaaa, x[i], x[i + 1]), _mm512_permutex2var_ps(x[i], odd_even, x[i + 1]));
  }
  for (int i = 0; i < 4; i += 2) {  // 128 bits: a0 a1 b2 b3 + a2 a3 b0 b1
    x[i / 2] = _mm512_add_ps(_mm512_mask_blend_ps(0xff00, x[i], x[i + 1]), _mm512_shuffle_f32x4(x[i], x[i + 1], 0x4e));
  }
  // a0 b1 a2 b3 + a1 b0 a3 b2: vectors 0 2 1 3, each with its sums in the order 0 2 1 3
  const __m512i exchange = _mm512_setr_epi32(4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 24, 25, 26, 27);
  const __m512 sums = _mm512_add_ps(_mm512_mask_blend_ps(0xf0f0, x[0], x[1]), _mm512_permutex2var_ps(x[0], exchange, x[1]));
  const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
  _mm512_storeu_ps(to, _mm512_permutexvar_ps(order, sums));
}
#endif

// `x`, rounded to the type of `to`.
template <class T, class A, int N>
RFDETR_INLINE void store_lanes(T* to, const Vector<A, N>& x) {
  if constexpr (sizeof(T) == sizeof(A)) {
    store_vector<A, N>(to, x);
    return;
  }
#if defined(__F16C__)
  if constexpr (std::is_same_v<T, Float16> && N == 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
    return;
  }
#endif
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, Float16> && N == 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
    return;
  }
#endif
  if constexpr (std::is_same_v<T, BFloat16>) {  // as `store` does it
    typedef Vector<uint32_t, N> U;
    const U word = (U)x, rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16, quiet = U{} + 0x7fc0u;
    const U bits = (word & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
    store_vector<uint16_t, N>(&to->bits, __builtin_convertvector(bits, Vector<uint16_t, N>));
    return;
  }
  for (int lane = 0; lane < N; ++lane) store(to + lane, x[lane]);
}

// The even and the odd ones of 2 * N numbers.
template <class A, int N, int... kLane>
RFDETR_INLINE void load_pairs(const A* from, Vector<A, N>& even, Vector<A, N>& odd, std::integer_sequence<int, kLane...>) {
#if __has_builtin(__builtin_shufflevector)
  const Vector<A, N> low = load<A, N>(from), high = load<A, N>(from + N);
  even = __builtin_shufflevector(low, high, (2 * kLane)...), odd = __builtin_shufflevector(low, high, (2 * kLane + 1)...);
#else
  even = Vector<A, N>{from[2 * kLane]...}, odd = Vector<A, N>{from[2 * kLane + 1]...};
#endif
}

// e^x for x <= 0 (relative error about 1e-7; 0 below -87; NaN stays NaN). The plain function for double.
RFDETR_INLINE float exp_of(float x) {
  const float clipped = x < -87.0f ? -87.0f : x;
  const float shifted = clipped * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the integer is in the low bits
  const float n = shifted - 12582912.0f;
  const float r = (clipped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  uint32_t word;
  memcpy(&word, &shifted, sizeof word);
  word = (word << 23) + 0x3f800000u;
  float scale;
  memcpy(&scale, &word, sizeof scale);
  return x < -87.0f ? 0.0f : p * scale;
}
RFDETR_INLINE double exp_of(double x) { return __builtin_exp(x); }

}  // namespace
}  // namespace rfdetr
