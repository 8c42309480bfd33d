// The kernels of packed_linear.h, compiled once per instruction set (RFDETR_KERNELS names the result).
//
// Each output is a sum over the inputs in their order, cut into the same chunks for every row: a row's result depends neither on
// the other rows nor on the number of threads.
#include "packed_linear.h"

#include "vectors.h"

namespace rfdetr {
namespace packed_linear {
namespace {

constexpr int kLanes = kVectorBytes / 4;
#if defined(__AVX512F__) || !defined(__x86_64__)
constexpr int kRows = 8, kVectors = 3;  // 24 of 32 registers hold sums
#elif defined(__AVX2__)
constexpr int kRows = 6, kVectors = 2;  // 12 of 16 registers
#else
constexpr int kRows = 4, kVectors = 2;  // 8 of 16 registers; products are no part of an addition and take one more
#endif
constexpr int kPanel = kVectors * kLanes;
constexpr int64_t kPanelBytes = 24 << 10;  // of a panel's inputs that are multiplied at once: less than the L1 cache
constexpr int64_t kRowsBytes = 256 << 10;  // of packed rows: less than the L2 cache
constexpr int64_t kBlock = 512;            // most inputs of rows that are packed together
constexpr int64_t kLine = 16;              // numbers of a cache line
constexpr int kStep = 4;                   // inputs between two prefetches
constexpr int64_t kAhead = 256;            // numbers of packed rows that are loaded in advance

using Numbers = Vector<float, kLanes>;
using Integers = Vector<int32_t, kLanes>;

RFDETR_INLINE Numbers all(float x) { return x - Numbers{}; }

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Inputs of a chunk: as many as fit, in chunks of about equal length.
int64_t chunk_of(int64_t inputs) {
  const int64_t most = kPanelBytes / (kPanel * 4);
  return parts_of(inputs, parts_of(inputs, most));
}

// Inputs of the rows that are packed together: all of them, or whole chunks.
int64_t block_of(int64_t inputs) {
  const int64_t chunk = chunk_of(inputs), most = kBlock / chunk < 1 ? 1 : kBlock / chunk;
  return least(inputs, most * chunk);
}

// Rows that are packed together.
int64_t rows_of(int64_t inputs) {
  const int64_t fit = kRowsBytes / (4 * block_of(inputs)) / kRows * kRows;
  return fit < kRows ? kRows : fit;
}

// Packed rows, and their sums: of one panel, or of all that wait for the next block of inputs.
int64_t room_of(int64_t inputs, int64_t panels) {
  return rows_of(inputs) * (block_of(inputs) + (block_of(inputs) < inputs ? panels : 1) * kPanel);
}

void pack(const float* weight, int64_t outputs, int64_t inputs, int64_t output_step, int64_t input_step, float* to, int64_t begin,
          int64_t end) {
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t first = panel * kPanel, width = parts_of(least(kPanel, outputs - first), kLanes) * kLanes;
    float* into = to + first * inputs;
    for (int64_t n = 0; n < width; ++n) {
      const bool missing = first + n >= outputs;
      const float* from = weight + (first + n) * output_step;
      for (int64_t k = 0; k < inputs; ++k) into[k * width + n] = missing ? 0.0f : from[k * input_step];
    }
  }
}

// kCount <= 4 rows of `inputs` numbers -> to, one number of each row after another, kRows apart.
template <int kCount>
RFDETR_INLINE void interleave(const float* const (&rows)[4], int64_t inputs, float* to) {
  int64_t k = 0;
#if defined(__SSE4_1__)
  for (; k + 4 <= inputs; k += 4) {
    __m128 part[4] = {_mm_loadu_ps(rows[0] + k), _mm_loadu_ps(rows[1] + k), _mm_loadu_ps(rows[2] + k), _mm_loadu_ps(rows[3] + k)};
    _MM_TRANSPOSE4_PS(part[0], part[1], part[2], part[3]);
    for (int i = 0; i < 4; ++i) {
      float* into = to + (k + i) * kRows;
      if constexpr (kCount == 4) _mm_storeu_ps(into, part[i]);
      if constexpr (kCount == 2) _mm_storel_pi(reinterpret_cast<__m64*>(into), part[i]);
    }
  }
#endif
  for (; k < inputs; ++k) {
    for (int r = 0; r < kCount; ++r) to[k * kRows + r] = rows[r][k];
  }
}

// Rows first..last of `inputs` inputs -> blocks of kRows. The last row stands for missing ones, whose sums nobody reads.
void pack_rows(const float* x, int64_t step, int64_t inputs, int64_t first, int64_t last, float* to) {
  for (int64_t block = first; block < last; block += kRows, to += kRows * inputs) {
    for (int group = 0; group < kRows; group += 4) {
      const float* rows[4];
      for (int r = 0; r < 4; ++r) rows[r] = x + least(block + group + r, last - 1) * step;
      if (kRows - group >= 4) {
        interleave<4>(rows, inputs, to + group);
      } else {
        interleave<kRows % 4 ? kRows % 4 : 4>(rows, inputs, to + group);
      }
    }
  }
}

// One input of kCount rows times kWidth vectors of outputs.
template <int kCount, int kWidth>
RFDETR_INLINE void add_input(const float* rows, const float* panel, Numbers (&sum)[kCount][kWidth]) {
  Numbers weight[kWidth];
#pragma GCC unroll 3
  for (int v = 0; v < kWidth; ++v) weight[v] = load<float, kLanes>(panel + v * kLanes);
#pragma GCC unroll 8
  for (int r = 0; r < kCount; ++r) {
    const Numbers x = all(rows[r]);
#pragma GCC unroll 3
    for (int v = 0; v < kWidth; ++v) sum[r][v] += x * weight[v];
  }
}

// Adds the product of kCount of kRows packed rows and kWidth vectors of outputs to their sums, which are kPanel apart and start
// at zero if `fresh`. The loops over rows and vectors are unrolled, so that the sums are registers. Each chunk has a sum of its
// own, which is added to those before: the rounding error grows with the length of a chunk, not of the row.
template <int kCount, int kWidth>
RFDETR_ONCE void multiply(const float* __restrict__ rows, const float* __restrict__ panel, int64_t inputs, bool fresh,
                          float* __restrict__ sums) {
  Numbers sum[kCount][kWidth];
#pragma GCC unroll 8
  for (int r = 0; r < kCount; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < kWidth; ++v) sum[r][v] = Numbers{};
  }
  int64_t k = 0;
  for (; k + kStep <= inputs; k += kStep) {
    __builtin_prefetch(rows + kAhead);
    if constexpr (kStep * kRows > 16) __builtin_prefetch(rows + kAhead + 16);
#pragma GCC unroll 4
    for (int step = 0; step < kStep; ++step) add_input<kCount, kWidth>(rows + step * kRows, panel + step * kWidth * kLanes, sum);
    rows += kStep * kRows, panel += kStep * kWidth * kLanes;
  }
  for (; k < inputs; ++k, rows += kRows, panel += kWidth * kLanes) add_input<kCount, kWidth>(rows, panel, sum);
#pragma GCC unroll 8
  for (int r = 0; r < kCount; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < kWidth; ++v) {
      float* to = sums + r * kPanel + v * kLanes;
      store_vector<float, kLanes>(to, fresh ? sum[r][v] : sum[r][v] + load<float, kLanes>(to));
    }
  }
}

