// Kernels of rfdetr::split_linear: a float32 linear layer on the AMX unit, with each number as a sum of bfloat16 parts.
//
// Part 0 is bfloat16(x), part 1 the bfloat16 of the remainder, part 2 the bfloat16 of the remainder after part 1: three parts are
// x to the last bit, two keep 16 bits of its mantissa. Products of parts that are too small for a float32 result (with two parts:
// for 16 bits) are left out: 6 of 9 (3 of 4) remain. They are summed in float32, in the tile registers.
//
// Layout: a tile is 16 rows of 64 bytes, which are 16 x 32 bfloat16 (operands) or 16 x 16 float32 (sums), one contiguous KiB.
// P = 2 or 3 parts.
//
//   packed x       [16 rows of x] > [32 inputs] > [part]                  one tile each:
//                    row 0    | x(0, k) ... x(0, k + 31)  |                 32 inputs of a row are one row of the tile
//                    row 15   | x(15, k) ...              |
//
//   packed weight  [32 outputs] > [32 inputs] > [part] > [16 outputs]     one tile each:
//                    pair 0   | w(n, k)     w(n, k + 1)     w(n + 1, k)     w(n + 1, k + 1)     ... 16 outputs |
//                    pair 15  | w(n, k + 30) w(n, k + 31)   ...                                               |
//
//   tile registers         outputs 0..15 (6)   outputs 16..31 (7)        each product adds 32 inputs:
//     rows  0..15 (4)         sums 0               sums 1                  sums(row, n) += sum over the 16 pairs of
//     rows 16..31 (5)         sums 2               sums 3                  x(row, 2p) w(n, 2p) + x(row, 2p + 1) w(n, 2p + 1)
//
//   sums           (32 rows, 32 outputs) float32, stored after each chunk of kInputs inputs, where the next chunk goes on
//
// Loops of a task (some rows of x): kInputs inputs > 32 outputs > two tiles of rows > 32 inputs > products of parts.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "buffer.h"

// -DRFDETR_NO_AMX compiles, on any machine, the code that ARM and older compilers use.
#if defined(__x86_64__) && defined(__linux__) && (defined(__clang__) || __GNUC__ >= 11) && !defined(RFDETR_NO_AMX)
#define RFDETR_AMX 1
#include <cpuid.h>
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in GCC 12's own AVX-512 header
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define RFDETR_AMX 0
#endif

