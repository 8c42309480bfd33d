#include "masks.h"

#include "../cpu/masks.h"

namespace rfdetr::deploy {

std::vector<std::string> mask_counts(const std::vector<const float*>& maps, int64_t h, int64_t w, int64_t height, int64_t width) {
  const MaskAxis across(w, width), down(h, height);
  MaskUpsampler upsampler(across, down);
  std::vector<std::string> counts;
  std::vector<uint32_t> runs;
  for (const float* map : maps) {
    upsampler.runs(map, upsampler.whole(), runs);
    counts.push_back(coco_counts(runs));
  }
  return counts;
}

}  // namespace rfdetr::deploy
