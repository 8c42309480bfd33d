// From a picture to the network's input and back (rfdetr_repro/data/network_input.py).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "manifest.h"
#include "picture.h"

namespace rfdetr::deploy {

// The place of a picture in an input that keeps the aspect ratio and fills the rest with grey, or that is filled by the picture.
struct Placement {
  int64_t image_h, image_w, input_h, input_w;  // px
  bool letterbox;
  double scale = 1;           // from pixels of the picture to pixels of the input, of a letterbox
  int64_t height, width;      // px of the scaled picture
  int64_t top = 0, left = 0;  // rows above and columns left of the scaled picture

  Placement(int64_t image_h, int64_t image_w, const Manifest& manifest)
      : image_h(image_h),
        image_w(image_w),
        input_h(manifest.height()),
        input_w(manifest.width()),
        letterbox(manifest.rule.letterbox),
        height(input_h),
        width(input_w) {
    if (!letterbox) return;
    scale = std::min(double(input_h) / double(image_h), double(input_w) / double(image_w));
    height = std::max<int64_t>(1, std::llrint(double(image_h) * scale));  // at a half to the even number, as in Python
    width = std::max<int64_t>(1, std::llrint(double(image_w) * scale));
    top = std::llrint(double(input_h - height) / 2 - 0.1);
    left = std::llrint(double(input_w - width) / 2 - 0.1);
  }

  // xyxy parts of the input -> xyxy px of the picture, cut at its border.
  void box_in_pixels(float* box) const {
    const float sides[4] = {float(image_w), float(image_h), float(image_w), float(image_h)};
    const float input[4] = {float(input_w), float(input_h), float(input_w), float(input_h)};
    const float start[4] = {float(left), float(top), float(left), float(top)};
    for (int i = 0; i < 4; ++i) {
      if (letterbox) box[i] = (box[i] * input[i] - start[i]) / (float(scale) * sides[i]);
      box[i] = std::clamp(box[i], 0.0f, 1.0f) * sides[i];
    }
  }

  // The cells [from, to) of a map of `cells` that show the picture along one side.
  static void cells_of_picture(int64_t start, int64_t side, int64_t size, int64_t cells, int64_t& from, int64_t& to) {
    from = std::llrint(double(start * cells) / double(size));
    to = std::min(cells, std::max<int64_t>(std::llrint(double((start + side) * cells) / double(size)), from + 1));
  }

  // Maps (count, h, w) of the input -> those of the picture, cut at whole cells; changes `h` and `w`.
  void cut_masks(std::vector<float>& masks, int64_t& h, int64_t& w) const {
    if (!letterbox || h == 0) return;
    int64_t upper, lower, first, last;
    cells_of_picture(top, height, input_h, h, upper, lower);
    cells_of_picture(left, width, input_w, w, first, last);
    std::vector<float> cut;
    for (int64_t row = 0; row < int64_t(masks.size()) / w; ++row) {
      if (row % h < upper || row % h >= lower) continue;
      cut.insert(cut.end(), masks.begin() + row * w + first, masks.begin() + row * w + last);
    }
    masks = std::move(cut);
    h = lower - upper;
    w = last - first;
  }
};

// Pillow's bilinear filter along one side: new pixel i is the weighted sum of `count[i]` old pixels from `first[i]`, with weights
// of 22 bits after the point.
struct Filter {
  static constexpr int kBits = 22;
  std::vector<int64_t> first, count;
  std::vector<int32_t> weights;  // (size, most)
  int64_t most;