// x * Phi(x), the exact GELU, to about 4e-7 for |x| < 8: the formula of split_linear.h on vectors.
RFDETR_INLINE Numbers gelu(const Numbers& x) {
  const Numbers magnitude = (Numbers)((Integers)x & 0x7fffffff);
  const Numbers z = magnitude * 0.70710678f, t = 1 / (1 + 0.33f * z);
  const Numbers p =
      0.161855815f +
      t * (0.404323834f + t * (-0.652870326f + t * (1.8713759f + t * (-1.92052951f + t * (1.426327f - t * 0.290482704f)))));
  const Numbers y = -z * z * 1.44269504f, exponent = y < -126 ? all(-126) : y;
  const float magic = 12582912;  // 1.5 * 2^23: adding it rounds
  const Numbers shifted = exponent + magic, r = exponent - (shifted - magic);
  const Numbers power =
      1.00000007f + r * (0.693146949f + r * (0.240221216f + r * (0.0555074268f + r * (0.0096754694f + r * 0.00132669799f))));
  const Integers whole = (Integers)shifted - 0x4b400000;  // the bits of magic
  const Numbers tail = 0.5f * t * p * (Numbers)((Integers)power + (whole << 23));
  return x * (x < 0 ? tail : 1 - tail);
}

template <Activation kActivation, bool kScaled, bool kAdded>
RFDETR_INLINE Numbers finished(Numbers sum, const float* bias, const float* scale, const float* residual) {
  sum += load<float, kLanes>(bias);
  if constexpr (kActivation == Activation::kGelu) sum = gelu(sum);
  if constexpr (kActivation == Activation::kRelu) sum = sum < 0 ? Numbers{} : sum;  // NaN stays NaN
  if constexpr (kScaled) sum *= load<float, kLanes>(scale);
  if constexpr (kAdded) sum += load<float, kLanes>(residual);
  return sum;
}

