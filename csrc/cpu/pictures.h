// From a picture to a network's input in one pass: window, mirror, resize, scale and normalise. The kernels are compiled once per
// instruction set (pictures_isa.cpp); this file holds their interface and the loops around them, for tensors and for NumPy
// arrays.
//
// The antialiased rule is Pillow's bilinear filter, bit for bit: weights are whole numbers of 22 bits, and the first direction is
// rounded to 8 bits before the second. Which direction comes first is Pillow 13's choice for every version, so that pixels do not
// depend on the installed one. The plain rule interpolates the four nearest pixels in float32, as PyTorch does.
#pragma once

#include <stdint.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "instruction_sets.h"

namespace rfdetr {
namespace pictures {

constexpr int64_t kStrip = 16;            // source rows that are filtered together
constexpr int64_t kMostSide = 1 << 24;    // px: positions are float32 in the plain rule
constexpr int64_t kMostPixels = 1 << 30;  // of a network's input

struct Call {
  const uint8_t* pixels;         // red of the upper left pixel of the picture
  int64_t row, column, channel;  // distances in bytes; any sign
  int64_t height, width;
  int64_t left, top, right, bottom;  // the window, in whole px of the picture
  bool flip;                         // mirrored left to right
  float* to;                         // red of the upper left pixel of the result
  int64_t to_plane, to_row;          // distances in numbers
  int64_t to_height, to_width;
  float mean[3], deviation[3];  // result: (value / 255 - mean) / deviation
};

// The source pixels of each new pixel on one side: `count[i]` from `first[i]`, with the weights at weight + i * most.
struct Taps {
  int32_t *first, *count, *weight;
  int64_t most;
};

// Two source pixels of each new pixel on one side, and the share of the second.
struct Pairs {
  int64_t *first, *second;
  float* share;
};

struct IsaKernels {
  const char* name;
  int64_t (*most_taps)(int64_t window, int64_t size);
  void (*find_taps)(int64_t side, int64_t low, int64_t high, int64_t size, const Taps& to);
  // Filters kStrip rows of `bytes` bytes (at least 16), RGB after RGB, which begin with column `from` of the taps. `columns`:
  // room for kStrip * bytes, `mixed`: room for 3 * kStrip * pitch. Writes (3, kStrip, pitch), `plane` bytes from channel to
  // channel.
  void (*across)(const uint8_t* const* rows, int64_t bytes, const Taps& taps, int64_t from, int64_t size, uint8_t* columns,
                 uint8_t* mixed, uint8_t* planes, int64_t plane, int64_t pitch);
  // Filters `count` rows of `bytes` bytes (at least 16), `step` bytes apart, to one row.
  void (*down)(const uint8_t* rows, int64_t step, int64_t bytes, const int32_t* weight, int64_t count, uint8_t* to);
  void (*find_pairs)(int64_t side, int64_t low, int64_t size, const Pairs& to);
  // One row of one channel: the pairs of columns, by distance in bytes, in an upper and a lower row.
  void (*plain)(const uint8_t* upper, const uint8_t* lower, const Pairs& columns, float share, int64_t size, uint8_t* room,
                float mean, float deviation, float* to);
  // The 256 values of a channel.
  void (*table)(float mean, float deviation, float* to);
};

extern const IsaKernels RFDETR_BUILDS;

// The widest build that this processor runs, or the build that RFDETR_ISA in the environment (read once) names.
inline const IsaKernels& isa_kernels() {
  static const IsaKernels& chosen = widest(RFDETR_BUILDS);
  return chosen;
}

inline void check(const Call& call) {
  const auto side = [](int64_t size) { return size >= 1 && size < kMostSide; };
  if (!side(call.height) || !side(call.width)) throw std::invalid_argument("a picture must have 1 to 2^24 - 1 px a side");
  if (!side(call.to_height) || !side(call.to_width) || call.to_height > kMostPixels / call.to_width)
    throw std::invalid_argument("a network's input must have 1 to 2^24 - 1 px a side, and at most 2^30 px");
  if (call.left < 0 || call.top < 0 || call.left >= call.right || call.top >= call.bottom || call.right > call.width ||
      call.bottom > call.height)
    throw std::invalid_argument("the window must lie inside the picture");
}

struct OwnedTaps {
  std::vector<int32_t> first, count, weight;
  Taps taps;

  OwnedTaps(const IsaKernels& kernels, int64_t side, int64_t low, int64_t high, int64_t size) {
    const int64_t most = kernels.most_taps(high - low, size);
    first.resize(size_t(size));
    count.resize(size_t(size));
    weight.resize(size_t(size * most));
    taps = {first.data(), count.data(), weight.data(), most};
    kernels.find_taps(side, low, high, size, taps);
  }

  int64_t begin() const { return first.front(); }
  int64_t end() const { return first.back() + count.back(); }  // windows move to the right as the new pixels do

  void flip() {
    const int64_t size = int64_t(first.size());
    for (int64_t i = 0; i < size / 2; ++i) {
      std::swap(first[size_t(i)], first[size_t(size - 1 - i)]);
      std::swap(count[size_t(i)], count[size_t(size - 1 - i)]);
      std::swap_ranges(weight.begin() + i * taps.most, weight.begin() + (i + 1) * taps.most,
                       weight.begin() + (size - 1 - i) * taps.most);
    }
  }
};

// Rows of packed RGB, at least 16 bytes each: the picture itself, or a copy of the part that is needed.
struct Packed {
  std::vector<uint8_t> copy;
  const uint8_t* first;
  int64_t row, bytes;

