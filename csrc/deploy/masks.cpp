#include "masks.h"

#include "../cpu/masks.h"

namespace rfdetr::deploy {

std::vector<std::string> mask_counts(const float* logits, int64_t count, int64_t h, int64_t w, int64_t height, int64_t width) {
  const MaskAxis across(w, width), down(h, height);
  MaskUpsampler upsampler(across, down);
  std::vector<std::string> counts;
  std::vector<uint32_t> runs;
  for (int64_t k = 0; k < count; ++k) {
    upsampler.runs(logits + k * h * w, upsampler.whole(), runs);
    counts.push_back(coco_counts(runs));
  }
  return counts;
}

}  // namespace rfdetr::deploy