  Filter(int64_t side, int64_t size) : first(size_t(size)), count(size_t(size)) {
    const double scale = double(side) / double(size), reach = std::max(scale, 1.0);
    most = int64_t(std::ceil(reach)) * 2 + 1;
    weights.resize(size_t(size * most));
    std::vector<double> exact(static_cast<size_t>(most));
    for (int64_t i = 0; i < size; ++i) {
      const double centre = (double(i) + 0.5) * scale;
      const int64_t from = std::max<int64_t>(int64_t(centre - reach + 0.5), 0),
                    to = std::min(int64_t(centre + reach + 0.5), side);
      double sum = 0;
      for (int64_t k = 0; k < to - from; ++k) {
        exact[size_t(k)] = std::max(1.0 - std::abs((double(k + from) - centre + 0.5) * (1.0 / reach)), 0.0);
        sum += exact[size_t(k)];
      }
      first[size_t(i)] = from;
      count[size_t(i)] = to - from;
      for (int64_t k = 0; k < to - from; ++k) {
        weights[size_t(i * most + k)] = int32_t(0.5 + exact[size_t(k)] / sum * (1 << kBits));
      }
    }
  }
};

// `lines` rows of `side` pixels of `step` numbers each, filtered to `size` pixels each; a stride of 1 mixes along the row.
inline void filtered(const uint8_t* from, int64_t lines, int64_t side, int64_t step, const Filter& filter, uint8_t* to) {
  const int64_t size = int64_t(filter.first.size());
  std::vector<int32_t> sums(static_cast<size_t>(step));
  for (int64_t line = 0; line < lines; ++line, from += side * step) {
    for (int64_t i = 0; i < size; ++i, to += step) {
      std::fill(sums.begin(), sums.end(), 1 << (Filter::kBits - 1));
      for (int64_t k = 0; k < filter.count[size_t(i)]; ++k) {
        const int32_t weight = filter.weights[size_t(i * filter.most + k)];
        const uint8_t* old = from + (filter.first[size_t(i)] + k) * step;
        for (int64_t c = 0; c < step; ++c) sums[size_t(c)] += weight * old[c];
      }
      for (int64_t c = 0; c < step; ++c) to[c] = uint8_t(std::clamp(sums[size_t(c)] >> Filter::kBits, 0, 255));
    }
  }
}

// Antialiased, rounded to 8 bits after the first direction and after the second; which is first is Pillow 13's choice: the
// height, where more than twice as many rows as columns are lost. Values 0..255 (height, width, 3).
inline std::vector<float> resized_antialiased(const Picture& picture, int64_t height, int64_t width) {
  const bool rows_first = picture.height > height && picture.height - height > 2 * (picture.width - width);
  const int64_t middle_height = rows_first ? height : picture.height, middle_width = rows_first ? picture.width : width;
  const Filter across(picture.width, width), down(picture.height, height);
  std::vector<uint8_t> middle(size_t(3 * middle_height * middle_width)), small(size_t(3 * height * width));
  if (rows_first) {
    filtered(picture.pixels.data(), 1, picture.height, 3 * picture.width, down, middle.data());
    filtered(middle.data(), height, picture.width, 3, across, small.data());
  } else {
    filtered(picture.pixels.data(), picture.height, picture.width, 3, across, middle.data());
    filtered(middle.data(), 1, picture.height, 3 * width, down, small.data());
  }
  return {small.begin(), small.end()};
}

// The four nearest pixels, not rounded: the centre of pixel i lies at (i + 0.5) * scale - 0.5, but not before the first pixel.
struct Nearest {
  std::vector<int64_t> first, second;
  std::vector<float> share;  // of the second

  Nearest(int64_t side, int64_t size) {
    const float scale = float(double(side) / double(size));
    for (int64_t i = 0; i < size; ++i) {
      const float centre = std::max((float(i) + 0.5f) * scale - 0.5f, 0.0f);
      first.push_back(std::min(int64_t(centre), side - 1));
      second.push_back(std::min(first.back() + 1, side - 1));
      share.push_back(centre - float(first.back()));
    }
  }
};

inline std::vector<float> resized_plain(const Picture& picture, int64_t height, int64_t width) {
  const Nearest down(picture.height, height), across(picture.width, width);
  std::vector<float> values;
  values.reserve(size_t(3 * height * width));
  for (size_t y = 0; y < size_t(height); ++y) {
    const uint8_t* above = picture.pixels.data() + 3 * down.first[y] * picture.width;
    const uint8_t* below = picture.pixels.data() + 3 * down.second[y] * picture.width;
    for (size_t x = 0; x < size_t(width); ++x) {
      const float right = across.share[x], left = 1 - right;
      for (int64_t c = 0; c < 3; ++c) {
        const int64_t a = 3 * across.first[x] + c, b = 3 * across.second[x] + c;
        const float upper = float(above[a]) * left + float(above[b]) * right;
        const float lower = float(below[a]) * left + float(below[b]) * right;
        values.push_back(upper * (1 - down.share[y]) + lower * down.share[y]);
      }
    }
  }
  return values;
}

// float32 (images, 3, height, width), RGB in 0..1: the picture in every image of a run.
inline std::vector<float> network_input(const Picture& picture, const Placement& place, const Manifest& manifest) {
  constexpr float kGrey = 114;
  const auto resize = manifest.rule.antialias ? resized_antialiased : resized_plain;
  const std::vector<float> values = resize(picture, place.height, place.width);
  const int64_t plane = place.input_h * place.input_w, images = manifest.input.shape[0];
  std::vector<float> input(size_t(images * 3 * plane), kGrey / 255);
  for (int64_t c = 0; c < 3; ++c) {
    for (int64_t y = 0; y < place.height; ++y) {
      float* to = input.data() + c * plane + (place.top + y) * place.input_w + place.left;
      for (int64_t x = 0; x < place.width; ++x) to[x] = values[size_t(3 * (y * place.width + x) + c)] / 255;
    }
  }
  for (int64_t image = 1; image < images; ++image) std::copy_n(input.begin(), 3 * plane, input.begin() + image * 3 * plane);
  return input;
}

}  // namespace rfdetr::deploy