  Packed(const Call& call, int64_t x0, int64_t x1, int64_t y0, int64_t y1)
      : first(call.pixels + y0 * call.row + x0 * call.column), row(call.row), bytes(std::max<int64_t>(16, 3 * (x1 - x0))) {
    if (call.column == 3 && call.channel == 1 && bytes == 3 * (x1 - x0)) return;
    copy.resize(size_t((y1 - y0) * bytes));
    for (int64_t y = 0; y < y1 - y0; ++y)
      for (int64_t x = 0; x < x1 - x0; ++x)
        for (int64_t c = 0; c < 3; ++c)
          copy[size_t(y * bytes + 3 * x + c)] = first[y * call.row + x * call.column + c * call.channel];
    first = copy.data();
    row = bytes;
  }
};

// Filters `count` rows to planes (3, height, pitch), whose height is a multiple of kStrip.
inline std::vector<uint8_t> filtered_across(const IsaKernels& kernels, const uint8_t* from, int64_t row, int64_t count,
                                            int64_t bytes, const Taps& taps, int64_t x0, int64_t size, int64_t height,
                                            int64_t pitch) {
  std::vector<uint8_t> columns(size_t(bytes * kStrip)), mixed(size_t(3 * kStrip * pitch)), planes(size_t(3 * height * pitch));
  for (int64_t y = 0; y < count; y += kStrip) {
    const uint8_t* rows[kStrip];  // the last row again below the last row
    for (int64_t r = 0; r < kStrip; ++r) rows[r] = from + std::min(y + r, count - 1) * row;
    kernels.across(rows, bytes, taps, x0, size, columns.data(), mixed.data(), planes.data() + y * pitch, height * pitch, pitch);
  }
  return planes;
}

inline void antialiased(const Call& call) {
  const IsaKernels& kernels = isa_kernels();
  OwnedTaps across(kernels, call.width, call.left, call.right, call.to_width);
  const OwnedTaps down(kernels, call.height, call.top, call.bottom, call.to_height);
  const int64_t x0 = across.begin(), x1 = across.end(), y0 = down.begin(), y1 = down.end();
  if (call.flip) across.flip();
  const Packed source(call, x0, x1, y0, y1);
  const bool rows_first = call.height > call.to_height && call.height - call.to_height > 2 * (call.width - call.to_width);
  const int64_t pitch = (call.to_width + 15) / 16 * 16, count = rows_first ? call.to_height : y1 - y0;
  const int64_t height = (count + kStrip - 1) / kStrip * kStrip;
  const auto filter_down = [&](const uint8_t* rows, int64_t step, int64_t bytes, int64_t y, uint8_t* to) {
    kernels.down(rows + (down.taps.first[y] - y0) * step, step, bytes, down.taps.weight + y * down.taps.most, down.taps.count[y],
                 to);
  };
  std::vector<uint8_t> first, line(static_cast<size_t>(pitch));
  if (rows_first) {
    first.resize(size_t(count * source.bytes));
    for (int64_t y = 0; y < count; ++y) filter_down(source.first, source.row, source.bytes, y, first.data() + y * source.bytes);
  }
  const std::vector<uint8_t> planes =
      filtered_across(kernels, rows_first ? first.data() : source.first, rows_first ? source.bytes : source.row, count,
                      source.bytes, across.taps, x0, call.to_width, height, pitch);
  for (int64_t c = 0; c < 3; ++c) {
    float values[256];
    kernels.table(call.mean[c], call.deviation[c], values);
    const uint8_t* plane = planes.data() + c * height * pitch;
    for (int64_t y = 0; y < call.to_height; ++y) {
      const uint8_t* row = rows_first ? plane + y * pitch : line.data();
      if (!rows_first) filter_down(plane, pitch, pitch, y, line.data());
      float* to = call.to + c * call.to_plane + y * call.to_row;
      for (int64_t x = 0; x < call.to_width; ++x) to[x] = values[row[x]];
    }
  }
}

struct OwnedPairs {
  std::vector<int64_t> first, second;
  std::vector<float> share;
  Pairs pairs;

  OwnedPairs(const IsaKernels& kernels, int64_t low, int64_t high, int64_t size)
      : first(static_cast<size_t>(size)), second(static_cast<size_t>(size)), share(static_cast<size_t>(size)) {
    pairs = {first.data(), second.data(), share.data()};
    kernels.find_pairs(high - low, low, size, pairs);
  }
};

inline void plain(const Call& call) {
  const IsaKernels& kernels = isa_kernels();
  const OwnedPairs down(kernels, call.top, call.bottom, call.to_height);
  OwnedPairs across(kernels, call.left, call.right, call.to_width);
  if (call.flip) {
    std::reverse(across.first.begin(), across.first.end());
    std::reverse(across.second.begin(), across.second.end());
    std::reverse(across.share.begin(), across.share.end());
  }
  for (int64_t& column : across.first) column *= call.column;
  for (int64_t& column : across.second) column *= call.column;
  std::vector<uint8_t> room(size_t(4 * call.to_width));
  for (int64_t y = 0; y < call.to_height; ++y) {
    const uint8_t *upper = call.pixels + down.first[size_t(y)] * call.row,
                  *lower = call.pixels + down.second[size_t(y)] * call.row;
    for (int64_t c = 0; c < 3; ++c) {
      kernels.plain(upper + c * call.channel, lower + c * call.channel, across.pairs, down.share[size_t(y)], call.to_width,
                    room.data(), call.mean[c], call.deviation[c], call.to + c * call.to_plane + y * call.to_row);
    }
  }
}

// Raises std::invalid_argument for a window outside the picture, and for sizes out of range.
inline void network_input(const Call& call, bool antialias) {
  check(call);
  (antialias ? antialiased : plain)(call);
}

}  // namespace pictures
}  // namespace rfdetr
