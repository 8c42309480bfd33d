// Mask logits of a small map to a mask of the image: bilinear (align_corners=false, as PyTorch's interpolate), then > 0.
//
// Bilinear values are convex combinations of four source pixels, so between four positive pixels all outputs are set, and between
// four others no output is set: only cells on an outline are computed. No enlarged map is stored. This file uses neither PyTorch
// nor NumPy.
//
// Layout: a cell lies between two neighbouring rows and columns of the map; first[] of an axis says which outputs lie in a cell.
//
//   logits (h, w) float, row by row                 outputs (H, W) of the image
//                                                           across.first[c]      across.first[c + 1]
//     column c   c + 1                                             |                    |
//        + a ----- b +      row r         down.first[r]     -------+--------------------+
//        |   cell    |                                             | all set, all unset,|
//        + c ----- d +      row r + 1                              | or computed        |
//                                         down.first[r + 1] -------+--------------------+
//
//   kind_ (h, w) bytes: positive, not positive, or to be computed; a cell whose four corners are alike is filled as a segment.
//
// bitmap and bits, loops: row r of cells > cells of the row into segments > output rows of r (values_, W bytes, computed only in
// mixed segments, else copied from the row above) > x. bits packs 8 neighbouring bytes into one, the left pixel in bit 0.
// runs, loops: output column x, as COCO counts > segments down the column, made once per column of cells > y.
#pragma once

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace rfdetr {

// Interpolation along one axis: output i is low_weight[i] * input[low[i]] + high_weight[i] * input[high[i]].
struct MaskAxis {
  int64_t size, outputs;
  std::vector<int32_t> low, high;
  std::vector<float> low_weight, high_weight;
  std::vector<int64_t> first;  // (size + 1): outputs first[c] .. first[c + 1] have low == c

  MaskAxis(int64_t size, int64_t outputs)
      : size(size), outputs(outputs), low(outputs), high(outputs), low_weight(outputs), high_weight(outputs), first(size + 1) {
    const float scale = float(size) / float(outputs);
    for (int64_t i = 0; i < outputs; ++i) {
      const float source = std::max(scale * (float(i) + 0.5f) - 0.5f, 0.0f);
      low[i] = int32_t(std::min<int64_t>(int64_t(source), size - 1));
      high[i] = low[i] + (low[i] < size - 1 ? 1 : 0);
      high_weight[i] = std::min(std::max(source - float(low[i]), 0.0f), 1.0f);
      low_weight[i] = 1.0f - high_weight[i];
    }
    for (int64_t i = 0, cell = 0; cell <= size; ++cell) {
      while (i < outputs && low[i] < cell) ++i;
      first[cell] = i;
    }
  }
};

// Outputs that may be set: columns left..right, rows top..bottom; the whole image, or the inside of a box.
struct MaskWindow {
  int64_t left, right, top, bottom;
};

// One mask at a time; keeps scratch between masks, so one object per thread.
class MaskUpsampler {
 public:
  MaskUpsampler(const MaskAxis& across, const MaskAxis& down) : across_(across), down_(down) {
    kind_.resize(across.size * down.size);
  }

  MaskWindow whole() const { return {0, across_.outputs, 0, down_.outputs}; }

  // Pixels whose centre is inside the box x0, y0, x1, y1 (pixels of the image); NaN gives an empty window.
  MaskWindow inside(const float* box) const {
    const auto edge = [](float x, int64_t most) {
      return x >= float(most) ? most : (x > 0 ? int64_t(std::ceil(double(x) - 0.5)) : 0);
    };
    MaskWindow window{edge(box[0], across_.outputs), edge(box[2], across_.outputs), edge(box[1], down_.outputs),
                      edge(box[3], down_.outputs)};
    const bool empty = !(box[0] < box[2] && box[1] < box[3]) || window.left >= window.right || window.top >= window.bottom;
    return empty ? MaskWindow{0, 0, 0, 0} : window;
  }

  // logits (h, w) -> bool (H, W), one byte per pixel.
  void bitmap(const float* logits, const MaskWindow& window, uint8_t* out) {
    const int64_t width = across_.outputs;
    by_rows(logits, window, [&](int64_t row, const uint8_t* values, bool repeated) {
      memcpy(out + row * width, repeated ? out + (row - 1) * width : values, size_t(width));
    });
  }

  // logits (h, w) -> bits (H, ceil(W / 8)), pixel x in bit x % 8 of byte x / 8.
  void bits(const float* logits, const MaskWindow& window, uint8_t* out) {
    const int64_t width = across_.outputs, bytes = (width + 7) / 8;
    by_rows(logits, window, [&](int64_t row, const uint8_t* values, bool repeated) {
      uint8_t* to = out + row * bytes;
      if (repeated) {
        memcpy(to, to - bytes, size_t(bytes));
        return;
      }
      int64_t x = 0;
#if defined(__SSE2__)
      for (; x + 16 <= width; x += 16) {
        const __m128i group = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + x));
        const uint16_t word = uint16_t(_mm_movemask_epi8(_mm_cmpgt_epi8(group, _mm_setzero_si128())));
        memcpy(to + x / 8, &word, sizeof word);
      }
#endif
      for (; x < width; x += 8) {
        uint8_t byte = 0;
        for (int64_t bit = 0; bit < 8 && x + bit < width; ++bit) byte |= uint8_t(values[x + bit] << bit);
        to[x / 8] = byte;
      }
    });
  }

  // logits (h, w) -> COCO run lengths: down the columns, alternating, starting with unset pixels; their sum is H * W.
  void runs(const float* logits, const MaskWindow& window, std::vector<uint32_t>& out) {
    out.clear();
    classify(logits);
    uint8_t current = 0;
    uint64_t length = 0;
    const auto put = [&](uint8_t value, int64_t count) {
      if (value != current && count > 0) out.push_back(uint32_t(length)), current = value, length = 0;
      length += uint64_t(count);
    };
    put(0, window.left * down_.outputs);
    int32_t known = -1;
    for (int64_t x = window.left; x < window.right; ++x) {
      if (across_.low[x] != known) known = across_.low[x], segments(known, across_.high[x], window);
      put(0, window.top);
      for (const Segment& segment : segments_) {
        if (segment.kind != kMixed) {
          put(segment.kind, segment.to - segment.from);
          continue;
        }
        const float left = across_.low_weight[x], right = across_.high_weight[x];
        const int64_t up = int64_t(down_.low[segment.from]) * across_.size;
        const int64_t low = int64_t(down_.high[segment.from]) * across_.size;
        const float upper = left * logits[up + across_.low[x]] + right * logits[up + across_.high[x]];
        const float lower = left * logits[low + across_.low[x]] + right * logits[low + across_.high[x]];
        for (int64_t y = segment.from; y < segment.to; ++y) {
          put(down_.low_weight[y] * upper + down_.high_weight[y] * lower > 0, 1);
        }
      }
      put(0, down_.outputs - window.bottom);
    }
    put(0, (across_.outputs - window.right) * down_.outputs);
    out.push_back(uint32_t(length));
  }

 private:
  enum Kind : uint8_t { kUnset = 0, kSet = 1, kMixed = 2 };
  struct Segment {
    Kind kind;
    int64_t from, to;
  };

  // Source pixels are certainly positive, certainly not positive, or (tiny or infinite) must be computed: 0 * inf is NaN and sets
  // nothing.
  void classify(const float* logits) {
    for (size_t i = 0; i < kind_.size(); ++i) {
      const float x = logits[i];
      const bool computed = !(x >= -3e38f && x <= 3e38f) || (x > 0 && x < 1e-30f);
      kind_[i] = computed ? uint8_t(kMixed) : uint8_t(x > 0);
    }
  }

  Kind cell(int64_t a, int64_t b, int64_t c, int64_t d) const {
    const uint8_t kind = kind_[a];
    return Kind(kind == kind_[b] && kind == kind_[c] && kind == kind_[d] ? kind : uint8_t(kMixed));
  }

  void add(Kind kind, int64_t from, int64_t to) {
    if (from >= to) return;
    if (kind != kMixed && !segments_.empty() && segments_.back().kind == kind && segments_.back().to == from) {
      segments_.back().to = to;
    } else {
      segments_.push_back({kind, from, to});
    }
  }

  // The state of the output column between source columns `left` and `right`.
  void segments(int64_t left, int64_t right, const MaskWindow& window) {
    segments_.clear();
    for (int64_t row = 0; row < down_.size; ++row) {
      const int64_t up = row * across_.size, low = std::min(row + 1, down_.size - 1) * across_.size;
      add(cell(up + left, up + right, low + left, low + right), std::max(down_.first[row], window.top),
          std::min(down_.first[row + 1], window.bottom));
    }
  }

  // Calls emit(row, its W values, whether they equal those of the row above) for every output row, from the top.
  template <class Emit>
  void by_rows(const float* logits, const MaskWindow& window, const Emit& emit) {
    classify(logits);
    const int64_t width = across_.outputs;
    values_.assign(size_t(width), 0);
    bool blank = false;
    for (int64_t y = 0; y < window.top; ++y) emit(y, values_.data(), blank), blank = true;
    for (int64_t y = window.top; y < window.bottom;) {
      const int64_t source = down_.low[y], end = std::min(down_.first[source + 1], window.bottom);
      const float *upper = logits + source * across_.size, *lower = logits + int64_t(down_.high[y]) * across_.size;
      segments_.clear();
      bool mixed = false;
      for (int64_t column = 0; column < across_.size; ++column) {
        const int64_t next = std::min(column + 1, across_.size - 1), up = upper - logits, low = lower - logits;
        const Kind kind = cell(up + column, up + next, low + column, low + next);
        const int64_t from = std::max(across_.first[column], window.left), to = std::min(across_.first[column + 1], window.right);
        mixed |= kind == kMixed && from < to;
        add(kind, from, to);
      }
      for (const Segment& segment : segments_) {
        if (segment.kind != kMixed) memset(values_.data() + segment.from, segment.kind, size_t(segment.to - segment.from));
      }
      for (int64_t first = y; y < end; ++y) {
        if (mixed) compute(upper, lower, down_.low_weight[y], down_.high_weight[y]);
        emit(y, values_.data(), !mixed && y > first);
      }
    }
    if (window.bottom < down_.outputs) std::fill(values_.begin(), values_.end(), uint8_t(0));
    for (int64_t y = window.bottom; y < down_.outputs; ++y) emit(y, values_.data(), y > window.bottom);
  }

  void compute(const float* upper, const float* lower, float above, float below) {
    for (const Segment& segment : segments_) {
      if (segment.kind != kMixed) continue;
      const int32_t a = across_.low[segment.from], b = across_.high[segment.from];
      const float p = upper[a], q = upper[b], r = lower[a], s = lower[b];
      for (int64_t x = segment.from; x < segment.to; ++x) {
        const float left = across_.low_weight[x], right = across_.high_weight[x];
        values_[x] = above * (left * p + right * q) + below * (left * r + right * s) > 0;
      }
    }
  }

  const MaskAxis &across_, &down_;
  std::vector<uint8_t> kind_, values_;
  std::vector<Segment> segments_;
};

// COCO's text form of run lengths: from the third run on, differences to the run two before; five bits per character, low bits
// first, bit 5 set if more follow, offset 48.
inline std::string coco_counts(const std::vector<uint32_t>& runs) {
  std::string text;
  text.reserve(runs.size() * 2);
  for (size_t i = 0; i < runs.size(); ++i) {
    int64_t number = int64_t(runs[i]) - (i > 2 ? int64_t(runs[i - 2]) : 0);
    for (bool more = true; more;) {
      int64_t bits = number & 31;
      number >>= 5;
      more = bits & 16 ? number != -1 : number != 0;
      text.push_back(char(48 + (more ? bits | 32 : bits)));
    }
  }
  return text;
}

}  // namespace rfdetr
