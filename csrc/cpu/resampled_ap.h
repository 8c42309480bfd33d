// COCO's average precision of many resamples of the images at once; see rfdetr_repro/evaluation/matches.py.
//
// Only detections that match an object raise recall, and precision falls between two of them. So one pass over all detections
// counts the detections so far, and everything else is computed at the matches alone, for all resamples at once.
//
// Layout: B resamples are the inner, contiguous axis of everything, so each step is a loop over B floats that vectorises.
//
//   detections of one class, by falling score        weights (images, B)
//     row   image  accepted  ignored                      image 0 | w w w ... w |
//      0      4    bits of   bits of                      image 1 | w w w ... w |   <- row `image` is added to a total
//      1      2    10 IoU    10 IoU                       ...
//      2      4    thresholds                             found_, seen_, reached_, ignored_ (B): running totals
//
//   matched_: rows that match at any wanted threshold     seen_at_, precision_, gain_ (matches, B): one row per match
//
// Loops: class (the caller) > count_seen once > thresholds > matches by rank (totals) > B; then matches backwards (envelope) > B.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace rfdetr {

// Detections of one class by falling score. Bit t of `accepted` and of `ignored`: at IoU threshold t.
struct RankedDetections {
  const int32_t* image;
  const uint16_t* accepted;
  const uint16_t* ignored;
  int64_t count;
};

// How often each image occurs in each resample, float (images, resamples). Whole numbers with a sum below 2^24, so that their
// sums are exact.
struct ResampleWeights {
  const float* values;
  int64_t resamples;

  const float* of(int64_t image) const { return values + image * resamples; }
};

// Number of COCO's recall levels, 0.00 to 1.00 in steps of 0.01, that `recall` reaches. The levels are doubles: 35 * 0.01 > 0.35.
inline double levels_reached(double recall) {
  const double level = static_cast<int32_t>(recall * 100 + 1e-9);
  return level + (level * 0.01 > recall ? 0 : 1);
}

class ResampledAp {
 public:
  ResampledAp(const ResampleWeights& weights, const std::vector<int>& thresholds) : weights_(weights), thresholds_(thresholds) {
    for (std::vector<float>* one : {&found_, &seen_, &reached_, &ignored_}) one->resize(size_t(weights.resamples));
  }

  // Adds to sum (resamples) the AP of one class at each threshold; `objects` (resamples): number of objects.
  void add(const RankedDetections& ranked, const float* objects, double* sum) {
    count_seen(ranked);
    for (const int threshold : thresholds_) {
      find_precisions(ranked, threshold, objects);
      add_areas(sum);
    }
  }

 private:
  uint16_t wanted() const {
    uint16_t bits = 0;
    for (const int threshold : thresholds_) bits |= uint16_t(1u << threshold);
    return bits;
  }

  // The ranks that match at any threshold, and the number of detections up to each of them.
  void count_seen(const RankedDetections& ranked) {
    const uint16_t bits = wanted();
    const int64_t resamples = weights_.resamples;
    matched_.clear();
    for (int64_t row = 0; row < ranked.count; ++row) {
      if (ranked.accepted[row] & ~ranked.ignored[row] & bits) matched_.push_back(row);
    }
    seen_at_.resize(matched_.size() * size_t(resamples));
    std::fill(seen_.begin(), seen_.end(), 0.0f);
    int64_t row = 0;
    for (size_t place = 0; place < matched_.size(); ++place) {
      for (; row <= matched_[place]; ++row) add_to(seen_.data(), weights_.of(ranked.image[row]));
      std::copy(seen_.begin(), seen_.end(), seen_at_.begin() + int64_t(place) * resamples);
    }
    constexpr float limit = 1 << 24;  // from here on a float does not represent every whole number
    if (resamples && *std::max_element(seen_.begin(), seen_.end()) >= limit) throw std::overflow_error("2^24 of one class");
  }

  // Precision and the gain in recall levels at every match, in order of rank.
  void find_precisions(const RankedDetections& ranked, int threshold, const float* objects) {
    const uint16_t bit = uint16_t(1u << threshold);
    const size_t resamples = size_t(weights_.resamples);
    std::fill(found_.begin(), found_.end(), 0.0f);
    std::fill(reached_.begin(), reached_.end(), 0.0f);
    std::fill(ignored_.begin(), ignored_.end(), 0.0f);
    precision_.resize(seen_at_.size());
    gain_.resize(seen_at_.size());
    rows_ = 0;
    int64_t row = 0;
    for (size_t place = 0; place < matched_.size(); ++place) {
      for (; row <= matched_[place]; ++row) {
        if (ranked.ignored[row] & bit) add_to(ignored_.data(), weights_.of(ranked.image[row]));
      }
      const int64_t at = matched_[place];
      if (!(ranked.accepted[at] & ~ranked.ignored[at] & bit)) continue;
      add_to(found_.data(), weights_.of(ranked.image[at]));
      const size_t to = size_t(rows_++) * resamples;
      note_match(seen_at_.data() + place * resamples, objects, precision_.data() + to, gain_.data() + to);
    }
  }

  // One match: `seen` is the number of detections up to the match; written are its precision and the number of recall levels that
  // it gains. Each (resamples).
  void note_match(const float* seen, const float* objects, float* precision, float* gain) {
    for (int64_t i = 0; i < weights_.resamples; ++i) precision[i] = found_[i] / std::max(seen[i] - ignored_[i], 1.0f);
    for (int64_t i = 0; i < weights_.resamples; ++i) {
      const double recall = double(found_[i]) / std::max(double(objects[i]), 1.0);
      const float now = found_[i] > 0 ? float(levels_reached(recall)) : 0.0f;
      gain[i] = now - reached_[i];
      reached_[i] = now;
    }
  }

  // The highest precision at this recall or beyond, times the levels gained, from the last match to the first.
  void add_areas(double* sum) {
    const int64_t resamples = weights_.resamples;
    std::vector<float>& best = found_;
    std::fill(best.begin(), best.end(), 0.0f);
    for (int64_t row = rows_ - 1; row >= 0; --row) {
      const float *precision = precision_.data() + row * resamples, *gain = gain_.data() + row * resamples;
      for (int64_t i = 0; i < resamples; ++i) {
        best[i] = std::max(best[i], precision[i]);
        sum[i] += double(best[i]) * double(gain[i]);
      }
    }
  }

  void add_to(float* total, const float* values) const {
    for (int64_t i = 0; i < weights_.resamples; ++i) total[i] += values[i];
  }

  const ResampleWeights weights_;
  const std::vector<int> thresholds_;
  std::vector<float> found_, seen_, reached_, ignored_;  // one number per resample
  std::vector<float> seen_at_, precision_, gain_;        // one per match and resample
  std::vector<int64_t> matched_;
  int64_t rows_ = 0;
};

}  // namespace rfdetr