// `count` rows of sums, `columns` outputs from `first` on -> the result. The columns behind the last whole vector are computed as
// the lanes of one: every element by the same instructions.
template <Activation kActivation, bool kScaled, bool kAdded>
RFDETR_ONCE void finish(const Call& call, const float* sums, int64_t row, int64_t count, int64_t first, int64_t columns) {
  const int64_t whole = columns / kLanes * kLanes, rest = columns - whole;
  for (int64_t r = 0; r < count; ++r, sums += kPanel) {
    const int64_t at = (row + r) * call.outputs + first;
    const float *bias = call.bias + first, *scale = kScaled ? call.scale + first : nullptr;
    const float* residual = kAdded ? call.residual + at : nullptr;
    for (int64_t c = 0; c < whole; c += kLanes) {
      const Numbers found = finished<kActivation, kScaled, kAdded>(
          load<float, kLanes>(sums + c), bias + c, kScaled ? scale + c : nullptr, kAdded ? residual + c : nullptr);
      store_vector<float, kLanes>(call.to + at + c, found);
    }
    if (rest == 0) continue;
    float room[3][kLanes] = {};
    for (int64_t c = 0; c < rest; ++c) {
      room[0][c] = bias[whole + c];
      if constexpr (kScaled) room[1][c] = scale[whole + c];
      if constexpr (kAdded) room[2][c] = residual[whole + c];
    }
    const Numbers found = finished<kActivation, kScaled, kAdded>(load<float, kLanes>(sums + whole), room[0], room[1], room[2]);
    store_vector<float, kLanes>(room[0], found);
    for (int64_t c = 0; c < rest; ++c) call.to[at + whole + c] = room[0][c];
  }
}

using Finish = void (*)(const Call&, const float*, int64_t, int64_t, int64_t, int64_t);

template <Activation kActivation>
Finish finish_with(bool scaled, bool added) {
  if (scaled) return added ? finish<kActivation, true, true> : finish<kActivation, true, false>;
  return added ? finish<kActivation, false, true> : finish<kActivation, false, false>;
}

Finish finish_of(const Call& call) {
  const bool scaled = call.scale, added = call.residual;
  if (call.activation == Activation::kGelu) return finish_with<Activation::kGelu>(scaled, added);
  if (call.activation == Activation::kRelu) return finish_with<Activation::kRelu>(scaled, added);
  return finish_with<Activation::kNone>(scaled, added);
}

using Multiply = void (*)(const float*, const float*, int64_t, bool, float*);

// The product for `count` rows and `width` vectors of outputs.
Multiply product_of(int64_t count, int64_t width) {
  static constexpr Multiply whole[3] = {multiply<kRows, 1>, multiply<kRows, 2>, multiply<kRows, kVectors>};
  static constexpr Multiply half[3] = {multiply<kRows / 2, 1>, multiply<kRows / 2, 2>, multiply<kRows / 2, kVectors>};
  return (count > kRows / 2 ? whole : half)[width - 1];
}

void run(const Call& call, int64_t first, int64_t last, int64_t begin, int64_t end, float* room) {
  const int64_t inputs = call.inputs, chunk = chunk_of(inputs), block = block_of(inputs), together = rows_of(inputs);
  const Finish finish = finish_of(call);
  for (int64_t top = first; top < last; top += together) {
    const int64_t bottom = least(last, top + together);
    for (int64_t from = 0; from < inputs; from += block) {
      const int64_t length = least(block, inputs - from);
      pack_rows(call.x + from, call.step, length, top, bottom, room);
      for (int64_t panel = begin; panel < end; ++panel) {
        const int64_t columns = least(kPanel, call.outputs - panel * kPanel), width = parts_of(columns, kLanes);
        const float* weight = call.weight + panel * kPanel * inputs + from * width * kLanes;
        float* sums = room + together * (block + (block < inputs ? panel - begin : 0) * kPanel);
        for (int64_t k = 0; k < length; k += chunk) {
          const int64_t depth = least(chunk, length - k);
          const bool fresh = from + k == 0, done = from + k + depth == inputs;
          // what is multiplied next is loaded meanwhile, a part with each block of rows
          const bool last_of_panel = k + depth == length;
          const float* next =
              last_of_panel ? call.weight + (panel + 1) * kPanel * inputs + from * kPanel : weight + (k + depth) * width * kLanes;
          const int64_t ahead = last_of_panel && panel + 1 == end ? 0 : depth * width * kLanes;
          const int64_t share = parts_of(parts_of(ahead, parts_of(bottom - top, kRows)), kLine) * kLine;
          for (int64_t row = top; row < bottom; row += kRows) {
            const int64_t count = least(kRows, bottom - row);
            for (int64_t n = 0; n < share; n += kLine, next += kLine) __builtin_prefetch(next, 0, 2);
            float* sum = sums + (row - top) * kPanel;
            product_of(count, width)(room + (row - top) * length + k * kRows, weight + k * width * kLanes, depth, fresh, sum);
            if (done) finish(call, sum, row, count, panel * kPanel, columns);
          }
        }
      }
    }
  }
}

}  // namespace

const IsaKernels RFDETR_KERNELS = {RFDETR_ISA_NAME, kLanes, kPanel, kRows, pack, run, room_of};

}  // namespace packed_linear
}  // namespace rfdetr
