// Masks of detections, in a file of its own: compiled with the flags of rfdetr_repro._masks, so that both round alike.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rfdetr::deploy {

// COCO's compressed run lengths of masks of height x width px, one for every map of logits (h, w).
std::vector<std::string> mask_counts(const std::vector<const float*>& maps, int64_t h, int64_t w, int64_t height, int64_t width);

}  // namespace rfdetr::deploy