namespace rfdetr {
namespace {

constexpr int64_t kRows = 16;                     // of a tile
constexpr int64_t kBlock = 32;                    // outputs and inputs of a block of the weight
constexpr int64_t kTile = kRows * kBlock;         // bfloat16 of one tile
constexpr int64_t kInputs = 512;                  // inputs that are summed before the next rows are packed
constexpr int64_t kRowsBytes = int64_t(1) << 20;  // bytes of packed rows, which stay in the L2 cache

int64_t parts_of(int64_t count, int64_t size) { return (count + size - 1) / size; }  // rounded up
int64_t blocks(int64_t count) { return parts_of(count, kBlock); }

#if RFDETR_AMX

#if defined(__clang__)
#define RFDETR_AMX_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,amx-tile,amx-bf16")))
#else
#define RFDETR_AMX_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,amx-tile,amx-bf16,prefer-vector-width=512")))
#endif

// Whether the processor has AMX-BF16 (and the AVX-512 that comes with it), and Linux lets this process use the tile registers.
bool amx_ready() {
  static const bool ready = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return false;
    if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM of arch_prctl(2)
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return ready;
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// The nearest bfloat16 (ties to even); NaN stays NaN.
RFDETR_AMX_TARGET inline uint16_t to_bfloat16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return uint16_t((x != x ? bits : bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// 32 floats -> their parts, each 32 bfloat16, one tile apart.
template <int kParts>
RFDETR_AMX_TARGET inline void split(const float* __restrict__ from, uint16_t* __restrict__ to) {
#pragma omp simd
  for (int64_t i = 0; i < kBlock; ++i) {
    float rest = from[i];
    for (int part = 0; part < kParts; ++part) {
      to[part * kTile + i] = to_bfloat16(rest);
      rest -= std::bit_cast<float>(uint32_t(to_bfloat16(rest)) << 16);
    }
  }
}

// `inputs` inputs of rows [0, rows), which are `stride` apart -> tiles; the missing rows of the last tile are zero.
template <int kParts>
RFDETR_AMX_TARGET void pack_rows(const float* x, int64_t rows, int64_t inputs, int64_t stride, uint16_t* packed) {
  static constexpr float kZeros[kBlock] = {};
  for (int64_t row = 0; row < parts_of(rows, kRows) * kRows; ++row) {
    uint16_t* to = packed + row / kRows * (inputs / kBlock) * kParts * kTile + row % kRows * kBlock;
    for (int64_t k = 0; k < inputs; k += kBlock, to += kParts * kTile) {
      split<kParts>(row < rows ? x + row * stride + k : kZeros, to);
    }
  }
}

// Output blocks begin..end of weight (outputs, inputs) -> tiles of 16 input pairs x 16 outputs, as the tile product reads its
// second operand: the transpose of 16 outputs' pairs. The missing outputs of the last block are zero.
template <int kParts>
RFDETR_AMX_TARGET void pack_weight(const float* weight, int64_t outputs, int64_t inputs, uint16_t* packed, int64_t begin,
                                   int64_t end) {
  static constexpr float kZeros[kBlock] = {};
  alignas(64) uint16_t parts[kParts * kTile];  // [part][16 outputs][32 inputs]
  const __m512i column =                       // of the 16 outputs, in pairs
      _mm512_set_epi32(240, 224, 208, 192, 176, 160, 144, 128, 112, 96, 80, 64, 48, 32, 16, 0);
  for (int64_t half = 2 * begin; half < 2 * end; ++half) {
    uint16_t* to = packed + half / 2 * (inputs / kBlock) * kParts * 2 * kTile + half % 2 * kTile;
    for (int64_t k = 0; k < inputs; k += kBlock, to += kParts * 2 * kTile) {
      for (int64_t n = 0; n < 16; ++n) {
        const int64_t output = half * 16 + n;
        split<kParts>(output < outputs ? weight + output * inputs + k : kZeros, parts + n * kBlock);
      }
      for (int part = 0; part < kParts; ++part) {
        for (int64_t pair = 0; pair < 16; ++pair) {
          const __m512i row = _mm512_i32gather_epi32(column, reinterpret_cast<const int*>(parts + part * kTile) + pair, 4);
          _mm512_storeu_si512(to + part * 2 * kTile + pair * 32, row);
        }
      }
    }
  }
}

// Tiles 0..3 hold 2 x 2 blocks of 16 x 16 sums, 4 and 5 rows, 6 and 7 outputs. Without kPair there is one tile of rows: 0, 1, 4.
template <bool kPair>
RFDETR_AMX_TARGET inline void add_products() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  if constexpr (kPair) {
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

template <bool kPair>
RFDETR_AMX_TARGET inline void load_rows(const uint16_t* from, int64_t stride) {
  _tile_loadd(4, from, 64);
  if constexpr (kPair) _tile_loadd(5, from + stride, 64);
}

RFDETR_AMX_TARGET inline void load_outputs(const uint16_t* from) {
  _tile_loadd(6, from, 64);
  _tile_loadd(7, from + kTile, 64);
}

// Adds the product of one or two tiles of rows (`stride` apart) and 32 outputs to their (16 or 32) x 32 sums, which start at
// zero if `fresh`; small products first.
template <int kParts, bool kPair>
RFDETR_AMX_TARGET void multiply(const uint16_t* rows, int64_t stride, const uint16_t* outputs, int64_t input_blocks, bool fresh,
                                float* sums) {
  constexpr int64_t next = 2 * kTile;  // between the parts of the outputs
  __asm__ volatile("" ::: "memory");   // GCC does not know that tile loads read memory
  if (fresh) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, 128);
    _tile_loadd(1, sums + 16, 128);
    if constexpr (kPair) {
      _tile_loadd(2, sums + 16 * kBlock, 128);
      _tile_loadd(3, sums + 16 * kBlock + 16, 128);
    }
  }
  for (int64_t k = 0; k < input_blocks; ++k, rows += kParts * kTile, outputs += kParts * next) {
    if constexpr (kParts == 3) {
      load_outputs(outputs), load_rows<kPair>(rows + 2 * kTile, stride), add_products<kPair>();
      load_rows<kPair>(rows + kTile, stride), add_products<kPair>();
      load_outputs(outputs + next), add_products<kPair>();
      load_rows<kPair>(rows, stride), add_products<kPair>();
      load_outputs(outputs + 2 * next), add_products<kPair>();
      load_outputs(outputs), add_products<kPair>();
    } else {
      load_outputs(outputs + next), load_rows<kPair>(rows, stride), add_products<kPair>();
      load_outputs(outputs), add_products<kPair>();
      load_rows<kPair>(rows + kTile, stride), add_products<kPair>();
    }
  }
  _tile_stored(0, sums, 128);
  _tile_stored(1, sums + 16, 128);
  if constexpr (kPair) {
    _tile_stored(2, sums + 16 * kBlock, 128);
    _tile_stored(3, sums + 16 * kBlock + 16, 128);
  }
}

// x * Phi(x), the exact GELU, to about 4e-7 for |x| < 8. Phi(-|x|) = erfc(z) / 2 with z = |x| / sqrt(2), and erfc(z) =
// exp(-z^2) t P(t) with t = 1 / (1 + 0.33 z); P was fitted to erfc (largest error 3e-9) and 2^r on [-0.5, 0.5] to 8e-8.
RFDETR_AMX_TARGET inline float gelu(float x) {
  const float z = (x < 0 ? -x : x) * 0.70710678f, t = 1 / (1 + 0.33f * z);
  const float p =
      0.161855815f +
      t * (0.404323834f + t * (-0.652870326f + t * (1.8713759f + t * (-1.92052951f + t * (1.426327f - t * 0.290482704f)))));
  const float y = -z * z * 1.44269504f, exponent = y < -126 ? -126 : y, magic = 12582912;  // 1.5 * 2^23: adding it rounds
  const float shifted = exponent + magic, r = exponent - (shifted - magic);
  const float power =
      1.00000007f + r * (0.693146949f + r * (0.240221216f + r * (0.0555074268f + r * (0.0096754694f + r * 0.00132669799f))));
  const uint32_t whole = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(magic);
  const float tail = 0.5f * t * p * std::bit_cast<float>(std::bit_cast<uint32_t>(power) + (whole << 23));
  return x * (x < 0 ? tail : 1 - tail);
}

// Adds the bias to `rows` x `columns` of the sums, applies the activation and writes to out, whose rows are `stride` apart.
template <bool kGelu>
RFDETR_AMX_TARGET void finish(const float* sums, const float* bias, int64_t rows, int64_t columns, float* out, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r, sums += kBlock, out += stride) {
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) {
      const float sum = sums[c] + bias[c];
      out[c] = kGelu ? gelu(sum) : sum;
    }
  }
}

// One task: `rows` rows of x against all outputs, `kInputs` inputs at a time.
template <int kParts, bool kGelu>
RFDETR_AMX_TARGET void run_rows(const float* x, int64_t rows, int64_t inputs, const uint16_t* weight, const float* bias,
                                int64_t outputs, float* out) {
  const int64_t tiles = parts_of(rows, kRows), stripe = kRows * kBlock;  // sums of one tile of rows and 32 outputs
  const bool chunked = inputs > kInputs;
  const Buffer<uint16_t> packed(tiles * std::min(kInputs, inputs) / kBlock * kParts * kTile);
  const Buffer<float> sums((chunked ? blocks(outputs) * tiles : 2) * stripe);
  TileConfig config;
  std::fill_n(config.row_bytes, 8, uint16_t(64)), std::fill_n(config.rows, 8, uint8_t(16));
  _tile_loadconfig(&config);
  for (int64_t k = 0; k < inputs; k += kInputs) {
    const int64_t chunk = std::min(kInputs, inputs - k), stride = chunk / kBlock * kParts * kTile;
    pack_rows<kParts>(x + k, rows, chunk, inputs, packed.data);
    for (int64_t o = 0; o < blocks(outputs); ++o) {
      const uint16_t* columns = weight + (o * (inputs / kBlock) + k / kBlock) * kParts * 2 * kTile;
      for (int64_t t = 0; t < tiles; t += 2) {
        const auto add = t + 1 < tiles ? multiply<kParts, true> : multiply<kParts, false>;
        float* sum = sums.data + (chunked ? o * tiles + t : 0) * stripe;
        add(packed.data + t * stride, stride, columns, chunk / kBlock, k == 0, sum);
        if (k + chunk == inputs) {
          finish<kGelu>(sum, bias + o * kBlock, std::min(2 * kRows, rows - t * kRows), std::min(kBlock, outputs - o * kBlock),
                        out + t * kRows * outputs + o * kBlock, outputs);
        }
      }
    }
  }
  _tile_release();
}

#else  // another processor or compiler: the operators raise an error when they are called

bool amx_ready() { return false; }
template <int kParts>
void pack_weight(const float*, int64_t, int64_t, uint16_t*, int64_t, int64_t) {}
template <int kParts, bool kGelu>
void run_rows(const float*, int64_t, int64_t, const uint16_t*, const float*, int64_t, float*) {}

#endif

}  // namespace
}  // namespace rfdetr
