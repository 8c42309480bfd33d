// From a picture to the network's input and back (rfdetr_repro/data/network_input.py).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "manifest.h"
#include "../cpu/pictures.h"
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

// float32 (images, 3, height, width), RGB in 0..1: the picture in every image of a run.
inline std::vector<float> network_input(const Picture& picture, const Placement& place, const Manifest& manifest) {
  constexpr float kGrey = 114;
  const int64_t plane = place.input_h * place.input_w, images = manifest.input.shape[0];
  std::vector<float> input(size_t(images * 3 * plane), kGrey / 255);
  pictures::Call call{};
  call.pixels = picture.pixels.data();
  call.row = 3 * picture.width;
  call.column = 3;
  call.channel = 1;
  call.height = call.bottom = picture.height;
  call.width = call.right = picture.width;
  call.to = input.data() + place.top * place.input_w + place.left;
  call.to_plane = plane;
  call.to_row = place.input_w;
  call.to_height = place.height;
  call.to_width = place.width;
  std::fill_n(call.deviation, 3, 1.0f);
  pictures::network_input(call, manifest.rule.antialias);
  for (int64_t image = 1; image < images; ++image) std::copy_n(input.begin(), 3 * plane, input.begin() + image * 3 * plane);
  return input;
}

}  // namespace rfdetr::deploy
